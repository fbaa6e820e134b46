"""Rows as CSV for spreadsheets, which must find no more cells and no more formulas than there are.

Spreadsheets differ in where they see the end of a row or cell, so every cell is quoted and none has control
characters; and what looks like a formula gets an apostrophe, which says that it is text.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable

FORMULA_STARTS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # and their full-width forms
BREAKS = {"Cc", "Zl", "Zp"}  # control characters, and Unicode's own ends of lines and paragraphs


def as_sheet(rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([cell(value) for value in row] for row in rows)
    return text.getvalue()


def cell(value: object) -> str:
    if not isinstance(value, str):
        return "" if value is None else str(value)
    plain = "".join(" " if unicodedata.category(one) in BREAKS else one for one in value)
    return f"'{plain}" if plain.lstrip(" \"'").startswith(FORMULA_STARTS) else plain
