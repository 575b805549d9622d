"""Where each millisecond of one film goes, by kind of file and at three sizes.

    python -m benchmarks.stages [--repeats 9]

Milliseconds of processor time with one thread, the least of the repeats, which other programs on
the machine change little. Films are drawn by code; the model is the bundled one, by the engine that
`cft.load` chooses. Columns: the whole of ``predict``; reading the file from memory to grey in
[0, 1], and of this the decoder alone; the gate's look at the plain picture; resizing and
normalising; the network with its maps and the gate's features; what is left. Then what was weighed
against it: other decoders of PNG, and JPEG at a reduced scale, with the change that it makes to the
logits of the drawn films. Last the network alone, a film's share of passes of several: whether it
would help to put films of several visitors into one.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable

import imagecodecs
import numpy as np
import torch
from PIL import Image

import cft
from benchmarks.exponent import exponent
from cft.film.gate import of_pixels
from cft.film.read import read_radiograph
from tests.films import dataset, dicom
from train.datasets.phantom_drawing import draw_phantom
from train.tables import aligned_table

SIDES = (512, 1024, 2048)


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--sides", type=int, nargs="+", default=list(SIDES))
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    model = cft.load(None, "cpu")
    print(f"{model.name}, {model.engine.name}")
    header = ["film", "side", "ms", "to grey", "(decoder)", "gate", "resize", "network", "left"]
    rows, wholes, greys = [], {}, {}
    for side in options.sides:
        for name, (data, decode) in films(side).items():
            parts = measured(model, data, decode, options.repeats)
            whole, grey, _, *others = parts
            rows.append([name, str(side), *(f"{1000 * x:.1f}" for x in parts)])
            rows[-1].append(f"{1000 * (whole - grey - sum(others)):.1f}")
            wholes.setdefault(name, {})[side**2] = whole
            greys.setdefault(name, {})[side**2] = grey
    print(aligned_table([header, *rows]))
    if len(options.sides) > 1:
        for name in wholes:
            grown = exponent(wholes[name]), exponent(greys[name])
            print(f"{name}: exponent in pixels {grown[0]:.2f}, to grey alone {grown[1]:.2f}")
    print("\n" + aligned_table(others_of(model, options)))
    print("\n" + aligned_table(passes_of(model, options.repeats)))
    return 0


def films(side: int) -> dict[str, tuple[bytes, Callable[[], object]]]:
    """Kind -> the file, and what its decoder does, alone."""
    grey = draw_phantom((), side, np.random.default_rng(0))
    deep = grey.astype(np.uint16) * 16 + 7
    png, png16, jpeg = (
        saved(grey, "PNG"),
        saved(deep, "PNG"),
        saved(grey, "JPEG", quality=90),
    )
    plain = dicom(dataset(deep))
    return {
        "PNG, 8 bits": (png, lambda: opened(png)),
        "PNG, 16 bits": (png16, lambda: opened(png16)),
        "JPEG, quality 90": (jpeg, lambda: opened(jpeg)),
        "DICOM, 12 bits": (plain, lambda: np.frombuffer(plain[-2 * side**2 :], "<u2").copy()),
    }


def saved(pixels: np.ndarray, kind: str, **how: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **how)
    return file.getvalue()


def opened(data: bytes, scale: int = 1) -> Image.Image:
    """By Pillow; a JPEG at one ``scale``-th of its size."""
    image = Image.open(io.BytesIO(data))
    if scale > 1:
        image.draft("L", (image.width // scale, image.height // scale))
    image.load()
    return image


def measured(
    model: cft.Classifier, data: bytes, decode: Callable[[], object], repeats: int
) -> list[float]:
    """Seconds: the whole, to grey, the decoder, the gate's look, resizing, the network."""
    pixels = read_radiograph(data).pixels
    batch = model.preprocess(pixels)[None]
    steps = (
        lambda: model.predict(data),
        lambda: read_radiograph(data),
        decode,
        lambda: of_pixels(pixels),
        lambda: model.preprocess(pixels),
        lambda: model.engine(batch),
    )
    return [least(step, repeats) for step in steps]


def passes_of(model: cft.Classifier, repeats: int) -> list[list[str]]:
    """How long a film takes in a pass of several."""
    noise = np.random.default_rng(0).standard_normal((8, *model.preprocess.input_size), np.float32)
    rows = [["films in one pass", "ms a film"]]
    for count in (1, 2, 4, 8):
        seconds = least(lambda batch=noise[:count]: model.engine(batch), repeats)
        rows.append([str(count), f"{1000 * seconds / count:.1f}"])
    return rows


def least(step: Callable[[], object], repeats: int) -> float:
    """Processor seconds of the fastest of the repeats."""
    taken = []
    for _ in range(repeats):
        began = time.process_time()
        step()
        taken.append(time.process_time() - began)
    return min(taken)


def others_of(model: cft.Classifier, options: argparse.Namespace) -> list[list[str]]:
    """What was weighed: (what, side, ms, largest change of a logit)."""
    rows = [["what was weighed", "side", "ms", "largest change of a logit"]]
    for side in options.sides:
        kinds = films(side)
        png, jpeg = kinds["PNG, 8 bits"][0], kinds["JPEG, quality 90"][0]
        candidates: dict[str, tuple[Callable[[], object], bytes | None]] = {
            "PNG, Pillow": (lambda png=png: opened(png), png),
            "PNG, libpng of imagecodecs": (lambda png=png: imagecodecs.png_decode(png), png),
        }
        for scale in (1, 2, 4):
            decode = lambda jpeg=jpeg, scale=scale: opened(jpeg, scale)  # noqa: E731
            candidates[f"JPEG, Pillow, 1/{scale} of the size"] = (decode, jpeg)
        for name, (decode, data) in candidates.items():
            pixels = cft.Radiograph.from_array(np.asarray(decode())).pixels
            whole, part = (model.logits(model.preprocess(x)[None]) for x in (
                read_radiograph(data).pixels, pixels,
            ))  # fmt: skip
            change = np.abs(whole - part).max()
            rows.append(
                [name, str(side), f"{1000 * least(decode, options.repeats):.1f}", f"{change:.1e}"]
            )
    return rows


if __name__ == "__main__":
    sys.exit(main())
