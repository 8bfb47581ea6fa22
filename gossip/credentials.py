"""Who may say what of whom: descriptions and good-byes signed by the node they are about. Sans-IO.

The keys that seal datagrams keep strangers out, but whoever steals one could speak for every node. So each node has a
key pair of its own (Ed25519, RFC 8032), and its ID *is* the hash of the public key: nobody has to vouch for it, and no
table of known keys has to be kept. A description or a good-bye counts only with a signature that fits the ID; and
nobody may accuse a node at a version that it never stated itself, so no forged accusation outranks its refutation.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import msgpack
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gossip.members import MemberView
from gossip.messages import Alive, Claim, Left, Member, State

SECRET_BYTES = 32


def node_id_of(public: bytes) -> str:
    """The ID of the node with this public key: a UUID of version 8 (RFC 9562), 122 bits of SHA-256."""
    raw = bytearray(hashlib.sha256(b"zoned node " + public).digest()[:16])
    raw[6] = raw[6] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    return str(UUID(bytes=bytes(raw)))


class Credentials:
    """A node's key pair, and the check of other nodes' signatures in one cluster."""

    def __init__(self, secret: bytes, label: str) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(secret)
        self._label = label
        self.public = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.node_id = node_id_of(self.public)

    def sign(self, me: Member) -> Member:
        """The same description with our public key and signature."""
        return replace(me, public=self.public, signature=self._private.sign(self._description(me)))

    def sign_left(self, me: Member) -> bytes:
        return self._private.sign(self._farewell(me.node_id, me.generation, me.incarnation))

    def is_genuine(self, member: Member) -> bool:
        """Did this node describe itself so?"""
        return self._verify(member, lambda: self._description(member))

    def is_genuine_left(self, member: Member, left: Left) -> bool:
        """Did `member` say this good-bye? Its public key is taken from its description."""
        farewell = replace(member, signature=left.signature)
        return self._verify(farewell, lambda: self._farewell(left.node_id, left.generation, left.incarnation))

    def _verify(self, member: Member, signed: Callable[[], bytes]) -> bool:
        if len(member.public) != SECRET_BYTES or node_id_of(member.public) != member.node_id:
            return False
        try:
            Ed25519PublicKey.from_public_bytes(member.public).verify(member.signature, signed())
        except (InvalidSignature, ValueError):
            return False
        return True

    def _description(self, member: Member) -> bytes:
        facts = sorted(member.facts.items())
        about = [member.node_id, member.generation, member.incarnation, member.revision]
        return _packed(["alive", self._label, *about, member.zone, member.host, member.port, facts])

    def _farewell(self, node_id: str, generation: int, incarnation: int) -> bytes:
        return _packed(["left", self._label, node_id, generation, incarnation])


def _packed(value: object) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


class Trust:
    """What may be heard. Without credentials, all of it; `forged` counts what was not signed by whom it is about."""

    def __init__(self, credentials: Credentials | None) -> None:
        self.forged = 0
        self._credentials = credentials

    def signed(self, me: Member) -> Member:
        return self._credentials.sign(me) if self._credentials is not None else me

    def signed_left(self, me: Member) -> Member:
        if self._credentials is None:
            return me
        return replace(me, signature=self._credentials.sign_left(me))

    def goodbye(self, member: Member) -> Left:
        """What a member that left has said, from its row."""
        signature = member.signature if self._credentials is not None else b""
        return Left(member.node_id, member.generation, member.incarnation, signature)

    def is_genuine(self, member: Member, state: State) -> bool:
        """Whether a row about somebody unknown is that one's own word."""
        if self._credentials is None:
            return True
        if state is State.LEFT:
            genuine = self._credentials.is_genuine_left(member, self.goodbye(member))
        else:
            genuine = self._credentials.is_genuine(member)
        self.forged += not genuine
        return genuine

    def admits(self, claim: Claim, known: MemberView | None) -> bool:
        """Said by the node itself, or about something that it said itself."""
        if self._credentials is None:
            return True
        if isinstance(claim, Alive):
            # An equal one was checked when it came first.
            return (known is not None and known.member == claim.member) or self.is_genuine(claim.member, State.ALIVE)
        if known is None or (claim.generation, claim.incarnation) > (known.generation, known.member.incarnation):
            return False  # no forgery, perhaps: it will be heard again when the node's own word is here
        if isinstance(claim, Left) and claim.signature != known.member.signature:
            genuine = self._credentials.is_genuine_left(known.member, claim)
            self.forged += not genuine
            return genuine
        return True
