"""Every recipe of docs/recipes.md runs to its end on a miniature of its data.

The commands are those of the page. Added to them are sizes, epochs and the machine; a network that
begins from pretrained weights, which are not here, becomes a small one with random weights.
"""

from __future__ import annotations

import functools
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

import cft
import train.cft
import train.datasets.__main__
import train.evaluate
import train.negative
import train.pack
from cft.__main__ import main as cft_main
from cft.labels import CHEXPERT_14, NIH_14, RANZCR_CLIP_11
from cft.model.folder import read_model_folder
from tests import miniatures
from train.evaluation import plots, report_folder
from train.stage1.presets import PRESETS
from train.stage2 import methods
from train.stage2.genetic import Genetic

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "recipes.md").read_text()

PROGRAMS = {
    "python -m train.datasets": train.datasets.__main__.main,
    "python -m train.pack": train.pack.main,
    "python -m train.negative": train.negative.main,
    "python -m train.cft": train.cft.main,
    "python -m train.evaluate": train.evaluate.main,
    "cft": cft_main,
}
# Added to the commands of a program; what a command says itself is typed before and so overruled.
SMALLER = {
    "python -m train.pack": "--image-size 64 --workers 1",
    "python -m train.negative": "--image-size 64 --epochs 1 --workers 1 --threads 1 --device cpu",
    "python -m train.cft": "--workers 1 --threads 1 --device cpu",
    "python -m train.evaluate": "--replicates 40",
}
SMALL_NETWORK = "--arch test_resnet --init random"
SMALL_HYBRID = "--model-args width=8,depth=3"
# Two patients in a hundred of 130 would be no test set.
SHARES = "--valid 0.2 --test 0.3"


def recipes() -> dict[str, list[str]]:
    """Title of each section -> its commands, a line each."""
    sections = re.split(r"^## ", PAGE, flags=re.M)[1:]
    found = {}
    for section in sections:
        blocks = re.findall(r"^```sh\n(.*?)^```", section, flags=re.M | re.S)
        lines = "".join(blocks).replace("\\\n", " ").splitlines()
        found[section.partition("\n")[0]] = [line for line in lines if line.strip()]
    return found


RECIPES = recipes()


def run(line: str) -> None:
    """Run a line of the page in the folder at hand."""
    words = shlex.split(line)
    size = 3 if words[0] == "python" else 1
    program = " ".join(words[:size])
    if program not in PROGRAMS:
        assert words[0] in ("mkdir", "ln"), f"what should {line!r} do?"
        subprocess.run(line, shell=True, check=True)
        return
    more = SMALLER.get(program, "")
    if program == "python -m train.negative":
        preset = PRESETS[words[words.index("--preset") + 1]]
        more += " " + (SMALL_NETWORK if preset.get("init") == "pretrained" else SMALL_HYBRID)
        more += f" {SHARES}" * ("--test" in words)
    assert PROGRAMS[program]([*words[size:], *shlex.split(more)]) == 0, line


#: The one report whose plots are drawn, which takes as long as all else.
WITH_PLOTS = "uncertain-test"


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The folder that the commands run in; searches of stage 2 end after a few generations."""
    monkeypatch.chdir(tmp_path)
    draw, training = plots.draw_all, report_folder.training_plots
    monkeypatch.setattr(
        plots, "draw_all", lambda to, *rest: draw(to, *rest) if WITH_PLOTS in to.parts else []
    )
    monkeypatch.setattr(
        report_folder,
        "training_plots",
        lambda args: training(args) if args.out.name == WITH_PLOTS else [],
    )
    short = classmethod(lambda kind: kind(generations=4, patience=4, elites=1, guided=False))
    monkeypatch.setattr(Genetic, "paper", short)
    monkeypatch.setattr(methods, "descend", functools.partial(methods.descend, epochs=4))
    return tmp_path


@pytest.fixture
def chexpert(work):
    root = miniatures.chexpert(work)
    root.rename(work / "CHEXPERT")
    (work / "radiologists").rename(work / "RADIOLOGISTS")


def follow(title: str) -> None:
    for line in RECIPES[title]:
        run(line)


def results(folder: str) -> dict:
    """What a report holds, after a look that people have their page as well."""
    assert "<!doctype html>" in Path(folder, "report.html").read_text().lower()
    return json.loads(Path(folder, "report.json").read_text())


def mean_of(result: dict, model: str, subset: str) -> dict:
    return result["models"][model]["subsets"][subset]


def test_every_section_with_commands_is_run_below():
    """A recipe that is added to the page needs a test here."""
    text = Path(__file__).read_text()
    titles = [title for title, lines in RECIPES.items() if lines]
    assert len(titles) == 7
    assert all(f'follow("{title}")' in text for title in titles)


def test_every_preset_of_the_page_is_one():
    named = re.findall(r"--preset ([\w-]+)", PAGE)
    assert {name for name in named if name != "paper"} <= PRESETS.keys()


@pytest.mark.slow
def test_cft_on_chexpert(chexpert):
    follow("CFT on CheXpert, a single model")
    result = results("runs/chexpert-report")
    assert set(result["models"]) == {"chexpert", "chexpert-cft"}
    for model in result["models"]:
        five = mean_of(result, model, "chexpert_5")
        assert five["ci_low"] <= five["auroc"] <= five["ci_high"]
        assert result["models"][model]["radiologists_below"]["mean"] >= 0
    assert {"bc4", "bc6", "bc8"} <= result["radiologists"].keys()
    first, second = (
        read_model_folder(f"runs/{name}").config["cft"]["provenance"]
        for name in ("chexpert", "chexpert-cft")
    )
    assert first["label_policy"]["unknown"] == "negative"
    assert set(second["methods"].values()) <= {"original", "ga", "gradient"}
    assert read_model_folder("runs/chexpert-cft").label_names == CHEXPERT_14


@pytest.mark.slow
def test_the_ensemble_on_chexpert(chexpert):
    follow("CFT on CheXpert, the ensemble")
    assert len(results("runs/ensemble/report")["models"]) == 4  # the members and their mean
    ensemble = cft.load("runs/chexpert-ensemble", "cpu")
    members = [cft.load(f"runs/ensemble/{seed}-cft", "cpu") for seed in range(3)]
    film = sorted(Path("CHEXPERT/test").rglob("*.jpg"))[0]
    found = ensemble.predict(film).probabilities["Edema"]
    each = [member.predict(film).probabilities["Edema"] for member in members]
    assert min(each) <= found <= max(each)
    assert len(Path("runs/ensemble/scores.csv").read_text().splitlines()) == 41


@pytest.mark.slow
def test_cft_on_partial_coco(work):
    miniatures.coco(work)
    follow("CFT on MS-COCO with partial labels")
    folder = read_model_folder("runs/coco-10-cft")
    assert len(folder.label_names) == 24
    assert folder.label_names[11] == "stop sign"  # ids have gaps
    arguments = folder.config["cft"]["provenance"]["stage_1"]["arguments"]
    assert (arguments["known"], arguments["metric"]) == (0.1, "map")
    assert mean_of(results("runs/coco-10-report"), "coco-10-cft", "all")["ap"] > 0


@pytest.mark.slow
def test_the_hybrid_network_on_cxr11(work):
    miniatures.cxr11(work)
    follow("CheXNet's hybrid network on CXR11 (RANZCR CLiP)")
    folder = read_model_folder("runs/cxr11-cft")
    assert folder.label_names == RANZCR_CLIP_11
    assert folder.config["architecture"] == "chexnet_hybrid"
    assert len(results("runs/cxr11-report")["models"]) == 2


@pytest.mark.slow
def test_the_hybrid_network_on_cxr14(work):
    miniatures.cxr14(work)
    follow("CheXNet's hybrid network on CXR14 (NIH)")
    kept, all_of_them = (
        read_model_folder(f"runs/{name}").config["cft"]["provenance"]["splits"]["train"]["films"]
        for name in ("cxr14", "cxr14-published")
    )
    assert all_of_them - kept == 1  # the miniature's patient on two sides
    assert len(results("runs/cxr14-report")["models"]) == 2


@pytest.mark.slow
def test_the_reproduction_of_chexnet(work):
    miniatures.nih(work)
    follow("The reproduction of CheXNet, with DACNet")
    result = results("runs/nih-report")
    assert set(result["models"]) == {"chexnet-replica", "dacnet", "dacnet-cft"}
    assert result["models"]["dacnet"]["localisation"]
    names = set(read_model_folder("runs/dacnet").label_names)
    assert names == {*NIH_14}
    drawn = json.loads(Path("runs/dacnet-drawn/config.json").read_text())["cft"]["provenance"]
    assert drawn["arguments"]["loss"] == "focal:gamma=2"
    official = len(Path("NIH/test_list.txt").read_text().split())
    assert drawn["splits"]["test"]["films"] != official


@pytest.mark.slow
def test_uncertain_labels_as_ones_and_as_zeros(chexpert):
    follow("U-Ones and U-Zeros")
    for name, policy in (("u-ones", "positive"), ("u-zeros", "negative")):
        config = read_model_folder(f"runs/{name}").config["cft"]["provenance"]
        assert config["label_policy"]["uncertain"] == policy
    assert len(results("runs/uncertain-valid")["models"]) == 2
    assert results("runs/uncertain-test")["radiologists"]
    for name in ("roc", "training-u-ones", "training-u-zeros-roc"):
        assert Path(f"runs/uncertain-test/plots/{name}.png").stat().st_size > 1000
