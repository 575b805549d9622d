"""Reading a film: limits and failures first, then every picture format against its own formula."""

from __future__ import annotations

import io
import math
import os
import struct
import subprocess
import sys
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from cft.errors import RadiographError
from cft.film.grey import smallest_depth
from cft.film.radiograph import MAX_BYTES, Radiograph
from cft.film.read import read_radiograph
from tests import films, fuzz_radiograph
from tests.films import SECRET, every_film, phantom, png, tiff
from tests.fuzzing import guided
from tests.fuzzing.worker import Verdict

FILMS = every_film()


def message(source) -> str:
    """The sentence with which the reader refuses a source."""
    with pytest.raises(RadiographError) as caught:
        read_radiograph(source)
    return str(caught.value)


# ------------------------------------------------------------------ what is refused


def test_an_empty_file_is_refused():
    assert message(b"") == "the file is empty"


def test_a_missing_file_is_named_without_its_folder(tmp_path):
    assert message(tmp_path / "film.png") == "there is no file 'film.png'"


def test_a_folder_is_refused(tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    assert message(folder) == "'films' is a folder, not a film"
    assert message(f"{folder}/") == "'films' is a folder, not a film"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert message(tmp_path / "pipe") == "'pipe' is not a regular file"


def test_a_path_with_a_nul_character_is_refused():
    assert "cannot be opened" in message("film\0.png")


@pytest.mark.parametrize("source", [None, 7, 1.5, ["film.png"]])
def test_what_is_no_source_is_refused(source):
    assert "path, bytes or a binary file" in message(source)


def test_a_file_object_in_text_mode_is_refused():
    assert message(io.StringIO("film")) == "the file must be opened in binary mode"


def test_a_closed_file_object_is_refused():
    file = io.BytesIO(FILMS["PNG grey 8"].data)
    file.close()
    assert message(file) == "the file cannot be read"


def test_bytes_beyond_the_limit_are_refused():
    assert message(bytes(MAX_BYTES + 1)) == "the file is larger than 50 MB"


def test_a_path_beyond_the_limit_is_refused(tmp_path):
    with open(tmp_path / "large", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert message(tmp_path / "large") == "the file is larger than 50 MB"


def test_of_an_endless_file_object_no_more_than_the_limit_is_read():
    class Endless(io.RawIOBase):
        given = 0

        def read(self, size=-1):
            size = min(size, 2**24)
            self.given += size
            return bytes(size)

    endless = Endless()
    assert message(endless) == "the file is larger than 50 MB"
    assert endless.given == MAX_BYTES + 1


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (films.animation("GIF"), "a GIF file"),
        (b"GIF87a" + bytes(100), "a GIF file"),
        (b"%PDF-1.7\n" + bytes(100), "a PDF document"),
        (b"PK\x03\x04" + bytes(100), "a ZIP archive"),
        (b"\x1f\x8b\x08" + bytes(100), "a gzip archive"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100), "a JPEG 2000 file"),
        (b"\0\0\0\x20ftypheic" + bytes(100), "a HEIF, AVIF or video file"),
    ],
)
def test_a_format_that_is_not_read_is_named(data, name):
    assert (
        message(data) == f"the file is {name}; a film must be PNG, JPEG, TIFF, BMP, WebP or DICOM"
    )


@pytest.mark.parametrize(
    "data", [b"\0" * 4096, b"just a text file\n" * 100, b"\xff", b"B", b"RIFF"]
)
def test_what_is_no_picture_is_refused(data):
    assert "not a picture that can be read" in message(data)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_an_animation_is_refused(format):
    assert "is animated" in message(films.animation(format))


def test_a_tiff_of_several_pages_is_refused():
    assert "several pages" in message(tiff(phantom(16), further_pages=1))


def test_a_tiff_whose_page_is_followed_by_itself_is_read_once():
    data = bytearray(tiff(phantom(16)))
    end_of_directory = 8 + 2 + 10 * 12
    data[end_of_directory : end_of_directory + 4] = struct.pack("<I", 8)
    assert read_radiograph(bytes(data)).pixels.shape == phantom(16).shape


def test_a_tiff_in_16_bit_colour_is_refused_rather_than_reduced():
    assert "16-bit colour" in message(tiff(np.dstack([phantom(12)] * 3), photometric=2))


def test_a_tiff_with_giant_tiles_is_refused():
    assert "tiles" in message(tiff(phantom(16), tile=60_000))


@pytest.mark.parametrize(("height", "width"), [(31, 500), (500, 31), (1, 1)])
def test_a_picture_below_32_pixels_is_refused(height, width):
    assert "at least 32 x 32" in message(png(np.zeros((height, width), np.uint8)))


def test_a_picture_of_32_pixels_is_read():
    assert read_radiograph(png(np.zeros((32, 32), np.uint8))).pixels.shape == (32, 32)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8_001, 12_000, 60_000])
def test_a_bomb_is_refused_by_its_header(side):
    data = bytearray(png(np.zeros((32, 32), np.uint8)))
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    assert message(bytes(data)).endswith("is larger than 64 megapixels")


@pytest.mark.parametrize(
    ("colour", "depth", "bits", "most"),
    [(2, 8, 24, 42), (6, 8, 32, 32), (4, 16, 32, 32), (2, 16, 48, 21), (6, 16, 64, 16)],
)
def test_colour_has_fewer_pixels_than_grey(colour, depth, bits, most):
    """Whatever the kind, a decoded picture takes no more than the largest grey one of 16 bits."""
    side = math.isqrt(128_000_000 * 8 // bits)

    def of(side):
        data = bytearray(png(np.zeros((32, 32), np.uint8)))
        data[16:26] = struct.pack(">IIBB", side, side, depth, colour)
        data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
        return message(bytes(data))

    assert of(side + 1) == (
        f"the picture of {side + 1} x {side + 1} pixels has {bits} bits a pixel; such pictures are "
        f"read up to {most} megapixels, grey ones of 8 or 16 bits up to 64"
    )
    assert "truncated" in of(side) or "corrupt" in of(side)


@pytest.mark.parametrize(("compression", "depth"), [(1, 8), (2, 4)])
def test_a_run_length_encoded_bmp_is_refused(compression, depth):
    """Its decoder, in Python, took a second for each two million pixels of a file of 3 kB."""
    head = struct.pack("<IiiHHIIiiII", 40, 4000, 4000, 1, depth, compression, 0, 0, 0, 256, 0)
    codes = b"\0\0" * 4000 + b"\0\1"
    size = 14 + len(head) + 1024
    data = b"BM" + struct.pack("<IHHI", size + len(codes), 0, 0, size) + head
    said = message(data + bytes(range(256)) * 4 + codes)
    assert said == "the BMP file is run-length encoded; save the film as PNG"


@pytest.mark.parametrize("side", [322, 323])
def test_a_tile_of_which_one_side_is_said_and_is_endless_is_refused(side):
    """libtiff prepared a tile of a gigabyte for a file of a hundred bytes."""
    entries = [(256, 56), (257, 72), (258, 8), (259, 8), (262, 1), (side, 2**24), (324, 8)]
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    at = 8 + 64
    data = b"II*\0" + struct.pack("<I", at) + bytes(64)
    data += struct.pack("<H", len(entries)) + tags + bytes(4)
    assert message(data) == "the TIFF file has tiles larger than any film"


def test_a_jpeg_of_endlessly_many_scans_is_refused():
    data = films.by_pillow(phantom(8).astype(np.uint8), "JPEG", progressive=True)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    assert "too many scans" in message(data[:-2] + last_scan * 50 + b"\xff\xd9")


def test_a_png_with_two_headers_is_refused():
    small, large = (png(np.zeros((n, n, 3), np.uint16), 16) for n in (32, 64))
    assert message(small[:33] + large[8:33] + small[33:])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
@pytest.mark.parametrize("name", FILMS)
def test_half_a_film_is_refused(name):
    data = FILMS[name].data
    text = message(data[: len(data) // 2])
    assert SECRET not in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "name", ["PNG grey 8", "JPEG grey", "TIFF 8", "BMP grey", "DICOM explicit"]
)
def test_a_truncated_film_is_called_truncated(name):
    data = FILMS[name].data
    assert "truncated" in message(data[: len(data) * 2 // 3])


def test_a_fully_transparent_picture_is_refused():
    assert "transparent" in message(png(np.dstack([phantom(8), np.zeros_like(phantom(8))])))


def test_a_tiff_without_a_finite_value_is_refused():
    assert "no finite value" in message(tiff(np.full((40, 40), np.nan, np.float32)))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_damaged_films_are_read_or_refused_and_never_anything_else():
    tallies = fuzz_radiograph.fuzz(count=400, seed=1)
    outcomes = sum((tally.outcomes for tally in tallies.values()), start=fuzz_radiograph.Counter())
    assert [line for tally in tallies.values() for line in tally.faults] == []
    assert outcomes["read"] + outcomes["refused"] == 400
    assert outcomes["read"] > 40  # the damage is not so great that nothing is exercised
    assert outcomes["refused"] > 100
    assert set(fuzz_radiograph.STRUCTURED) <= set(tallies)


def test_what_a_damaged_film_must_not_do_is_a_fault_of_the_fuzzer():
    assert Verdict("refused", "the PNG file is corrupt", 1.9, 900, 0, 100).fault is None
    assert "escaped" in Verdict("escaped", "KeyError()").fault
    assert "2.1 s" in Verdict("refused", "", 2.1, megapixels=64).fault
    assert Verdict("read", "", 1.9, megapixels=64).fault is None
    assert "1001 MB" in Verdict("read", "", 0, 1001).fault
    assert "took" in Verdict("refused", "the PNG file needs more memory than there is").fault
    assert "grown by 201 MB" in Verdict("refused", "", left=201).fault


def test_what_took_too_long_only_because_it_was_watched_is_no_fault(tmp_path):
    (tmp_path / "slow").write_bytes(films.by_pillow(phantom(8).astype(np.uint8), "PNG"))
    (tmp_path / "half").write_bytes(b"BM")
    (tmp_path / "crash").write_bytes(b"")
    faults = {
        "slow": "took 2.3 s",
        "half": "the process has grown by 210 MB",
        "crash": "crashed: exit code -11",
    }
    counts = Counter(read=5, faults=3)
    guided._without_instruments(tmp_path, counts, faults)
    assert faults == {"crash": "crashed: exit code -11"}
    assert counts == Counter(read=6, refused=1, faults=1)
    assert [path.name for path in tmp_path.iterdir()] == ["crash"]


@pytest.mark.slow
def test_atheris_finds_its_way_through_the_reader(tmp_path):
    pytest.importorskip("atheris", reason="the coverage-guided mode needs atheris")
    counts, faults = guided.run(0.4, seed=0, keep=tmp_path)
    assert faults == []
    assert counts["files"] == counts["read"] + counts["refused"] > 0
    assert counts["branches"] > 500


# --------------------------------------------------------------------- what is read


@pytest.mark.parametrize("name", FILMS)
def test_every_format_is_read_as_it_was_drawn(name):
    film = FILMS[name]
    read = read_radiograph(film.data)
    assert read.pixels.dtype == np.float32
    assert read.pixels.flags.c_contiguous
    assert read.pixels.flags.writeable
    assert read.pixels.min() >= 0
    assert read.pixels.max() <= 1
    np.testing.assert_allclose(read.pixels, film.grey, rtol=0, atol=film.tolerance)


@pytest.mark.parametrize("name", FILMS)
def test_nothing_of_a_films_texts_is_kept_printed_or_logged(name, capfd, caplog, recwarn):
    caplog.set_level("INFO")
    read = read_radiograph(FILMS[name].data)
    assert SECRET not in repr(read)
    assert SECRET.split("^")[0] not in repr(vars(read))
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""
    assert len(recwarn) == 0


def test_the_bytes_decide_and_not_the_name(tmp_path):
    for name, film in FILMS.items():
        (tmp_path / "film.jpeg").write_bytes(film.data)
        read = read_radiograph(tmp_path / "film.jpeg")
        np.testing.assert_allclose(read.pixels, film.grey, atol=film.tolerance, err_msg=name)


class _InSmallPieces(io.BytesIO):
    def read(self, size=-1):
        return super().read(min(size, 1000))


def test_every_kind_of_source_gives_the_same(tmp_path):
    data = FILMS["PNG grey 16"].data
    path = tmp_path / "film"
    path.write_bytes(data)
    expected = read_radiograph(data).pixels
    with open(path, "rb") as file:
        sources = [str(path), path, bytearray(data), memoryview(data), io.BytesIO(data),
                   _InSmallPieces(data), file]  # fmt: skip
        for source in sources:
            np.testing.assert_array_equal(read_radiograph(source).pixels, expected)


def test_films_are_read_alike_in_many_threads():
    names = [*FILMS] * 3
    with ThreadPoolExecutor(8) as threads:
        read = list(threads.map(lambda name: read_radiograph(FILMS[name].data), names))
    for name, film in zip(names, read, strict=True):
        np.testing.assert_array_equal(film.pixels, read_radiograph(FILMS[name].data).pixels)


@pytest.mark.parametrize(
    ("largest", "depth"),
    [(0, 8), (255, 8), (256, 10), (1023, 10), (4095, 12), (4096, 14), (16384, 16), (65535, 16)],
)
def test_the_smallest_usual_depth_that_holds_a_value(largest, depth):
    assert smallest_depth(largest) == depth


@pytest.mark.parametrize("depth", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("write", [lambda p: png(p, 16), tiff, lambda p: tiff(p, ">")])
def test_a_16_bit_film_is_neither_black_nor_white(depth, write):
    read = read_radiograph(write(phantom(depth)))
    np.testing.assert_allclose(read.pixels, phantom(depth) / (2**depth - 1), atol=1e-6)
    assert 0.2 < read.pixels.mean() < 0.8
    assert read.notes == (() if depth == 16 else (f"{depth}-bit values in a 16-bit file",))


def test_a_12_bit_film_in_16_bit_colour_keeps_its_levels():
    read = read_radiograph(png(np.dstack([phantom(12)] * 3), 16))
    assert len(np.unique(read.pixels)) == len(np.unique(phantom(12)))


def test_floating_point_beyond_0_to_1_is_stretched():
    values = (phantom(12) * 3.5 - 1000).astype(np.float32)
    read = read_radiograph(tiff(values))
    np.testing.assert_allclose(read.pixels, phantom(12) / 4095, atol=1e-6)
    assert read.notes == ("scaled from its smallest value to its largest",)


def test_values_that_are_not_finite_are_black():
    values = (0.25 + phantom(12) / 8190).astype(np.float32)
    values[5, 5], values[6, 6], values[7, 7], values[8, 8] = np.nan, np.inf, -np.inf, -3.4e38
    read = read_radiograph(tiff(values))
    assert read.notes == ("values that are not finite are shown black",)
    valid = np.isfinite(values) & (values > 0)
    np.testing.assert_allclose(read.pixels[valid], values[valid], atol=1e-6)
    np.testing.assert_allclose(read.pixels[~valid], values[valid].min(), atol=1e-6)


def test_values_that_are_not_finite_are_black_in_an_inverted_film_too():
    pixels = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    pixels[5, 7] = np.nan
    read = read_radiograph(tiff(pixels, photometric=0))
    expected = 1 - pixels
    expected[5, 7] = 0
    assert np.array_equal(read.pixels, expected)


@pytest.mark.parametrize("value", [0.0, 0.4, -5.0, 1e6])
def test_a_uniform_film_has_no_nan(value):
    read = read_radiograph(tiff(np.full((40, 40), value, np.float32)))
    assert np.unique(read.pixels) == pytest.approx([value if 0 <= value <= 1 else 0])


def test_32_bit_integers_are_stretched():
    read = read_radiograph(tiff(phantom(16).astype(np.int32) * 1000))
    np.testing.assert_allclose(read.pixels, phantom(16) / 65535, atol=1e-6)


def test_colour_becomes_its_luminance_and_a_note():
    rgb = np.random.default_rng(0).integers(0, 256, (40, 50, 3))
    expected = rgb @ [0.299, 0.587, 0.114]
    for data, scale in ((png(rgb), 255), (png(rgb * 257, 16), 255)):
        read = read_radiograph(data)
        np.testing.assert_allclose(read.pixels * scale, expected, atol=0.51)
        assert read.notes[0] == "colour turned into grey"


def test_a_grey_film_in_a_colour_jpeg_has_no_note_of_colour():
    assert read_radiograph(FILMS["JPEG RGB"].data).notes == ()


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_parts_are_black(depth, channels):
    grey = phantom(depth)
    alpha = np.full_like(grey, 2**depth - 1)
    alpha[:20] = 0
    read = read_radiograph(png(np.dstack([grey] * channels + [alpha]), depth))
    expected = grey / (2**depth - 1)
    expected[:20] = 0
    np.testing.assert_allclose(read.pixels, expected, atol=1e-6)
    assert read.notes == ("transparent parts are shown black",)


def test_a_transparent_colour_of_a_palette_is_black():
    ramp = np.arange(256)[:, None].repeat(3, axis=1)
    opaque = bytes([255] * 200 + [0] * 56)  # indices from 200 are transparent
    pixels = phantom(8)
    data = png(pixels, palette=ramp)
    at = data.index(b"IDAT") - 4
    read = read_radiograph(data[:at] + films.png_chunk(b"tRNS", opaque) + data[at:])
    np.testing.assert_allclose(read.pixels, np.where(pixels < 200, pixels, 0) / 255, atol=1e-6)


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("interlaced", [False, True])
def test_no_bit_of_16_bit_colour_is_lost(channels, interlaced):
    """As imagecodecs decodes it, by libpng; encoded by it, the rows have filters, too."""
    values = np.random.default_rng(0).integers(0, 2**16, (40, 35, channels), dtype=np.uint16)
    data = png(values, 16, interlaced=interlaced) if interlaced else imagecodecs.png_encode(values)
    decoded = imagecodecs.png_decode(data) / 65535
    np.testing.assert_array_equal(decoded, values / 65535)
    grey = decoded[..., :3] @ [0.299, 0.587, 0.114] if channels > 2 else decoded[..., 0]
    opaque = decoded[..., -1] if channels != 3 else 1
    np.testing.assert_allclose(read_radiograph(data).pixels, grey * opaque, atol=1e-6)


def test_a_transparent_colour_of_16_bits_is_black():
    pixels = np.dstack([phantom(16)] * 3)
    pixels[5, 5] = 7, 8, 9
    pixels[5, 6] = 7, 8, 9 + 256  # another colour, of the same lower bytes
    data = png(pixels, 16)
    at = data.index(b"IDAT") - 4
    transparent = films.png_chunk(b"tRNS", struct.pack(">3H", 7, 8, 9))
    read = read_radiograph(data[:at] + transparent + data[at:])
    assert read.pixels[5, 5] == 0
    assert read.pixels[5, 6] == pytest.approx((0.299 * 7 + 0.587 * 8 + 0.114 * 265) / 65535)
    assert read.notes == ("transparent parts are shown black",)


# What a viewer must do to the stored picture for each EXIF orientation (TIFF 6.0, tag 274).
TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.T, 2),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_an_exif_orientation_is_applied(orientation, format):
    stored = phantom(8).astype(np.uint8)
    options = {"lossless": True} if format == "WEBP" else {}
    data = films.by_pillow(stored, format, exif=films.exif(orientation), **options)
    read = read_radiograph(data)
    np.testing.assert_allclose(read.pixels, TURNS[orientation](stored) / 255, atol=1e-6)
    assert read.notes == (("turned as its EXIF orientation says",) if orientation > 1 else ())
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(Radiograph.from_pil(image).pixels, read.pixels)


def test_of_a_photograph_with_a_gain_map_the_photograph_is_read():
    buffer = io.BytesIO()
    picture, gain_map = (Image.new("L", (64, 48), grey) for grey in (200, 20))
    picture.save(buffer, "MPO", save_all=True, append_images=[gain_map])
    read = read_radiograph(buffer.getvalue())
    np.testing.assert_allclose(read.pixels, 200 / 255, atol=0.02)


# ---------------------------------------------------------------- arrays and images


def test_an_array_is_the_film_that_its_file_would_be():
    p8, p12 = phantom(8).astype(np.uint8), phantom(12)
    for array, data in (
        (p8, png(p8)),
        (np.dstack([p8] * 3), png(p8)),
        (np.dstack([p8, p8 // 2, p8]), png(np.dstack([p8, p8 // 2, p8]))),
        (np.dstack([p8] * 3 + [255 - p8]), png(np.dstack([p8] * 3 + [255 - p8]))),
        (p12, png(p12, 16)),
        (np.dstack([p12] * 3), png(p12, 16)),
        ((p12 / 4095).astype(np.float32), png(p12, 16)),
        (np.dstack([p12 / 4095] * 3), png(p12, 16)),
    ):
        film = Radiograph.from_array(array)
        assert film.pixels.dtype == np.float32
        assert film.view is None
        np.testing.assert_allclose(film.pixels, read_radiograph(data).pixels, atol=1e-6)


def test_an_array_is_neither_changed_nor_shared():
    array = (phantom(12) / 4095).astype(np.float32)
    before = array.copy()
    Radiograph.from_array(array).pixels[:] = 0
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(100, np.uint8),
        np.zeros((1, 64, 64), np.uint8),
        np.zeros((64, 64, 2), np.uint8),
        np.zeros((20, 64), np.uint8),
        np.zeros((64, 64), np.int32),
        np.zeros((64, 64), bool),
        np.zeros((64, 64), complex),
        np.full((64, 64), "x"),
        np.full((64, 64), 1.5),
        np.full((64, 64), -0.1),
        np.full((64, 64), np.nan),
        np.broadcast_to(np.uint8(0), (8001, 8001)),
    ],
)
def test_an_array_that_is_no_film_is_refused(array):
    with pytest.raises(RadiographError):
        Radiograph.from_array(array)


@pytest.mark.parametrize("name", [n for n in FILMS if not n.startswith("DICOM") and "16," not in n])
def test_a_pillow_image_is_the_film_that_its_file_is(name):
    film = FILMS[name]
    if name in ("PNG RGB 16", "PNG grey+alpha 16"):
        film = films.Film(film.data, film.grey, 1 / 255)  # Pillow keeps 8 bits of them
    with Image.open(io.BytesIO(film.data)) as image:
        read = Radiograph.from_pil(image)
    np.testing.assert_allclose(read.pixels, film.grey, rtol=0, atol=film.tolerance)


def test_a_pillow_image_in_a_colour_space_unknown_to_films_is_refused():
    with pytest.raises(RadiographError, match="colour space"):
        Radiograph.from_pil(Image.new("LAB", (64, 64)))


def test_a_truncated_pillow_image_is_refused():
    data = FILMS["PNG grey 8"].data
    with pytest.raises(RadiographError, match="truncated"):
        Radiograph.from_pil(Image.open(io.BytesIO(data[: len(data) // 2])))


def test_a_picture_is_read_without_torch_and_without_codecs(tmp_path):
    (tmp_path / "film.png").write_bytes(FILMS["PNG grey 8"].data)
    code = (
        "import sys, cft; cft.read_radiograph(sys.argv[1]); "
        "print({'torch', 'imagecodecs', 'pydicom'} & set(sys.modules))"
    )
    root = Path(__file__).resolve().parent.parent
    ran = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "film.png"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == "set()"
