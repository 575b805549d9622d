"""torchxrayvision: DenseNet-121 at 224 pixels and ResNet-50 at 512, of all its weights.

The package (J. P. Cohen et al., MIDL 2022, Apache-2.0) scales films to -1024..1024, which is a mean
and a standard deviation here. An output that a set of weights was never trained for has the label
"" there, and is left out. Its ``op_threshs`` are operating points on the probability; what the
package answers is that probability stretched so that each of them comes to lie at 0.5.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from cft.convert.densenet import renamed
from cft.convert.result import Converted, labels_of
from cft.convert.sources import find, read_tensors, sides
from cft.errors import ConversionError
from cft.model.preprocess import Preprocess

#: The 18 outputs, in their order.
PATHOLOGIES = (
    *("Atelectasis", "Consolidation", "Infiltration", "Pneumothorax", "Edema", "Emphysema"),
    *("Fibrosis", "Effusion", "Pneumonia", "Pleural_Thickening", "Cardiomegaly", "Nodule"),
    *("Mass", "Hernia", "Lung Lesion", "Fracture", "Lung Opacity", "Enlarged Cardiomediastinum"),
)

_RELEASES = "https://github.com/mlmed/torchxrayvision/releases/download/v1/"
_DENSENET = "-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt"
_NO = None


@dataclass(frozen=True)
class Weights:
    """One of the package's sets of weights: its file, training data and operating points.

    A point of None is an output that was not trained; `untested` are trained but have no point.
    """

    file: str
    data: str
    points: tuple[float | None, ...]
    untested: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The 18 labels, "" where the output was not trained."""
        return tuple(
            "" if point is None and label not in self.untested else label
            for label, point in zip(PATHOLOGIES, self.points, strict=True)
        )


#: Name in the package -> the weights. The points are the package's, version 1.5.7.
WEIGHTS = {
    "densenet121-res224-all": Weights(
        "nih-pc-chex-mimic_ch-google-openi-kaggle" + _DENSENET,
        "NIH, PadChest, CheXpert, MIMIC-CXR, Google, OpenI and RSNA",
        (
            *(0.07422872, 0.038290843, 0.09814756, 0.0098118475, 0.023601074, 0.0022490358),
            *(0.010060724, 0.103246614, 0.056810737, 0.026791653, 0.050318155, 0.023985857),
            *(0.01939503, 0.042889766, 0.053369623, 0.035975814, 0.20204692, 0.05015312),
        ),
    ),
    "densenet121-res224-nih": Weights(
        "nih" + _DENSENET,
        "NIH ChestX-ray14",
        (
            *(0.039117552, 0.0034529066, 0.11396341, 0.0057298196, 0.00045666535, 0.0018880932),
            *(0.012037827, 0.038744126, 0.0037213727, 0.014730946, 0.016149804, 0.054241467),
            *(0.037198864, 0.0004403434, _NO, _NO, _NO, _NO),
        ),
    ),
    "densenet121-res224-pc": Weights(
        "pc" + _DENSENET,
        "PadChest",
        (
            *(0.031012505, 0.013347598, 0.081435576, 0.001262615, 0.002587246, 0.0035944257),
            *(0.0023071, 0.055412333, 0.044385884, 0.042766232, 0.043258056, 0.037629247),
            *(0.005658899, 0.0091741895, _NO, 0.026507627, _NO, _NO),
        ),
    ),
    "densenet121-res224-chex": Weights(
        "chex" + _DENSENET,
        "CheXpert",
        (
            *(0.1988969, 0.05710573, _NO, 0.0531293, 0.1435217, _NO, _NO, 0.27212676),
            *(0.07749717, _NO, 0.19712369, _NO, _NO, _NO),
            *(0.09932402, 0.09273402, 0.3270967, 0.10888247),
        ),
    ),
    "densenet121-res224-rsna": Weights(
        "kaggle" + _DENSENET,
        "the RSNA Pneumonia Challenge",
        (*(_NO,) * 8, 0.13486601, *(_NO,) * 7, 0.13511065, _NO),
    ),
    "densenet121-res224-mimic_nb": Weights(
        "mimic_nb" + _DENSENET,
        "MIMIC-CXR, labelled by NegBio",
        (
            *(0.08558747, 0.011884617, _NO, 0.0040595434, 0.010733786, _NO, _NO, 0.118761964),
            *(0.022924708, _NO, 0.06358637, _NO, _NO, _NO),
            *(0.022143636, 0.017476924, 0.1258702, 0.014020768),
        ),
    ),
    "densenet121-res224-mimic_ch": Weights(
        "mimic_ch" + _DENSENET,
        "MIMIC-CXR, labelled by CheXpert's labeller",
        (
            *(0.09121389, 0.010573786, _NO, 0.005023008, 0.003698257, _NO, _NO, 0.08001232),
            *(0.037242252, _NO, 0.05006329, _NO, _NO, _NO),
            *(0.019866971, 0.03823637, 0.11303808, 0.0069147074),
        ),
    ),
    "resnet50-res512-all": Weights(
        "pc-nih-rsna-siim-vin-resnet50-test512-e400-state.pt",
        "PadChest, NIH, RSNA, SIIM and VinBigData",
        (
            *(0.51570356, 0.50444704, 0.53787947, 0.50723547, 0.5025118, 0.5035252, 0.5038076),
            *(0.51862943, 0.5078151, 0.50724894, 0.5056339, 0.510706, 0.5053923, 0.5020846),
            *(_NO, 0.5080557, 0.5138526, _NO),
        ),
        untested=("Lung Lesion", "Enlarged Cardiomediastinum"),
    ),
}


def convert(source: str, asked: str | None, name: str) -> tuple[Converted, Path]:
    """Convert a file, or the weights of that name that the package has downloaded.

    Which weights a file holds is told by its name: that of the release, or the package's name of
    the weights. Under another one its 18 outputs are taken for the package's
    ``default_pathologies``, without operating points.
    """
    file = _cached(source) if source in WEIGHTS else find(source)
    known = next((w for n, w in WEIGHTS.items() if file.name == w.file or file.stem == n), None)
    tensors = read_tensors(file)
    return converted(tensors, known, asked), file


def converted(
    tensors: Mapping[str, torch.Tensor], known: Weights | None, asked: str | None = None
) -> Converted:
    """The tensors of one of the package's networks as a model of the labels that it knows.

    Parameters
    ----------
    tensors
        By the package's names.
    known
        Which weights they are, if that is known.
    asked
        The labels of the command line, "" for outputs to leave out.
    """
    residual = any(key.endswith("layer1.0.conv1.weight") for key in tensors)
    if residual:
        architecture, head, side = "resnet50", "fc", 512
        new = {key.removeprefix("model."): value for key, value in tensors.items()}
        stem = "conv1.weight"
    else:
        architecture, head, side = "densenet121", "classifier", 224
        new = renamed(tensors)
        stem = "features.conv0.weight"
    if f"{head}.weight" not in new or stem not in new or sides(new, stem, 4)[1] != 1:
        raise ConversionError("the checkpoint is no network of torchxrayvision")
    new.pop("op_threshs", None)
    outputs = sides(new, f"{head}.weight", 2)[0]
    if sides(new, f"{head}.bias", 1) != (outputs,):
        raise ConversionError(f"the checkpoint's {head}.bias is not of {outputs} outputs")
    fixed = known.labels if known else PATHOLOGIES if outputs == len(PATHOLOGIES) else ()
    labels = labels_of(asked, outputs, fixed, blanks=True)
    kept = [place for place, label in enumerate(labels) if label]
    if not kept:
        raise ConversionError("every label is blank, so that no output would be left")
    for part in ("weight", "bias"):
        new[f"{head}.{part}"] = new[f"{head}.{part}"][kept]
    points = {} if known is None or asked else dict(zip(labels, known.points, strict=True))
    return Converted(
        architecture=architecture,
        tensors=new,
        labels=tuple(label for label in labels if label),
        # The package cuts the film to a square and resizes that.
        preprocess=Preprocess(
            (1, side, side), "bilinear", crop_mode="center", mean=(0.5,), std=(1 / 2048,)
        ),
        title=f"torchxrayvision, {architecture}",
        about="The package resizes with scikit-image; here it is the antialiased bilinear filter "
        "of every other model, which changes probabilities in the third decimal.",
        trained_on=known.data if known else "data sets that the checkpoint does not name",
        thresholds={label: point for label, point in points.items() if label and point is not None},
        licence="apache-2.0",
    )


def _cached(weights: str) -> Path:
    """Where the package keeps weights that it has downloaded."""
    name = WEIGHTS[weights].file
    folder = Path(os.path.expanduser("~")) / ".torchxrayvision" / "models_data"
    if not (folder / name).is_file():
        raise ConversionError(
            f"{folder} does not hold {weights}; fetch {_RELEASES}{name} and name the file"
        )
    return folder / name
