"""The genetic algorithm of stage 2 beside its peers, and the default by itself. Three tables.

    python -m benchmarks.cft fidelity --data CHEXPERT/train.csv
    python -m benchmarks.cft speed --data CHEXPERT/train.csv --work FOLDER
    python -m benchmarks.cft default --data CHEXPERT/train.csv

All work on features with a planted signal under CheXpert's real labels (`benchmarks.problems`).

``fidelity``: is ``--preset paper`` the published search? The package mlcpl, by its authors,
and this project run with the same settings on the same films; the training fitness they end with,
over the seeds, is compared by a two-sample Kolmogorov-Smirnov test, a Mann-Whitney test and the
interval of the difference of the means. mlcpl judges by torchmetrics; its result is judged again by
the exact kernel.

``speed``: how long until the default search has the training fitness that the published one has
after all its generations? On a tenth of the films that fitness is known, as the published search is
run out there. On all films it is estimated: the gain on the tenth, times the share that the first
generations gain on all films of what they gain on the tenth. mlcpl's time and that of pygad with
scikit-learn's AUROC are extrapolated from a few generations of each category. ``--in-full`` names
categories whose published search is run out on all films instead of estimated, ``--mlcpl-in-full``
those for which mlcpl itself is run out on the tenth as well. What has been computed is kept in
FOLDER.

``default``: how long the default method takes for all categories, from features to regressions, at
some sizes, and the exponent of its growth with the films.

Peers that are not installed take no part: pip install -r requirements-peers.txt.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import ks_2samp, mannwhitneyu, t

from benchmarks.problems import negative_mode, planted
from cft.files import atomic_write
from train.metrics.ranking import auroc
from train.stage2.genetic import Evolution, Genetic
from train.stage2.methods import tune
from train.stage2.refit import basis_of
from train.stage2.task import Films, Head

# Generations after which the default search counts as not reaching what it is asked for.
_PATIENCE = 300


@dataclass(frozen=True)
class Data:
    """Films of one size; a twentieth of the patients, at least 200, is for validation."""

    z: torch.Tensor
    y: torch.Tensor
    z_valid: torch.Tensor
    y_valid: torch.Tensor
    weights: torch.Tensor
    names: tuple[str, ...]

    @property
    def trainable(self) -> list[int]:
        """Columns with known labels of both kinds."""
        both = (self.y == 0).any(0) & (self.y == 1).any(0)
        return torch.nonzero(both).squeeze(1).tolist()

    def known(self, c: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = ~self.y[:, c].isnan()
        return self.z[rows], self.y[rows, c]

    def search(self, columns: Sequence[int], settings: Genetic, seed: int = 0, **more) -> Evolution:
        columns = list(columns)
        return Evolution(
            *(self.z, self.y[:, columns], self.weights[columns]),
            z_valid=self.z_valid,
            y_valid=self.y_valid[:, columns],
            settings=settings,
            seeds=[seed] * len(columns),
            **more,
        )


def data_of(csv: Path, share: float, device: str) -> Data:
    """Features with a planted signal, and a head trained on them in Negative mode."""
    z, y, truth, names, patients = planted(csv, share, seed=0)
    people, index = np.unique(patients, return_inverse=True)
    place = np.random.default_rng(0).permutation(len(people))[index]
    valid = place < max(200, len(people) // 20)
    train, held_out = Films(z[~valid], y[~valid]), Films(z[valid], truth[valid])
    weights = negative_mode(train, held_out, names, seed=0).weights
    arrays = (train.z, train.y, held_out.z, held_out.y, weights)
    return Data(*(torch.from_numpy(x).to(device) for x in arrays), names)


# --- Peers --------------------------------------------------------------------------------------


def mlcpl_search(
    data: Data, c: int, generations: int, seed: int
) -> tuple[torch.Tensor, float] | None:
    """(the fittest weights of mlcpl's last generation, seconds), or None without mlcpl."""
    try:
        from mlcpl.cft import GAForLinear
        from torchmetrics.functional.classification import binary_auroc
    except ImportError:
        return None
    z, y = data.known(c)
    head = torch.nn.Linear(z.shape[1], 1).to(z.device)
    with torch.no_grad():
        head.weight.copy_(data.weights[[c]])
        head.bias.zero_()
    torch.manual_seed(seed)
    search = GAForLinear(head=head, device=z.device, metric=binary_auroc)
    known_valid = ~data.y_valid[:, c].isnan()
    z_valid, y_valid = data.z_valid[known_valid], data.y_valid[known_valid, c][:, None].int()
    labels = y[:, None].int()
    started = time.perf_counter()
    with torch.no_grad():
        for _ in range(generations):
            search.step(z, labels)
            binary_auroc(search.head(z_valid), y_valid)  # as its loop does, to stop early
    _wait(z)
    return search.head.weight.detach()[0], time.perf_counter() - started


def pygad_search(data: Data, c: int, generations: int) -> float | None:
    """Seconds of pygad with scikit-learn's AUROC, or None without pygad."""
    try:
        import pygad
    except ImportError:
        return None
    from sklearn.metrics import roc_auc_score

    z, y = (x.cpu().numpy() for x in data.known(c))
    weights = data.weights[c].cpu().numpy()
    search = pygad.GA(
        num_generations=generations,
        num_parents_mating=25,
        fitness_func=lambda ga, solution, index: roc_auc_score(y, z @ solution.astype(np.float32)),
        initial_population=np.tile(weights, (50, 1)),
        parent_selection_type="rws",
        crossover_type="uniform",
        mutation_type="random",
        mutation_percent_genes=100,
        random_mutation_min_val=-1e-3,
        random_mutation_max_val=1e-3,
        keep_elitism=1,
        suppress_warnings=True,
    )
    started = time.perf_counter()
    search.run()
    return time.perf_counter() - started


def fitness(data: Data, c: int, weights: torch.Tensor) -> float:
    z, y = data.known(c)
    return float(auroc(z @ weights, y))


def _wait(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()


# --- The default ---------------------------------------------------------------------------------


def default(options: argparse.Namespace) -> str:
    rows = ["| Films | Categories | Known labels | Seconds | Of processors | Most memory, GB |"]
    rows += ["| ---: | ---: | ---: | ---: | ---: | ---: |"]
    films, times = [], []
    for share in sorted(options.shares):
        data = data_of(options.data, share, options.device)
        train, valid = Films(data.z.numpy(), data.y.numpy()), (data.z_valid, data.y_valid)
        head = Head(data.weights.numpy(), np.zeros(len(data.names), np.float32), data.names)
        began, cpu = time.perf_counter(), time.process_time()
        tuned = tune(train, Films(*(x.numpy() for x in valid)), head, device=options.device)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        films.append(len(train.z))
        times.append(cpu)
        known = int((~np.isnan(train.y[:, data.trainable])).sum())
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        sizes = f"{len(train.z):,} | {len(data.trainable)} | {known:,}"
        rows.append(f"| {sizes} | {seconds:.1f} | {cpu:.1f} | {most:.1f} |")
        print(rows[-1], tuned.notes.get("chosen"), file=sys.stderr, flush=True)
    if len(films) > 1:
        power = np.polyfit(np.log(films), np.log(times), 1)[0]
        rows += ["", f"The processors' time grows as films to the power of {power:.2f}."]
    return "\n".join(rows)


# --- The tables ---------------------------------------------------------------------------------


def fidelity(options: argparse.Namespace) -> str:
    data = data_of(options.data, 0.01, options.device)
    rows = ["| Category | Known | Trained | mlcpl | here | Difference | KS p | Mann-Whitney p |"]
    rows += ["| --- | ---: | ---: | ---: | ---: | --- | ---: | ---: |"]
    for c in (data.names.index(name) for name in options.categories):
        found: dict[str, list[float]] = {"mlcpl": [], "here": []}
        for seed in options.seeds:
            with contextlib.redirect_stdout(io.StringIO()):
                peer = mlcpl_search(data, c, options.generations + 1, seed)
            if peer is None:
                raise SystemExit("benchmarks.cft: mlcpl is not installed; pip install mlcpl")
            found["mlcpl"].append(fitness(data, c, peer[0]))
            search = data.search([c], replace(Genetic.paper(), patience=10**9), seed)
            for _ in range(options.generations + 1):
                search.step()
            found["here"].append(search.lineages[0].history[-1]["best"])
        rows.append(compared(data, c, found))
        print(rows[-1], file=sys.stderr, flush=True)
    title = f"Training AUROC after {options.generations} generations, {len(options.seeds)} seeds:"
    return "\n".join([title, "", *rows])


def compared(data: Data, c: int, found: dict[str, list[float]]) -> str:
    """A line of the table of fidelity."""
    peer, here = (np.array(found[name]) for name in ("mlcpl", "here"))
    error = np.sqrt(peer.var(ddof=1) / len(peer) + here.var(ddof=1) / len(here))
    half = t.ppf(0.975, len(peer) + len(here) - 2) * error
    gap = here.mean() - peer.mean()
    cells = [
        data.names[c],
        f"{len(data.known(c)[1]):,}",
        f"{fitness(data, c, data.weights[c]):.4f}",
        *(f"{x.mean():.4f} ± {x.std(ddof=1):.4f}" for x in (peer, here)),
        f"{gap:+.4f} ({gap - half:+.4f} to {gap + half:+.4f})",
        f"{ks_2samp(peer, here).pvalue:.2f}",
        f"{mannwhitneyu(peer, here).pvalue:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def speed(options: argparse.Namespace) -> str:
    options.work.mkdir(parents=True, exist_ok=True)
    gains: dict[str, tuple[float, float | None]] = {}
    parts = []
    for share in (0.1, 1.0):
        data = data_of(options.data, share, options.device)
        known = published_gains(data, share, options)
        gains |= {name: (gain, None) for name, gain in known.items()}
        started = time.perf_counter()
        basis = basis_of(data.z - data.z.mean(0))
        _wait(basis)
        seconds = time.perf_counter() - started
        lines = {}
        for c in data.trainable:
            name = data.names[c]
            lines[name] = race(data, c, gains[name], basis, options)
            print(f"{share:g} {name}: {lines[name]}", file=sys.stderr, flush=True)
        # What the first generations gain here, to compare the sizes by.
        gains = {x: (gains[x][0], line["measured gain"]) for x, line in lines.items()}
        parts += [f"{len(data.z):,} films x {data.z.shape[1]} features", "", *table(lines), ""]
        parts += [*summary(lines, seconds), ""]
    return "\n".join([*parts, *growth(data, basis)])


def table(lines: dict[str, dict]) -> list[str]:
    rows = ["| Category | Known | Trained | Asked for | Reached after | At its end | mlcpl |"]
    rows += ["| --- | ---: | ---: | ---: | --- | --- | ---: |"]
    for name, line in lines.items():
        reached = f"not within {_PATIENCE} generations"
        if line["reached"]:
            reached = "{1} generations, {0:.1f} s".format(*line["reached"])
        end = "{:.4f}, {} generations, {:.1f} s".format(*line["end"])
        known, trained, target = line["known"], line["trained"], line["target"]
        told = (
            f"{known:,} | {trained:.4f} | {target:.4f} | {reached} | {end} | {line['mlcpl']:,.0f} s"
        )
        rows.append(f"| {name} | {told} |")
    return rows


def summary(lines: dict[str, dict], basis: float) -> list[str]:
    """Seconds of all categories together, and as multiples of the default's time to fitness."""
    compared = [line for line in lines.values() if line["reached"]]
    reached = basis + sum(line["reached"][0] for line in compared)
    whole = basis + sum(line["end"][2] for line in lines.values())
    rows = [
        f"| Seconds, {len(compared)} of {len(lines)} categories | Seconds | Times |",
        "| --- | ---: | ---: |",
        f"| default search, to the fitness asked for | {reached:,.1f} | 1 |",
        f"| default search, to its end, all {len(lines)} | {whole:,.1f} | {whole / reached:,.1f} |",
    ]
    for name in ("published, here", "mlcpl", "pygad"):
        seconds = sum(line[name] for line in compared)
        told = f"{seconds:,.0f} | {seconds / reached:,.0f}" if seconds else "not installed | "
        rows.append(
            f"| {name}, {Genetic.paper().generations:,} generations, extrapolated | {told} |"
        )
    return rows


def race(
    data: Data,
    c: int,
    gain: tuple[float, float | None],
    basis: torch.Tensor,
    options: argparse.Namespace,
) -> dict:
    """One category: some generations of each peer, then the default.

    `gain` is what the published search adds in all its generations, and None if it was run out on
    these films. Else it was on a tenth of them, and the second number is what its first generations
    added there: on all films less can be added, as much less, in all, as in these first ones.
    """
    whole = Genetic.paper().generations / options.measured
    search = data.search([c], Genetic.paper())
    started = time.perf_counter()
    for _ in range(options.measured):
        search.step()
    _wait(data.z)
    line = {
        "published, here": (time.perf_counter() - started) * whole,
        "known": len(data.known(c)[1]),
    }
    (own,) = search.lineages
    line["trained"] = own.history[0]["best"]
    line["measured gain"] = own.history[-1]["best"] - line["trained"]
    with contextlib.redirect_stdout(io.StringIO()):
        peer = mlcpl_search(data, c, options.measured, 0)
        pygad = pygad_search(data, c, max(1, options.measured // 10))
    line["mlcpl"] = peer[1] * whole if peer else 0.0
    line["pygad"] = (
        pygad * whole * options.measured / max(1, options.measured // 10) if pygad else 0
    )
    smaller = 1.0 if gain[1] is None else min(1.0, line["measured gain"] / gain[1])
    line["target"] = line["trained"] + gain[0] * smaller
    return line | default_search(data, c, line["target"], basis)


def default_search(data: Data, c: int, target: float, basis: torch.Tensor) -> dict:
    """The default until its end, and on until it has the fitness asked for."""
    reached, end = None, None
    started = time.perf_counter()
    how = replace(Genetic(), generations=_PATIENCE, patience=_PATIENCE)
    search = data.search([c], how, basis=basis)
    (own,) = search.lineages
    while own.generation < _PATIENCE and (end is None or reached is None):
        search.step()
        _wait(data.z)
        now, best = time.perf_counter() - started, own.history[-1]["best"]
        if reached is None and best >= target:
            reached = now, own.generation
        if own.generation == Genetic().generations:
            end = best, own.generation, now
    return {"reached": reached, "end": end}


def growth(data: Data, basis: torch.Tensor, generations: int = 10) -> list[str]:
    """How a generation's time grows with films and individuals, on the category known best."""
    c = max(data.trainable, key=lambda column: int((~data.y[:, column].isnan()).sum()))
    z, y = data.known(c)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0)).to(y.device)
    rows = ["| Known films | Individuals | Seconds a generation |", "| ---: | ---: | ---: |"]
    for share, population in ((0.25, 50), (0.5, 50), (1, 50), (1, 25), (1, 100), (1, 200)):
        part = order[: int(share * len(y))]
        whole = replace(data, z=z[part], y=y[part][:, None].expand(-1, len(data.names)))
        search = whole.search([c], replace(Genetic(), population=population), basis=basis)
        search.step()
        started = time.perf_counter()
        for _ in range(generations):
            search.step()
        _wait(z)
        seconds = (time.perf_counter() - started) / generations
        rows.append(f"| {len(part):,} | {population} | {seconds:.3f} |")
    return rows


def published_gains(data: Data, share: float, options: argparse.Namespace) -> dict[str, float]:
    """Category -> what the published search, run out, adds to the training AUROC.

    On a tenth of the films for every category, on all films for those of ``--in-full``.
    """
    path = options.work / f"gains-{share:g}.json"
    found = json.loads(path.read_text()) if path.exists() else {"here": {}, "mlcpl": {}}
    how = replace(Genetic.paper(), patience=10**9)

    def here(c: int) -> float:
        search = data.search([c], how)
        while not search.done:
            search.step()
        (own,) = search.lineages
        return own.history[-1]["best"] - own.history[0]["best"]

    def peer(c: int) -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            weights, _ = mlcpl_search(data, c, how.generations, 0)
        return fitness(data, c, weights) - fitness(data, c, data.weights[c])

    def fill(name: str, labels: Sequence[str], gain: Callable[[int], float]) -> None:
        for label in labels:
            if label not in found[name]:
                found[name][label] = gain(data.names.index(label))
                atomic_write(path, json.dumps(found, indent=1))
                print(share, name, label, found[name][label], file=sys.stderr, flush=True)

    if share < 1:
        fill("here", [data.names[c] for c in data.trainable], here)
        fill("mlcpl", options.mlcpl_in_full, peer)
    else:
        fill("here", options.in_full, here)
    return found["here"]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="kind", required=True)
    same = commands.add_parser("fidelity")
    same.add_argument("--seeds", type=int, nargs="+", default=list(range(20)))
    same.add_argument("--generations", type=int, default=200)
    same.add_argument("--categories", nargs="+", default=["Consolidation", "Pneumothorax", "Edema"])
    fast = commands.add_parser("speed")
    fast.add_argument("--work", type=Path, required=True, help="of what is computed")
    fast.add_argument("--measured", type=int, default=50, help="generations of each peer")
    fast.add_argument("--in-full", nargs="*", default=[], metavar="CATEGORY")
    fast.add_argument("--mlcpl-in-full", nargs="*", default=[], metavar="CATEGORY")
    usual = commands.add_parser("default")
    usual.add_argument("--shares", type=float, nargs="+", default=[0.025, 0.1, 1.0])
    for command in (same, fast, usual):
        command.add_argument("--data", type=Path, required=True, help="CheXpert's train.csv")
        command.add_argument("--device", default="cpu")
        command.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    print({"fidelity": fidelity, "speed": speed, "default": default}[options.kind](options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
