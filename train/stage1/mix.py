"""Films mixed with other films of their batch, and their targets with theirs, on their device.

Random numbers are drawn for a whole *global* batch first, as in `train.stage1.augment`. A film is
mixed with those that follow it in the global batch, the last ones with the first. The order of a
batch is random, so these are random films; and a part of a batch needs only the one or two films
after its own, which every process can load. However a batch is divided, the result is the same.

The rules are those of the package mlcpl 0.1.7 (``mlcpl/augs``), by the authors of LogicMix, with
its constants.
"""

from __future__ import annotations

import torch

#: How a film can be mixed -> how many of the films that follow it may be mixed into it.
FOLLOWERS = {"none": 0, "mixup": 1, "logic": 2}

# Smallest share of the film itself in a mixup.
_MIXUP_SHARE = 0.75

# Share of the films that LogicMix mixes: the others keep their own share of positive labels.
_LOGIC_PROBABILITY = 0.5

# What mixup takes an unknown label of the follower for.
_HALF = 0.5


def draw_shares(kind: str, n: int, generator: torch.Generator) -> torch.Tensor:
    """Draw how much of each film, and of those that follow it, a mixed film holds.

    Parameters
    ----------
    kind
        "mixup": the film has a share from U(0.75, 1), its follower the rest. "logic": every second
        film, by chance, becomes the mean of itself and one or two followers.
    n
        Films of the global batch.

    Returns
    -------
    torch.Tensor
        (n, 1 + followers) float32 on the CPU; each row sums to 1, the film itself comes first.
    """
    u = torch.rand(n, 2, generator=generator)
    if kind == "mixup":
        own = _MIXUP_SHARE + (1 - _MIXUP_SHARE) * u[:, :1]
        return torch.cat([own, 1 - own], 1)
    mixed, two = u[:, :1] < _LOGIC_PROBABILITY, u[:, 1:] < 0.5
    count = 1 + mixed.float() * (1 + two.float())
    return (torch.arange(1 + FOLLOWERS["logic"]) < count) / count


def mix_films(films: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Mix each film with those that follow it.

    Parameters
    ----------
    films
        (n + followers, 1, H, W) float32: consecutive films of a batch.
    shares
        (n, 1 + followers): rows of `draw_shares`, on the same device.

    Returns
    -------
    torch.Tensor
        (n, 1, H, W) float32.
    """
    n = len(shares)
    result = films[:n] * shares[:, 0, None, None, None]
    for k in range(1, shares.shape[1]):
        result = result + films[k : k + n] * shares[:, k, None, None, None]
    return result


def mix_targets(kind: str, targets: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Mix the targets of a whole global batch.

    "mixup" (in mlcpl: mixup-PME) takes the weighted mean. A label that is unknown of the film
    itself stays unknown; one that is unknown of its follower counts as 0.5. "logic" (LogicMix,
    arXiv 2405.15860) takes the logical OR, in which an unknown label does not matter
    beside a positive one: see `logical_or`.

    Parameters
    ----------
    kind
        "mixup" or "logic".
    targets
        (B, C) in [0, 1]; NaN is unknown.
    shares
        (B, 1 + followers): what `draw_shares` gave, on the same device.

    Returns
    -------
    torch.Tensor
        (B, C) in [0, 1]; NaN is unknown.
    """
    if kind == "mixup":
        follower = targets.roll(-1, 0).nan_to_num(_HALF)
        return shares[:, :1] * targets + shares[:, 1:] * follower
    result = targets
    for k in range(1, shares.shape[1]):
        both = logical_or(result, targets.roll(-k, 0))
        result = torch.where(shares[:, k, None] > 0, both, result)
    return result


def logical_or(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Whether a finding is on at least one of two films.

    1 or x = 1, whatever x is; 0 or x = x; unknown or unknown = unknown. Targets between 0 and 1,
    which some label policies give, are probabilities of two unrelated films, ``a + b - a * b``;
    mlcpl has no rule for them.

    Examples
    --------
    >>> logical_or(torch.tensor([1, 0, 0, 0.5]), torch.tensor([torch.nan, torch.nan, 1, 0.5]))
    tensor([1.0000,    nan, 1.0000, 0.7500])
    """
    both = a + b - a * b  # NaN if one is
    return torch.where((a == 1) | (b == 1), 1.0, both)
