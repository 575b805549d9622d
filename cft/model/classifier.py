"""Film -> features -> logistic regressions -> probabilities and class activation maps."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from cft.errors import RadiographError
from cft.film.read import as_radiograph
from cft.model.engines import make_engine
from cft.model.findings import LATERAL, Findings, origin, thresholds
from cft.model.folder import ModelFolder

if TYPE_CHECKING:
    from cft.model.network import Network


class _Streams(Protocol):
    """All that `Classifier.predict` needs, which is why `cft.Ensemble` can have it too."""

    def stream(
        self, films: Iterable[Any], batch_size: int = 16
    ) -> Iterator[Findings | RadiographError]: ...


class Classifier:
    """A model ready for use; make one with `load`.

    Attributes
    ----------
    config
        The model folder's ``config.json``.
    facts
        What that says, with types: a `cft.model.config.ModelConfig`.
    label_names
        The categories, in the order of the outputs.
    categories
        Label -> `Category`.
    preprocess
        The model's own `cft.model.preprocess.Preprocess`.
    weights_sha256
        Hash of the weights file: names the exact weights.
    device
        Where it runs.
    engine
        What runs it, a `cft.model.engine.Engine`; its ``name`` is "torch" or "onnx".
    reference, commit
        The repository and revision on the Hub, and the commit that it was when the model was
        loaded; None for a local folder.
    """

    reference: str | None = None
    commit: str | None = None

    def __init__(
        self,
        folder: ModelFolder,
        device: str | torch.device | None = None,
        engine: str = "torch",
    ):
        self.config, self.facts = folder.config, folder.facts
        self.label_names = folder.label_names
        self.weights_sha256 = folder.weights_sha256
        self.categories = folder.facts.categories
        self.preprocess = folder.facts.preprocess
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._folder = folder
        example = self.preprocess.grey_film()
        facts = [self.facts.architecture, self.facts.arguments, len(self.label_names)]
        identity = (folder.weights_sha256, json.dumps([*facts, self.preprocess.to_config()]))
        self.engine = make_engine(lambda: self._built, identity, example, self.device, engine)
        self.has_heatmaps = self.engine.has_maps

    @property
    def network(self) -> Network:
        """The timm network, in evaluation mode; built when it is first asked for."""
        return self._built[0]

    @cached_property
    def _built(self) -> tuple[Network, bool]:
        from cft.model.network import build_network, try_out  # slow to import

        network = build_network(self._folder)
        network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack memory_format
        return network, try_out(network, self._folder, self.device)

    @property
    def name(self) -> str:
        """Architecture and the first digits of the weights' hash, such as ``resnet18 1a2b3c4d``.

        For a model of the Hub followed by ``(org/name@revision, commit 0123456789ab)``.
        """
        where = origin(self.reference, self.commit)
        return f"{self.facts.architecture} {self.weights_sha256[:8]}{where}"

    def _knows(self, view: str | None) -> bool:
        """Whether films of that view trained the model; frontal ones always did."""
        if view != "lateral":
            return True
        return bool(self.facts.views.get("lateral"))

    def predict(self: _Streams, films: Any, batch_size: int = 16) -> Findings | list[Findings]:
        """Predict the findings of one film or of a list of films.

        Parameters
        ----------
        films
            A path, bytes, a binary file object, a PIL image, an array (see
            `cft.Radiograph.from_array`) or a `cft.Radiograph`; or a list or tuple of them.
        batch_size
            How many films go through the network at once; does not change the result.

        Returns
        -------
        Findings or list of Findings
            One for one film, a list for a list.

        Raises
        ------
        RadiographError
            If a film cannot be read. To go on past bad films use `stream`.
        """
        many = isinstance(films, (list, tuple))
        results = []
        for result in self.stream(films if many else [films], batch_size):
            if isinstance(result, RadiographError):
                raise result
            results.append(result)
        return results if many else results[0]

    def stream(
        self, films: Iterable[Any], batch_size: int = 16
    ) -> Iterator[Findings | RadiographError]:
        """Predict film by film, in order; a film that cannot be read gives its error.

        At most ``batch_size`` prepared films are in memory at a time, however many there are.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        films = iter(films)
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            while batch := list(islice(films, batch_size)):
                prepare = map if len(batch) == 1 else pool.map
                prepared = list(prepare(self._prepare, batch))
                inputs = [item.input for item in prepared if isinstance(item, _Prepared)]
                rows = iter(zip(*self._forward(torch.stack(inputs)), strict=True) if inputs else ())
                for item in prepared:
                    yield self._findings(item, *next(rows)) if isinstance(item, _Prepared) else item

    def logits(self, batch: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) prepared films -> (N, K) scores."""
        return self.engine(batch).logits

    def _prepare(self, film: Any) -> _Prepared | RadiographError:
        try:
            radiograph = as_radiograph(film)
        except RadiographError as error:
            return error
        return _Prepared(
            self.preprocess(radiograph.pixels),
            radiograph.view,
            radiograph.notes,
            radiograph.pixels.shape,
        )

    def _forward(self, batch: torch.Tensor) -> tuple[np.ndarray, Iterable[np.ndarray | None]]:
        """(N, C, H, W) -> scores (N, K) and local scores (N, K, h, w), from one pass."""
        seen = self.engine(batch)
        scores = seen.logits.cpu().numpy()
        if not self.has_heatmaps or seen.maps is None:
            return scores, [None] * len(scores)
        return scores, seen.maps.cpu().numpy()

    def _findings(
        self, film: _Prepared, scores: np.ndarray, maps: np.ndarray | None
    ) -> Findings | RadiographError:
        if not np.isfinite(scores).all():  # of a network that overflows on this film
            return RadiographError("the network's scores of this film are not finite")
        by_label = {label: float(x) for label, x in zip(self.label_names, scores, strict=True)}
        return Findings(
            scores=by_label,
            probabilities={
                label: float(self.categories[label].probability(np.float64(score)))
                for label, score in by_label.items()
            },
            **thresholds(self.categories, None),
            view=film.view,
            notes=film.notes if self._knows(film.view) else (LATERAL, *film.notes),
            shape=film.shape,
            _categories=self.categories,
            _region=self.preprocess.seen_region(*film.shape),
            _maps=maps,
        )


@dataclass(frozen=True)
class _Prepared:
    """A film ready for the network, without its full-size pixels."""

    input: torch.Tensor  # (C, H, W)
    view: str | None
    notes: tuple[str, ...]
    shape: tuple[int, int]
