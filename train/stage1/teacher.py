"""Teachers: finished models whose answers are a part of the targets (distillation).

Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531. A teacher sees the
same augmented and mixed film as the network that is trained, at its own size and normalised in its
own way, and answers as it does in use: with calibrated probabilities.

With the teachers' weight w, a known label counts 1 - w and the teachers' mean answer counts w. The
losses are linear in the target, so this is the loss of the target (1 - w) * label + w * answer.
Where a label is unknown, only the answer counts, and it counts w, as it does elsewhere: if it
counted 1, a film about which little is known would follow the teachers more than any other, and a
small w would not be close to no teacher at all. What a label policy makes of unknown labels comes
first: in Negative mode nothing is unknown, and w says how far a teacher may object; with
``--unknown ignore`` the teachers alone say what is not known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cft.model.classifier import Classifier
from cft.model.load import load
from cft.model.preprocess import Preprocess
from train.datasets import DataOptions
from train.datasets.labels import LabelTable
from train.errors import TrainingError
from train.evaluation.seen import Splits, origins_of
from train.precision import use_bfloat16

if TYPE_CHECKING:
    from cft.model.ensemble import Ensemble
    from cft.model.network import Network

# As `cft.model.odds`: float32's resolution near 1.
_SMALLEST = 2.0**-24


@dataclass(frozen=True)
class Member:
    """A network of a teacher.

    Attributes
    ----------
    network
        On the device, in evaluation mode, without gradients.
    preprocess
        How its input is made.
    columns
        (C,) number of its output for each category of the run.
    scale, bias
        (C,) Platt scaling of these outputs; 1 and 0 where it has none.
    share
        Its share in the teacher's answer.
    """

    network: Network
    preprocess: Preprocess
    columns: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor
    share: float

    @classmethod
    def of(cls, model: Classifier, label_names: Sequence[str], share: float) -> Member:
        """The network of a model that has all these labels."""
        numbers = [model.label_names.index(label) for label in label_names]
        platt = [model.categories[label].platt or (1.0, 0.0) for label in label_names]
        scale, bias = torch.tensor(platt, device=model.device).T
        columns = torch.tensor(numbers, device=model.device)
        return cls(model.network, model.preprocess, columns, scale, bias, share)

    def probabilities(self, films: torch.Tensor, precision: str) -> torch.Tensor:
        """(n, 1, H, W) float32 in [0, 1], whole films -> (n, C)."""
        batch = self.preprocess.normalize(self.preprocess.geometry(films))
        low = use_bfloat16(precision, films.device)
        with torch.autocast(films.device.type, torch.bfloat16, enabled=low):
            scores = self.network(batch.contiguous(memory_format=torch.channels_last)).float()
        return torch.sigmoid(self.scale * scores[:, self.columns] + self.bias)


@dataclass(frozen=True)
class Teacher:
    """A model, or an ensemble of models, that answers for the categories of a run.

    Attributes
    ----------
    model, reference
        As it was loaded, and from where.
    members
        Its networks.
    average
        What their answers are averaged as; see `cft.model.averaging.combine`.
    """

    model: Classifier | Ensemble
    reference: str
    members: tuple[Member, ...]
    average: str

    @classmethod
    def of(cls, reference: str, label_names: Sequence[str], device: torch.device) -> Teacher:
        """Load a model folder, or a model of the Hub.

        Raises
        ------
        ModelFolderError
            If it cannot be read.
        TrainingError
            If it does not know a category; the message names it.
        """
        model = load(reference, device)
        missing = [label for label in label_names if label not in model.label_names]
        if missing:
            raise TrainingError(
                f"the teacher {reference} does not know {', '.join(missing)}; it has "
                f"{', '.join(model.label_names)} (--labels chooses categories)"
            )
        if isinstance(model, Classifier):
            members = [Member.of(model, label_names, 1.0)]
            return cls(model, reference, tuple(members), "probabilities")
        pairs = zip(model.members, model.weights, strict=True)
        members = [Member.of(member, label_names, share) for member, share in pairs]
        return cls(model, reference, tuple(members), model.average)

    @property
    def facts(self) -> dict[str, str]:
        """What names the model in the provenance of another."""
        return {
            "architecture": self.model.config["architecture"],
            "weights_sha256": self.model.weights_sha256,
        }

    def probabilities(self, films: torch.Tensor, precision: str) -> torch.Tensor:
        """(n, 1, H, W) float32 in [0, 1], whole films -> (n, C)."""
        answers = torch.stack([member.probabilities(films, precision) for member in self.members])
        shares = torch.tensor([member.share for member in self.members], device=films.device)
        if self.average == "probabilities":
            return torch.tensordot(shares, answers, dims=1)
        return torch.tensordot(shares, answers.logit(_SMALLEST), dims=1).sigmoid()


def answers_of(teachers: Sequence[Teacher], films: torch.Tensor, precision: str) -> torch.Tensor:
    """The mean of the teachers' probabilities.

    Parameters
    ----------
    teachers
        At least one.
    films
        (n, 1, H, W) float32 in [0, 1]: whole films, squashed to the size of the network that is
        trained; those of a teacher with larger input are enlarged. A teacher that would cut or pad
        a film that is not square sees it squashed as well.
    precision
        "float32", "bfloat16" or "auto".

    Returns
    -------
    torch.Tensor
        (n, C) float32 in [0, 1].
    """
    with torch.inference_mode():
        each = [teacher.probabilities(films, precision) for teacher in teachers]
        mean = torch.stack(each).mean(0)
    return mean.clone()  # autograd keeps no tensor that was made in inference mode


def notes_on(teachers: Sequence[Teacher], table: LabelTable, data: DataOptions) -> Iterator[str]:
    """Say which teachers have learnt from films that judge the network that is trained."""
    splits = Splits(data, table.dataset)
    for teacher in teachers:
        origins = origins_of(teacher.model, teacher.reference)
        for split, learnt in (("valid", ("train",)), ("test", ("train", "valid"))):
            films = table.names[table.split == split].tolist()
            if seen := splits.seen(origins, films, learnt):
                yield (
                    f"Figures on the {split} films may be too good, for the teacher "
                    f"{teacher.model.name} has learnt from such films: {seen}."
                )
