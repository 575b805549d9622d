"""The CSV table of findings: what a spreadsheet makes of its cells."""

from __future__ import annotations

import csv
import io

import pytest

from cft import RadiographError, results


@pytest.mark.parametrize("first", list("=+-@\t\r\n"))
def test_a_cell_that_begins_like_a_formula_is_text(first):
    table = "".join(results.csv_rows(["=A"], [(first + "1.png", RadiographError("- no film"))]))
    header, row = table.split("\n", 1)
    words = "operating_point,above,unsure,sentence"
    facts = "view,notes,no_evidence,gate,thresholds,weights_sha256,error"
    assert header == f"file,'=A,{words},{facts}"
    assert row.lstrip('"').startswith("'" + first + "1.png")
    assert row.endswith(",,,,,,,,'- no film\n")


def test_other_cells_stay_as_they_are():
    table = "".join(results.csv_rows(["A"], [("a=1-2, b.png", RadiographError("no film"))]))
    assert list(csv.reader(io.StringIO(table)))[1] == ["a=1-2, b.png", *[""] * 11, "no film"]
