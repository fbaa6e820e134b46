"""The rules of the house that no linter knows: sizes, docstrings, names, one reader of the environment."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("console", "inference", "monitoring")
MODULES = sorted(
    path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if "migrations" not in path.parts and path.read_text().strip()
)
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_PUBLIC_METHODS = 15
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "core", "services"}
READERS_OF_THE_ENVIRONMENT = {"console/settings.py", "console/environment.py"}
WRITERS_OF_IT = {"inference/__init__.py"}  # before a library reads it

each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))


def functions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@each_module
def test_file_is_short_enough(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_FILE_LINES


@each_module
def test_functions_are_short_enough(path: Path) -> None:
    tree = ast.parse(path.read_text())
    long = [f.name for f in functions(tree) if (f.end_lineno or f.lineno) - f.lineno + 1 > MAX_FUNCTION_LINES]
    assert long == []


@each_module
def test_classes_are_small_enough(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            public = [
                member.name
                for member in node.body
                if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef)
                and not member.name.startswith("_")
            ]
            assert len(public) <= MAX_PUBLIC_METHODS, f"{node.name}: {public}"


@each_module
def test_module_says_what_it_owns(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), "a module docstring is missing"


@each_module
def test_name_is_a_concept(path: Path) -> None:
    assert path.stem not in BANNED_NAMES


@each_module
def test_environment_has_one_reader(path: Path) -> None:
    if str(path.relative_to(ROOT)) in READERS_OF_THE_ENVIRONMENT | WRITERS_OF_IT:
        return
    source = path.read_text()
    assert "os.environ" not in source and "getenv" not in source


def test_no_pickle_anywhere() -> None:
    banned = {"pickle", "marshal", "shelve", "dill", "joblib"}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not banned & {alias.name.split(".")[0] for alias in node.names}, path
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in banned, path
