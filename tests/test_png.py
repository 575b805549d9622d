"""PNG files by kornia-rs give the pixels and the refusals that they give by Pillow."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from cft.errors import RadiographError
from cft.film import png
from cft.film.read import read_radiograph

pytest.importorskip("kornia_rs", reason="kornia-rs is not installed")


def film(height: int = 300, width: int = 257) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 40, (height, width))
    return (noise + np.linspace(0, 215, width)).astype(np.uint8)


def saved(picture: Image.Image, **how) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", **how)
    return file.getvalue()


def by_pillow(data: bytes, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(png, "_decoder", lambda: None)
        return read_radiograph(data)


def filtered(pixels: np.ndarray, kind: int) -> bytes:
    """A PNG file whose lines all have one filter (PNG specification, section 9)."""
    now = np.pad(pixels.astype(int), ((1, 0), (1, 0)))
    left, up, corner = now[1:, :-1], now[:-1, 1:], now[:-1, :-1]
    guess = left + up - corner
    apart = [abs(guess - x) for x in (left, up, corner)]
    paeth = np.choose(np.argmin(apart, axis=0), (left, up, corner))
    lines = now[1:, 1:] - (0, left, up, (left + up) // 2, paeth)[kind]
    lines = np.insert(lines % 256, 0, kind, axis=1).astype(np.uint8)

    def chunk(name: bytes, content: bytes) -> bytes:
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", *pixels.shape[::-1], 8, 0, 0, 0, 0)
    data = zlib.compress(lines.tobytes())
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*each) for each in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )


@pytest.mark.parametrize("kind", range(5))
def test_every_filter_gives_the_pixels_themselves(kind):
    data = filtered(film(), kind)
    assert png.plain_grey(data, Image.open(io.BytesIO(data))) is not None
    np.testing.assert_array_equal(read_radiograph(data).pixels, film() / np.float32(255))


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(Image.fromarray(film()), exif=exif)


def turned_at_its_end() -> bytes:
    """With the orientation after the pixels."""
    data = turned()
    start = data.index(b"eXIf") - 4
    end = start + 12 + struct.unpack_from(">I", data, start)[0]
    return data[:start] + data[end:-12] + data[start:end] + data[-12:]


OTHERS = {
    "turned": turned,
    "turned at its end": turned_at_its_end,
    "16 bits": lambda: saved(Image.fromarray(film().astype(np.uint16) * 200)),
    "one bit": lambda: saved(Image.fromarray(film() > 100)),
    "palette": lambda: saved(Image.fromarray(film()).convert("P")),
    "colour": lambda: saved(Image.fromarray(film()).convert("RGB")),
    "transparent": lambda: saved(Image.fromarray(film()), transparency=3),
}


@pytest.mark.parametrize("name", OTHERS)
def test_any_other_picture_is_pillows(name, monkeypatch):
    data = OTHERS[name]()
    assert png.plain_grey(data, Image.open(io.BytesIO(data))) is None
    ours, theirs = read_radiograph(data), by_pillow(data, monkeypatch)
    np.testing.assert_array_equal(ours.pixels, theirs.pixels)
    assert ours.notes == theirs.notes


def test_damaged_files_are_refused_in_the_same_words(monkeypatch):
    info = PngImagePlugin.PngInfo()
    info.add_text("made", "by a test")
    data = saved(Image.fromarray(film()), pnginfo=info)
    generator = np.random.default_rng(1)
    for number in range(60):
        damaged = bytearray(data)
        if number % 2:
            damaged = damaged[: generator.integers(40, len(data) - 12)]
        else:
            damaged[generator.integers(60, len(data) - 20)] ^= 1 << generator.integers(8)
        found = []
        for read in (read_radiograph, lambda d: by_pillow(d, monkeypatch)):
            try:
                found.append(read(bytes(damaged)).pixels)
            except RadiographError as error:
                found.append(str(error))
        if isinstance(found[0], str) or isinstance(found[1], str):
            assert isinstance(found[0], str), found
            assert found[0] == found[1]
        else:
            np.testing.assert_array_equal(*found)


def test_a_panic_of_the_decoder_is_pillows_turn(monkeypatch):
    """pyo3 raises it as no `Exception`."""

    class PanicError(BaseException):
        pass

    def panics(*_):
        raise PanicError

    monkeypatch.setattr(png, "_decoder", lambda: panics)
    pixels = film()
    found = read_radiograph(saved(Image.fromarray(pixels))).pixels
    np.testing.assert_allclose(found, pixels / 255, atol=1e-6)
