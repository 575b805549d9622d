"""Reading DICOM: what is refused, and every step of the rendering against pydicom."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from cft.errors import RadiographError
from cft.film.read import read_radiograph
from tests.films import SECRET, compressed, dataset, dicom, every_film, j2k, lut, phantom, rle

#: The files that pydicom brings with it; all are bundled in its wheel.
BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"

P12 = phantom(12)
SIGNED = (P12.astype(np.int32) - 2048).astype(np.int16)


def message(data: bytes) -> str:
    """The sentence with which the reader refuses a film."""
    with pytest.raises(RadiographError) as caught:
        read_radiograph(data)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None or SECRET not in str(caught.value.__cause__)
    return str(caught.value)


def grey_of(film: Dataset) -> np.ndarray:
    """Pixels as the reader renders them."""
    return read_radiograph(dicom(film)).pixels


def by_pydicom(film: Dataset) -> np.ndarray:
    """Output of pydicom's modality and VOI LUTs, (H, W) float64."""
    film = pydicom.dcmread(io.BytesIO(dicom(film)))
    return apply_voi_lut(apply_modality_lut(film.pixel_array, film), film).astype(np.float64)


def full_range(values: np.ndarray) -> np.ndarray:
    """The smallest value black, the largest white."""
    return (values - values.min()) / (values.max() - values.min())


# ------------------------------------------------------------------ what is refused

NOT_FILMS = {
    "1.2.840.10008.5.1.4.1.1.88.11": "a structured report",
    "1.2.840.10008.5.1.4.1.1.88.67": "a structured report",
    "1.2.840.10008.5.1.4.1.1.104.1": "an encapsulated PDF document",
    "1.2.840.10008.5.1.4.1.1.104.2": "an encapsulated document",
    "1.2.840.10008.5.1.4.1.1.9.1.1": "a recording of a waveform",
    "1.2.840.10008.5.1.4.1.1.11.1": "a presentation state",
    "1.2.840.10008.5.1.4.1.1.481.3": "an object of radiotherapy",
    "1.2.840.10008.1.3.10": "a DICOMDIR, an index of other files",
}


@pytest.mark.parametrize("sop_class", NOT_FILMS)
def test_an_object_that_is_no_film_is_named(sop_class):
    film = dataset(P12, SOPClassUID=sop_class)
    del film.PixelData
    assert message(dicom(film)) == f"the DICOM file is {NOT_FILMS[sop_class]}, not a film"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("dicomdirtests/DICOMDIR", "a DICOMDIR"),
        ("dicomdirtests/DICOMDIR-bigEnd", "a DICOMDIR"),
        ("dicomdirtests/DICOMDIR-implicit", "a DICOMDIR"),
        ("test-SR.dcm", "a structured report"),
        ("waveform_ecg.dcm", "a waveform"),
        ("rtplan.dcm", "radiotherapy"),
        ("ExplVR_BigEndNoMeta.dcm", "radiotherapy"),
        ("ExplVR_LitEndNoMeta.dcm", "radiotherapy"),
        ("examples_rgb_color.dcm", "a colour picture"),
        ("examples_palette.dcm", "a colour picture"),
        ("SC_rgb_rle.dcm", "a colour picture"),
        ("SC_ybr_full_422_uncompressed.dcm", "a colour picture"),
        ("SC_rgb_rle_16bit_2frame.dcm", "several frames"),
        ("examples_ybr_color.dcm", "several frames"),
        ("MR_truncated.dcm", "truncated"),
        ("liver_1frame.dcm", "1 bits a pixel"),
        ("empty_charset_LEI.dcm", "no picture"),
        ("JPEG2000-embedded-sequence-delimiter.dcm", "contradicts itself"),
    ],
)
def test_other_objects_of_other_makers_are_named(name, reason):
    assert reason in message((BUNDLED / name).read_bytes())


@pytest.mark.parametrize("path", sorted(BUNDLED.rglob("*.dcm")), ids=lambda path: path.name)
def test_every_film_that_pydicom_brings_is_read_or_refused(path):
    try:
        pixels = read_radiograph(path).pixels
    except RadiographError as error:
        pixels = None
        sentence = str(error)
    assert sentence.isprintable() if pixels is None else np.isfinite(pixels).all()


@pytest.mark.parametrize("frames", ["2", "300"])
def test_several_frames_are_refused(frames):
    assert "several frames" in message(dicom(dataset(P12, NumberOfFrames=frames)))


def test_one_frame_may_be_called_so():
    np.testing.assert_allclose(grey_of(dataset(P12, NumberOfFrames="1")), P12 / 4095, atol=1e-6)


@pytest.mark.parametrize("colour", ["RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "PALETTE COLOR"])
def test_a_colour_photograph_is_refused(colour):
    film = dataset(P12, PhotometricInterpretation=colour)
    assert message(dicom(film)) == "the DICOM file is a colour picture, not a film"


def test_three_samples_are_a_colour_photograph_whatever_they_are_called():
    assert "colour picture" in message(dicom(dataset(P12, SamplesPerPixel=3)))


def test_a_map_of_floating_point_values_is_refused():
    film = dataset(P12)
    del film.PixelData
    film.FloatPixelData = bytes(P12.size * 4)
    assert "a map of measured values" in message(dicom(film))


def test_a_header_without_pixel_data_is_refused():
    film = dataset(P12)
    del film.PixelData
    assert message(dicom(film)) == "the DICOM file holds no picture"


def test_a_film_that_does_not_say_which_end_is_white_is_refused():
    film = dataset(P12, PhotometricInterpretation=None)
    assert "black or white" in message(dicom(film))


@pytest.mark.parametrize("keyword", ["Rows", "Columns", "BitsAllocated"])
def test_a_missing_element_is_named(keyword):
    data = dicom(dataset(P12, **{keyword: None}))
    assert message(data) == f"the DICOM file lacks {keyword}"


@pytest.mark.parametrize(
    "elements",
    [{"BitsStored": 17, "HighBit": 16}, {"BitsStored": 0}, {"HighBit": 15}, {"BitsAllocated": 32}],
)
def test_impossible_bits_are_refused(elements):
    assert "bits a pixel" in message(dicom(dataset(P12, **elements)))


@pytest.mark.parametrize(("rows", "columns"), [(31, 64), (64, 31), (65535, 65535), (0, 0)])
def test_a_size_beyond_the_limits_is_refused(rows, columns):
    text = message(dicom(dataset(P12, Rows=rows, Columns=columns)))
    assert "at least 32 x 32" in text or "larger than 64 megapixels" in text


def test_fewer_pixels_than_announced_are_refused():
    assert "truncated" in message(dicom(dataset(P12, Rows=P12.shape[0] + 1)))


@pytest.mark.parametrize(
    "syntax",
    [
        "1.2.840.10008.1.2.4.100",  # MPEG-2
        "1.2.840.10008.1.2.4.201",  # HTJ2K
        "1.2.840.10008.1.2.4.55",  # progressive JPEG, retired
    ],
)
def test_an_unknown_compression_is_named(syntax):
    data = compressed(dataset(P12), syntax, b"\0\0\0\0")
    assert message(data).endswith(f"compressed in a way that is not supported ({syntax})")


def test_a_private_transfer_syntax_is_not_repeated():
    data = compressed(dataset(P12), "1.2.826.0.1.3680043.2.1143.77", b"\0\0\0\0")
    assert message(data).endswith("compressed in a way that is not supported")


def test_fragments_in_an_uncompressed_transfer_syntax_are_refused():
    data = compressed(dataset(P12), JPEG2000Lossless, CODESTREAMS[JPEG2000Lossless](P12))
    says = ExplicitVRLittleEndian.encode().ljust(len(JPEG2000Lossless), b"\0")
    assert message(data.replace(JPEG2000Lossless.encode(), says)) == (
        "the DICOM file contradicts itself: its picture is in fragments, but its transfer syntax "
        "is not a compressed one"
    )


CODESTREAMS = {
    JPEGLosslessSV1: lambda p: imagecodecs.jpeg8_encode(p, lossless=True, bitspersample=12),
    JPEGLSLossless: imagecodecs.jpegls_encode,
    JPEG2000Lossless: lambda p: j2k(p, reversible=True, bitspersample=12),
}


@pytest.mark.parametrize("syntax", CODESTREAMS)
def test_a_codestream_of_another_size_is_refused_before_it_is_decoded(syntax):
    data = compressed(dataset(P12), syntax, CODESTREAMS[syntax](P12[:-2, :-2].copy()))
    assert "contradicts itself" in message(data)


@pytest.mark.parametrize("syntax", CODESTREAMS)
@pytest.mark.parametrize("kept", [0, 1, 10, 60, -40])
def test_a_truncated_codestream_is_refused(syntax, kept):
    assert message(compressed(dataset(P12), syntax, CODESTREAMS[syntax](P12)[:kept] + b"\0\0"))


@pytest.mark.parametrize("syntax", CODESTREAMS)
def test_a_codestream_of_another_kind_is_refused(syntax):
    for other in CODESTREAMS:
        if other != syntax:
            assert message(compressed(dataset(P12), syntax, CODESTREAMS[other](P12)))


def test_a_colour_codestream_in_a_grey_film_is_refused():
    colour = imagecodecs.jpeg8_encode(np.dstack([P12.astype(np.uint8)] * 3))
    assert "colour" in message(compressed(dataset(P12), JPEGBaseline8Bit, colour))


def test_a_run_length_frame_of_another_size_is_refused():
    for rows in (P12.shape[0] - 1, P12.shape[0] + 1):
        film = dataset(P12, Rows=rows)
        encoded = pydicom.dcmread(pydicom.filebase.DicomBytesIO(rle(dataset(P12))))
        frame = next(pydicom.encaps.generate_frames(encoded.PixelData, number_of_frames=1))
        assert message(compressed(film, RLELossless, frame))


# ----------------------------------------------------------------------------- bombs


def test_a_deflated_bomb_is_refused():
    head = dicom(dataset(P12), DeflatedExplicitVRLittleEndian)
    start = head.index(b"1.2.840.10008.1.2.1.99") + 22
    squeeze = zlib.compressobj(1, wbits=-15)
    zeros = b"".join(squeeze.compress(bytes(2**20)) for _ in range(200)) + squeeze.flush()
    assert "inflates to more than any film" in message(head[:start] + zeros)


def test_endless_nesting_is_refused():
    nested = struct.pack("<HH2sHI", 0x0009, 0x1001, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    head = dicom(dataset(P12))[: 132 + 12]  # the preamble and the group's length
    assert "nested deeper" in message(head + (nested + item) * 100_000)


def test_a_flood_of_elements_is_refused():
    element = struct.pack("<HH2sH", 0x0009, 0x1001, b"LO", 0)
    head = dicom(dataset(P12))[:144]
    assert "more than 100000 elements" in message(head + element * 1_000_000)


def elements_of_every_tag(count: int) -> bytes:
    """Empty elements in explicit VR, each of another tag."""
    elements = np.zeros(count, "<u2,<u2,S2,<u2")
    elements["f0"], elements["f1"] = 0x0010 + (np.arange(count) >> 16), np.arange(count)
    elements["f2"] = b"LO"
    return elements.tobytes()


# On each of these, pydicom 3.0.2 takes 5 s to 2 minutes, and up to 4 GB.
SEQUENCE = struct.pack("<HH2sHI", 0x0009, 0x1001, b"SQ", 0, 0xFFFFFFFF)
ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
EMPTY_ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
FLOODS = {
    "file meta elements": lambda: struct.pack("<HH2sH", 0x0002, 0x0102, b"SH", 0) * 6_000_000,
    "empty items": lambda: SEQUENCE + EMPTY_ITEM * 6_000_000,
    "elements of an item": lambda: SEQUENCE + ITEM + elements_of_every_tag(6_000_000),
    "fragments": lambda: SEQUENCE.replace(b"SQ", b"OB") + EMPTY_ITEM * 6_000_000,
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_of_any_kind_is_refused_where_the_limit_is(flood):
    head, elements = dicom(dataset(P12))[:144], FLOODS[flood]()
    assert "more than 100000 elements" in message(head + elements)
    # What lies behind the limit is not even looked at: no element may be so long.
    assert "more than 100000 elements" in message(head + elements[:2_000_000] + b"\xff" * 1_000)
    assert "more than 100000 elements" not in message(head + elements[:200_000] + b"\xff" * 1_000)


def test_a_run_length_bomb_is_refused():
    runs = b"\x81\0" * 1_000_000  # each two bytes become 128
    frame = struct.pack("<16I", 2, 64, 64 + len(runs), *[0] * 13) + runs * 2
    assert message(compressed(dataset(P12), RLELossless, frame))


def tiny_j2k(
    side: int, layers: int = 1, precinct: int = 15, block: int = 4, tile: int | None = None
) -> bytes:
    """A JPEG 2000 codestream of empty packets (ITU-T T.800 annex A)."""
    tile = tile or side
    size = struct.pack(">HH8IHBBB", 41, 0, side, side, 0, 0, tile, tile, 0, 0, 1, 11, 1, 1)
    coding = struct.pack(">BBHBBBBBB", 1, 0, layers, 0, 0, block, block, 0, 1)
    coding += bytes([precinct | precinct << 4])
    markers = b"\xff\x4f\xff\x51" + size
    markers += b"\xff\x52" + struct.pack(">H", len(coding) + 2) + coding
    markers += b"\xff\x5c\x00\x04\x40\x60"
    tile_part = b"\xff\x93" + bytes(100)
    markers += b"\xff\x90" + struct.pack(">HHIBB", 10, 0, 12 + len(tile_part), 0, 1) + tile_part
    return markers + b"\xff\xd9"


def test_an_empty_but_honest_jpeg_2000_codestream_is_read():
    film = dataset(P12, Rows=64, Columns=64)
    read = read_radiograph(compressed(film, JPEG2000Lossless, tiny_j2k(64)))
    assert read.pixels.shape == (64, 64)


@pytest.mark.parametrize(
    "cut",
    [{"precinct": 0}, {"layers": 65535, "precinct": 5}, {"tile": 1}, {"block": 0, "layers": 100}],
)
def test_a_jpeg_2000_codestream_cut_into_countless_parts_is_refused(cut):
    # OpenJPEG takes gigabytes and minutes for these few hundred bytes.
    film = dataset(P12, Rows=4096, Columns=4096)
    data = compressed(film, JPEG2000Lossless, tiny_j2k(4096, **cut))
    assert "cut into more parts than any film" in message(data)


def test_a_jpeg_of_endlessly_many_scans_is_refused():
    stream = imagecodecs.jpeg8_encode(P12.astype(np.uint8))
    scan = stream[stream.index(b"\xff\xda") : -2]
    data = compressed(dataset(P12.astype(np.uint8), 8), JPEGBaseline8Bit, stream[:-2] + scan * 100)
    assert message(data)


# ------------------------------------------------------------------- patients' data


@pytest.mark.parametrize(
    ("is_", "becomes"),
    [
        (b"\x10\0\x10\0PN", b"\x08\0\x05\0PN"),
        (b"\x02\0\x10\0UI\x14\0", b"\x02\0\x10\0UI\x14\1"),
    ],
    ids=["a name as the Specific Character Set", "a transfer syntax that reaches over the name"],
)
def test_nothing_of_a_damaged_film_is_warned_of_or_logged(is_, becomes, caplog, recwarn):
    data = dicom(dataset(P12))
    assert is_ in data
    with contextlib.suppress(RadiographError):
        read_radiograph(data.replace(is_, becomes))
    assert not caplog.records
    assert not recwarn.list


# ------------------------------------------------------- rendering, against pydicom


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",
        "MR_small.dcm",
        "MR_small_RLE.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_expb.dcm",
        "MR_small_implicit.dcm",
        "MR_small_padded.dcm",
        "examples_overlay.dcm",
        "image_dfl.dcm",
        "693_J2KI.dcm",
        "JPEG2000.dcm",
        "J2K_pixelrep_mismatch.dcm",
    ],
)
@pytest.mark.filterwarnings("ignore:The pixel data is 8320 bytes long:UserWarning")  # pydicom's
def test_films_of_other_makers_are_rendered_as_pydicom_does(name):
    film = pydicom.dcmread(BUNDLED / name)
    stored = film.pixel_array
    values = apply_voi_lut(apply_modality_lut(stored, film), film).astype(np.float64)
    padding = stored == film.PixelPaddingValue if "PixelPaddingValue" in film else stored != stored
    if film.get("WindowWidth"):
        low, high = output_range(film)
        expected = (values - low) / (high - low)
    else:
        low, high = values[~padding].min(), values[~padding].max()
        expected = np.clip((values - low) / (high - low), 0, 1)
    grey = read_radiograph(BUNDLED / name).pixels
    np.testing.assert_allclose(grey, np.where(padding, 0, expected), atol=1e-6)


def test_a_film_is_the_same_in_every_lossless_transfer_syntax():
    expected = read_radiograph(BUNDLED / "MR_small.dcm").pixels
    for path in BUNDLED.glob("MR_small_*.dcm"):
        np.testing.assert_array_equal(read_radiograph(path).pixels, expected, err_msg=path.name)


def test_12_bit_jpeg_of_another_maker_is_read():
    extended = read_radiograph(BUNDLED / "JPGExtended.dcm").pixels
    assert len(np.unique(extended)) > 200
    np.testing.assert_array_equal(extended, read_radiograph(BUNDLED / "JPEG-lossy.dcm").pixels)


def output_range(film: Dataset) -> tuple[float, float]:
    """Smallest and largest output of the modality step, between which pydicom's window lies."""
    if "ModalityLUTSequence" in film:
        return 0, 2 ** film.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    half = 2 ** (film.BitsStored - 1)
    low, high = (-half, half - 1) if film.PixelRepresentation else (0, 2 * half - 1)
    if "RescaleSlope" in film:
        low, high = (
            x * float(film.RescaleSlope) + float(film.RescaleIntercept) for x in (low, high)
        )
    return low, high


@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")  # pydicom's
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID", None])
@pytest.mark.parametrize(("center", "width"), [("2047.5", "4096"), ("1500", "800"), ("700.5", "1"),
                                               ("-300", "2500"), ("9000", "50")])  # fmt: skip
@pytest.mark.parametrize("pixels", [P12, SIGNED], ids=["unsigned", "signed"])
@pytest.mark.parametrize(("slope", "intercept"), [(None, None), ("1", "-1024"), ("0.25", "3.5")])
def test_a_window_is_applied_as_pydicom_does(function, center, width, pixels, slope, intercept):
    film = dataset(pixels, WindowCenter=center, WindowWidth=width)
    if function:
        film.VOILUTFunction = function
    if slope:
        film.RescaleSlope, film.RescaleIntercept = slope, intercept
    low, high = output_range(film)
    expected = (by_pydicom(film) - low) / (high - low)
    np.testing.assert_allclose(grey_of(film), expected, atol=1e-6)


def test_of_several_windows_the_first_is_applied():
    film = dataset(P12, WindowCenter=["1000", "3000"], WindowWidth=["500", "100"])
    expected = by_pydicom(film) / 4095
    np.testing.assert_allclose(grey_of(film), expected, atol=1e-6)


@pytest.mark.parametrize(
    "elements",
    [
        {"WindowCenter": "100", "WindowWidth": "0"},
        {"WindowCenter": "100", "WindowWidth": "-5"},
        {"WindowCenter": "100", "WindowWidth": "0.5"},
        {"WindowCenter": "100", "WindowWidth": "5", "VOILUTFunction": "LOG"},
    ],
)
def test_an_unusable_window_is_noted_and_the_full_range_shown(elements):
    read = read_radiograph(dicom(dataset(P12 // 2, **elements)))
    np.testing.assert_allclose(read.pixels, full_range(P12 // 2), atol=1e-6)
    assert read.notes == ("unusable window: full range shown",)


def test_half_a_window_is_no_window():
    np.testing.assert_allclose(grey_of(dataset(P12 // 2, WindowWidth="5")), full_range(P12 // 2))


@pytest.mark.parametrize("pixels", [P12 // 2 + 100, SIGNED // 2], ids=["unsigned", "signed"])
@pytest.mark.parametrize(("slope", "intercept"), [(None, None), ("2.5", "-1024"), ("-1", "4095")])
def test_without_a_window_the_full_range_is_shown(pixels, slope, intercept):
    film = dataset(pixels)
    if slope:
        film.RescaleSlope, film.RescaleIntercept = slope, intercept
    expected = full_range(by_pydicom(film))
    np.testing.assert_allclose(grey_of(film), expected, atol=1e-6)


def test_a_uniform_film_is_black_and_not_nan():
    assert np.unique(grey_of(dataset(np.full((40, 40), 77, np.uint16)))) == [0]


@pytest.mark.parametrize("slope", ["0", "1e300", "-1e25"])
def test_a_rescale_that_makes_no_picture_is_refused(slope):
    film = dataset(P12, RescaleSlope=slope, RescaleIntercept="0")
    assert "rescale" in message(dicom(film))


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize(("first", "entries"), [(0, 4096), (500, 3000), (-200, 3000), (0, 65536)])
def test_a_voi_lut_is_applied_as_the_standard_says(bits, first, entries):
    table = np.round((np.arange(entries) / (entries - 1)) ** 0.7 * (2**bits - 1))
    film = dataset(P12, VOILUTSequence=[lut(first, bits, table)])
    inputs = np.clip(P12.astype(np.int64) - first, 0, entries - 1)
    np.testing.assert_allclose(grey_of(film), table[inputs] / (2**bits - 1), atol=1e-6)
    if bits > 8 and first >= 0:  # of the others pydicom 3.0 computes the inputs in uint8 or uint16
        np.testing.assert_allclose(grey_of(film), by_pydicom(film) / (2**bits - 1), atol=1e-6)


def test_a_voi_lut_goes_before_a_window():
    table = np.arange(4096)[::-1]
    film = dataset(P12, VOILUTSequence=[lut(0, 12, table)], WindowCenter="9", WindowWidth="9")
    np.testing.assert_allclose(grey_of(film), by_pydicom(film) / 4095, atol=1e-6)


def test_a_voi_lut_after_a_rescale():
    table = np.round(np.linspace(0, 1, 3000) ** 2 * 4095)
    film = dataset(P12, RescaleSlope="1", RescaleIntercept="-1024",
                   VOILUTSequence=[lut(-500, 12, table)])  # fmt: skip
    rescaled = P12.astype(np.int64) - 1024  # integers, as pydicom's VOI LUT wants them
    expected = table[np.clip(rescaled + 500, 0, 2999)] / 4095
    np.testing.assert_allclose(grey_of(film), expected, atol=1e-6)


def test_a_voi_lut_that_fills_less_than_its_stated_depth_is_not_dark():
    film = dataset(P12, VOILUTSequence=[lut(0, 16, np.arange(4096))])
    np.testing.assert_allclose(grey_of(film), P12 / 4095, atol=1e-6)


def test_a_voi_lut_of_single_bytes():
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, 8])
    item.add_new("LUTData", "OW", (np.arange(4096) >> 4).astype(np.uint8).tobytes())
    film = dataset(P12, VOILUTSequence=[item])
    np.testing.assert_allclose(grey_of(film), (P12 >> 4) / 255, atol=1e-6)


@pytest.mark.parametrize(("first", "entries"), [(0, 4096), (300, 2000)])
@pytest.mark.parametrize("window", [True, False])
def test_a_modality_lut_is_applied_as_pydicom_does(first, entries, window):
    table = np.round(np.sqrt(np.arange(entries) / entries) * 65535)
    film = dataset(P12, ModalityLUTSequence=[lut(first, 16, table)])
    if window:
        film.WindowCenter, film.WindowWidth = "40000", "30000"
    values = by_pydicom(film)
    expected = values / 65535 if window else full_range(values)
    np.testing.assert_allclose(grey_of(film), expected, atol=1e-6)


@pytest.mark.parametrize("sequence", ["ModalityLUTSequence", "VOILUTSequence"])
def test_an_incomplete_lut_is_refused(sequence):
    for item in (Dataset(), lut(0, 16, np.arange(10))):
        if "LUTDescriptor" in item:
            item.LUTDescriptor = [4096, 0, 16]
        else:
            item.LUTExplanation = SECRET
        assert "look-up table" in message(dicom(dataset(P12, **{sequence: [item]})))


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted"),
    [
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME1", "IDENTITY", True),
        ("MONOCHROME2", None, False),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME2", "INVERSE", True),
    ],
)
def test_a_film_is_inverted_exactly_once_and_after_its_window(photometric, shape, inverted):
    film = dataset(P12, WindowCenter="1000", WindowWidth="500")
    upright = grey_of(film)
    film.PhotometricInterpretation = photometric
    if shape:
        film.PresentationLUTShape = shape
    read = read_radiograph(dicom(film))
    np.testing.assert_allclose(read.pixels, 1 - upright if inverted else upright, atol=1e-6)
    assert any(note.startswith("inverted") for note in read.notes) == inverted


def test_the_inversion_of_monochrome1_is_noted():
    read = read_radiograph(every_film()["DICOM MONOCHROME1"].data)
    assert read.notes == ("inverted MONOCHROME1",)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("padding", [0, 4095, 4000])
def test_padding_is_black_and_has_no_say_in_the_full_range(photometric, padding):
    film = (P12 // 4 + 500).astype(np.uint16)
    grey = full_range(film.astype(np.float64))
    film[:, :10] = padding
    expected = 1 - grey if photometric == "MONOCHROME1" else grey
    expected[:, :10] = 0
    low, high = film[:, 10:].min(), film[:, 10:].max()
    expected[:, 10:] = (film[:, 10:].astype(float) - low) / (high - low)
    if photometric == "MONOCHROME1":
        expected[:, 10:] = 1 - expected[:, 10:]
    read = grey_of(dataset(film, PhotometricInterpretation=photometric, PixelPaddingValue=padding))
    np.testing.assert_allclose(read, expected, atol=1e-6)


def test_a_range_of_padding_is_black():
    film = dataset(SIGNED, WindowCenter="0", WindowWidth="4096")
    film.add_new("PixelPaddingValue", "SS", -2048)
    film.add_new("PixelPaddingRangeLimit", "SS", -1500)
    expected = np.where(SIGNED <= -1500, 0, (SIGNED + 2048) / 4095)
    np.testing.assert_allclose(grey_of(film), expected, atol=1e-6)


def test_bits_beyond_those_stored_are_not_part_of_the_film():
    noisy = (P12 | (np.arange(P12.size).reshape(P12.shape) << 12)).astype(np.uint16)
    np.testing.assert_allclose(grey_of(dataset(noisy)), P12 / 4095, atol=1e-6)


def test_another_modality_is_noted():
    assert read_radiograph(dicom(dataset(P12, Modality="CT"))).notes == (
        "computed tomography, not a radiograph",
    )


# ------------------------------------------------------------------------------ view


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS:UserWarning")  # pydicom's, on writing
@pytest.mark.parametrize(
    ("position", "view"),
    [
        ("PA", "PA"),
        ("AP", "AP"),
        ("LL", "lateral"),
        ("RL", "lateral"),
        ("LATERAL", "lateral"),
        ("LLD", None),  # lying on a side, but seen from the front
        ("RLO", None),
        ("", None),
        (SECRET, None),
    ],
)
def test_the_view_is_the_stated_position(position, view):
    assert read_radiograph(dicom(dataset(P12, ViewPosition=position))).view == view


@pytest.mark.parametrize(
    ("code", "scheme", "view"),
    [
        ("272479007", "SCT", "PA"),
        ("399348003", "SCT", "AP"),
        ("R-10206", "SRT", "AP"),
        ("399173006", "SCT", "lateral"),
        ("399033003", "SCT", None),  # frontal: either
    ],
)
def test_the_view_is_the_stated_code(code, scheme, view):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, scheme, SECRET
    film = dataset(P12, ViewCodeSequence=[item])
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian):
        assert read_radiograph(dicom(film, syntax)).view == view


def test_no_view_is_guessed_from_a_description():
    film = dataset(P12, SeriesDescription="Chest PA", ProtocolName="Chest AP")
    assert read_radiograph(dicom(film)).view is None


# ------------------------------------------------------------------- data elements


def private_sequence(depth: int) -> Sequence:
    """Nested items with a picture of their own, which is not the film."""
    item = Dataset()
    item.Rows, item.Columns, item.PatientName = 1, 1, SECRET
    item.PixelData = b"\0\0"
    item["PixelData"].VR = "OW"
    item.is_undefined_length_sequence_item = True
    if depth:
        item.RequestAttributesSequence = private_sequence(depth - 1)
        item["RequestAttributesSequence"].is_undefined_length = True
    return Sequence([item, item])


@pytest.mark.parametrize("undefined", [True, False])
@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    ],
)
def test_what_stands_in_sequences_is_not_the_film(syntax, undefined):
    film = dataset(P12, IconImageSequence=private_sequence(3))
    film["IconImageSequence"].is_undefined_length = undefined
    np.testing.assert_allclose(read_radiograph(dicom(film, syntax)).pixels, P12 / 4095, atol=1e-6)


def test_a_sequence_of_unknown_vr_is_read():
    film = dataset(P12)
    item = struct.pack("<HHI", 0x0028, 0x3002, 6) + struct.pack("<3H", 4096, 0, 12)
    table = np.arange(4096)[::-1].astype("<u2").tobytes()
    item += struct.pack("<HHI", 0x0028, 0x3006, len(table)) + table
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item
    film.add_new("VOILUTSequence", "SQ", [])
    data = dicom(film)
    at = data.index(struct.pack("<HH", 0x0028, 0x3010))
    unknown = struct.pack("<HH2sHI", 0x0028, 0x3010, b"UN", 0, len(item)) + item
    read = read_radiograph(data[:at] + unknown + data[at + 12 :])
    np.testing.assert_allclose(read.pixels, 1 - P12 / 4095, atol=1e-6)


def test_a_wrong_length_of_the_file_meta_group_is_not_believed():
    data = bytearray(dicom(dataset(P12)))
    data[140:144] = struct.pack("<I", 7)
    np.testing.assert_allclose(read_radiograph(bytes(data)).pixels, P12 / 4095, atol=1e-6)


@pytest.mark.parametrize("says", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_the_elements_decide_about_their_vr_and_not_the_transfer_syntax(says):
    is_ = ExplicitVRLittleEndian if says == ImplicitVRLittleEndian else ImplicitVRLittleEndian
    meta = dicom(dataset(P12), says)
    start = meta.index(says.encode() + b"\0" * (len(says) % 2)) + len(says) + len(says) % 2
    read = read_radiograph(meta[:start] + dicom(dataset(P12), is_, meta=False))
    np.testing.assert_allclose(read.pixels, P12 / 4095, atol=1e-6)


def test_what_follows_the_pixel_data_does_not_matter():
    read = read_radiograph(dicom(dataset(P12)) + b"\xff" * 1001)
    np.testing.assert_allclose(read.pixels, P12 / 4095, atol=1e-6)


def test_8_bit_pixels_in_big_endian_words_are_in_order():
    film = dataset(P12.astype(np.uint8), 8)
    swapped = np.frombuffer(film.PixelData, "<u2").astype(">u2").tobytes()
    film.PixelData = swapped
    film["PixelData"].VR = "OW"
    expected = full_range(P12.astype(np.uint8).astype(float))
    np.testing.assert_allclose(
        read_radiograph(dicom(film, ExplicitVRBigEndian)).pixels, expected, atol=1e-6
    )


def test_a_jpeg_2000_codestream_in_a_jp2_file_is_read():
    boxed = imagecodecs.jpeg2k_encode(P12, codecformat="jp2", reversible=True, bitspersample=12)
    read = read_radiograph(compressed(dataset(P12), JPEG2000Lossless, boxed))
    np.testing.assert_allclose(read.pixels, P12 / 4095, atol=1e-6)


@pytest.mark.parametrize("syntax", CODESTREAMS)
@pytest.mark.parametrize("fragments", [1, 2, 7])
def test_a_frame_may_come_in_fragments(syntax, fragments):
    read = read_radiograph(compressed(dataset(P12), syntax, CODESTREAMS[syntax](P12), fragments))
    np.testing.assert_allclose(read.pixels, P12 / 4095, atol=1e-6)


# --- The distance between pixels -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("elements", "spacing"),
    [
        ({}, None),
        ({"PixelSpacing": [0.2, 0.143]}, (0.2, 0.143)),
        ({"ImagerPixelSpacing": [0.1, 0.1]}, (0.1, 0.1)),
        ({"PixelSpacing": [0.09, 0.09], "ImagerPixelSpacing": [0.1, 0.1]}, (0.09, 0.09)),
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.1, 0.1]}, (0.1, 0.1)),
        ({"PixelSpacing": [-0.1, 0.1]}, None),
        ({"PixelSpacing": [1e9, 0.1]}, None),
    ],
)
def test_a_film_keeps_the_distance_between_its_pixels_where_the_file_states_one(elements, spacing):
    assert read_radiograph(dicom(dataset(P12, **elements))).spacing == spacing


@pytest.mark.parametrize("text", [b"0.2", b"0.2\\x", b"nan\\nan", b"2\\2\\2", b""])
def test_a_spacing_that_is_no_two_numbers_is_none(text):
    data, stated = dicom(dataset(P12, PixelSpacing=[0.2, 0.2])), b"0.2\\0.2 "
    assert read_radiograph(data).spacing == (0.2, 0.2)
    assert data.count(stated) == 1
    assert read_radiograph(data.replace(stated, text.ljust(len(stated)))).spacing is None
