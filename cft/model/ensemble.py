"""Several models that answer as one.

An ensemble is a model folder without weights of its own: ``config.json`` names its members, each a
whole model folder inside it, and their weights; the operating points are the ensemble's own.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from cft.errors import ModelFolderError, RadiographError
from cft.files import atomic_write
from cft.film.budget import one_film
from cft.film.gate import VERDICTS, Gate
from cft.film.read import as_radiograph
from cft.model.averaging import combine
from cft.model.category import thresholds
from cft.model.classifier import Classifier, Prepared, origin
from cft.model.config import FORMAT
from cft.model.findings import Findings
from cft.model.folder import (
    CARD,
    CONFIG,
    WEIGHTS,
    open_model_folder,
    parse_config,
    read_config,
    read_model_folder,
)
from cft.model.odds import logit

if TYPE_CHECKING:
    import torch

__all__ = ["Ensemble", "EnsembleFindings", "write_ensemble"]


@dataclass(frozen=True, eq=False)
class EnsembleFindings(Findings):
    """What an ensemble says about one film: as `Findings`, whose maps are the members' mean."""

    _members: tuple[Findings, ...] = field(repr=False, default=())
    _shares: tuple[float, ...] = field(repr=False, default=())

    @property
    def heatmap_kind(self) -> str | None:
        return _kind([member.heatmap_kind for member in self._members])

    def heatmap(self, label: str, shape: tuple[int, int] | None = None) -> np.ndarray:
        """The weighted mean of the members' maps; see `Findings.heatmap`."""
        if label not in self.scores:
            raise KeyError(f"no finding {label!r}; the model has {', '.join(self.scores)}")
        maps = [
            share * member.heatmap(label, shape)
            for member, share in zip(self._members, self._shares, strict=True)
        ]
        return np.stack(maps).sum(axis=0, dtype=np.float32)

    def members(self, label: str) -> tuple[float, ...]:
        """What each member says of a finding; see `Findings.members`."""
        super().members(label)  # which knows what labels there are
        return tuple(member.probabilities[label] for member in self._members)


def _kind(kinds: Sequence[str | None]) -> str | None:
    """What the mean of some members' maps is."""
    if None in kinds:
        return None
    return "grad-cam" if "grad-cam" in kinds else "cam"


class Ensemble:
    """Several models used as one; has what `cft.Classifier` has for use. Make it with `cft.load`.

    Attributes
    ----------
    members, weights
        The classifiers, and their shares, which sum to 1.
    average
        "probabilities" or "logits".
    config, facts, label_names, categories
        The ensemble's own; an operating point is a threshold on the combined probability.
    preprocess
        The first member's. Every member prepares a film in its own way.
    reference, commit
        As of `cft.Classifier`.
    """

    reference: str | None = None
    commit: str | None = None

    def __init__(
        self,
        path: str | os.PathLike,
        device: str | torch.device | None = None,
        engine: str = "auto",
    ):
        path = Path(path)
        self.config = read_config(path)
        self.facts = parse_config(self.config, path)
        self.label_names, self.categories = self.facts.label_names, self.facts.categories
        if self.facts.average is None:
            raise ModelFolderError(f"{path / CONFIG} names no members, so it is no ensemble")
        self.average, entries = self.facts.average, self.facts.members
        self.members = [
            Classifier(open_model_folder(path / m.folder), device, engine) for m in entries
        ]
        total = sum(m.weight for m in entries)
        self.weights = tuple(m.weight / total for m in entries)
        self._check_members(path)
        self.preprocess = self.members[0].preprocess

    @property
    def device(self) -> torch.device:
        """Where its members run."""
        return self.members[0].device

    @cached_property
    def heatmap_kind(self) -> str | None:
        """As of `cft.Classifier`; "grad-cam" if that is what any member draws."""
        return _kind([member.heatmap_kind for member in self.members])

    @cached_property
    def has_heatmaps(self) -> bool:
        """Whether every member draws heat maps."""
        return self.heatmap_kind is not None

    def _check_members(self, path: Path) -> None:
        for entry, member in zip(self.facts.members, self.members, strict=True):
            expected = entry.weights_sha256 or member.weights_sha256
            if member.weights_sha256 != expected:
                raise ModelFolderError(
                    f"{entry.folder}/{WEIGHTS} is not the file that the ensemble was made of; "
                    f"fetch {path} again"
                )
            missing = [label for label in self.label_names if label not in member.label_names]
            if missing:
                raise ModelFolderError(
                    f"{entry.folder} does not predict {missing[0]!r}, as its ensemble {path} does"
                )

    @property
    def weights_sha256(self) -> str:
        """Names the exact members and weights."""
        facts = [
            self.average,
            *((m.weights_sha256, w) for m, w in zip(self.members, self.weights, strict=True)),
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    @property
    def name(self) -> str:
        """Such as ``ensemble of 3 1a2b3c4d``."""
        where = origin(self.reference, self.commit)
        return f"ensemble of {len(self.members)} {self.weights_sha256[:8]}{where}"

    # Both are written in terms of `stream`.
    predict = Classifier.predict
    predict_study = Classifier.predict_study

    def stream(
        self, films: Iterable[Any], batch_size: int = 16
    ) -> Iterator[Findings | RadiographError]:
        """Predict film by film; see `Classifier.stream`. A film is decoded once for all members."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        films = iter(films)
        while batch := list(islice(films, batch_size)):
            prepared = [self._read(film) for film in batch]
            good = [film for film in prepared if not isinstance(film, RadiographError)]
            streams = [m.answer([film[i] for film in good]) for i, m in enumerate(self.members)]
            answers = zip(*streams, strict=True)
            for film in prepared:
                if isinstance(film, RadiographError):
                    yield film
                else:
                    yield self._findings(next(answers))

    def _read(self, film: Any) -> list[Prepared] | RadiographError:
        """A film as each member sees it, without its full-size pixels."""
        with one_film():
            try:
                radiograph = as_radiograph(film)
            except RadiographError as error:
                return error
            return [member.prepare(radiograph) for member in self.members]

    def _findings(
        self, answers: tuple[Findings | RadiographError, ...]
    ) -> Findings | RadiographError:
        """The members' findings as one, or the error of the first that has none."""
        found: list[Findings] = []
        for answer in answers:
            if isinstance(answer, RadiographError):
                return answer
            found.append(answer)
        table = np.array([[a.probabilities[label] for label in self.label_names] for a in found])
        combined = combine(table, self.weights, self.average)
        first = found[0]
        return EnsembleFindings(
            scores=dict(zip(self.label_names, logit(combined).tolist(), strict=True)),
            probabilities=dict(zip(self.label_names, combined.tolist(), strict=True)),
            **thresholds(self.categories, None),
            view=first.view,
            notes=first.notes,
            shape=first.shape,
            gate=_middle([answer.gate for answer in found], self.weights),
            _categories=self.categories,
            _region=first._region,
            _maps=None,
            _members=tuple(found),
            _shares=self.weights,
        )


def _middle(gates: Sequence[Gate], weights: Sequence[float]) -> Gate:
    """The weighted median of the members' gates, by the gravity of their verdicts."""
    order = sorted(range(len(gates)), key=lambda i: VERDICTS.index(gates[i].verdict))
    below = 0.0
    for i in order:
        below += weights[i]
        if below >= 0.5:
            return gates[i]
    return gates[order[-1]]


def write_ensemble(
    path: str | os.PathLike,
    members: Sequence[tuple[str, str | os.PathLike, float]],
    *,
    average: str,
    config: dict[str, Any],
    card: str,
) -> Path:
    """Write an ensemble as a model folder that holds copies of its members.

    Parameters
    ----------
    path
        The folder; made if absent.
    members
        (name, model folder, weight) each; weights not negative, those of 0 are left out.
    average
        One of `cft.model.averaging.AVERAGES`.
    config
        What the ensemble says of itself: ``architecture`` ("ensemble"), ``label_names``,
        ``pretrained_cfg`` and what else a model folder has; ours under ``"cft"``.
    card
        Text of the model card.

    Raises
    ------
    ModelFolderError
        If a member cannot be read, or what would be written could not be read back.
    """
    path = Path(path)
    kept = [(name, read_model_folder(folder), weight) for name, folder, weight in members if weight]
    if not kept:
        raise ModelFolderError(f"the ensemble {path} would have no members")
    entries = []
    for number, (name, member, weight) in enumerate(kept):
        inside = PurePosixPath("members", f"{number}-{_plain(name)}")
        _copy_folder(member.path, path / inside)
        facts = {"folder": str(inside), "weight": weight, "weights_sha256": member.weights_sha256}
        entries.append(facts)
    config = {
        **config,
        "num_classes": len(config["label_names"]),
        "problem_type": "multi_label_classification",
        "cft": {"format": FORMAT, **config.get("cft", {}), "average": average, "members": entries},
    }
    parse_config(config, path)
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    atomic_write(path / CARD, card)
    atomic_write(path / CONFIG, text)  # last: a folder without it is no ensemble
    return path


def _plain(name: str) -> str:
    """A name as a folder can have it everywhere."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in name) or "x"


def _copy_folder(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS, CONFIG, CARD):
        if (source / name).exists():
            atomic_write(target / name, (source / name).read_bytes())
