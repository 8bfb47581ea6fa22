"""Messages to bytes and back. Sans-IO.

A frame is a clear header, then one msgpack value:

    2 bytes  magic: "zg" for a datagram, "zx" for a full-state exchange
    1 byte   protocol version
    1 byte   length of the cluster label, then the label (UTF-8)
    rest     msgpack array: [source, generation, [part, ...]], the source as the 16 bytes of its UUID;
             in a full state [source, generation, [entry, ...], keyring]

The header is compared before anything is parsed, so noise and other clusters cost next to nothing. The body is read
with every length capped, extension types refused and every field's type and range checked by hand: whatever the bytes
are, the outcome is a value or a `CodecError`. What each array holds is written beside its decoder.
"""

import math
from collections.abc import Callable, Container, Mapping
from functools import lru_cache
from typing import Any, NoReturn, TypeAlias
from uuid import UUID

import msgpack

from gossip.errors import BadIdentity, Malformed, NotAFrame, Oversize, WrongLabel, WrongVersion
from gossip.messages import (
    Ack,
    Alive,
    Dead,
    Digest,
    Entry,
    ExchangeState,
    Facts,
    FactValue,
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

VERSION = 1
MAGIC_DATAGRAM = b"zg"
MAGIC_EXCHANGE = b"zx"

LABEL_BYTES_MAX = 64
ZONE_BYTES_MAX = 64
HOST_BYTES_MAX = 253  # the longest DNS name
FACTS_BYTES_MAX = 512  # of the encoded map
VITALS_BYTES_MAX = 256  # of the encoded map
FACT_NAME_BYTES_MAX = 64
FACTS_MAX = 64
PARTS_MAX = 64
PART_TYPES_MAX = 127  # types up to here that we do not know are of a newer minor version and are skipped
FRAMES_MAX = 8  # packets in the answer to one packet that came by HTTP
ENTRIES_MAX = 4096
DATAGRAM_BYTES_MAX = 1400  # accepted; what we send is bounded by `GossipOptions.datagram_bytes`
EXCHANGE_BYTES_MAX = 6 * 1024 * 1024
BUDGET_MS_MAX = 600_000
KEYRING_BYTES_MAX = 2048
PUBLIC_BYTES = 32
SIGNATURE_BYTES = 64
INTEGER_MAX = 2**63 - 1
IDS_CACHED = 8192  # node IDs with both spellings at hand: half of the time of a decoding went there

Values: TypeAlias = list[Any]


def encode_packet(label: str, packet: Packet) -> bytes:
    parts = [_part_values(part) for part in packet.parts]
    return header(MAGIC_DATAGRAM, label) + _pack([_id_bytes(packet.source), packet.generation, parts])


def encode_exchange(label: str, state: ExchangeState) -> bytes:
    entries = [_entry_values(entry) for entry in state.entries]
    return header(MAGIC_EXCHANGE, label) + _pack([_id_bytes(state.source), state.generation, entries, state.keyring])


def part_bytes(part: Part) -> int:
    """The length of one part inside a datagram."""
    return len(_pack(_part_values(part)))


def overhead_bytes(label: str) -> int:
    """What a datagram holds besides its parts, at most."""
    return len(header(MAGIC_DATAGRAM, label)) + 1 + 18 + 9 + 3


def decode_packet(label: str, data: bytes) -> Packet:
    """Raises a `CodecError` for anything but a datagram of this cluster and version."""
    source, generation, parts = _body(MAGIC_DATAGRAM, label, data, DATAGRAM_BYTES_MAX, PARTS_MAX, 3)
    read = (_read_part(values) for values in parts)
    return Packet(source, generation, tuple(part for part in read if part is not None))


def decode_exchange(label: str, data: bytes) -> ExchangeState:
    """Raises a `CodecError` for anything but the full state of a member of this cluster and version."""
    source, generation, entries, keyring = open_exchange(label, data)
    return ExchangeState(source, generation, read_entries(entries), keyring)


def open_exchange(label: str, data: bytes) -> tuple[str, int, Values, bytes]:
    """Source, generation, raw entries (for `read_entries`: a large state is read in slices) and keyring."""
    source, generation, entries, keyring = _body(MAGIC_EXCHANGE, label, data, EXCHANGE_BYTES_MAX, ENTRIES_MAX, 4)
    return source, generation, entries, _bytes(keyring, "keyring", range(KEYRING_BYTES_MAX + 1))


def read_entries(values: Values) -> tuple[Entry, ...]:
    """Raises `Malformed`."""
    return tuple(_read_entry(one) for one in values)


def join_frames(frames: list[bytes]) -> bytes:
    """Packets as one HTTP body: each with its length in two bytes before it."""
    return b"".join(len(frame).to_bytes(2) + frame for frame in frames[:FRAMES_MAX])


def split_frames(body: bytes) -> list[bytes]:
    """The packets of such a body; what is cut off or beyond FRAMES_MAX is not read."""
    frames: list[bytes] = []
    while len(body) >= 2 and len(frames) < FRAMES_MAX:
        length = int.from_bytes(body[:2])
        frames.append(body[2 : 2 + length])
        body = body[2 + length :]
    return frames


def is_packet(data: bytes) -> bool:
    """Is this, by its first bytes, a datagram and not a full state?"""
    return data[:2] == MAGIC_DATAGRAM


def check_member(member: Member) -> Member:
    """An own identity that every peer will be able to read; raises `BadIdentity` naming the field."""
    try:
        _read_member(_member_values(member))
    except Malformed as bad:
        raise BadIdentity(f"own identity: {bad}") from None
    except (ValueError, TypeError, OverflowError):
        raise BadIdentity(f"own identity: {member.node_id!r} is not a UUID or a fact is of no simple type") from None
    return member


def check_label(label: str) -> str:
    if not label or len(label.encode()) > LABEL_BYTES_MAX or not label.isprintable():
        raise BadIdentity(f"cluster label: 1 to {LABEL_BYTES_MAX} printable bytes are needed")
    return label


def header(magic: bytes, label: str) -> bytes:
    raw = label.encode()
    return magic + bytes((VERSION, len(raw))) + raw


def _pack(value: object) -> bytes:
    return msgpack.packb(value)


@lru_cache(IDS_CACHED)
def _id_bytes(node_id: str) -> bytes:
    return UUID(node_id).bytes


def _member_values(member: Member) -> Values:
    return [
        _id_bytes(member.node_id),
        member.generation,
        member.incarnation,
        member.revision,
        member.zone,
        member.host,
        member.port,
        dict(member.facts),
        member.public,
        member.signature,
    ]


def _entry_values(entry: Entry) -> Values:
    return [entry.state.value, *_member_values(entry.member), entry.beat, dict(entry.vitals), entry.relayed]


def _part_values(part: Part) -> Values:
    match part:
        case Ping(seq, target):
            return [0, seq, _id_bytes(target)]
        case Ack(seq):
            return [1, seq]
        case PingReq(seq, target, host, port, budget_ms):
            return [2, seq, _id_bytes(target), host, port, budget_ms]
        case Nack(seq):
            return [3, seq]
        case Alive(member):
            return [4, *_member_values(member)]
        case Suspect(node_id, generation, incarnation, accuser):
            return [5, _id_bytes(node_id), generation, incarnation, _id_bytes(accuser)]
        case Dead(node_id, generation, incarnation, accuser):
            return [6, _id_bytes(node_id), generation, incarnation, _id_bytes(accuser)]
        case Left(node_id, generation, incarnation, signature):
            return [7, _id_bytes(node_id), generation, incarnation, signature]
        case Digest(value, is_quiet):
            return [8, value, is_quiet]
        case Vitals(node_id, generation, beat, values):
            return [9, _id_bytes(node_id), generation, beat, dict(values)]


def _body(magic: bytes, label: str, data: bytes, bytes_max: int, items_max: int, length: int) -> Values:
    """[source, generation, items ...]."""
    if len(data) > bytes_max:
        raise Oversize(f"{len(data)} bytes, at most {bytes_max} are read")
    check_header(magic, label, data)
    body = _array(_unpack(data[4 + data[3] :], items_max), length)
    items = body[2]
    if type(items) is not list:
        _refuse("items")
    return [_id(body[0]), _integer(body[1], "generation"), *body[2:]]


def check_header(magic: bytes, label: str, data: bytes) -> None:
    if data[:2] != magic or len(data) < 4:
        raise NotAFrame(f"no {magic.decode()} frame")
    if data[2] != VERSION:
        raise WrongVersion(data[2], VERSION)
    theirs = data[4 : 4 + data[3]]
    if len(theirs) != data[3] or data[3] > LABEL_BYTES_MAX:
        raise Malformed("label")
    if theirs != label.encode():
        raise WrongLabel(theirs.decode(errors="replace"), label)


def _unpack(body: bytes, items_max: int) -> object:
    try:
        return msgpack.unpackb(
            body,
            strict_map_key=True,
            ext_hook=_no_extensions,
            max_str_len=FACTS_BYTES_MAX,
            max_bin_len=KEYRING_BYTES_MAX,
            max_array_len=max(items_max, 16),
            max_map_len=FACTS_MAX,
            max_ext_len=0,
        )
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as bad:
        raise Malformed(f"body: {type(bad).__name__}") from None


def _no_extensions(code: int, data: bytes) -> NoReturn:
    raise ValueError("extension type")


def _refuse(what: str) -> NoReturn:
    raise Malformed(what)


# Readers of one field each. `type(x) is` and not isinstance: True must not pass for 1.


def _array(value: object, length: int) -> Values:
    if type(value) is not list or len(value) != length:
        _refuse("array")
    return value


def _integer(value: object, what: str, least: int = 0, most: int = INTEGER_MAX) -> int:
    if type(value) is not int or not least <= value <= most:
        _refuse(what)
    return value


def _id(value: object) -> str:
    if type(value) is not bytes or len(value) != 16:
        _refuse("node ID")
    return _id_text(value)


@lru_cache(IDS_CACHED)
def _id_text(raw: bytes) -> str:
    return str(UUID(bytes=raw))


def _bytes(value: object, what: str, lengths: Container[int]) -> bytes:
    if type(value) is not bytes or len(value) not in lengths:
        _refuse(what)
    return value


def _text(value: object, what: str, bytes_max: int) -> str:
    # Printable, because it ends in logs and terminals.
    if type(value) is not str or not value or not value.isprintable() or len(value.encode()) > bytes_max:
        _refuse(what)
    return value


def _fact(value: object) -> FactValue:
    # None is no value: publishing it withdraws the fact. NaN would never equal itself and so always be news.
    if type(value) is float and math.isfinite(value):
        return value
    if type(value) is int and -INTEGER_MAX <= value <= INTEGER_MAX:
        return value
    if type(value) is bool or type(value) is str or type(value) is bytes:
        return value
    _refuse("fact")


def read_vitals(value: object) -> Facts:
    """Vitals that may travel; raises `Malformed`."""
    return read_facts(value, VITALS_BYTES_MAX)


def read_facts(value: object, bytes_max: int = FACTS_BYTES_MAX) -> Facts:
    """Facts that may travel; raises `Malformed`."""
    if not isinstance(value, Mapping) or len(value) > FACTS_MAX:
        _refuse("facts")
    facts = {_text(name, "fact name", FACT_NAME_BYTES_MAX): _fact(fact) for name, fact in value.items()}
    try:
        size = len(_pack(facts))
    except ValueError:  # a lone surrogate has no UTF-8
        _refuse("facts")
    if size > bytes_max:
        _refuse(f"facts of {size} bytes, at most {bytes_max} fit")
    return facts


def _read_member(values: Values) -> Member:
    """[id, generation, incarnation, revision, zone, host, port, facts, public key, signature]."""
    fields = _array(values, 10)
    return Member(
        node_id=_id(fields[0]),
        generation=_integer(fields[1], "generation"),
        incarnation=_integer(fields[2], "incarnation"),
        revision=_integer(fields[3], "revision"),
        zone=_text(fields[4], "zone name", ZONE_BYTES_MAX),
        host=_text(fields[5], "host", HOST_BYTES_MAX),
        port=_integer(fields[6], "port", 1, 65535),
        facts=read_facts(fields[7]),
        public=_bytes(fields[8], "public key", (0, PUBLIC_BYTES)),
        signature=_bytes(fields[9], "signature", (0, SIGNATURE_BYTES)),
    )


def _read_entry(value: object) -> Entry:
    """[state, member fields ..., beat, vitals, is relayed]."""
    values = _array(value, 14)
    state = State(_integer(values[0], "state", 0, 3))
    beat, vitals, relayed = _integer(values[11], "beat"), read_vitals(values[12]), _flag(values[13], "is relayed")
    return Entry(_read_member(values[1:11]), state, beat, vitals, relayed)


def _flag(value: object, what: str) -> bool:
    if type(value) is not bool:
        _refuse(what)
    return value


def _read_ping(values: Values) -> Part:
    """[seq, target]."""
    seq, target = _array(values, 2)
    return Ping(_integer(seq, "seq"), _id(target))


def _read_ack(values: Values) -> Part:
    """[seq]."""
    return Ack(_integer(_array(values, 1)[0], "seq"))


def _read_ping_req(values: Values) -> Part:
    """[seq, target, host, port, budget in ms]."""
    seq, target, host, port, budget = _array(values, 5)
    return PingReq(
        _integer(seq, "seq"),
        _id(target),
        _text(host, "host", HOST_BYTES_MAX),
        _integer(port, "port", 1, 65535),
        _integer(budget, "budget", 0, BUDGET_MS_MAX),
    )


def _read_nack(values: Values) -> Part:
    """[seq]."""
    return Nack(_integer(_array(values, 1)[0], "seq"))


def _read_alive(values: Values) -> Part:
    return Alive(_read_member(values))


def _read_suspect(values: Values) -> Part:
    """[id, generation, incarnation, accuser]."""
    return Suspect(*_read_accusation(values))


def _read_dead(values: Values) -> Part:
    """[id, generation, incarnation, accuser]."""
    return Dead(*_read_accusation(values))


def _read_accusation(values: Values) -> tuple[str, int, int, str]:
    node_id, generation, incarnation, accuser = _array(values, 4)
    return _id(node_id), _integer(generation, "generation"), _integer(incarnation, "incarnation"), _id(accuser)


def _read_left(values: Values) -> Part:
    """[id, generation, incarnation, signature]."""
    node_id, generation, incarnation, signature = _array(values, 4)
    signed = _bytes(signature, "signature", (0, SIGNATURE_BYTES))
    return Left(_id(node_id), _integer(generation, "generation"), _integer(incarnation, "incarnation"), signed)


def _read_digest(values: Values) -> Part:
    """[digest, is quiet]."""
    value, is_quiet = _array(values, 2)
    return Digest(_integer(value, "digest"), _flag(is_quiet, "is quiet"))


def _read_vitals(values: Values) -> Part:
    """[id, generation, beat, values]."""
    node_id, generation, beat, facts = _array(values, 4)
    return Vitals(_id(node_id), _integer(generation, "generation"), _integer(beat, "beat", 1), read_vitals(facts))


_READERS: tuple[Callable[[Values], Part], ...] = (
    _read_ping,
    _read_ack,
    _read_ping_req,
    _read_nack,
    _read_alive,
    _read_suspect,
    _read_dead,
    _read_left,
    _read_digest,
    _read_vitals,
)


def _read_part(value: object) -> Part | None:
    """None for a type that a newer minor version may have added."""
    if type(value) is not list or not value:
        _refuse("part")
    kind = _integer(value[0], "part type", 0, PART_TYPES_MAX)
    return _READERS[kind](value[1:]) if kind < len(_READERS) else None
