"""What Raft nodes say to each other, and how it becomes bytes and back. Sans-IO.

Every message names its cluster, sender, recipient and term, so that a stale, misdirected or foreign one can be
dropped before anybody looks further. On the wire a message is one msgpack array that begins with a small tag;
positions, not names, because appends are most of the traffic. An entry travels without its index: the indices
of an append follow from `prev_index`, so a gap cannot even be expressed.

`decode` is the border: whatever bytes come in, out comes a message whose fields have the right types and sane
sizes, or `MessageError`. Values that are merely wrong (a stale term, an index out of nowhere) are the core's business.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgpack

from store.entries import Entry, EntryKind

WIRE_VERSION: Final = 1
ID_MAX_CHARS: Final = 64  # a UUID text is 36
NUMBER_MAX: Final = 2**53 - 1  # terms, indices, rounds
ENTRY_MAX_BYTES: Final = 4 * 1024 * 1024
APPEND_MAX_ENTRIES: Final = 16_384
MESSAGE_MAX_BYTES: Final = 16 * 1024 * 1024
BATCH_MAX_MESSAGES: Final = 1_024
BATCH_MAX_BYTES: Final = 32 * 1024 * 1024


class MessageError(ValueError):
    """These bytes are not a message of ours. Nothing was kept of them."""


@dataclass(frozen=True, slots=True)
class Header:
    """What every message carries."""

    cluster_id: str
    sender: str
    recipient: str
    term: int


@dataclass(frozen=True, slots=True)
class PreVote(Header):
    """Would you vote for me in `term` (one above the sender's own)? Promises nothing, changes nothing."""

    last_index: int
    last_term: int


@dataclass(frozen=True, slots=True)
class PreVoteReply(Header):
    """Granted: `term` is the one asked for. Refused: `term` is the sender's own, so that the asker catches up."""

    granted: bool


@dataclass(frozen=True, slots=True)
class Vote(Header):
    """Vote for me. `transfer`: the leader itself asked me to stand, so its being alive is no objection."""

    last_index: int
    last_term: int
    transfer: bool = False


@dataclass(frozen=True, slots=True)
class VoteReply(Header):
    """A granted vote is on the sender's disk."""

    granted: bool


@dataclass(frozen=True, slots=True)
class Append(Header):
    """Entries that follow (prev_index, prev_term) in the leader's log, and how far that log is committed."""

    prev_index: int
    prev_term: int
    commit: int
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class AppendReply(Header):
    """Accepted: the sender's log equals the leader's up to `index`, on disk. Rejected: it differs at `index`.

    The hint is the last place where the sender's log could still agree (etcd-io/raft's rule), so that a leader
    skips a whole diverged term in one round trip.
    """

    index: int
    rejected: bool = False
    hint_index: int = 0
    hint_term: int = 0


@dataclass(frozen=True, slots=True)
class Heartbeat(Header):
    """I lead. `commit` is never beyond what this recipient has acknowledged. `round` 0 asks for no reply."""

    commit: int
    round: int


@dataclass(frozen=True, slots=True)
class HeartbeatReply(Header):
    """I follow you, as of when I read `round`. Promises nothing about any disk."""

    round: int


@dataclass(frozen=True, slots=True)
class TimeoutNow(Header):
    """Stand for election at once: the leader hands over to you."""


@dataclass(frozen=True, slots=True)
class SnapshotOffer(Header):
    """You need entries that I have compacted away; fetch my state as of (index, index_term) instead."""

    index: int
    index_term: int


Message: TypeAlias = (
    Append
    | AppendReply
    | Heartbeat
    | HeartbeatReply
    | PreVote
    | PreVoteReply
    | Vote
    | VoteReply
    | TimeoutNow
    | SnapshotOffer
)


def encode(message: Message) -> bytes:
    """One message as bytes."""
    packed: bytes = msgpack.packb(_to_array(message))
    return packed


def encode_batch(messages: Sequence[Message]) -> bytes:
    """Several messages, in order, as the body of one request; at most `BATCH_MAX_MESSAGES`."""
    packed: bytes = msgpack.packb([WIRE_VERSION, [_to_array(message) for message in messages]])
    return packed


def decode(data: bytes) -> Message:
    """The message in `data`; `MessageError` for anything else whatsoever."""
    if len(data) > MESSAGE_MAX_BYTES:
        raise MessageError(f"message of {len(data)} bytes, at most {MESSAGE_MAX_BYTES} are allowed")
    return _from_array(_unpack(data))


def decode_batch(data: bytes) -> list[Message]:
    """The messages in `data`, in order; `MessageError` if any of them is malformed (then none is returned)."""
    if len(data) > BATCH_MAX_BYTES:
        raise MessageError(f"batch of {len(data)} bytes, at most {BATCH_MAX_BYTES} are allowed")
    batch = _array(_unpack(data), 2)
    if batch[0] != WIRE_VERSION:
        raise MessageError(f"wire version {batch[0]!r:.32}, this node speaks {WIRE_VERSION}")
    arrays = batch[1]
    if not isinstance(arrays, list) or len(arrays) > BATCH_MAX_MESSAGES:
        raise MessageError(f"a batch holds a list of at most {BATCH_MAX_MESSAGES} messages")
    return [_from_array(array) for array in arrays]


def _to_array(message: Message) -> list[object]:
    head: list[object] = [_TAGS[type(message)], message.cluster_id, message.sender, message.recipient, message.term]
    match message:
        case Append(prev_index=prev_index, prev_term=prev_term, commit=commit, entries=entries):
            head += [prev_index, prev_term, commit, [[e.term, int(e.kind), e.data] for e in entries]]
        case AppendReply(index=index, rejected=rejected, hint_index=hint_index, hint_term=hint_term):
            head += [index, rejected, hint_index, hint_term]
        case Heartbeat(commit=commit, round=round_):
            head += [commit, round_]
        case HeartbeatReply(round=round_):
            head += [round_]
        case PreVote(last_index=last_index, last_term=last_term):
            head += [last_index, last_term]
        case Vote(last_index=last_index, last_term=last_term, transfer=transfer):
            head += [last_index, last_term, transfer]
        case PreVoteReply(granted=granted) | VoteReply(granted=granted):
            head += [granted]
        case SnapshotOffer(index=index, index_term=index_term):
            head += [index, index_term]
        case TimeoutNow():
            pass
    return head


def _unpack(data: bytes) -> object:
    try:
        unpacked: object = msgpack.unpackb(
            data,
            max_str_len=ID_MAX_CHARS * 4,
            max_bin_len=ENTRY_MAX_BYTES,
            max_array_len=APPEND_MAX_ENTRIES,
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise MessageError(f"not msgpack within the limits: {error}") from error
    return unpacked


def _from_array(array: object) -> Message:
    if not isinstance(array, list) or not array:
        raise MessageError("a message is a non-empty array")
    tag = array[0]
    if type(tag) is not int or tag not in _SHAPES:
        raise MessageError(f"unknown kind of message {tag!r:.32}")
    build, width = _SHAPES[tag]
    fields = _array(array, 5 + width)
    return build((_id(fields[1]), _id(fields[2]), _id(fields[3]), _number(fields[4])), fields[5:])


def _array(value: object, length: int) -> list[object]:
    if not isinstance(value, list) or len(value) != length:
        raise MessageError(f"expected an array of {length}")
    return value


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value <= NUMBER_MAX:
        raise MessageError(f"expected a whole number up to {NUMBER_MAX}, not {value!r:.32}")
    return value


def _flag(value: object) -> bool:
    if type(value) is not bool:
        raise MessageError(f"expected true or false, not {value!r:.32}")
    return value


def _id(value: object) -> str:
    if type(value) is not str or not 0 < len(value) <= ID_MAX_CHARS:
        raise MessageError(f"expected an ID of 1 to {ID_MAX_CHARS} characters, not {value!r:.32}")
    return value


def _entries(prev_index: int, value: object) -> tuple[Entry, ...]:
    if not isinstance(value, list):
        raise MessageError("expected an array of entries")
    entries = []
    for offset, packed in enumerate(value, 1):
        term, kind, data = _array(packed, 3)
        if type(data) is not bytes:
            raise MessageError("the data of an entry is bytes")
        if type(kind) is not int or kind not in _KINDS:
            raise MessageError(f"unknown kind of entry {kind!r:.32}")
        entries.append(Entry(prev_index + offset, _number(term), _KINDS[kind], data))
    return tuple(entries)


_Head: TypeAlias = tuple[str, str, str, int]
_Builder: TypeAlias = Callable[[_Head, list[Any]], Message]


def _append(head: _Head, rest: list[Any]) -> Message:
    prev_index = _number(rest[0])
    return Append(*head, prev_index, _number(rest[1]), _number(rest[2]), _entries(prev_index, rest[3]))


def _append_reply(head: _Head, rest: list[Any]) -> Message:
    return AppendReply(*head, _number(rest[0]), _flag(rest[1]), _number(rest[2]), _number(rest[3]))


_KINDS: Final = {int(kind): kind for kind in EntryKind}

# Tag, class, builder and number of fields after the head. Tags are for ever: a new shape gets a new tag.
_TABLE: Final[tuple[tuple[int, type[Message], _Builder, int], ...]] = (
    (1, PreVote, lambda h, r: PreVote(*h, _number(r[0]), _number(r[1])), 2),
    (2, PreVoteReply, lambda h, r: PreVoteReply(*h, _flag(r[0])), 1),
    (3, Vote, lambda h, r: Vote(*h, _number(r[0]), _number(r[1]), _flag(r[2])), 3),
    (4, VoteReply, lambda h, r: VoteReply(*h, _flag(r[0])), 1),
    (5, Append, _append, 4),
    (6, AppendReply, _append_reply, 4),
    (7, Heartbeat, lambda h, r: Heartbeat(*h, _number(r[0]), _number(r[1])), 2),
    (8, HeartbeatReply, lambda h, r: HeartbeatReply(*h, _number(r[0])), 1),
    (9, TimeoutNow, lambda h, r: TimeoutNow(*h), 0),
    (10, SnapshotOffer, lambda h, r: SnapshotOffer(*h, _number(r[0]), _number(r[1])), 2),
)
_TAGS: Final = {shape: tag for tag, shape, _, _ in _TABLE}
_SHAPES: Final = {tag: (build, width) for tag, _, build, width in _TABLE}
