"""Records as the store keeps them: read back as they were, or not at all."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import packing
from store.errors import Damaged
from store.images import DEFAULTS, Image, seconds, uuid_bytes, uuid_text
from store.packing import pack, unpack

UUID = "0a1b2c3d-4e5f-4071-8293-a4b5c6d7e8f9"
RECORD = Image(UUID, 7, UUID, f"{UUID}.1", 9, {**DEFAULTS, "name": "n"}, {"os_distro": "debian"}, ("t",)).encode()


@given(st.binary(max_size=10_000))
def test_what_was_packed_is_read_back(data):
    assert unpack(pack(data)) == data


def test_a_record_takes_a_fraction_of_its_text():
    assert len(pack(RECORD)) < len(RECORD) / 3


def test_any_one_flipped_bit_is_noticed():
    packed = pack(RECORD)
    for n in range(8 * len(packed)):
        damaged = bytearray(packed)
        damaged[n // 8] ^= 1 << n % 8
        try:
            assert unpack(bytes(damaged)) == RECORD  # a bit that means nothing, as in what fills up the last byte
        except Damaged:
            pass


@pytest.mark.parametrize("data", [b"", pack(RECORD)[:-1], RECORD, zlib.compress(RECORD)[:30]])
def test_what_is_no_packed_record_is_damaged(data):
    with pytest.raises(Damaged):
        unpack(data)


def test_the_dictionary_is_for_ever():
    """Another one would make every stored record unreadable: it needs a second one beside it, told apart by this."""
    assert zlib.adler32(packing.DICTIONARY) == int.from_bytes(pack(b"")[2:6]) == 627187118


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-11-22T09:00:00Z", 1_795_338_000),
        ("1969-12-31T23:59:59Z", -1),
        ("0001-01-01T00:00:00Z", -62_135_596_800),
        *((wrong, None) for wrong in ("", "2026-11-22", "2026-11-22T09:00:00", "2026-W47-7T09:00:00Z", "x" * 20)),
        *((wrong, None) for wrong in ("2026-02-30T09:00:00Z", "2026-11-22 09:00:00Z", "2026-11-22T09:00:60Z")),
    ],
)
def test_times_as_numbers(text, known):
    assert seconds(text) == known


def test_uuids_as_bytes():
    assert uuid_text(uuid_bytes(UUID.upper())) == UUID
    for wrong in ("", "x", UUID.replace("-", ""), UUID + "\n", UUID[:-1] + "g", "0a1b-2c3d4e5f4071-8293-a4b5c6d7-e8f9"):
        assert uuid_bytes(wrong) == b""
