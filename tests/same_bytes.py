"""``python -m tests.same_bytes [REVISION]``: does this code compute what an earlier revision did?

For a change that must not change results. Small runs of both stages and an evaluation, on phantoms,
are made by the code of the revision (the parent commit by default) and by the code of this folder,
on this machine, and their files compared: weights, logs, figures, tables. No result is stored, as
other machines round otherwise. Exit status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_DATA = ["--phantoms", "240", "--phantom-size", "32", "--device", "cpu", "--threads", "1"]
_RUN = ["--arch", "test_resnet", "--image-size", "32", "--batch-size", "16", "--lr", "0.01", *_DATA]

#: Name -> options of a run of stage 1.
STAGE_1 = {
    "plain": "--epochs 3 --dropout 0.1",
    "accumulated": "--epochs 2 --accumulate 2 --loss asl:clip=0.05 --augment blur=0.4,erase=0.3",
    "plateau": "--epochs 3 --schedule plateau --optimizer adam --clip 0.01 --metric map --ema 0",
    "policies": "--epochs 2 --uncertain smooth-positive Mass=negative --unknown ignore --known 0.5",
}

#: Name -> options of a run of stage 2 on "plain".
STAGE_2 = {
    "auto": "--seed 1",
    "ga": "--method ga",
    "gradient": "--method gradient --loss asl --fitness ap",
    "greedy": "--method greedy",
}

# What names the time or the place of a run.
_FLEETING = ("seconds", "films_per_second", "date", "versions", "weights_sha256", "parent")


@contextlib.contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """A folder with the code of a revision."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "worktree", "prune"], cwd=ROOT, check=True)
        place = Path(folder) / "code"
        words = ["git", "worktree", "add", "--quiet", "--detach", str(place), revision]
        subprocess.run(words, cwd=ROOT, check=True)
        try:
            yield place
        finally:
            shutil.rmtree(place)
            subprocess.run(["git", "worktree", "prune"], cwd=ROOT, check=True)


def run_all(code: Path, out: Path) -> None:
    """Make every run with the code of a folder."""
    for name, options in STAGE_1.items():
        _python(code, "train.negative", *_RUN, *options.split(), "--out", str(out / name))
    _interrupted(code, out / "interrupted")
    processes = ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29507", "-m"]
    options = [*_RUN, *STAGE_1["plain"].split()]
    _python(code, *processes, "train.negative", *options, "--out", str(out / "two"))
    for name, options in STAGE_2.items():
        words = ["--model", str(out / "plain"), "--out", str(out / f"cft-{name}"), *options.split()]
        _python(code, "train.cft", *words, "--device", "cpu", "--threads", "1")
    models = [str(out / "plain"), str(out / "cft-greedy")]
    words = ["--model", *models, *_DATA[:4], "--ensemble", "mean", "--out", str(out / "report")]
    _python(code, "train.evaluate", *words)


def _python(code: Path, module: str, *words: str) -> None:
    print(f"  {module} {words[-1]}", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", module, *words], cwd=code, env=_environment(), capture_output=True
    )
    if done.returncode:
        raise SystemExit(f"{module} {' '.join(words)}:\n{done.stderr.decode()[-2000:]}")


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}


def _interrupted(code: Path, out: Path) -> None:
    """The run "plain", stopped after its first epoch and resumed."""
    words = [sys.executable, "-m", "train.negative", *_RUN, *STAGE_1["plain"].split()]
    words += ["--out", str(out)]
    run = subprocess.Popen(words, cwd=code, env=_environment(), stderr=subprocess.DEVNULL)
    while run.poll() is None and not (out / "log.jsonl").exists():
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    run.wait()
    if not (out / "model.safetensors").exists():
        _python(code, words[2], *words[3:], "--resume")


def contents(folder: Path) -> dict[str, bytes]:
    """File -> content, without what names the time or the place of a run."""
    found = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if file.suffix == ".safetensors" and "checkpoint" not in name:
            found[name] = file.read_bytes()
        elif file.name in ("log.jsonl", "search.csv", "predictions.csv"):
            lines = file.read_text().splitlines()
            parse = json.loads if file.suffix == ".jsonl" else str
            found[name] = json.dumps([_lasting(parse(line)) for line in lines]).encode()
        elif file.name in ("config.json", "report.json"):
            found[name] = json.dumps(_lasting(json.loads(file.read_text()))).encode()
    return found


def _lasting(value):
    if isinstance(value, dict):
        return {k: _lasting(x) for k, x in value.items() if k not in (*_FLEETING, "provenance")}
    return [_lasting(x) for x in value] if isinstance(value, list) else value


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.same_bytes", description=__doc__)
    parser.add_argument("revision", nargs="?", default="HEAD", help="(default: the last commit)")
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        help="leave the runs here, and use those of REVISION that an earlier call left",
    )
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        work = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sides = {"before": stack.enter_context(checkout(options.revision)), "after": ROOT}
        for side, code in sides.items():
            print(f"{side}: {code}", file=sys.stderr)
            if side == "before" and (work / side).exists():
                continue
            shutil.rmtree(work / side, ignore_errors=True)
            run_all(code, work / side)
        before, after = (contents(work / side) for side in sides)
    names = sorted({*before, *after})
    different = [name for name in names if before.get(name) != after.get(name)]
    whole, resumed = (after[f"{x}/model.safetensors"] for x in ("plain", "interrupted"))
    for name in names:
        print(f"{'DIFFERENT' if name in different else 'same':10}{name}")
    print(f"{'same' if whole == resumed else 'DIFFERENT':10}interrupted and whole")
    return 1 if different or whole != resumed else 0


if __name__ == "__main__":
    sys.exit(main())
