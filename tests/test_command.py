"""The numbers that options take, and how a command ends."""

import argparse
import sys
from pathlib import Path

import pytest

from train import pack
from train.command import (
    ABOVE_ZERO,
    BETWEEN_ZERO_AND_ONE,
    FROM_ZERO,
    POSITIVE,
    SHARE,
    WHOLE,
    exit_code,
)
from train.errors import Stopped, UsageError


class Expected(ValueError):
    pass


def ended(capsys, work):
    code = exit_code("train.it", work, Expected, Stopped, interrupted="run it again")
    return code, capsys.readouterr().err


def raising(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1)])
def test_the_work_says_its_own_exit_code(capsys, returned, code):
    assert ended(capsys, lambda: returned) == (code, "")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (Expected("the table is empty"), "the table is empty"),
        (KeyboardInterrupt(), "interrupted; run it again"),
        (Stopped(), "stopped; what is finished is kept: add --resume to go on"),
        (OSError("odd"), "odd"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_what_may_go_wrong_is_one_sentence_and_exit_code_1(capsys, error, sentence):
    assert ended(capsys, raising(error)) == (1, f"train.it: {sentence}\n")


def test_wrong_usage_is_exit_code_2(capsys):
    assert ended(capsys, raising(UsageError("no"))) == (2, "train.it: no\n")


def test_the_file_of_an_error_is_named(capsys, tmp_path):
    code, err = ended(capsys, lambda: Path(tmp_path / "absent").read_text())
    assert code == 1
    assert err == f"train.it: No such file or directory ({tmp_path / 'absent'})\n"


def test_a_library_that_is_missing_is_said_before_the_work(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    code, err = ended(capsys, raising(AssertionError("the work was begun")))
    assert code == 1
    expected = "sklearn cannot be imported; run `pip install -r requirements-train.txt`"
    assert err.startswith(f"train.it: {expected}")


def test_a_fault_of_the_program_is_not_hidden():
    with pytest.raises(ValueError, match="a fault"):
        exit_code("train.it", raising(ValueError("a fault")), Expected, interrupted="")


@pytest.mark.parametrize(
    ("number", "right", "wrong"),
    [
        (POSITIVE, ["1", "40"], ["0", "-1", "1.5", "nan", "many"]),
        (WHOLE, ["0", "7"], ["-1", "0.5", "nan", ""]),
        (ABOVE_ZERO, ["1e-9", "3"], ["0", "-1", "nan", "inf", "fast"]),
        (FROM_ZERO, ["0", "0.5", "9"], ["-0.1", "nan", "inf"]),
        (SHARE, ["0", "0.99"], ["1", "-0.1", "nan"]),
        (BETWEEN_ZERO_AND_ONE, ["0.5"], ["0", "1", "95", "nan"]),
    ],
)
def test_a_number_is_in_its_range_or_refused(number, right, wrong):
    assert [number(text) for text in right] == [float(text) for text in right]
    for text in wrong:
        with pytest.raises(argparse.ArgumentTypeError, match=f"^{text!r} is not {number.words}$"):
            number(text)


@pytest.mark.parametrize("wrong", ["--seed=-1", "--workers=0", "--image-size=0"])
def test_packing_refuses_wrong_numbers(wrong, capsys):
    with pytest.raises(SystemExit) as exit_:
        pack.main(["--data", "somewhere", wrong])
    assert exit_.value.code == 2
    assert "is not a whole number" in capsys.readouterr().err
