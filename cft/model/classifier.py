"""Film -> features -> logistic regressions -> probabilities and class activation maps."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cft.errors import RadiographError
from cft.film.budget import one_film
from cft.film.gate import Gate, of_pixels
from cft.film.radiograph import Radiograph
from cft.film.read import as_radiograph
from cft.film.resize import Greys
from cft.model.category import thresholds
from cft.model.devices import device_name
from cft.model.engines import FolderNetwork
from cft.model.findings import LATERAL, Findings
from cft.model.folder import ModelFolder
from cft.model.gate import depths_in, gatekeeper_of
from cft.model.heads import with_one_head
from cft.model.study import Study
from cft.study import seen_as_named

if TYPE_CHECKING:
    import torch

    from cft.model.gradients import GradCamMaps
    from cft.model.network import Network

_LATERAL_GATE = Gate("refuse", ("A lateral film: the model knows frontal ones only.",))


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
    engine
        What runs it, a `cft.model.engine.Engine`; its ``name`` is "torch" or "onnx".
    gatekeeper
        The `cft.model.gate.Gatekeeper` that looks at films: of this model, else of the bundled one;
        None where there is neither, or where the gate is switched off (``CFT_GATE=off``).
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
        folder = with_one_head(folder)
        self.config, self.facts = folder.config, folder.facts
        self.label_names = folder.label_names
        self.weights_sha256 = folder.weights_sha256
        self.categories = folder.facts.categories
        self.preprocess = folder.facts.preprocess
        self._device = device_name(device)
        self._is_gated = os.environ.get("CFT_GATE") != "off"
        depths = depths_in(folder.facts.gate) if self._is_gated else ()
        self._network = FolderNetwork(folder, self._device, engine, depths)
        self.engine = self._network.engine
        self.gatekeeper = (
            gatekeeper_of(folder, self.engine, self._device, engine) if self._is_gated else None
        )

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        import torch

        return torch.device(self._device)

    @property
    def network(self) -> Network:
        """The timm network, in evaluation mode; built when it is first asked for."""
        return self._network.network

    @cached_property
    def heatmap_kind(self) -> str | None:
        """What `Findings.heatmap` draws: "cam", "grad-cam", or None where there are no maps.

        For a network without class activation maps it is tried out when it is first asked for.
        """
        if self.engine.has_maps:
            return "cam"
        from cft.model.gradients import has_grad_cam

        film = self.preprocess.grey_film()
        return "grad-cam" if has_grad_cam(self.network, film, self._device) else None

    @cached_property
    def has_heatmaps(self) -> bool:
        """Whether `Findings.heatmap` draws anything."""
        return self.heatmap_kind is not None

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

    def predict_study(
        self: _Streams,
        films: Sequence[Any],
        names: Sequence[str] | None = None,
        gate: str = "refuse",
    ) -> Study:
        """Predict the findings of a study: several films of one patient, taken together.

        Of each finding the maximum over the frontal films, as CheXpert does. Lateral films do not
        count, unless some trained the model, nor films that the gate refuses or that cannot be
        read: `Study.left_out` says which and why.

        Parameters
        ----------
        films
            As of `predict`.
        names
            What to call the films; by default their paths, else "film 1" and so on. A name of
            CheXpert's form that says "lateral" makes a film that says nothing itself a lateral one.
        gate
            "warn" or "off" count films that the gate refuses, too.

        Returns
        -------
        Study

        Raises
        ------
        ValueError
            If there are not as many names as films, or no film at all.
        """
        films = list(films)
        if names is None:
            names = [_name_of(film, number) for number, film in enumerate(films, start=1)]
        if not films or len(names) != len(films):
            raise ValueError(f"a study needs films with a name each: {len(films)}, {len(names)}")
        results = self.stream(map(seen_as_named, names, films))
        return Study.of(list(zip(names, results, strict=True)), gate)

    def stream(
        self, films: Iterable[Any], batch_size: int = 16
    ) -> Iterator[Findings | RadiographError]:
        """Predict film by film, in order; a film that cannot be read gives its error.

        At most ``batch_size`` prepared films are in memory at a time, however many there are. Those
        at their full size have at most 64 megapixels together, over all threads of the process.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        films = iter(films)
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            while batch := list(islice(films, batch_size)):
                prepare = map if len(batch) == 1 else pool.map
                prepared = list(prepare(self._read, batch))
                answers = self.answer([film for film in prepared if isinstance(film, Prepared)])
                for film in prepared:
                    yield next(answers) if isinstance(film, Prepared) else film

    def logits(self, batch: Greys) -> Greys:
        """(N, C, H, W) prepared films -> (N, K) scores; of a tensor a tensor, on the CPU."""
        if isinstance(batch, np.ndarray):
            return self.engine(batch).logits
        import torch

        return torch.from_numpy(self.engine(batch.numpy(force=True)).logits)

    def _read(self, film: Any) -> Prepared | RadiographError:
        with one_film():
            try:
                return self.prepare(as_radiograph(film))
            except RadiographError as error:
                return error

    def prepare(self, radiograph: Radiograph) -> Prepared:
        """A film -> what `answer` needs of it, without its full-size pixels."""
        seen = self.preprocess(radiograph.pixels)
        return Prepared(
            seen,
            self._input_of_gate(radiograph, seen),
            radiograph.view,
            radiograph.notes,
            radiograph.pixels.shape,
            self._gate_before(radiograph),
        )

    def _input_of_gate(self, radiograph: Radiograph, seen: np.ndarray) -> np.ndarray | None:
        """What the gatekeeper looks at: the network's own input, if it is the same network."""
        if self.gatekeeper is None or radiograph.synthetic:
            return None
        if self.gatekeeper.engine is self.engine:
            return seen
        return self.gatekeeper.preprocess(radiograph.pixels)

    def _gate_before(self, radiograph: Radiograph) -> Gate:
        """The gate by what file and plain picture say."""
        if radiograph.synthetic:
            return radiograph.gate
        if not self._is_gated:
            return Gate()
        gate = radiograph.gate & of_pixels(radiograph.pixels)
        return gate if self._knows(radiograph.view) else gate & _LATERAL_GATE

    def answer(self, films: Sequence[Prepared]) -> Iterator[Findings | RadiographError]:
        """The findings of some films, in order, from one pass."""
        rows = zip(films, *self._forward(films), strict=True) if films else ()
        for film, *row in rows:
            yield self._findings(film, *row)

    def _forward(
        self, films: Sequence[Prepared]
    ) -> tuple[np.ndarray, Iterable[np.ndarray | None], list[Gate]]:
        """N films -> scores (N, K), local scores (N, K, h, w) and gates, from one pass."""
        batch = np.stack([film.input for film in films])
        seen = self.engine(batch)
        gates = self._gates(films, batch, seen.fields)
        return seen.logits, [None] * len(films) if seen.maps is None else seen.maps, gates

    def _gates(
        self, films: Sequence[Prepared], batch: np.ndarray, fields: Mapping[str, np.ndarray]
    ) -> list[Gate]:
        """The gates of films with all evidence; `fields`: of this network's pass over `batch`."""
        if self.gatekeeper is None:
            return [film.gate for film in films]
        if self.gatekeeper.engine is self.engine:
            every = self.gatekeeper.judge(batch, fields)
        else:
            others = [film.seen_by_gate for film in films if film.seen_by_gate is not None]
            answers = iter(self.gatekeeper.look(np.stack(others)) if others else ())
            every = [next(answers) if film.seen_by_gate is not None else Gate() for film in films]
        return [
            film.gate if film.seen_by_gate is None else film.gate & gate
            for film, gate in zip(films, every, strict=True)
        ]

    def _findings(
        self, film: Prepared, scores: np.ndarray, maps: np.ndarray | None, gate: Gate
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
            gate=gate,
            _categories=self.categories,
            _region=self.preprocess.seen_region(*film.shape),
            _maps=self._gradient_maps(film) if maps is None else maps,
        )

    def _gradient_maps(self, film: Prepared) -> GradCamMaps:
        """Maps for a network that has no class activation maps."""
        from cft.model.gradients import GradCamMaps

        return GradCamMaps(
            lambda: self.network, film.input, self._device, lambda: self.heatmap_kind
        )


def _name_of(film: Any, number: int) -> str:
    is_path = isinstance(film, (str, os.PathLike))
    return os.fsdecode(film) if is_path else f"film {number}"


@dataclass(frozen=True)
class Prepared:
    """A film ready for the network, without its full-size pixels."""

    input: np.ndarray  # (C, H, W)
    seen_by_gate: np.ndarray | None  # (C, H, W), None if the gatekeeper is not asked
    view: str | None
    notes: tuple[str, ...]
    shape: tuple[int, int]
    gate: Gate


def origin(reference: str | None, commit: str | None) -> str:
    """`` (org/name@revision, commit 0123456789ab)`` for a model of the Hub, else nothing."""
    return f" ({reference}, commit {commit[:12]})" if commit else ""
