"""The numbers that options take, and how a command ends."""

import argparse
import ast
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from tests.conftest import ROOT
from train import cft as stage_2
from train import evaluate, negative, pack
from train.command import (
    ABOVE_ZERO,
    BETWEEN_ZERO_AND_ONE,
    FROM_ZERO,
    POSITIVE,
    SHARE,
    WHOLE,
    add_options,
    as_json,
    command_of,
    exit_code,
    flag_of,
    option,
    options_of,
    words_of,
)
from train.datasets import DataOptions
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


@pytest.mark.parametrize(
    "wrong", ["--seed=-1", "--workers=0", "--image-size=0", "--image-size=15", "--image-size=4097"]
)
def test_packing_refuses_wrong_numbers(wrong, capsys):
    with pytest.raises(SystemExit) as exit_:
        pack.main(["--data", "somewhere", wrong])
    assert exit_.value.code == 2
    assert "is not a whole number" in capsys.readouterr().err


# --- Options ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kettle:
    """Options of every type that the commands have."""

    out: Path = option(Path("here"), "where", machine=True)
    litres: float = option(1.0, "how much", type=ABOVE_ZERO)
    cups: int | None = option(None, "how many")
    lid: bool = option(False, "with a lid")
    herbs: tuple[str, ...] = option((), "what goes in", metavar="HERB")


def kettle(words: str, *layers) -> Kettle:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_options(parser, Kettle)
    return options_of(Kettle, *layers, vars(parser.parse_args(words.split())))


def test_the_types_of_a_dataclass_are_those_of_its_options():
    assert kettle("") == Kettle()
    assert kettle("--out there --litres 2 --cups 3 --lid --herbs mint --herbs sage dill") == Kettle(
        Path("there"), 2.0, 3, True, ("mint", "sage", "dill")
    )
    with pytest.raises(argparse.ArgumentError, match="'0' is not a number above 0"):
        kettle("--litres 0")


def test_what_is_typed_wins_over_a_layer_and_the_later_layer_over_the_earlier():
    preset, inherited = {"cups": 1, "herbs": ["mint"]}, {"cups": 2, "litres": None, "odd": 5}
    assert kettle("", preset, inherited) == Kettle(cups=2, herbs=("mint",))
    assert kettle("--cups 3 --herbs sage", preset, inherited) == Kettle(cups=3, herbs=("sage",))


def test_help_shows_a_default_that_says_something():
    parser = argparse.ArgumentParser()
    add_options(parser, Kettle)
    text = parser.format_help()
    assert "where (default: here)" in text
    assert "how much (default: 1)" in text
    assert "default: None" not in text
    assert "default: False" not in text


def test_json_and_command_are_without_what_belongs_to_one_machine():
    asked = kettle("--out there --herbs mint", {"cups": 2})
    found = as_json(asked)
    assert found == {"litres": 1.0, "cups": 2, "lid": False, "herbs": ["mint"]}
    assert options_of(Kettle, found) == kettle("--herbs mint", {"cups": 2})
    usual = as_json(Kettle())
    assert words_of(found, usual) == ["--cups", "2", "--herbs", "mint"]
    lid = as_json(kettle("--lid"))
    assert (
        command_of("tea", lid, usual, Path("x"), "green") == "tea --preset green --data DATA --lid"
    )


@pytest.mark.parametrize(
    "parser", [negative._parser(), stage_2._parser(), evaluate._parser()], ids=lambda p: p.prog
)
def test_every_command_has_every_option_of_the_data(parser):
    flags = {flag for action in parser._actions for flag in action.option_strings}
    assert {flag_of(field.name) for field in fields(DataOptions)} <= flags


@pytest.mark.parametrize("package", ["cft", "train"])
def test_a_module_that_is_run_ends_with_the_status_of_its_main(package):
    """What the other tests, which call `main`, do not see."""
    last = {}
    for file in sorted((ROOT / package).rglob("*.py")):
        for part in ast.parse(file.read_text()).body:
            if isinstance(part, ast.If) and "__name__" in ast.unparse(part.test):
                last[str(file.relative_to(ROOT))] = ast.unparse(part.body[-1])
    assert len(last) > 1
    assert set(last.values()) == {"sys.exit(main())"}, last
