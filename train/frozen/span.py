"""The directions of few films with many features, from the films' products with each other.

n films span at most n directions, however many features D they have. With the n x n products
X X' = U S U' of their features these directions are X'U S^(-1/2), the eigenvectors of the D x D
matrix X'X, and S its eigenvalues (Turk and Pentland, Eigenfaces for Recognition, 1991). The minimum
of a regression whose weights are penalised by their length has none across them (Schölkopf et al.,
A Generalized Representer Theorem, 2001), so that nothing is lost.
"""

from __future__ import annotations

import torch
from torch import Tensor

from train.precision import symmetric_eigen

__all__ = ["spanned"]

# Features of all films that are worked on in float64 at once.
_COLUMNS = 512


def spanned(x: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """The directions in which films vary, without a matrix of D x D.

    Memory is that of `x` and of some n x n numbers in float64.

    Parameters
    ----------
    x
        (n, D) features less their mean; overwritten, as the directions take their memory.
    least
        Directions with at most this share of the largest variance are rounding errors, left out.

    Returns
    -------
    variances
        (R,) float64, R <= n: the mean square of the films along each direction, smallest first.
    directions
        (D, R): orthonormal columns, of the type of `x`.
    """
    squares = x.new_zeros(len(x), len(x), dtype=torch.float64)
    for part in x.split(_COLUMNS, dim=1):
        part = part.double()
        squares.addmm_(part, part.T)
    values, vectors = symmetric_eigen(squares)
    del squares
    kept = (values > least * values.max()) & (values > 0)
    values, vectors = values[kept], vectors[:, kept]
    vectors /= values.sqrt()
    for part in x.split(_COLUMNS, dim=1):
        part[: len(values)] = vectors.T @ part.double()
    return values / len(x), x[: len(values)].T
