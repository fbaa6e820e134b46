"""docs/architecture.md names what is there: every folder with code, and the functions of its table."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text()
PACKAGES = ("console", "monitoring", "inference")
MAX_COLUMNS = 100
LEAST_BEHAVIOURS = 20


def section(title: str) -> str:
    return re.split(r"^## ", PAGE.split(f"## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def tree() -> list[str]:
    """The lines of the tree, without its fence."""
    return section("The tree").split("```")[1].strip().splitlines()


def folders_of(lines: list[str]) -> list[str]:
    """Paths, from names that are indented by two spaces for each folder above them."""
    found: list[str] = []
    above: list[str] = []
    for line in lines:
        name = line.split()[0].rstrip("/")
        depth = (len(line) - len(line.lstrip())) // 2
        above = [*above[:depth], name]
        found.append("/".join(above))
    return found


def folders_with_code() -> set[str]:
    files = (path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {str(path.parent) for path in files if "migrations" not in path.parts}


def behaviours() -> list[tuple[str, str, str]]:
    return re.findall(r"^\| ([^|]+) \| `([^`]+)` \| `([^`]+)` \|$", section("Where is"), flags=re.MULTILINE)


def definitions(source: str) -> set[str]:
    """`function`, `Class` and `Class.method`, as far as a module's own statements define them."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = (m for m in node.body if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef))
            found.update(f"{node.name}.{method.name}" for method in methods)
    return found


def test_paths_are_read_from_indentation() -> None:
    lines = ["a/    one", "  b/  two", "    c/", "  d/  three", "e/"]
    assert folders_of(lines) == ["a", "a/b", "a/b/c", "a/d", "e"]


def test_methods_are_told_apart_by_their_class() -> None:
    source = "def one(): ...\nclass Two:\n    async def three(self): ...\n    value = 4"
    assert definitions(source) == {"one", "Two", "Two.three"}


def test_the_tree_has_every_folder_with_code_and_no_other() -> None:
    named = folders_of(tree())
    assert len(named) == len(set(named))
    assert [name for name in named if not (ROOT / name).is_dir()] == []
    assert sorted(folders_with_code() - set(named)) == []


def test_each_folder_has_one_line_that_says_what_it_holds() -> None:
    for line in tree():
        assert len(line) <= MAX_COLUMNS, line
        assert len(line.split()) > 1, line


def test_there_are_enough_behaviours_and_each_row_is_read() -> None:
    rows = [line for line in section("Where is").splitlines() if line.startswith("| ")]
    assert len(behaviours()) == len(rows) - 1 >= LEAST_BEHAVIOURS


@pytest.mark.parametrize(("behaviour", "file", "name"), behaviours(), ids=lambda value: str(value)[:40])
def test_where_a_behaviour_is_said_to_be_there_is_that_function(behaviour: str, file: str, name: str) -> None:
    path = ROOT / file
    assert path.is_file(), f"{behaviour}: {file} is not there"
    assert name in definitions(path.read_text()), f"{behaviour}: {file} defines no {name}"
