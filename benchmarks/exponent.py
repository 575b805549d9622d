"""How a cost grows with the size of the work: the exponent, and a line that says it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

__all__ = ["exponent", "line"]


def exponent(costs: Mapping[float, float]) -> float:
    """The b of cost = a * size ** b, by least squares of the logarithms.

    Parameters
    ----------
    costs
        Size -> cost, both above zero, of at least two sizes.
    """
    sizes, found = (np.log(np.array(list(x), float)) for x in (costs.keys(), costs.values()))
    return float(np.polyfit(sizes, found, 1)[0])


def line(what: str, costs: Mapping[float, float], unit: str = "films") -> str:
    """One line for people: the cost in seconds at each size, and the exponent."""
    each = ", ".join(f"{size:,.0f} {unit} {cost:.3g} s" for size, cost in costs.items())
    return f"{what}: {each}; exponent {exponent(costs):.2f}"
