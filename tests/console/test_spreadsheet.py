"""CSV as a spreadsheet reads it: no more cells than there are, and no formulas."""

from __future__ import annotations

import csv
import io
import re

import pytest

from console.spreadsheet import as_sheet

HOSTILE = [
    "a\r=1+2",
    "a\n=1+2",
    "a\r\n=HYPERLINK(1)",
    "a\x0b=1",
    "a\x85=1",
    "a\u2028@SUM(1)",
    "a\t=1",
    "\r=1+2",
    " =1+2",
    "\t+1",
    "\uff1d1+2",
    '",=1+2,"',
    '"\r"=1',
    "-1+2",
    "@SUM(1)",
]


def cells_of_a_loose_reader(text: str) -> list[str]:
    """Ends rows at whatever any spreadsheet takes for an end, quoted or not, and cells at commas and tabs."""
    pieces = re.split(r"[\r\n\x0b\x0c\x85\u2028\u2029\t]", text)
    return [cell.strip(' "') for piece in pieces for cell in piece.split('","')]


@pytest.mark.parametrize("value", HOSTILE)
def test_no_reader_finds_a_formula(value: str) -> None:
    text = as_sheet([["before", value, "after"]])
    assert text.count("\r") == text.count("\n") == 1
    assert not any(cell.startswith(("=", "+", "-", "@", "\uff1d")) for cell in cells_of_a_loose_reader(text))
    rows = list(csv.reader(io.StringIO(text)))
    assert len(rows) == 1 and len(rows[0]) == 3


def test_numbers_stay_numbers_and_nothing_stays_nothing() -> None:
    assert as_sheet([[-1, 0.25, None, "", "plain, \u00e4"]]) == '"-1","0.25","","","plain, \u00e4"\r\n'
