from typing import Any
from uuid import UUID

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip import codec
from gossip.errors import BadIdentity, CodecError, Malformed, NotAFrame, Oversize, WrongLabel, WrongVersion
from gossip.messages import (
    Ack,
    Alive,
    Dead,
    Digest,
    Entry,
    ExchangeState,
    Left,
    Member,
    Nack,
    Packet,
    Part,
    Ping,
    PingReq,
    State,
    Suspect,
    Vitals,
)
from gossip.options import GossipOptions
from gossip.sealing import SEALED_BYTES

LABEL = "blue"

ids = st.uuids().map(str)
counts = st.integers(0, 2**63 - 1)
ports = st.integers(1, 65535)
printable = st.characters(exclude_categories=("C", "Z"))
names = st.text(printable, min_size=1, max_size=16)
values = (
    st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(printable, max_size=20)
    | st.binary(max_size=20)
)
members = st.builds(
    Member,
    node_id=ids,
    generation=counts,
    zone=names,
    host=names,
    port=ports,
    incarnation=counts,
    revision=counts,
    facts=st.dictionaries(names, values, max_size=4),
)
vitals = st.dictionaries(st.text(printable, min_size=1, max_size=4), st.integers(0, 99), max_size=4)
parts: st.SearchStrategy[Part] = st.one_of(
    st.builds(Ping, counts, ids),
    st.builds(Ack, counts),
    st.builds(PingReq, counts, ids, names, ports, st.integers(0, codec.BUDGET_MS_MAX)),
    st.builds(Nack, counts),
    st.builds(Alive, members),
    st.builds(Suspect, ids, counts, counts, ids),
    st.builds(Dead, ids, counts, counts, ids),
    st.builds(Left, ids, counts, counts, st.sampled_from([b"", b"s" * 64])),
    st.builds(Digest, counts, st.booleans()),
    st.builds(Vitals, ids, counts, st.integers(1, 2**63 - 1), vitals),
)
packets = st.builds(Packet, ids, counts, st.lists(parts, max_size=3).map(tuple))
states = st.builds(
    ExchangeState,
    ids,
    counts,
    st.lists(st.builds(Entry, members, st.sampled_from(State), counts, vitals), max_size=5).map(tuple),
)


def frame(body: object, magic: bytes = b"zg") -> bytes:
    return magic + bytes((codec.VERSION, len(LABEL))) + LABEL.encode() + msgpack.packb(body)


@given(packets)
def test_a_packet_comes_back_as_it_was(packet: Packet) -> None:
    assert codec.decode_packet(LABEL, codec.encode_packet(LABEL, packet)) == packet


@given(states)
def test_a_full_state_comes_back_as_it_was(state: ExchangeState) -> None:
    assert codec.decode_exchange(LABEL, codec.encode_exchange(LABEL, state)) == state


@given(parts)
def test_the_size_of_a_part_is_what_it_adds(part: Part) -> None:
    some = Packet(str(UUID(int=1)), 2**63 - 1, (part,))
    assert len(codec.encode_packet(LABEL, some)) <= codec.overhead_bytes(LABEL) + codec.part_bytes(part)


@given(st.binary(max_size=1500))
def test_any_bytes_are_a_message_or_a_codec_error(data: bytes) -> None:
    for decode in (codec.decode_packet, codec.decode_exchange):
        for prefix in (b"", b"zg\x01\x04blue", b"zx\x01\x04blue"):
            try:
                decode(LABEL, prefix + data)
            except CodecError:
                pass


values_of_any_kind: st.SearchStrategy[Any] = st.recursive(
    st.none() | values | st.floats() | st.just(UUID(int=7).bytes) | st.integers(-(2**63), 2**64 - 1),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=4) | st.integers(0, 9), inner),
    max_leaves=20,
)


@settings(max_examples=60)
@given(st.lists(values_of_any_kind, max_size=9), st.integers(0, 9))
def test_any_values_in_a_good_envelope_are_a_message_or_a_codec_error(inner: list[Any], kind: int) -> None:
    for items in ([[kind, *inner]], inner, [[kind, UUID(int=7).bytes, *inner]]):
        for decode, magic in ((codec.decode_packet, b"zg"), (codec.decode_exchange, b"zx")):
            try:
                decode(LABEL, frame([UUID(int=7).bytes, 1, items], magic))
            except CodecError:
                pass


@settings(max_examples=300)
@given(packets, st.data())
def test_a_damaged_packet_is_a_message_or_a_codec_error(packet: Packet, data: st.DataObject) -> None:
    whole = bytearray(codec.encode_packet(LABEL, packet))
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        whole[place] = data.draw(st.integers(0, 255))
    try:
        codec.decode_packet(LABEL, bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    except CodecError:
        pass


def test_what_is_wrong_is_named() -> None:
    good = codec.encode_packet(LABEL, Packet(str(UUID(int=1)), 1, (Ack(5),)))
    with pytest.raises(WrongLabel, match="cluster label 'blue' does not match ours, 'green'"):
        codec.decode_packet("green", good)
    with pytest.raises(WrongVersion, match="version 9 is not spoken here, ours is 1"):
        codec.decode_packet(LABEL, good[:2] + b"\x09" + good[3:])
    with pytest.raises(NotAFrame):
        codec.decode_packet(LABEL, b"GET / HTTP/1.1")
    with pytest.raises(NotAFrame):
        codec.decode_exchange(LABEL, good)
    with pytest.raises(Oversize):
        codec.decode_packet(LABEL, good + b"\0" * codec.DATAGRAM_BYTES_MAX)
    with pytest.raises(Oversize):
        codec.decode_exchange(LABEL, b"zx" + b"\0" * codec.EXCHANGE_BYTES_MAX)
    with pytest.raises(Malformed):
        codec.decode_packet(LABEL, good + b"\0")


@pytest.mark.parametrize(
    "body",
    [
        b"\x91" * 1200,  # nested deeply
        b"\xdd\xff\xff\xff\xff",  # an array of four thousand million
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\xd6\xff\0\0\0\0",  # a timestamp extension
        b"\xc1",
        b"",
    ],
)
def test_lengths_nesting_and_extensions_are_capped(body: bytes) -> None:
    with pytest.raises(Malformed):
        codec.decode_packet(LABEL, frame(0)[:-1] + body)


def longest_member() -> Member:
    facts: dict[str, str] = {f"f{number}": "x" * 60 for number in range(7)}
    facts["rest"] = "x" * 49
    codec.check_member(Member(str(UUID(int=2**128 - 1)), 2**63 - 1, "z", "h", 1, facts=facts))
    return Member(
        node_id=str(UUID(int=2**128 - 1)),
        generation=2**63 - 1,
        zone="z" * codec.ZONE_BYTES_MAX,
        host="h" * codec.HOST_BYTES_MAX,
        port=65535,
        incarnation=2**63 - 1,
        revision=2**63 - 1,
        facts=facts,
        public=b"p" * 32,
        signature=b"s" * 64,
    )


def test_everything_mandatory_fits_a_datagram_at_the_longest_names() -> None:
    member = longest_member()
    size = len(msgpack.packb(dict(member.facts)))
    assert codec.FACTS_BYTES_MAX - 20 < size <= codec.FACTS_BYTES_MAX
    label = "l" * codec.LABEL_BYTES_MAX
    accusation = Suspect(member.node_id, member.generation, member.incarnation, member.node_id)
    ping = PingReq(2**63 - 1, member.node_id, "h" * codec.HOST_BYTES_MAX, 65535, codec.BUDGET_MS_MAX)
    for mandatory in ((Alive(member),), (ping, accusation), (Ping(2**63 - 1, member.node_id), accusation)):
        data = codec.encode_packet(label, Packet(member.node_id, 2**63 - 1, mandatory))
        assert len(data) + SEALED_BYTES <= GossipOptions().datagram_bytes
        assert codec.decode_packet(label, data).parts == mandatory


def test_the_largest_table_fits_an_exchange() -> None:
    entry = Entry(longest_member(), State.ALIVE)
    data = codec.encode_exchange(LABEL, ExchangeState(str(UUID(int=1)), 1, (entry,) * codec.ENTRIES_MAX))
    assert len(data) <= codec.EXCHANGE_BYTES_MAX
    assert len(codec.decode_exchange(LABEL, data).entries) == codec.ENTRIES_MAX


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"zone": ""}, "zone name"),
        ({"zone": "ä" * 33}, "zone name"),
        ({"zone": "a\nb"}, "zone name"),
        ({"host": "h" * 254}, "host"),
        ({"port": 0}, "port"),
        ({"generation": -1}, "generation"),
        ({"node_id": "zone-a"}, "UUID"),
        ({"facts": {"x": "y" * 520}}, "fact"),
        ({"facts": {"x": float("nan")}}, "fact"),
        ({"facts": {"x": [1]}}, "fact"),
        ({"facts": {"x": "\ud800"}}, "fact"),
    ],
)
def test_an_own_identity_that_would_not_travel_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    fields: dict[str, Any] = {
        "node_id": str(UUID(int=1)), "generation": 1, "zone": "a", "host": "127.0.0.1", "port": 9293,
    }  # fmt: skip
    codec.check_member(Member(**fields))
    with pytest.raises(BadIdentity, match=named):
        codec.check_member(Member(**{**fields, **changes}))


@pytest.mark.parametrize("label", ["", "x" * 65, "a\tb"])
def test_a_label_that_would_not_travel_is_refused(label: str) -> None:
    with pytest.raises(BadIdentity):
        codec.check_label(label)
