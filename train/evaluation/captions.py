"""The plots of a report, each with the sentence that says how to read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

__all__ = ["Plot", "plots_beside"]

# Name of a plot -> what it shows.
_CAPTIONS = {
    "auroc": "AUROC of each category and their mean. Of two models the difference is beside them.",
    "roc": "ROC curves; the band is a bootstrap interval of the sensitivity. Marks are "
    "radiologists, where there are any.",
    "precision-recall": "Precision against recall, in the steps whose area is the average "
    "precision. Guessing gives the share of positives.",
    "reliability": "Stated probability against the observed share. Points: equally many films "
    "each, with Wilson's interval; curve: smoothed, with its bootstrap band. Above the diagonal "
    "the probabilities are too low.",
    "calibration": "Expected calibration error before and after the scaling that the model folder "
    "holds; to the left is better.",
    "decision-curves": "Net benefit: found cases less false alarms, weighed by the odds of the "
    "threshold at which one would act. A model is of use where it is above treating all and "
    "treating none.",
    "distributions": "How the stated probabilities lie for films with the finding and without; a "
    "mark on the axis is the median. The less they overlap, the better.",
    "subgroups": "Mean AUROC in each subgroup, over the categories that are defined there.",
}
_TRAINING = "Loss and validation figures by epoch."
_EPOCHS = "ROC curves of the validation films after each epoch."


@dataclass(frozen=True)
class Plot:
    """A plot of a report; as text it is Markdown.

    Attributes
    ----------
    image
        The PNG file, relative to the report; an SVG file lies beside it.
    caption
        How to read it.
    """

    image: str
    caption: str

    @property
    def name(self) -> str:
        return PurePosixPath(self.image).stem

    def __str__(self) -> str:
        return f"![{self.name}]({self.image})" + (f"\n\n{self.caption}" if self.caption else "")


def plots_beside(images: Sequence[str]) -> dict[str, list[Plot]]:
    """Plots by the truth that they are of; those of the report's first are under "".

    Parameters
    ----------
    images
        ``plots/NAME.png``, or ``plots/TRUTH/NAME.png`` for a further truth. Other names are those
        of a model's training, and are under "training".
    """
    found: dict[str, list[Plot]] = {}
    for image in images:
        path = PurePosixPath(image)
        caption = _CAPTIONS.get(path.stem)
        truth = path.parts[1] if len(path.parts) > 2 else ""
        if caption is None:
            truth, caption = "training", _EPOCHS if path.stem.endswith("-roc") else _TRAINING
        found.setdefault(truth, []).append(Plot(image, caption))
    return found
