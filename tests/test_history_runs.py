"""Runs whose training labels are means with those of a patient's other films."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import cft as use
from cft.model.folder import read_model_folder, write_model_folder
from tests.test_frozen import LABELS, config_of, stage_1, stage_2
from tests.test_frozen import data as data
from tests.test_frozen import start as start
from train import cft, negative
from train.stage1 import frozen
from train.stage2.task import Task

pytestmark = pytest.mark.slow

SHARE, REACH = 0.45, 2.0


@pytest.fixture(scope="module")
def history(data, tmp_path_factory) -> Path:
    """The films of the data, two of each patient at 0 and 1, and a third at 2."""
    draw = np.random.default_rng(5)
    lines = [f"image,patient,order,{','.join(LABELS[:2])}"]
    for line in data.read_text().splitlines()[1:]:
        image, patient, _, one, other, _ = line.split(",")
        number = int(Path(image).stem)
        lines.append(f"{number}.dcm,{patient},{number % 2},{one},{other}")
        if number % 2:
            cells = ",".join(str(int(x)) for x in draw.random(2) < 0.4)
            lines.append(f"more-{number}.dcm,{patient},2,{cells}")
    path = tmp_path_factory.mktemp("history") / "others.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def with_history(history: Path, *more: str) -> list[str]:
    words = ["--history", str(history), "--history-share", str(SHARE)]
    return [*words, "--history-reach", str(REACH), *more]


@pytest.fixture(scope="module")
def judged() -> list[np.ndarray]:
    """The labels that the fixture `run` was judged by, one array for each strength."""
    return []


@pytest.fixture(scope="module")
def run(data, start, history, judged, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "negative"
    figures_of = frozen.figures_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            frozen,
            "figures_of",
            lambda scores, table: judged.append(table.y) or figures_of(scores, table),
        )
        assert negative.main(stage_1(data, start, out, *with_history(history))) == 0
    return out


def labels_of(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """(N,) bool of the training films and (N, 2) labels, NaN unknown."""
    rows = [line.split(",") for line in data.read_text().splitlines()[1:]]
    y = [[float(cell or "nan") for cell in row[3:5]] for row in rows]
    return np.array([row[2] == "train" for row in rows]), np.array(y)


def soft_labels(data: Path, history: Path) -> np.ndarray:
    """(N, 2) means, of films that have one other film at a distance of 1 and one at 1 or 2."""
    _, y = labels_of(data)
    third = {
        cells[0]: [float(cell) for cell in cells[3:]]
        for cells in (line.split(",") for line in history.read_text().splitlines()[1:])
        if cells[0].startswith("more")
    }
    soft = np.empty(y.shape)
    for number in range(len(y)):
        pair = number // 2 * 2
        other, at = pair + 1 - number % 2, number % 2
        for c in range(2):
            others = [(y[other, c], 1), (third[f"more-{pair + 1}.dcm"][c], 2 - at)]
            weights = [(np.exp(-far / REACH), v) for v, far in others if not np.isnan(v)]
            total = sum(k for k, _ in weights)
            w = SHARE * min(1, total)
            own = np.nan_to_num(y[number, c])
            soft[number, c] = (1 - w) * own + w * sum(k * v for k, v in weights) / total
    return soft


# --- What is refused ----------------------------------------------------------------------------


def test_a_table_of_other_patients_is_one_sentence(data, start, tmp_path, capsys):
    table = tmp_path / "table.csv"
    table.write_text("image,patient,order,Bright\nx.png,stranger,1,1\n")
    assert negative.main(stage_1(data, start, tmp_path / "out", "--history", str(table))) == 1
    assert "has no patient in common with the training films" in capsys.readouterr().err


def test_a_run_is_resumed_only_with_the_table_that_began_it(
    data, start, run, history, tmp_path, capsys
):
    other = tmp_path / "others.csv"
    other.write_text(history.read_text() + "y.dcm,p0,3,1,1\n")
    words = [*with_history(other), "--resume", "--cache", str(run.parent)]
    assert negative.main(stage_1(data, start, run, *words)) == 1
    began, here = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (history, other))
    assert f"began with history = {began!r}, not {here!r}" in capsys.readouterr().err


def test_stage_2_refuses_another_table(run, history, tmp_path, capsys):
    other = tmp_path / "others.csv"
    other.write_text(history.read_text() + "y.dcm,p0,3,1,1\n")
    words = ["--history", str(other), "--cache", str(run.parent)]
    assert cft.main(stage_2(run, tmp_path / "out", *words)) == 1
    assert "the table of --history is not the one they were in" in capsys.readouterr().err


def moved(run: Path, folder: Path, data: Path) -> Path:
    """The model as it is on a machine that has the data and no table of other films."""
    model = read_model_folder(run)
    write_model_folder(folder, state_dict=model.state_dict, config=model.config, card="")
    (folder / "run.json").write_text(json.dumps({"data": str(data)}))
    return folder


def test_stage_2_says_when_the_table_is_not_there(data, run, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        cft.main(stage_2(moved(run, tmp_path / "model", data), tmp_path / "out"))
    assert exit_.value.code == 2
    assert "give their table with --history, or choose on validation" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--choose-on", "valid"], ["--method", "gradient"]])
def test_stage_2_takes_no_table_that_it_has_no_use_for(run, history, tmp_path, capsys, words):
    with pytest.raises(SystemExit) as exit_:
        cft.main(stage_2(run, tmp_path / "out", "--history", str(history), *words))
    assert exit_.value.code == 2
    assert "stage 2 itself fits each film's own labels" in capsys.readouterr().err


# --- Stage 1 ------------------------------------------------------------------------------------


def test_the_regressions_are_scikit_learns_on_the_means(data, start, run, history, tmp_path):
    """A target of 0.3 is a film of weight 0.3 that has the finding, and one of 0.7 without."""
    out = tmp_path / "out"
    more = [*with_history(history), "--freeze-strength", "3", "--cache", str(run.parent)]
    assert negative.main(stage_1(data, start, out, *more)) == 0
    model = use.load(out, device="cpu")
    training, y = labels_of(data)
    films = [use.read_radiograph(data.parent / f"{n}.png").pixels for n in range(len(y))]
    batch = torch.from_numpy(np.stack([model.preprocess(film) for film in films]))
    with torch.inference_mode():
        maps = model.network.forward_features(batch)
        z = model.network.forward_head(maps, pre_logits=True).double().numpy()
    mean, spread = z[training].mean(0), z[training].std(0)
    spread[spread <= 1e-6 * abs(mean)] = np.inf
    x = (z - mean) / spread
    soft, logits = soft_labels(data, history)[training], model.logits(batch).numpy()
    assert 0.1 < abs(soft - np.nan_to_num(y[training])).mean() < SHARE
    n = len(soft)
    for c in range(2):
        expected = LogisticRegression(C=1 / 3, tol=1e-10, max_iter=10_000)
        weights = np.concatenate([soft[:, c], 1 - soft[:, c]])
        expected.fit(np.tile(x[training], (2, 1)), np.repeat([1, 0], n), sample_weight=weights)
        np.testing.assert_allclose(logits[:, c], expected.decision_function(x), atol=5e-3)


def test_training_films_judge_by_their_own_labels(data, run, judged):
    training, y = labels_of(data)
    assert len(judged) == len((run / "log.jsonl").read_text().splitlines())
    for labels in judged:
        np.testing.assert_array_equal(labels[:, :2], np.nan_to_num(y[training]))


def test_the_folder_names_the_table_by_its_hash_and_by_no_place(run, history):
    provenance = config_of(run)["cft"]["provenance"]
    digest = hashlib.sha256(history.read_bytes()).hexdigest()
    assert provenance["history"] == {"sha256": digest, "films": 225}
    arguments = provenance["arguments"]
    assert (arguments["history_share"], arguments["history_reach"]) == (SHARE, REACH)
    assert "--history TABLE" in provenance["command"]
    assert any("same patients' other films" in note for note in provenance["notes"])
    card = (run / "README.md").read_text()
    assert digest in card
    assert "| `history_share` | 0.45 |" in card
    for name in ("config.json", "README.md"):
        assert str(history.parent) not in (run / name).read_text()
    assert json.loads((run / "run.json").read_text())["history_table"] == str(history)


def test_a_run_without_other_films_says_nothing_of_them(data, start, run, tmp_path):
    out = tmp_path / "out"
    words = ["--freeze-strength", "3", "--cache", str(run.parent)]
    assert negative.main(stage_1(data, start, out, *words)) == 0
    assert "history" not in config_of(out)["cft"]["provenance"]
    assert "history" not in (out / "README.md").read_text()


@pytest.mark.parametrize("more", [[], ["--loss", "asl", "--mix", "logic"]])
def test_a_network_is_trained_on_the_means(data, history, tmp_path, more, monkeypatch):
    seen = []
    of = negative.Run.of.__func__
    monkeypatch.setattr(
        negative.Run,
        "of",
        classmethod(lambda cls, *parts: seen.append(parts[3]) or of(cls, *parts)),
    )
    words = f"--data {data} --dataset csv --out {tmp_path / 'out'} --arch test_resnet --epochs 1"
    words += " --image-size 32 --batch-size 16 --device cpu --threads 1 --workers 1"
    assert negative.main([*words.split(), *with_history(history), *more]) == 0
    training, y = labels_of(data)
    (found,) = seen
    expected = np.where(training[:, None], soft_labels(data, history), y)
    np.testing.assert_allclose(found[:, :2], expected, rtol=1e-6)
    assert "history" in config_of(tmp_path / "out")["cft"]["provenance"]


# --- Stage 2 ------------------------------------------------------------------------------------


def test_stage_2_cross_fits_the_same_means_and_fits_the_films_own_labels(
    data, run, history, tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr(cft, "Task", lambda *parts: seen.append(parts) or Task(*parts))
    out = tmp_path / "out"
    assert cft.main(stage_2(run, out, "--cache", str(run.parent))) == 0
    ((films, *_, recipe, _),) = seen
    training, y = labels_of(data)
    soft = soft_labels(data, history)[training]
    np.testing.assert_allclose(recipe.targets[:, :2], soft, rtol=1e-6)
    np.testing.assert_array_equal(films.y[:, :2], y[training])
    provenance = config_of(out)["cft"]["provenance"]
    assert provenance["stage_1"]["history"] == config_of(run)["cft"]["provenance"]["history"]
    assert "history" not in provenance
    assert provenance["command"].endswith("--history TABLE")
    assert str(history.parent) not in (out / "README.md").read_text()


def test_stage_2_finds_the_table_that_is_named(data, run, history, tmp_path):
    model = moved(run, tmp_path / "model", data)
    words = ["--history", str(history), "--cache", str(run.parent)]
    assert cft.main(stage_2(model, tmp_path / "out", *words)) == 0


def test_stage_2_needs_no_table_to_choose_on_validation_films(data, run, tmp_path):
    model = moved(run, tmp_path / "model", data)
    words = ["--choose-on", "valid", "--cache", str(run.parent)]
    assert cft.main(stage_2(model, tmp_path / "out", *words)) == 0
    assert "--history" not in config_of(tmp_path / "out")["cft"]["provenance"]["command"]
