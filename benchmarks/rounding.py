"""How far do a model's logits move when the greys of its input are rounded to 8 bits?

    python -m benchmarks.rounding --data NIH [--model weights] [--films 50]

Packed films, which training sees, are rounded so; the films of a user are not. Of the first films
of NIH's experts, who train nothing: the mean and the largest absolute change of a logit.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import cft
from train.datasets import read_dataset


def main(argv: list[str] | None = None) -> int:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="NIH's films, compact layout")
    parser.add_argument("--model", default="weights", help="model folder or hf-hub: name")
    parser.add_argument("--films", type=int, default=50)
    options = parser.parse_args(argv)
    model = cft.load(options.model, "cpu", engine="torch")
    table = read_dataset("nih-experts", options.data)
    normalised = model.preprocess.mean, model.preprocess.std
    mean, std = (torch.tensor(x)[:, None, None] for x in normalised)
    changes = []
    for image in table.images[: options.films]:
        exact = torch.from_numpy(model.preprocess(cft.read_radiograph(image).pixels))
        rounded = ((255 * (exact * std + mean)).round() / 255 - mean) / std
        scores = model.logits(torch.stack([exact, rounded]))
        changes.append((scores[0] - scores[1]).abs())
    change = torch.stack(changes)
    print(f"{len(changes)} films: {change.mean():.2f} in the mean, {change.max():.2f} at most")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
