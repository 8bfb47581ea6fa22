"""What can be wrong in gossip, one named error each.

Every byte a stranger can send ends in a `CodecError` or in a message, never in anything else: the shells count the
first and feed the second. The reason under which it is counted is the class attribute `reason`.
"""


class GossipError(Exception):
    """Base of every error of this package. Nothing was changed."""


class CodecError(GossipError):
    """The bytes are not a message of this cluster in this version. They were dropped; nothing was changed."""

    reason = "malformed"


class NotAFrame(CodecError):
    """The first bytes are not ours: some other protocol, or noise. Dropped; nothing was changed."""

    reason = "garbage"


class WrongVersion(CodecError):
    """Ours, but of a protocol version that we do not speak. Dropped; nothing was changed."""

    reason = "version"

    def __init__(self, theirs: int, ours: int) -> None:
        super().__init__(f"gossip protocol version {theirs} is not spoken here, ours is {ours}")
        self.theirs = theirs
        self.ours = ours


class WrongLabel(CodecError):
    """Ours, but of another cluster. Dropped; nothing was changed on either side."""

    reason = "label"

    def __init__(self, theirs: str, ours: str) -> None:
        super().__init__(f"cluster label {theirs!r} does not match ours, {ours!r}")
        self.theirs = theirs
        self.ours = ours


class Oversize(CodecError):
    """Longer than a frame of this kind may be. Dropped unread; nothing was changed."""

    reason = "oversize"


class Malformed(CodecError):
    """The header is right and the body is not: types, ranges, lengths or nesting. Dropped; nothing was changed."""


class NotSealed(CodecError):
    """Plain, where only sealed messages are taken. Dropped unread; nothing was changed."""

    reason = "plain"


class UnknownKey(CodecError):
    """Sealed with a key that we do not hold, or hold no more. Dropped unread; nothing was changed."""

    reason = "key"


class BadSeal(CodecError):
    """The seal does not fit: forged, damaged, or the answer to another question. Dropped; nothing was changed."""

    reason = "seal"


class Replayed(CodecError):
    """A sealed datagram that came before, or of a start of its sender that is over. Dropped; nothing was changed."""

    reason = "replay"


class KeyringError(GossipError):
    """No keyring, or a change that would break it; the text says why. The keyring stays as it was."""


class BadIdentity(GossipError):
    """An own identity or own facts that would not fit a datagram. Refused; what was published before stays."""


class ExchangeFailed(GossipError):
    """A full-state exchange did not come about: unreachable, refused or unreadable. It is dialled again later."""


class Starting(GossipError):
    """This node still asks whether it is the only one of its kind, and tells nobody anything. Ask again in a second."""


class NotAlone(GossipError):
    """Another running node holds what is ours alone. This start is refused before it said a word; the other goes on."""


class IdentityTaken(NotAlone):
    """A node with this very ID runs elsewhere: the data directory was copied. Nothing was sent; the other goes on."""


class AddressTaken(NotAlone):
    """Another node answers at the address that we were told to advertise. Nothing was sent; the other goes on."""
