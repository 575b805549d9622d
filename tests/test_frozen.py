"""Frozen networks: features once, regressions fitted to them, training films that may choose."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

import cft as use
from cft.model.folder import CONFIG, read_model_folder, write_model_folder
from tests.conftest import random_model_config
from train import cft, negative
from train.datasets import pixels
from train.frozen import features
from train.metrics.ranking import auroc
from train.stage1 import frozen
from train.stage1.augment import Augmentation, augment
from train.stage1.frozen import Copy, Recipe
from train.stage2.methods import method_of
from train.stage2.refit import FOLDS
from train.stage2.task import Films, Head, Task, TuneSettings

pytestmark = pytest.mark.slow

SIZE = 32
LABELS = ("Bright", "Dark", "Never")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """150 small films in CSV, two of each patient; a quarter of the training labels is blank."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    lines = [f"image,patient,split,{','.join(LABELS)}"]
    for number in range(150):
        present = draw.random(2) < 0.4
        film = draw.normal(120, 20, (SIZE, SIZE))
        for there, value, column in zip(present, (60, -60), (4, 20), strict=True):
            row = draw.integers(4, 20)
            film[row : row + 8, column : column + 8] += value * there
        Image.fromarray(film.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        split = ("train", "train", "train", "valid", "test")[number // 2 % 5]
        cells = [str(int(x)) for x in present]
        if split == "train":
            cells = ["" if u < 0.25 else x for x, u in zip(cells, draw.random(2), strict=True)]
        lines.append(f"{number}.png,p{number // 2},{split},{','.join(cells)},0")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A network with random weights and other labels, as a model folder to start from."""
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=1, in_chans=1)
    config = {
        **random_model_config(),
        **{"architecture": "test_resnet", "num_classes": 1, "num_features": 96},
        **{"label_names": ["Other"], "label_descriptions": {}, "cft": {}},
    }
    config["pretrained_cfg"] = {
        **config["pretrained_cfg"],
        **{"num_classes": 1, "input_size": [1, SIZE, SIZE], "first_conv": "conv1"},
    }
    folder = tmp_path_factory.mktemp("start") / "init"
    return write_model_folder(folder, state_dict=network.state_dict(), config=config, card="")


def stage_1(data: Path, start: Path, out: Path, *more: str) -> list[str]:
    words = f"--freeze --init {start} --data {data} --dataset csv --out {out} --arch test_resnet"
    words += f" --image-size {SIZE} --device cpu --threads 1 --workers 1"
    return [*words.split(), *more]


def stage_2(parent: Path, out: Path, *more: str) -> list[str]:
    words = f"--model {parent} --out {out} --device cpu --threads 1 --workers 1"
    return [*words.split(), *more]


@pytest.fixture(scope="module")
def run(data, start, tmp_path_factory) -> Path:
    """A run of stage 1 with one augmented copy."""
    out = tmp_path_factory.mktemp("runs") / "negative"
    assert negative.main(stage_1(data, start, out, "--freeze-copies", "1")) == 0
    return out


@pytest.fixture
def no_forward_pass(monkeypatch):
    """The network may be asked for nothing."""

    def refuse(*_, **__):
        raise AssertionError("the network was used")

    # What every network of timm does with films, after it has been built and checked.
    monkeypatch.setattr(features, "_features", refuse)
    monkeypatch.setattr(negative.Run, "scores", refuse)
    monkeypatch.setattr(negative.Run, "logits", refuse)


def config_of(folder: Path) -> dict:
    return json.loads((folder / CONFIG).read_text())


# --- What is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--freeze"], "--freeze needs --init"),
        (["--freeze-copies", "2"], "are for --freeze"),
        (["--freeze-strength", "2"], "are for --freeze"),
        (["--freeze", "--init", "x", "--loss", "asl"], "whose loss is bce, not asl"),
        (
            ["--freeze", "--init", "x", "--freeze-copies", "1", "--augment", "none"],
            "a copy is the film itself",
        ),
        (["--freeze", "--init", "x", "--freeze-strength", "0"], "not a number above 0"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(words, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        negative.main(words)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_a_network_without_a_linear_end_is_one_sentence(data, start, tmp_path, capsys, monkeypatch):
    build = frozen.build

    def without(*arguments):
        network = build(*arguments)
        network.get_classifier = torch.nn.Identity
        return network

    monkeypatch.setattr(frozen, "build", without)
    assert negative.main(stage_1(data, start, tmp_path / "out")) == 1
    assert "does not end in one linear layer" in capsys.readouterr().err


def test_labels_that_say_nothing_are_one_sentence(data, start, tmp_path, capsys):
    words = stage_1(data, start, tmp_path / "out", "--labels", "Never")
    assert negative.main(words) == 1
    assert "no category has both a positive and a negative" in capsys.readouterr().err


def test_a_run_that_is_there_is_not_written_over(data, start, run, capsys):
    assert negative.main(stage_1(data, start, run, "--freeze-copies", "1")) == 1
    assert "already holds a run" in capsys.readouterr().err


def test_training_films_cannot_choose_for_a_network_that_was_trained(run, tmp_path, capsys):
    model = tmp_path / "trained"
    folder = read_model_folder(run)
    config = json.loads(json.dumps(folder.config))
    del config["cft"]["provenance"]["frozen"]
    write_model_folder(model, state_dict=folder.state_dict, config=config, card="")
    (model / "run.json").write_text((run / "run.json").read_text())
    with pytest.raises(SystemExit) as exit_:
        cft.main(stage_2(model, tmp_path / "out", "--choose-on", "all"))
    assert exit_.value.code == 2
    assert "its training films can judge nothing" in capsys.readouterr().err


def test_training_films_choose_for_the_default_method_alone(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        cft.main(stage_2(run, tmp_path / "out", "--choose-on", "all", "--method", "ga"))
    assert exit_.value.code == 2
    assert "is for --method auto, not ga" in capsys.readouterr().err


def test_other_labels_than_the_models_are_refused(data, run, tmp_path, capsys):
    """The fit cannot be repeated on films whose labels are others than those that were fitted."""
    lines = data.read_text().splitlines()
    swapped = [lines[0]] + [
        ",".join([*cells[:3], cells[4], cells[3], *cells[5:]])
        for cells in (line.split(",") for line in lines[1:])
    ]
    other = data.with_name("swapped.csv")
    other.write_text("\n".join(swapped) + "\n")
    words = stage_2(run, tmp_path / "out", "--data", str(other), "--cache", str(run.parent))
    assert cft.main([*words, "--choose-on", "all"]) == 1
    assert "do not give the model's regressions" in capsys.readouterr().err


# --- Stage 1 ------------------------------------------------------------------------------------


def test_the_result_is_a_model_folder_like_any_other(run, data, start):
    config = config_of(run)
    provenance = config["cft"]["provenance"]
    assert provenance["frozen"]["copies"] == 1
    assert provenance["frozen"]["strength"] in frozen.STRENGTHS
    assert provenance["label_policy"]["unknown"] == "negative"
    assert "--freeze" in provenance["command"]
    assert set(config["cft"]["categories"]) == set(LABELS)
    (metrics,) = config["cft"]["metrics"].values()
    assert metrics["films"] == 30
    findings = use.load(run, device="cpu").predict(data.parent / "0.png")
    assert all(0 <= p <= 1 for p in findings.probabilities.values())
    theirs, ours = read_model_folder(start).state_dict, read_model_folder(run).state_dict
    for name in theirs:
        if not name.startswith("fc."):
            assert torch.equal(theirs[name], ours[name]), name


def test_the_log_holds_a_line_for_each_strength_and_the_best_is_taken(run):
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [record["strength"] for record in records] == list(frozen.STRENGTHS[: len(records)])
    best = max(records, key=lambda record: record["cross_fitted"]["auroc"])
    assert config_of(run)["cft"]["provenance"]["frozen"]["strength"] == best["strength"]


def test_the_regressions_are_scikit_learns_on_the_models_own_features(data, start, tmp_path):
    """Negative mode: a blank counts as negative; the model in use gives these very logits."""
    out = tmp_path / "out"
    assert negative.main(stage_1(data, start, out, "--freeze-strength", "3")) == 0
    model = use.load(out, device="cpu")
    rows = [line.split(",") for line in data.read_text().splitlines()[1:]]
    films = [use.read_radiograph(data.parent / row[0]).pixels for row in rows]
    batch = torch.from_numpy(np.stack([model.preprocess(film) for film in films]))
    with torch.inference_mode():
        maps = model.network.forward_features(batch)
        z = model.network.forward_head(maps, pre_logits=True).double().numpy()
    training = np.array([row[2] == "train" for row in rows])
    mean, spread = z[training].mean(0), z[training].std(0)
    spread[spread <= 1e-6 * abs(mean)] = np.inf
    x = (z - mean) / spread
    logits = model.logits(batch).numpy()
    for c in range(2):
        y = np.array([row[3 + c] == "1" for row in rows])
        expected = LogisticRegression(C=1 / 3, tol=1e-10, max_iter=10_000)
        expected.fit(x[training], y[training])
        np.testing.assert_allclose(logits[:, c], expected.decision_function(x), atol=5e-3)
    # Nobody has it: the share of its positives, with one film added on either side.
    np.testing.assert_allclose(logits[:, 2], np.log(1 / (training.sum() + 1)), atol=1e-4)


def test_other_labels_seeds_and_strengths_find_the_features(
    data, start, run, tmp_path, no_forward_pass
):
    more = ["--cache", str(run.parent), "--freeze-copies", "1"]
    for other in (["--seed", "3"], ["--known", "0.5"], ["--freeze-strength", "7"]):
        out = tmp_path / other[0].strip("-")
        assert negative.main(stage_1(data, start, out, *more, *other)) == 0
    assert config_of(tmp_path / "freeze-strength")["cft"]["provenance"]["frozen"] == {
        "strength": 7.0,
        "copies": 1,
    }


def test_a_cache_means_the_same_to_both_stages(data, start, tmp_path, monkeypatch, request):
    """Stage 2 decodes no film again and computes no feature again."""
    more = ["--cache", str(tmp_path / "cache")]
    first = tmp_path / "first" / "negative"
    assert negative.main(stage_1(data, start, first, "--freeze-copies", "0", *more)) == 0
    monkeypatch.setattr(pixels, "read_radiograph", None)
    request.getfixturevalue("no_forward_pass")
    assert cft.main(stage_2(first, tmp_path / "second" / "cft", "--data", str(data), *more)) == 0
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == ["features", "pixels"]
    assert [p.name for p in (tmp_path / "first").iterdir()] == ["negative"]


def test_the_same_command_gives_the_same_weights(data, start, run, tmp_path):
    out = tmp_path / "again"
    words = stage_1(data, start, out, "--freeze-copies", "1", "--cache", str(run.parent))
    assert negative.main(words) == 0
    assert read_model_folder(out).weights_sha256 == read_model_folder(run).weights_sha256


def test_an_interrupted_run_goes_on_with_the_features_it_has(data, start, tmp_path, monkeypatch):
    compute, seen = features._features, []

    def interrupted(one, films):
        if len(seen) == 1:
            raise KeyboardInterrupt
        seen.append(len(films))
        return compute(one, films)

    monkeypatch.setattr(features, "_features", interrupted)
    words = stage_1(data, start, tmp_path / "out")
    assert negative.main(words) == 1
    later: list[int] = []
    monkeypatch.setattr(
        features, "_features", lambda one, films: later.append(len(films)) or compute(one, films)
    )
    assert negative.main(words) == 0
    assert sum(seen) + sum(later) == 150


def test_a_copy_is_the_augmentation_of_stage_1_and_the_same_in_any_batch():
    films = torch.rand(6, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    strengths = Augmentation.named("flip=0.5")
    copy = Copy(strengths, 1, 6)
    expected = augment(films, strengths.draw(6, torch.Generator().manual_seed(1)))
    rows = np.array([4, 0])
    torch.testing.assert_close(copy(films[rows], rows), expected[rows])
    assert Copy(strengths, 2, 6).name != copy.name
    assert Copy(Augmentation.named(""), 1, 6).name != copy.name


# --- Stage 2 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("choose_on", ["all", "valid"])
def test_stage_2_finds_the_features_of_stage_1(run, tmp_path, no_forward_pass, choose_on):
    out = tmp_path / "out"
    words = stage_2(run, out, "--choose-on", choose_on, "--cache", str(run.parent))
    assert cft.main(words) == 0
    report = json.loads((out / "report.json").read_text())
    films = {"all": ("training and validation", 120), "valid": ("validation", 30)}[choose_on]
    assert (report["judges"], report["judging_films"]) == films
    provenance = config_of(out)["cft"]["provenance"]
    assert provenance["arguments"]["choose_on"] == choose_on
    assert provenance["stage_1"]["frozen"] == config_of(run)["cft"]["provenance"]["frozen"]


def problem(seed: int, off: float, n: int = 600) -> tuple[Films, Films, Head, Recipe]:
    """Features and labels of two categories, and regressions that a recipe fitted to other ones.

    The recipe's targets are wrong for a share of the positives, as in Negative mode.
    """
    from train.frozen import logistic

    draw = np.random.default_rng(seed)
    truth = np.random.default_rng(99).normal(size=(2, 8)).astype(np.float32)
    z = draw.normal(size=(n, 8)).astype(np.float32)
    y = (draw.random((n, 2)) < expit(z @ truth.T - 1)).astype(np.float32)
    known = np.where(draw.random(y.shape) < 0.5, y, np.nan).astype(np.float32)
    targets = np.nan_to_num(known).astype(np.float32)
    targets[(z[:, 0] > 0)] *= draw.random((int((z[:, 0] > 0).sum()), 2)) > off
    rows = np.arange(n // 2)
    recipe = Recipe(logistic.Films([z], rows), targets[rows], 1.0)
    weights, biases = recipe(np.ones((len(rows), 1), bool))
    train = Films(z[rows], known[rows], np.arange(n // 2) // 2)
    valid = Films(z[n // 2 :], y[n // 2 :], 10_000 + np.arange(n // 2) // 2)
    return train, valid, Head(weights[0], biases[0], ("One", "Two")), recipe


def test_no_film_is_scored_by_a_fit_that_saw_its_patient():
    """Other targets in one fold change the scores of all films but those of this fold."""
    train, valid, head, recipe = problem(0, off=0.5)
    judges = Task(train, valid, head, recipe=recipe).judges
    fold = judges.starts.fold
    everyone = np.concatenate([train.patients, valid.patients])
    assert all(len(set(fold[everyone == person])) == 1 for person in set(everyone))
    inside = (fold == 0)[: len(train.z), None]
    other = replace(recipe, targets=np.where(inside, 1 - recipe.targets, recipe.targets))
    change = abs(Task(train, valid, head, recipe=other).judges.scores - judges.scores)
    assert change[fold == 0].max() < 1e-5
    assert np.median(change[fold != 0]) > 0.1


def test_the_scores_of_a_fold_are_those_of_the_recipe_without_it():
    train, valid, head, recipe = problem(1, off=0.5)
    judges = Task(train, valid, head, recipe=recipe).judges
    z = np.concatenate([train.z, valid.z])
    for f in range(FOLDS):
        outside = judges.starts.fold[: len(train.z)] != f
        weights, biases = replace(
            recipe,
            films=replace(recipe.films, rows=recipe.films.rows[outside]),
            targets=recipe.targets[outside],
        )(np.ones((int(outside.sum()), 1), bool))
        inside = judges.starts.fold == f
        expected = z[inside] @ weights[0].T + biases[0]
        # The recipe standardises over all training films, this reference over those outside.
        np.testing.assert_allclose(judges.scores[inside], expected, atol=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_what_the_recipe_got_wrong_is_mended_and_the_choice_is_written_down(seed):
    train, valid, head, recipe = problem(seed, off=0.9)
    task = Task(train, valid, head, TuneSettings(seed=seed), recipe=recipe)
    tuned = method_of(task.settings).tune(task)
    assert tuned.notes["judges"] == "training and validation"
    assert tuned.notes["judging_films"] == 600
    assert tuned.methods == ["auto", "auto"]
    z, y, *_ = vars(problem(seed + 50, off=0, n=4000)[1]).values()
    before, after = (
        auroc(np.ascontiguousarray(x.logits(z).T), np.ascontiguousarray(y.T)).mean()
        for x in (head, tuned.head)
    )
    assert after > before
    # Scores to calibrate by are those of the model, but for the films' own share in it.
    close = np.corrcoef(tuned.valid_scores[:, 0], tuned.head.logits(valid.z)[:, 0])[0, 1]
    assert close > 0.98


def test_without_evidence_the_trained_regressions_stay_and_so_do_their_scores():
    """Labels drawn from the trained regressions' own scores: nothing ranks them better."""
    draw = np.random.default_rng(0)
    train, valid, head, recipe = problem(3, off=0)
    scores = Task(train, valid, head, recipe=recipe).judges.scores
    y = (draw.random(scores.shape) < expit(3 * scores)).astype(np.float32)
    train, valid = (replace(films, y=part) for films, part in ((train, y[:300]), (valid, y[300:])))
    task = Task(train, valid, head, recipe=recipe)
    tuned = method_of(task.settings).tune(task)
    assert tuned.methods == ["original", "original"]
    np.testing.assert_array_equal(tuned.head.weights, head.weights)
    np.testing.assert_array_equal(tuned.valid_scores, task.trained_scores)
