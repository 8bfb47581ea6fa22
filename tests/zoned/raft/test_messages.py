"""The wire: everything we say comes back equal, and whatever else comes is one named error."""

import random

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.entries import Entry, EntryKind
from zoned.raft import messages as wire
from zoned.raft.messages import Message, MessageError, decode, decode_batch, encode, encode_batch

HEAD = ("cluster", "a", "b", 7)
EXAMPLES: list[Message] = [
    wire.PreVote(*HEAD, 10, 3),
    wire.PreVoteReply(*HEAD, True),
    wire.Vote(*HEAD, 10, 3, True),
    wire.VoteReply(*HEAD, False),
    wire.Append(*HEAD, 4, 2, 3, (Entry(5, 6, EntryKind.WRITE, b"x\x00"), Entry(6, 7, EntryKind.NOOP))),
    wire.Append(*HEAD, 4, 2, 3),
    wire.AppendReply(*HEAD, 9, True, 8, 2),
    wire.Heartbeat(*HEAD, 12, 5),
    wire.HeartbeatReply(*HEAD, 5),
    wire.TimeoutNow(*HEAD),
    wire.SnapshotOffer(*HEAD, 100, 6),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_there_and_back(message: Message) -> None:
    assert decode(encode(message)) == message


def test_a_batch_keeps_its_order() -> None:
    assert decode_batch(encode_batch(EXAMPLES)) == EXAMPLES


def test_an_entry_costs_little_on_the_wire() -> None:
    entries = tuple(Entry(i, 7, EntryKind.WRITE, b"x" * 100) for i in range(1, 1001))
    assert len(encode(wire.Append(*HEAD, 0, 0, 0, entries))) < 1000 * 107


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_message_error(data: bytes) -> None:
    for parse in (decode, decode_batch):
        try:
            parse(data)
        except MessageError:
            pass


def test_flipped_and_torn_bytes_are_a_message_or_a_message_error() -> None:
    rng = random.Random(1)
    whole = encode_batch(EXAMPLES)
    for _ in range(3_000):
        data = bytearray(whole[: rng.randrange(1, len(whole) + 1)])
        for _unused in range(rng.randrange(3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            decode_batch(bytes(data))
        except MessageError:
            pass


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 11), st.lists(values, max_size=9))
def test_any_shape_is_a_message_or_a_message_error(tag: int, fields: list[object]) -> None:
    for array in ([tag, *fields], [tag, "cluster", "a", "b", 7, *fields]):
        try:
            decode(msgpack.packb(array))
        except MessageError:
            pass


@pytest.mark.parametrize(
    "array",
    [
        [7, "cluster", "a", "b", -1, 0, 0],
        [7, "cluster", "a", "b", 2**53, 0, 0],
        [7, "", "a", "b", 1, 0, 0],
        [7, "c" * 65, "a", "b", 1, 0, 0],
        [7, "cluster", b"a", "b", 1, 0, 0],
        [7, "cluster", "a", "b", True, 0, 0],
        [7, "cluster", "a", "b", 1, 0],
        [99, "cluster", "a", "b", 1, 0, 0],
        [5, "cluster", "a", "b", 1, 0, 0, 0, [[1, 99, b""]]],
        [5, "cluster", "a", "b", 1, 0, 0, 0, [[1, 1, "text"]]],
        [5, "cluster", "a", "b", 1, 0, 0, 0, [[1, 1]]],
        {},
        {"a": 1},
    ],
)
def test_wrong_values_are_refused(array: object) -> None:
    with pytest.raises(MessageError):
        decode(msgpack.packb(array))


def test_sizes_are_bounded() -> None:
    with pytest.raises(MessageError, match="bytes"):
        decode(bytes(wire.MESSAGE_MAX_BYTES + 1))
    with pytest.raises(MessageError, match="bytes"):
        decode_batch(bytes(wire.BATCH_MAX_BYTES + 1))
    huge = wire.Append(*HEAD, 0, 0, 0, (Entry(1, 1, EntryKind.WRITE, bytes(wire.ENTRY_MAX_BYTES + 1)),))
    with pytest.raises(MessageError):
        decode(encode(huge))
    with pytest.raises(MessageError, match="at most"):
        decode_batch(encode_batch([wire.TimeoutNow(*HEAD)] * (wire.BATCH_MAX_MESSAGES + 1)))


def test_another_wire_version_is_named() -> None:
    with pytest.raises(MessageError, match="wire version 2"):
        decode_batch(msgpack.packb([2, []]))
