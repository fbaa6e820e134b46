"""Documentation as a unit test: what the code has, the documents name."""

from __future__ import annotations

import re
from pathlib import Path

from console.environment import Environment

ROOT = Path(__file__).resolve().parent.parent


def test_every_setting_has_its_line_in_operations() -> None:
    document = (ROOT / "docs" / "operations.md").read_text()
    rows = set(re.findall(r"^\| `([A-Z_]+)` \|", document, flags=re.MULTILINE))
    assert rows == {name.upper() for name in Environment.model_fields}


def test_links_between_documents_lead_somewhere() -> None:
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    broken = [
        f"{document.relative_to(ROOT)} -> {link}"
        for document in documents
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text())
        if "://" not in link and not (document.parent / link).exists()
    ]
    assert broken == []


def test_decisions_fit_on_a_page() -> None:
    for page in (ROOT / "docs" / "decisions").glob("*.md"):
        assert len(page.read_text().splitlines()) <= 40, page.name


MAX_COLUMNS = 120
MAX_ROW_COLUMNS = 160  # of a table, whose rows cannot be broken


def test_lines_of_documents_fit_beside_each_other_on_a_screen() -> None:
    docs = ROOT / "docs"
    pages = {ROOT / "README.md", ROOT / "CONTRIBUTING.md", *docs.rglob("*.md")}
    searched = docs / "faults.md"  # a line each
    dense = docs / "decisions" / "0012-cpu-path.md"  # a page only because its lines are long
    for page in sorted(pages - {searched, dense}):
        for line in page.read_text().splitlines():
            if len(line.split()) > 1:  # one long name has no place to break
                most = MAX_ROW_COLUMNS if line.startswith("|") else MAX_COLUMNS
                assert len(line) <= most, f"{page.name}: {line}"


def test_modules_that_documents_name_are_there() -> None:
    """Paths begin at the root of the repository or in one of its parts."""
    parts = [ROOT, *(ROOT / part for part in ("console", "inference", "monitoring"))]
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    missing = [
        f"{document.relative_to(ROOT)}: {path}"
        for document in documents
        for path in re.findall(r"`([\w./-]+/[\w.-]+\.py)`", document.read_text())
        if not any((part / path).is_file() for part in parts)
    ]
    assert missing == []


def test_tests_that_the_list_of_faults_names_are_there() -> None:
    named = re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", (ROOT / "docs" / "faults.md").read_text())
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).is_file() or (name and f"def {name}(" not in (ROOT / path).read_text())
    ]
    assert missing == []


def test_the_glossary_has_each_term_once_with_its_meaning_and_its_chinese_word() -> None:
    rows = (ROOT / "docs" / "glossary.md").read_text().split("|---|---|---|\n")[1].split("\n\n")[0]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.splitlines()]
    terms = [row[0] for row in cells]
    assert len(terms) >= 30
    assert terms == sorted(set(terms), key=str.casefold)
    assert all(len(row) == 3 and all(row) for row in cells)
