"""CheXpert's competition protocol: its readers, its step rule, its leaderboard.

Five tasks on the 500 studies of the test set. A submission was ranked by its mean AUROC plus a
thousandth of the mean number of radiologists below its curves (stanfordmlgroup.github.io/
competitions/chexpert, closed since 2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from train.metrics.roc import roc_vertices

__all__ = ["is_test_set", "leaderboard_place", "reader_rates", "readers_below"]
_TEST_STUDIES = 500
_TEST_PREFIX = "CheXpert-v1.0/test/"

#: What the 290 official evaluations were ranked by, in millionths, best first.
_LEADERBOARD = np.fromstring(
    """
    933268 933268 933268 932581 932581 932581 931849 931767 931689 931689 931689 931689 931239
    931111 931111 930733 930161 929948 929921 929921 929243 929228 928999 928552 928483 928257
    928128 927517 927517 927034 926845 926657 926616 926484 926149 926104 926101 926054 926020
    925998 925998 925836 925817 925614 925614 925614 925613 925529 925100 924977 924830 924586
    924130 924115 924115 923972 923953 923881 923714 923714 923665 923359 923359 923159 922980
    922801 922619 922616 922616 921983 921516 921273 921273 921222 921051 920993 920966 920820
    920770 920441 920391 920059 919669 919216 919216 919085 918932 918822 918813 918664 918664
    918656 918619 918619 918607 918607 918232 918058 917891 917556 917435 917053 916927 916879
    915950 915933 915699 915624 914955 914103 913762 913687 913559 912964 912964 912940 912851
    912687 912607 911470 910907 910787 910364 910052 910048 909810 908920 908702 908321 908321
    908307 907530 907432 907432 907418 907418 907418 907418 907213 906876 906825 906825 905003
    904668 904035 903304 902860 902640 901500 901480 901176 901176 901056 900958 900487 900487
    900484 900484 900265 900265 900265 900265 900265 900262 899307 898893 898767 898316 897943
    897524 897450 897450 897450 897312 897288 896657 896482 896237 896022 896000 895587 895240
    895240 894923 893764 893317 892595 892449 892203 891118 890742 890704 890704 890514 890091
    890091 889343 889157 888555 888555 888422 888422 888422 887405 887405 887273 886448 885244
    885021 884542 884542 883328 883265 882497 882456 882456 881744 881645 880050 878831 878487
    878487 877322 877015 876444 875954 874139 874139 873138 871913 868768 868435 866028 865789
    864118 862756 862595 862595 861902 861235 861100 860111 859948 859948 858999 858299 854951
    853206 851819 850750 850264 848761 848376 844019 841721 840477 838761 837280 834761 834586
    829983 829233 829233 821562 821562 821238 821238 797934 768951 759850 735708 732213 731735
    731735 726556 723716 701350 701350 699388 617731 614651 606352 606352 575422 531342 524195
    500000 480550 480550 479120
    """,
    dtype=np.int64,
    sep=" ",
)


def is_test_set(studies: Sequence[str]) -> bool:
    """Whether these are the studies of the competition's test set."""
    return len(studies) == _TEST_STUDIES and all(s.startswith(_TEST_PREFIX) for s in studies)


def leaderboard_place(mean_auroc: float, mean_readers_below: float) -> dict[str, int]:
    """The place that a submission would have taken among the 290 official evaluations.

    Parameters
    ----------
    mean_auroc
        Mean AUROC of the five tasks, rounded to six decimals as the official figures are.
    mean_readers_below
        Mean over the tasks of the number of the three readers below the curve.

    Returns
    -------
    dict
        ``place`` (1 is best; evaluations with the same figure share the place) and ``of`` (290).
    """
    figure = round(round(mean_auroc, 6) * 1e6 + mean_readers_below * 1e3)
    return {"place": int(np.sum(figure < _LEADERBOARD)) + 1, "of": len(_LEADERBOARD)}


def reader_rates(decisions: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Sensitivity and false-positive rate of a reader.

    Parameters
    ----------
    decisions, labels
        (N,) in {1, 0, NaN}; films that either leaves open are not counted.

    Returns
    -------
    (sensitivity, false_positive_rate)
        NaN where no positive, or no negative, is known.
    """
    known = ~np.isnan(decisions) & ~np.isnan(labels)
    called, positive = decisions[known] == 1, labels[known] == 1
    sensitivity = called[positive].mean() if positive.any() else np.nan
    false_positive_rate = called[~positive].mean() if (~positive).any() else np.nan
    return float(sensitivity), float(false_positive_rate)


def readers_below(
    scores: np.ndarray, labels: np.ndarray, rates: Mapping[str, tuple[float, float]]
) -> dict[str, Any]:
    """Which readers lie on or below a model's ROC curve, by the competition's step rule.

    The curve's value at a reader is its sensitivity at the vertex *before* the first one whose
    false-positive rate is at least the reader's (0 where there is none before).

    Parameters
    ----------
    scores, labels
        (N,) of one task.
    rates
        Reader -> (sensitivity, false-positive rate).

    Returns
    -------
    dict
        ``count`` and ``readers`` (their names).
    """
    false_positive_rates, sensitivities = roc_vertices(scores, labels)
    below = []
    for reader, (sensitivity, false_positive_rate) in rates.items():
        vertex = int(np.searchsorted(false_positive_rates, false_positive_rate, side="left"))
        curve = sensitivities[vertex - 1] if vertex else 0.0
        if curve >= sensitivity:
            below.append(reader)
    return {"count": len(below), "readers": below}
