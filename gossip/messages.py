"""What members say to each other, as values. Sans-IO.

Two kinds of things travel. *Probes* (Ping, Ack, PingReq, Nack) ask "are you there" and are worth nothing a second
later. *Claims* (Alive, Suspect, Dead, Left) are versioned statements about one member, and they spread from mouth to
mouth until everybody has heard them. A claim is decided by (generation, incarnation, rank of its state) alone, largest
wins, so the order and the number of times in which it arrives do not matter:

- the *generation* grows at every start of a node and is on disk before its first packet: a newer start beats everything
  said about an older one;
- the *incarnation* grows only by the node itself, when it refutes what others say of it;
- at equal version the worse state wins (alive < suspect < dead < left), so that an accusation can be heard at all.

The *facts* that a node publishes have a counter of their own, the *revision*: news of a role must neither refute a
suspicion nor be held up by one. What changes all the time (a position) is no fact but one of the *vitals*, which cost
no broadcast.

After SWIM (Das, Gupta, Motivala, 2002) and Lifeguard (Dadgar, Phillips, Currey, 2017).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias

# Host (an IP literal, or a name that the shell resolves) and the port that peers use for UDP and TCP alike.
Address: TypeAlias = tuple[str, int]
FactValue: TypeAlias = bool | int | float | str | bytes
Facts: TypeAlias = Mapping[str, FactValue]


class State(IntEnum):
    """What is believed of a member; the value is its rank at equal version."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


@dataclass(frozen=True, slots=True)
class Member:
    """One node as it describes itself. `node_id` is a UUID text; `host` and `port` are where its peers reach it."""

    node_id: str
    generation: int
    zone: str
    host: str
    port: int
    incarnation: int = 0
    revision: int = 0
    facts: Facts = field(default_factory=dict)
    public: bytes = b""  # Ed25519 key, and the signature of all above (of the good-bye, in a row that left)
    signature: bytes = b""

    @property
    def address(self) -> Address:
        return (self.host, self.port)


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there? `target` is the node meant: another process on a reused address must not answer."""

    seq: int
    target: str


@dataclass(frozen=True, slots=True)
class Ack:
    """The target of `seq` is there; from itself or forwarded by a helper."""

    seq: int


@dataclass(frozen=True, slots=True)
class PingReq:
    """Please ping `target` for me. After `budget_ms` I stop listening, so say Nack in good time."""

    seq: int
    target: str
    host: str
    port: int
    budget_ms: int


@dataclass(frozen=True, slots=True)
class Nack:
    """I am here and well, but I got no answer either: the fault is not on your side."""

    seq: int


@dataclass(frozen=True, slots=True)
class Alive:
    """The member as it last described itself."""

    member: Member


@dataclass(frozen=True, slots=True)
class Suspect:
    """`accuser` got no answer from this node."""

    node_id: str
    generation: int
    incarnation: int
    accuser: str


@dataclass(frozen=True, slots=True)
class Dead:
    """A suspicion ran out at `accuser` and nobody refuted it."""

    node_id: str
    generation: int
    incarnation: int
    accuser: str


@dataclass(frozen=True, slots=True)
class Left:
    """The node said good-bye; signed by itself where members sign."""

    node_id: str
    generation: int
    incarnation: int
    signature: bytes = b""


Verdict: TypeAlias = Suspect | Dead | Left


@dataclass(frozen=True, slots=True)
class Digest:
    """The sum of all that the sender believes (`Members.digest`); rides on acks. `is_quiet` when it has no news to pass
    on, so a difference between two quiet members means that one of them missed something.
    """

    value: int
    is_quiet: bool


@dataclass(frozen=True, slots=True)
class Vitals:
    """What changes all the time (a position, a load). It rides on pings and acks, the newest `beat` wins, a lost one is
    replaced by the next, and nobody spends a broadcast on them.
    """

    node_id: str
    generation: int
    beat: int
    values: Facts = field(default_factory=dict)


Claim: TypeAlias = Alive | Verdict
Part: TypeAlias = Ping | Ack | PingReq | Nack | Claim | Digest | Vitals


@dataclass(frozen=True, slots=True)
class Packet:
    """One datagram: who sends it, and what it says. The sender's generation tells at once of a restart."""

    source: str
    generation: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a full-state exchange; with the member's last vitals if it ever reported any, and whether it answers
    the teller only through others.
    """

    member: Member
    state: State
    beat: int = 0
    vitals: Facts = field(default_factory=dict)
    relayed: bool = False


@dataclass(frozen=True, slots=True)
class ExchangeState:
    """All that one node believes, sent to one peer and answered with the same from there. Sealed ones carry the
    keyring as well.
    """

    source: str
    generation: int
    entries: tuple[Entry, ...]
    keyring: bytes = b""


def same_facts(some: Facts, others: Facts) -> bool:
    # 1 == True == 1.0, but peers see the type.
    return some == others and all(type(value) is type(others[name]) for name, value in some.items())


def state_of(verdict: Verdict) -> State:
    match verdict:
        case Suspect():
            return State.SUSPECT
        case Dead():
            return State.DEAD
        case Left():
            return State.LEFT
