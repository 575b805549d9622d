"""Film -> features -> logistic regressions -> probabilities and class activation maps."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import timm
import torch
from torch import nn

from cft.calibration import apply_platt
from cft.heatmap import spread
from cft.hub import resolve
from cft.model_folder import (
    CONFIG,
    ModelFolder,
    ModelFolderError,
    read_config,
    read_model_folder,
)
from cft.preprocess import Preprocess
from cft.radiograph import Radiograph, RadiographError, read_radiograph

if TYPE_CHECKING:
    from cft.ensemble import Ensemble

# Arguments of timm.create_model that would load something else than the folder's own tensors.
#: Note on a lateral film, unless lateral films trained the model.
LATERAL = "a lateral film: the model knows frontal ones only, so these numbers mean nothing"

_FORBIDDEN_MODEL_ARGS = {
    "cache_dir",
    "checkpoint_path",
    "exportable",
    "features_only",
    "num_classes",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "pretrained_strict",
    "scriptable",
}


@dataclass(frozen=True)
class Category:
    """What the model folder says about one category.

    Attributes
    ----------
    label
        Name of the finding.
    platt
        (scale, bias): probability = sigmoid(scale * score + bias); None if uncalibrated, which
        means (1, 0).
    operating_point
        {"threshold", "sensitivity", "specificity", "rule"} with the threshold in units of
        probability, chosen on validation data; None if there were too few cases to choose one.
    best_f1
        The same with the threshold of the best F1. Nothing but an evaluation uses it.
    """

    label: str
    platt: tuple[float, float] | None = None
    operating_point: dict[str, Any] | None = None
    best_f1: dict[str, Any] | None = None

    def probability(self, score: np.ndarray) -> np.ndarray:
        """Score (logit), any shape -> calibrated probability in [0, 1]."""
        scale, bias = self.platt or (1.0, 0.0)
        return apply_platt(score, scale, bias)


@dataclass(frozen=True, eq=False)
class Findings:
    """What a model says about one film.

    Attributes
    ----------
    scores
        Label -> logit, in the model's label order.
    probabilities
        Label -> calibrated probability in [0, 1], in the model's label order.
    operating_points
        Label -> threshold on the probability, or None where validation could not give one.
    view, notes
        What the reader knows about the film, see `cft.Radiograph`.
    shape
        (H, W) of the film in pixels.
    """

    scores: dict[str, float]
    probabilities: dict[str, float]
    operating_points: dict[str, float | None]
    view: str | None
    notes: tuple[str, ...]
    shape: tuple[int, int]
    _categories: dict[str, Category] = field(repr=False)
    _region: tuple[float, float, float, float] = field(repr=False)
    _maps: np.ndarray | None = field(repr=False)  # (K, h, w) local scores

    @property
    def positives(self) -> list[str]:
        """The labels whose probability reaches the operating point, most probable first."""
        found = [
            label
            for label, threshold in self.operating_points.items()
            if threshold is not None and self.probabilities[label] >= threshold
        ]
        return sorted(found, key=lambda label: -self.probabilities[label])

    def heatmap(self, label: str, shape: tuple[int, int] | None = None) -> np.ndarray:
        """Where in the film the score of a finding comes from.

        The class activation map (Zhou et al., CVPR 2016): the logistic regression of the category
        applied to each position of the last feature map instead of to their mean. The mean of the
        map's scores over the positions is the film's score. The scores are spread over the film
        and calibrated like it, so that the same colour means the same in every film.

        Parameters
        ----------
        label
            One of the model's labels.
        shape
            (H, W) of the map; None for the film's own size.

        Returns
        -------
        numpy.ndarray
            (H, W) float32 in [0, 1]; 0 outside the part that the network saw.

        Raises
        ------
        KeyError
            If the model has no such label.
        ValueError
            If the network's head is not global average pooling and one linear layer.
        """
        if label not in self.scores:
            raise KeyError(f"no finding {label!r}; the model has {', '.join(self.scores)}")
        if self._maps is None:
            raise ValueError("this network has no class activation maps: its head is not linear")
        local = self._maps[list(self.scores).index(label)]
        shape = shape or self.shape
        scales = (shape[0] / self.shape[0], shape[1] / self.shape[1]) * 2
        region = tuple(edge * scale for edge, scale in zip(self._region, scales, strict=True))
        return spread(local, region, shape, self._categories[label].probability)

    def to_dict(self) -> dict[str, Any]:
        """The findings as plain JSON types, most probable first."""
        order = sorted(self.probabilities, key=lambda label: -self.probabilities[label])
        positives = set(self.positives)
        return {
            "findings": [
                {
                    "label": label,
                    "probability": self.probabilities[label],
                    "score": self.scores[label],
                    "operating_point": self.operating_points[label],
                    "positive": None
                    if self.operating_points[label] is None
                    else label in positives,
                }
                for label in order
            ],
            "view": self.view,
            "notes": list(self.notes),
            "height": self.shape[0],
            "width": self.shape[1],
        }


class Classifier:
    """A model ready for use; make one with `load`.

    Attributes
    ----------
    config
        The model folder's ``config.json``.
    label_names
        The categories, in the order of the outputs.
    categories
        Label -> `Category`.
    preprocess
        The model's own `cft.preprocess.Preprocess`.
    weights_sha256
        Hash of the weights file: names the exact weights.
    network
        The timm network, in evaluation mode.
    device
        Where it runs.
    reference, commit
        The repository and revision on the Hub, and the commit that it was when the model was
        loaded; None for a local folder.
    """

    reference: str | None = None
    commit: str | None = None

    def __init__(self, folder: ModelFolder, device: str | torch.device | None = None):
        self.config = folder.config
        self.label_names = folder.label_names
        self.weights_sha256 = folder.weights_sha256
        self.categories = _categories(folder)
        try:
            self.preprocess = Preprocess.from_config(folder.config["pretrained_cfg"])
        except ValueError as error:
            raise ModelFolderError(f"{folder.path / CONFIG}: {error}") from error
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.network = build_network(folder).to(self.device, memory_format=torch.channels_last)
        self.has_heatmaps = _has_linear_head(self.network, self.preprocess, self.device)

    @property
    def name(self) -> str:
        """Architecture and the first digits of the weights' hash, such as ``resnet18 1a2b3c4d``.

        For a model of the Hub followed by ``(org/name@revision, commit 0123456789ab)``.
        """
        return f"{self.config['architecture']} {self.weights_sha256[:8]}{origin(self)}"

    def _knows(self, view: str | None) -> bool:
        """Whether films of that view trained the model; frontal ones always did."""
        if view != "lateral":
            return True
        views = self.config.get("cft", {}).get("provenance", {}).get("views")
        return isinstance(views, dict) and bool(views.get("lateral"))

    def predict(self, films: Any, batch_size: int = 16) -> Findings | list[Findings]:
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
        with torch.inference_mode():
            return self.network(batch.to(self.device, memory_format=torch.channels_last))

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

    @torch.inference_mode()
    def _forward(self, batch: torch.Tensor) -> tuple[np.ndarray, Iterable[np.ndarray | None]]:
        """(N, C, H, W) -> scores (N, K) and local scores (N, K, h, w), from one pass."""
        features = self.network.forward_features(
            batch.to(self.device, memory_format=torch.channels_last)
        )
        scores = self.network.forward_head(features)
        if not self.has_heatmaps:
            return scores.cpu().numpy(), [None] * len(scores)
        head = self.network.get_classifier()
        maps = torch.einsum("kd,ndhw->nkhw", head.weight, features) + head.bias[:, None, None]
        return scores.cpu().numpy(), maps.cpu().numpy()

    def _findings(self, film: _Prepared, scores: np.ndarray, maps: np.ndarray | None) -> Findings:
        by_label = {label: float(x) for label, x in zip(self.label_names, scores, strict=True)}
        return Findings(
            scores=by_label,
            probabilities={
                label: float(self.categories[label].probability(np.float64(score)))
                for label, score in by_label.items()
            },
            operating_points={
                label: category.operating_point and category.operating_point["threshold"]
                for label, category in self.categories.items()
            },
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


def load(
    reference: str | os.PathLike | None = None, device: str | torch.device | None = None
) -> Classifier | Ensemble:
    """Load a model, or an ensemble of models, which is used in the same way.

    Parameters
    ----------
    reference
        A model folder, or ``hf-hub:org/name@revision`` (see `cft.hub.resolve`). None: the one
        named by the environment variable ``CFT_MODEL``, else the model bundled with the project.
    device
        Such as "cpu" or "cuda"; None takes a GPU if there is one.

    Raises
    ------
    ModelFolderError
        If there is no such folder, it cannot be fetched, or it does not fit.
    """
    source = resolve(reference)
    if "members" in read_config(source.path).get("cft", {}):
        from cft.ensemble import Ensemble  # which is made of classifiers

        model = Ensemble(source.path, device)
    else:
        model = Classifier(read_model_folder(source.path), device)
    model.reference, model.commit = source.reference, source.commit
    return model


def origin(model: Classifier | Ensemble) -> str:
    """`` (org/name@revision, commit 0123456789ab)`` for a model of the Hub, else nothing."""
    return f" ({model.reference}, commit {model.commit[:12]})" if model.commit else ""


def as_radiograph(film: Any) -> Radiograph:
    """Any form of film that `Classifier.predict` takes -> `Radiograph`."""
    if isinstance(film, Radiograph):
        return film
    if isinstance(film, np.ndarray):
        return Radiograph.from_array(film)
    if hasattr(film, "getbands"):  # a PIL image, without importing Pillow to ask
        return Radiograph.from_pil(film)
    return read_radiograph(film)


def build_network(folder: ModelFolder) -> nn.Module:
    """The timm network that a model folder describes, with the folder's tensors.

    The network is first laid out without memory and compared with the tensors, so that a
    configuration cannot promise a size that the weights file does not have.

    Raises
    ------
    ModelFolderError
        If the architecture is unknown or the tensors are not exactly the network's.
    """
    where = folder.path / CONFIG
    architecture = folder.config["architecture"]
    arguments = {"num_classes": len(folder.label_names), **folder.config.get("model_args", {})}
    forbidden = _FORBIDDEN_MODEL_ARGS & set(folder.config.get("model_args", {}))
    if forbidden:
        raise ModelFolderError(f'"model_args" in {where} may not set {sorted(forbidden)}')
    if not timm.is_model(architecture):
        raise ModelFolderError(
            f"{where} names the architecture {architecture!r}, which timm {timm.__version__} does "
            "not know"
        )
    if "global_pool" in folder.config:
        arguments.setdefault("global_pool", folder.config["global_pool"])
    try:
        with torch.device("meta"):
            network = timm.create_model(architecture, pretrained=False, **arguments)
    except Exception as error:  # whatever a constructor makes of arguments that are not its own
        raise ModelFolderError(
            f"{where}: timm cannot build {architecture!r} from these arguments ({error})"
        ) from error
    _check_tensors(network, folder)
    if not set(dict(network.named_buffers())) <= set(folder.state_dict):
        # Buffers that are not saved have to be computed, which a network without memory cannot.
        network = timm.create_model(architecture, pretrained=False, **arguments)
    network.load_state_dict(folder.state_dict, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def _check_tensors(network: nn.Module, folder: ModelFolder) -> None:
    expected, found = network.state_dict(), folder.state_dict
    missing = sorted(set(expected) - set(found))
    extra = sorted(set(found) - set(expected))
    misfit = [
        f"{name} is {tuple(found[name].shape)} {found[name].dtype} instead of "
        f"{tuple(tensor.shape)} {tensor.dtype}"
        for name, tensor in expected.items()
        if name in found
        and (found[name].shape != tensor.shape or found[name].dtype != tensor.dtype)
    ]
    problems = [
        f"{len(names)} {what} (first: {names[0]})"
        for what, names in (
            ("tensors missing", missing),
            ("tensors too many", extra),
            ("tensors that do not fit", misfit),
        )
        if names
    ]
    if problems:
        raise ModelFolderError(
            f"the weights in {folder.path} are not those of {folder.config['architecture']}: "
            + ", ".join(problems)
        )


def _categories(folder: ModelFolder) -> dict[str, Category]:
    stored = folder.config.get("cft", {}).get("categories", {})
    unknown = set(stored) - set(folder.label_names)
    if unknown:
        raise ModelFolderError(
            f"{folder.path / CONFIG} calibrates {sorted(unknown)[0]!r}, which is not a label"
        )
    try:
        return {label: _category(label, stored.get(label) or {}) for label in folder.label_names}
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFolderError(
            f'"cft.categories" in {folder.path / CONFIG} is not readable ({error!r})'
        ) from error


def _category(label: str, stored: dict[str, Any]) -> Category:
    platt = stored.get("platt")
    if platt is not None:
        platt = (float(platt["scale"]), float(platt["bias"]))
        if not (platt[0] > 0 and math.isfinite(platt[0]) and math.isfinite(platt[1])):
            raise ValueError(f"impossible Platt scaling of {label}: {platt}")
    points = stored.get("operating_point"), stored.get("best_f1")
    for point in points:
        if point is not None and not 0 <= float(point["threshold"]) <= 1:
            raise ValueError(f"impossible operating point of {label}: {point['threshold']}")
    return Category(label, platt, *points)


def _has_linear_head(network: nn.Module, preprocess: Preprocess, device: torch.device) -> bool:
    """Whether the score is the mean over positions of a linear function of the feature map.

    Asked of the network itself, not of its name: random features go through the head, and the
    result is compared with the linear layer applied to their mean.
    """
    head = network.get_classifier()
    if not isinstance(head, nn.Linear) or head.bias is None:
        return False
    with torch.inference_mode():
        shape = network.forward_features(
            torch.zeros(1, *preprocess.input_size, device=device)
        ).shape
        if len(shape) != 4 or shape[1] != head.in_features:
            return False
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(shape, generator=generator).to(device)
        expected = head(features.mean(dim=(2, 3)))
        return torch.allclose(network.forward_head(features), expected, rtol=1e-3, atol=1e-4)
