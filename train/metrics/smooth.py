"""Local regression: how the share of positives moves with the stated probability, without bins."""

from __future__ import annotations

import numpy as np

__all__ = ["Kernel", "lowess"]


def lowess(x: np.ndarray, y: np.ndarray, at: np.ndarray, share: float = 2 / 3) -> np.ndarray:
    """Locally weighted linear regression (Cleveland, JASA 74 (1979) 829), without robust steps.

    Robust steps are for outliers; a label is 0 or 1, so there are none (Harrell, Regression
    Modeling Strategies, ``val.prob``).

    Parameters
    ----------
    x, y
        (N,) values without NaN.
    at
        (P,) places to read the curve at.
    share
        Of the films, those that are nearest to a place decide there.

    Returns
    -------
    numpy.ndarray
        (P,) the curve; where the films in reach have one x only, their mean.
    """
    order = np.argsort(x, kind="stable")
    x, y = np.asarray(x, np.float64)[order], np.asarray(y, np.float64)[order]
    curve = np.empty(len(at))
    for i, (place, reach) in enumerate(zip(at, _reach(x, at, share), strict=True)):
        near = slice(*np.searchsorted(x, [place - reach, place + reach], side="left"))
        if reach <= 0:
            near = slice(*(np.searchsorted(x, place, side) for side in ("left", "right")))
        distance = x[near] - place
        weights = _tricube(distance, reach)
        curve[i] = _line(
            *(weights.sum(), weights @ distance, weights @ distance**2),
            *(weights @ y[near], weights @ (y[near] * distance)),
        )
    return curve


class Kernel:
    """The regression of `lowess` for films in bins, fast enough for a bootstrap.

    How far a place reaches is decided once, by all films.

    Parameters
    ----------
    x
        (N,) values, which decide how far each place reaches.
    middles
        (B,) mean x of each bin.
    at
        (P,) places to read the curve at.
    share
        As in `lowess`.
    """

    def __init__(
        self, x: np.ndarray, middles: np.ndarray, at: np.ndarray, share: float = 2 / 3
    ) -> None:
        reach = _reach(np.sort(x), at, share)
        distance = middles[:, None] - np.asarray(at)  # (B, P)
        weights = _tricube(distance, reach)
        empty = weights.sum(axis=0) == 0  # all films in reach are in a bin whose middle is not
        weights[np.abs(distance[:, empty]).argmin(axis=0), np.flatnonzero(empty)] = 1
        self._moments = weights, weights * distance, weights * distance**2

    def curve(self, films: np.ndarray, positives: np.ndarray) -> np.ndarray:
        """(R, B) films and positives a bin -> (R, P) curves; NaN where no film is in reach."""
        zero, one, two = self._moments
        return _line(films @ zero, films @ one, films @ two, positives @ zero, positives @ one)


def _reach(x: np.ndarray, at: np.ndarray, share: float) -> np.ndarray:
    """(P,) distance from each place to the last of the nearest films; x is sorted."""
    k = min(max(int(share * len(x) + 1e-10), 2), len(x))
    # The k nearest are neighbours: the first of them by bisection, as in a sorted list.
    low, high = np.zeros(len(at), int), np.full(len(at), len(x) - k)
    while (low < high).any():
        middle = (low + high) // 2
        right = at - x[middle] > x[np.minimum(middle + k, len(x) - 1)] - at
        right &= low < high
        low, high = np.where(right, middle + 1, low), np.where(right | (low >= high), high, middle)
    return np.maximum(at - x[low], x[low + k - 1] - at)


def _tricube(distance: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Weights that fall from 1 at the place to 0 where its reach ends; broadcasts."""
    scale = np.where(reach > 0, reach, 1.0)
    weights = np.clip(1 - np.abs(distance / scale) ** 3, 0, None) ** 3
    return np.where(reach > 0, weights, distance == 0)


def _line(s0, s1, s2, t0, t1) -> np.ndarray:
    """The weighted regression line at distance 0, from the moments of distance and outcome."""
    s0, s1, s2, t0, t1 = map(np.asarray, (s0, s1, s2, t0, t1))
    determinant = s0 * s2 - s1**2
    mean = np.divide(t0, s0, out=np.full(s0.shape, np.nan), where=s0 > 0)
    # Where x hardly varies in reach, a slope is noise.
    steep = determinant > 1e-9 * s0 * s2
    return np.divide(s2 * t0 - s1 * t1, determinant, out=mean, where=steep)
