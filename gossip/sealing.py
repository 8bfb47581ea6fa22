"""Frames under seal: AES-256-GCM around what the codec makes. Sans-IO (nonces are handed in).

    2 bytes   magic "zs"
    1 byte    protocol version
    1 byte    length of the cluster label, then the label
    4 bytes   key ID
    16 bytes  sender, the bytes of its UUID
    12 bytes  nonce, random: a counter would repeat after a restart
    rest      AES-256-GCM of: 1 byte kind ("g" datagram, "x" full state), 8 bytes sequence, the frame's msgpack body

All before the nonce is the associated data; in the answer to an HTTP request the request's nonce follows it, so no
answer fits another question. The *replay window* lets each sequence number of a sender's start pass once.

`Sealing` is how far a cluster has come on the way from plain to sealed: accept everywhere, then send, then require;
at every step all nodes understand each other.
"""

from dataclasses import dataclass
from enum import Enum
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gossip.codec import EXCHANGE_BYTES_MAX, check_header, header
from gossip.errors import BadSeal, Malformed, NotSealed, Oversize, Replayed, UnknownKey
from gossip.keyring import ID_BYTES, Key, Keyring, Role

MAGIC = b"zs"
NONCE_BYTES = 12
SEALED_BYTES = ID_BYTES + 16 + NONCE_BYTES + 16 + 9  # what a seal adds to a frame, at most
WINDOW = 1024  # sequence numbers behind the highest that may still come
STARTS_MAX = 8192


class Sealing(Enum):
    """What is sent and what is read."""

    OFF = "off"  # plain; sealed is refused
    ACCEPT = "accept"  # send plain, read both
    SEND = "send"  # send sealed, read both
    REQUIRE = "require"  # send sealed, read sealed only


@dataclass(frozen=True, slots=True)
class Opened:
    """A frame as the codec reads it, and how it came. `key` is None when it came plain."""

    frame: bytes
    source: str | None = None
    sequence: int = 0
    key: Key | None = None
    nonce: bytes = b""


class Envelope:
    """Seals and opens for one node. `keyring` may be replaced at any time."""

    def __init__(self, label: str, sealing: Sealing, keyring: Keyring | None) -> None:
        if sealing is not Sealing.OFF and keyring is None:
            raise ValueError("sealing needs a keyring")
        self.sealing = sealing
        self.keyring = keyring
        self._label = label
        self._sequence = 0

    @property
    def seals(self) -> bool:
        return self.keyring is not None and self.sealing in (Sealing.SEND, Sealing.REQUIRE)

    def close(self, frame: bytes, source: str, nonce: bytes, answers: Opened | None = None) -> bytes:
        """The frame as it leaves: sealed with the primary key, or with the key of the question that it answers."""
        asked_sealed = answers is not None and answers.key is not None
        if self.keyring is None or not (self.seals or asked_sealed) or (answers is not None and not asked_sealed):
            return frame
        key = answers.key if answers is not None and answers.key is not None else self.keyring.primary
        self._sequence += 1
        clear = header(MAGIC, self._label) + key.raw_id + UUID(source).bytes
        inner = frame[1:2] + self._sequence.to_bytes(8) + frame[len(header(MAGIC, self._label)) :]
        bound = clear + (answers.nonce if answers is not None else b"")
        return clear + nonce + AESGCM(key.secret).encrypt(nonce, inner, bound)

    def open(self, data: bytes, question: bytes = b"") -> Opened:
        """Raises a `CodecError`. `question` is the nonce of the request that this answers."""
        if data[:2] != MAGIC:
            if self.sealing is Sealing.REQUIRE:
                raise NotSealed("only sealed messages are taken here (gossip.sealing)")
            return Opened(data)
        if len(data) > EXCHANGE_BYTES_MAX + SEALED_BYTES:
            raise Oversize(f"{len(data)} bytes, at most {EXCHANGE_BYTES_MAX} are read")
        check_header(MAGIC, self._label, data)
        start = len(header(MAGIC, self._label))
        raw_id, source = data[start : start + ID_BYTES], data[start + ID_BYTES : start + ID_BYTES + 16]
        nonce = data[start + ID_BYTES + 16 : start + ID_BYTES + 16 + NONCE_BYTES]
        if len(nonce) < NONCE_BYTES:
            raise Malformed("seal")
        key = self.keyring.find(raw_id) if self.keyring is not None and self.sealing is not Sealing.OFF else None
        if key is None:
            raise UnknownKey(f"sealed with key {raw_id.hex()}, which is not in the keyring here")
        clear = data[: start + ID_BYTES + 16]
        try:
            inner = AESGCM(key.secret).decrypt(nonce, data[len(clear) + NONCE_BYTES :], clear + question)
        except InvalidTag:
            raise BadSeal(f"the seal of key {key.key_id} does not fit") from None
        if len(inner) < 9 or inner[:1] not in (b"g", b"x"):
            raise Malformed("seal")
        if key.role is Role.RETIRED and inner[:1] != b"x":
            raise UnknownKey(f"sealed with key {key.key_id}, which is retired")
        frame = header(b"z" + inner[:1], self._label) + inner[9:]
        return Opened(frame, str(UUID(bytes=source)), int.from_bytes(inner[1:9]), key, nonce)


def nonce_of(data: bytes) -> bytes:
    """The nonce of a frame that we sealed ourselves; empty for a plain one."""
    if data[:2] != MAGIC:
        return b""
    start = 4 + data[3] + ID_BYTES + 16
    return data[start : start + NONCE_BYTES]


class ReplayWindow:
    """Which sequence numbers of each sender's start have come."""

    def __init__(self) -> None:
        self._starts: dict[tuple[str, int], tuple[int, int]] = {}  # the highest, and bits of those behind it

    def check(self, source: str, generation: int, sequence: int, newest: int) -> None:
        """Takes note of one; raises `Replayed`. `newest` is the generation of the sender as it described itself."""
        highest, seen = self._starts.pop((source, generation), (0, 0))
        ahead = sequence - highest
        is_new = generation >= newest and (ahead > 0 or (ahead > -WINDOW and not seen >> -ahead & 1))
        if is_new and ahead > 0:
            highest, seen = sequence, (seen << min(ahead, WINDOW) | 1) & ((1 << WINDOW) - 1)
        elif is_new:
            seen |= 1 << -ahead
        if len(self._starts) >= STARTS_MAX:
            del self._starts[next(iter(self._starts))]
        self._starts[(source, generation)] = highest, seen
        if not is_new:
            raise Replayed(f"sequence {sequence} of generation {generation} again")
