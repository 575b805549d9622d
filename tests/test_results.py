"""The CSV table of findings: what a spreadsheet makes of its cells."""

from __future__ import annotations

import csv
import io

import pytest

from cft import RadiographError, results


@pytest.mark.parametrize("name", ["=1+1.png", "+1.png", "-1.png", "@SUM(A1).png", "\tx.png", "\r=1"])
def test_a_cell_that_begins_like_a_formula_is_text(name):
    table = "".join(results.csv_rows(["=A"], [(name, RadiographError("- no film"))]))
    header, row = csv.reader(io.StringIO(table, newline=""))
    assert header == ["file", "'=A", "view", "notes", "error"]
    assert row == ["'" + name, "", "", "", "'- no film"]


def test_other_cells_stay_as_they_are():
    table = "".join(results.csv_rows(["A"], [("a=1-2, b.png", RadiographError("no film"))]))
    assert list(csv.reader(io.StringIO(table)))[1] == ["a=1-2, b.png", "", "", "", "no film"]
