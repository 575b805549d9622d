"""The command `cft`: its first word, its help, and how it ends."""

import os
import subprocess
import sys

import pytest

import cft
from cft import __main__ as command
from cft.commands import films as films_command
from cft.model import hub as cft_hub
from tests.conftest import ROOT


def test_the_help_names_every_command_and_says_that_this_is_no_medical_device(capsys):
    for words in (["--help"], *([name, "--help"] for name in command.COMMANDS)):
        with pytest.raises(SystemExit) as ended:
            command.main(words)
        assert ended.value.code == 0
        said = " ".join(capsys.readouterr().out.split())
        assert said.startswith(f"usage: cft {words[0] + ' ' if words[1:] else ''}[")
        assert cft.NOT_A_MEDICAL_DEVICE in said
        if not words[1:]:
            assert all(f"cft {name} {line}" in said for name, (_, line) in command.COMMANDS.items())


@pytest.mark.parametrize("name", [None, *sorted(set(command.COMMANDS) - {"serve"})])
def test_the_help_of_what_is_no_page_loads_neither_torch_nor_gradio(name):
    """They take seconds; who asks for help has not asked for a network."""
    words = ["--help"] if name is None else [name, "--help"]
    code = (
        "import sys\nfrom cft.__main__ import main\ntry:\n    main(sys.argv[1:])\n"
        "except SystemExit:\n    print(sorted({'torch', 'gradio'} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "usage: cft" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("set_to", "expected"),
    [({}, "5000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
@pytest.mark.parametrize("starts", ["import train", "import cft.__main__ as c; c.main(['pull'])"])
def test_threads_of_commands_wait_briefly_unless_the_user_says_otherwise(starts, set_to, expected):
    """As torch finds it when it is imported; `import cft` alone changes nothing."""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    surroundings = {key: x for key, x in os.environ.items() if key not in names} | set_to
    code = (
        "import os, sys, cft\nbefore = os.environ.get('GOMP_SPINCOUNT')\n"
        f"try:\n    {starts}\nexcept SystemExit:\n    pass\n"
        "print(before, os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=surroundings, capture_output=True, text=True
    )
    before = set_to.get("GOMP_SPINCOUNT", "None")
    assert ran.stdout.split() == [before, expected, "False"], ran.stderr


@pytest.mark.parametrize("words", [[], ["pull"], ["pull", "a/b", "c/d"], ["serve", "--prot", "1"]])
def test_wrong_usage_is_exit_status_2(words, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(words)
    assert ended.value.code == 2
    assert "usage: cft" in capsys.readouterr().err


@pytest.mark.parametrize("status", [0, 1])
def test_pull_fetches_a_model(status, monkeypatch):
    asked = []
    monkeypatch.setattr(cft_hub, "pull", lambda name: asked.append(name) or status, raising=False)
    assert command.main(["pull", "org/name@v1"]) == status
    assert asked == ["org/name@v1"]


def test_serve_starts_the_page(monkeypatch):
    from cft.page import start

    asked = []
    monkeypatch.setattr(start, "main", lambda *given: asked.append(given) or 0)
    assert command.main(["serve", "--port", "8080"]) == 0
    assert asked == [(["--port", "8080"], "cft serve")]


@pytest.mark.parametrize("library", ["gradio", "jinja2"])
def test_serve_without_the_libraries_of_the_page_names_the_extra(library, monkeypatch, capsys):
    import cft.page

    for module in [name for name in sys.modules if name.startswith("cft.page.")]:
        monkeypatch.delitem(sys.modules, module)
        monkeypatch.delattr(cft.page, module.split(".")[2], raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    assert command.main(["serve"]) == 1
    expected = 'cft serve: the page needs the extra: pip install "cft[page]"\n'
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("words", [["./serve"], ["--json", "pull"]])
def test_only_the_first_word_is_a_command(words, model_folder, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main([*words, "--model", str(model_folder), "--device", "cpu"]) == 1
    assert "there is no file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "status", "sentence"),
    [(KeyboardInterrupt(), 130, "interrupted\n"), (BrokenPipeError(), 141, "")],
)
def test_an_interruption_is_no_fault_of_the_program(fault, status, sentence, monkeypatch, capfd):
    def run(*_):
        raise fault

    monkeypatch.setattr(films_command, "main", run)
    monkeypatch.setattr("os.dup2", lambda *_: None)  # the test's own output goes on
    assert command.main(["film.png"]) == status
    assert capfd.readouterr().err == sentence


@pytest.mark.slow
def test_a_reader_that_goes_away_early_ends_the_command_quietly(films, model_folder):
    reader = subprocess.Popen(["true"], stdin=subprocess.PIPE)
    reader.wait()
    done = subprocess.run(
        [sys.executable, "-m", "cft", *map(str, films), "--model", str(model_folder)],
        cwd=ROOT, stdout=reader.stdin, stderr=subprocess.PIPE, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (141, "")
