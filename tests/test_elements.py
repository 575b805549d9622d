"""The walk through the elements of a DICOM file, at the ends of the data: no byte too far."""

from __future__ import annotations

import struct

import pytest

from cft.errors import RadiographError
from cft.film.elements import Element, Elements, Tag, _Walk

ROWS = struct.pack("<HH2sH", 0x0028, 0x0010, b"US", 2) + struct.pack("<H", 512)
EMPTY = struct.pack("<HH2sH", 0x0009, 0x1001, b"LO", 0)
ENDLESS_ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
EMPTY_ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0)


def walk(data: bytes) -> _Walk:
    return _Walk(memoryview(data), "<")


def test_an_element_that_ends_with_the_data_is_read():
    assert [tag for tag, *_ in walk(ROWS + EMPTY).elements(0, True)] == [Tag.Rows, 0x0009_1001]


@pytest.mark.parametrize("left", range(8))
def test_less_than_a_header_is_no_element(left):
    found = list(walk(ROWS + EMPTY[:left]).elements(0, True))
    assert [tag for tag, *_ in found] == [Tag.Rows]


@pytest.mark.parametrize("left", range(8))
def test_a_sequence_that_ends_within_a_header_is_truncated(left):
    for data in (EMPTY_ITEM[:left], ENDLESS_ITEM + EMPTY[:left]):
        with pytest.raises(RadiographError, match="truncated"):
            walk(data).end_of_items(0, True, 0)


def test_a_sequence_whose_item_says_more_than_there_is_is_truncated():
    with pytest.raises(RadiographError, match="truncated"):
        walk(struct.pack("<HHI", 0xFFFE, 0xE000, 1000)).end_of_items(0, True, 0)


@pytest.mark.parametrize("left", range(8))
def test_less_than_a_header_holds_no_first_item(left):
    assert walk(EMPTY_ITEM[:left]).first_item(True) is None


def test_an_empty_item_is_an_item():
    assert walk(EMPTY_ITEM).first_item(True).found == {}


@pytest.mark.parametrize("value", [b"", b"\1"])
def test_a_number_of_less_than_two_bytes_is_lacking(value):
    elements = Elements("<", True, {Tag.Rows: Element(b"US", memoryview(value))})
    with pytest.raises(RadiographError, match="lacks Rows"):
        elements.number(Tag.Rows)
    assert elements.number(Tag.Rows, 7) == 7


def test_of_two_numbers_the_first_is_read():
    value = memoryview(struct.pack("<2H", 3, 4))
    assert Elements("<", True, {Tag.Rows: Element(b"US", value)}).number(Tag.Rows, 7) == 3


@pytest.mark.parametrize(("explicit", "vr"), [(False, None), (True, b"UN")])
def test_a_length_that_reads_like_a_vr_is_none_in_implicit_vr(explicit, vr):
    """16,975 bytes: their number is spelt OB, as a VR would be."""
    data = bytes(int.from_bytes(b"OB", "little"))
    inside = struct.pack("<HHI", 0x0028, 0x3006, len(data)) + data
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(inside)) + inside
    around = {Tag.VOILUTSequence: Element(vr, memoryview(item))}
    found = Elements("<", explicit, around).first_item(Tag.VOILUTSequence)
    assert found.found[Tag.LUTData].value == data
