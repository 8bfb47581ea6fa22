"""What the core asks its shell to do, and what it has to tell. Sans-IO."""

from dataclasses import dataclass
from typing import TypeAlias

from gossip.members import Event, MemberView
from gossip.messages import Address, Packet

# The sender of what came by HTTP and the address of its answers: they go back on the same request.
ON_STREAM: Address = ("", 0)


@dataclass(frozen=True, slots=True)
class Change:
    """Something happened to a member; `view` is what is believed now."""

    event: Event
    view: MemberView


@dataclass(frozen=True, slots=True)
class Why:
    """What stands behind the belief about one member. Times are monotonic seconds of this process. `accuser` was the
    first (empty: hearsay), `expires` is when the suspicion becomes a conviction; `silences` are our last probes of it
    that nobody answered.
    """

    view: MemberView
    accuser: str | None
    confirmers: tuple[str, ...]
    expires: float | None
    silences: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Superseded:
    """Someone has met a newer start of this very node: two processes run with one data directory, or a copy of it. The
    newer one wins in every table; it is for the daemon to say so and for a person to act.
    """

    generation: int


@dataclass(frozen=True, slots=True)
class Copied:
    """Somebody describes itself as this very start of this node, from this address: two processes run with copies of
    one data directory. Nobody can tell which is the right one; it is for a person to stop the other.
    """

    address: Address


@dataclass(frozen=True, slots=True)
class Refusal:
    """A peer at this address is not of our cluster or version, and which is which; nothing was changed."""

    address: Address
    reason: str


Notice: TypeAlias = Change | Superseded | Copied | Refusal


@dataclass(frozen=True, slots=True)
class Send:
    """One datagram; with `stream` the same bytes as an HTTP POST to the same address, whose answer is received as if it
    had come as datagrams.
    """

    address: Address
    packet: Packet
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell whoever listens."""

    notice: Notice


@dataclass(frozen=True, slots=True)
class Exchange:
    """Do a full-state exchange with this address, and hand the answer to `Swim.merge`."""

    address: Address


Effect: TypeAlias = Send | Notify | Exchange
