"""What a result is worth where a finding is as frequent as one says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cft.model.measured import Tested

__all__ = ["PredictiveValues", "predictive_values"]


@dataclass(frozen=True)
class PredictiveValues:
    """The chance that a result is right.

    Attributes
    ----------
    prevalence
        The share of patients with the finding that the values hold for, in [0, 1].
    ppv, npv
        Positive and negative predictive value: of the films above the operating point the share
        that has the finding, of those below the share that has not; None where no film would be
        above, or below.
    ppv_low, ppv_high, npv_low, npv_high
        The same with sensitivity and specificity both at the ends of their intervals; None where
        these are not known.
    """

    prevalence: float
    ppv: float | None
    npv: float | None
    ppv_low: float | None = None
    ppv_high: float | None = None
    npv_low: float | None = None
    npv_high: float | None = None

    @classmethod
    def of(cls, tested: Tested | None, prevalence: float) -> PredictiveValues | None:
        """Those of what was measured on test films; None without sensitivity and specificity.

        Parameters
        ----------
        tested
            What one test set says of a finding at its operating point.
        prevalence
            In [0, 1].

        Raises
        ------
        ValueError
            If the prevalence is not in [0, 1].
        """
        if tested is None or tested.sensitivity is None or tested.specificity is None:
            return None
        pairs: list[tuple[float | None, float | None]] = []
        for end in ("value", "low", "high"):
            rates = getattr(tested.sensitivity, end), getattr(tested.specificity, end)
            known = None not in rates
            pairs.append(predictive_values(*rates, prevalence) if known else (None, None))
        (ppv, npv), (ppv_low, npv_low), (ppv_high, npv_high) = pairs
        return cls(prevalence, ppv, npv, ppv_low, ppv_high, npv_low, npv_high)


def predictive_values(
    sensitivity: float, specificity: float, prevalence: float
) -> tuple[float | None, float | None]:
    """Positive and negative predictive value by Bayes' theorem.

    Parameters
    ----------
    sensitivity, specificity, prevalence
        In [0, 1].

    Returns
    -------
    (ppv, npv)
        Each in [0, 1]; None where it would divide by zero: no film is above, or none below.

    Raises
    ------
    ValueError
        If a share is not in [0, 1].

    Examples
    --------
    Of 1,000 people 10 are ill; 9 of them test positive, and 89 of the 990 others do:

    >>> ppv, npv = predictive_values(0.9, 0.91, 0.01)
    >>> round(ppv, 3), round(npv, 4)
    (0.092, 0.9989)
    """
    for name, share in (
        ("sensitivity", sensitivity),
        ("specificity", specificity),
        ("prevalence", prevalence),
    ):
        if not 0 <= share <= 1:
            raise ValueError(f"a {name} must be between 0 and 1, not {share:g}")
    ill, well = prevalence, 1 - prevalence
    return (
        _share(sensitivity * ill, (1 - specificity) * well),
        _share(specificity * well, (1 - sensitivity) * ill),
    )


def _share(right: float, wrong: float) -> float | None:
    return right / (right + wrong) if right + wrong > 0 else None
