"""What goes into the Raft core and comes out of it: options, rounds of work, notices, refusals. Sans-IO, data only."""

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from store.entries import Entry, HardState
from zoned.raft.log import RaftError
from zoned.raft.messages import Message


class NotLeader(RaftError):
    """Only the leader takes proposals. Nothing was appended; `leader_id` is who to ask, if known."""

    def __init__(self, leader_id: str | None) -> None:
        super().__init__(f"not the leader; the leader is {leader_id or 'unknown'}")
        self.leader_id = leader_id


class Busy(RaftError):
    """Too much is uncommitted already. Nothing was appended; try again after some of it has committed."""


class Refused(RaftError):
    """This change of membership or leadership is not allowed now, or not at all. Nothing was changed."""


class Role(Enum):
    """What a node is doing in its current term."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class Reason(Enum):
    """Why a leader stepped down."""

    HIGHER_TERM = "higher term"
    QUORUM_LOST = "quorum lost"
    REMOVED = "removed from the voters"


@dataclass(frozen=True, slots=True)
class RaftOptions:
    """Bounds and times. Times are in ticks, whose length the shell decides; sizes are in bytes.

    `cluster_id` is what a node with an empty log is allowed to join ("": none, so it ignores everybody); once
    the log holds a membership, that one's cluster counts.
    """

    cluster_id: str = ""
    heartbeat_ticks: int = 1
    election_ticks: int = 10  # the timeout is drawn from [election_ticks, 2 * election_ticks)
    append_max_entries: int = 1_024
    append_max_bytes: int = 256 * 1024
    inflight_max_messages: int = 64
    inflight_max_bytes: int = 4 * 1024 * 1024
    uncommitted_max_bytes: int = 16 * 1024 * 1024
    committed_max_entries: int = 512
    committed_max_bytes: int = 1024 * 1024
    cache_max_entries: int = 2_048
    cache_max_bytes: int = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class BecameLeader:
    """This node leads `term`; not yet the registry, see `Raft.is_registry`."""

    term: int


@dataclass(frozen=True, slots=True)
class SteppedDown:
    """This node led `term` and does no more."""

    term: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class LeaderChanged:
    """Whom this node follows (or None) as of `term`."""

    term: int
    leader_id: str | None


@dataclass(frozen=True, slots=True)
class Campaigning:
    """This node asks for (pre-)votes to lead `term`."""

    term: int
    pre: bool


@dataclass(frozen=True, slots=True)
class Suspicious:
    """A message that no correct peer of this cluster sends was dropped."""

    sender: str
    what: str


@dataclass(frozen=True, slots=True)
class TransferFailed:
    """`target` did not take over within an election timeout; this node goes on leading `term`."""

    term: int
    target: str


@dataclass(frozen=True, slots=True)
class SnapshotWanted:
    """`leader_id` has compacted what this node needs: fetch its state as of `index` or later, then `Raft.restore`.

    Comes again every election timeout until that is done.
    """

    leader_id: str
    index: int
    term: int


Notice: TypeAlias = (
    BecameLeader | SteppedDown | LeaderChanged | Campaigning | Suspicious | TransferFailed | SnapshotWanted
)


@dataclass(frozen=True, slots=True)
class Read:
    """The answer to `Raft.read_index`: once `index` is applied, a read sees everything acknowledged before the request.

    None: leadership was lost first; ask again, elsewhere.
    """

    ticket: int
    index: int | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where a fetched state stands: everything up to `index` is in it. `membership` is the entry in force there."""

    index: int
    term: int
    membership: Entry


@dataclass(frozen=True, slots=True)
class Ready:
    """One round of work for the shell, in this order, the first four in one transaction:

    1. if there is a `snapshot`: put the fetched state in place of everything, the log ends (empty) at its index;
    2. delete log entries from `truncate_from` (None: nothing), insert `entries`;
    3. write `hard_state` (None: unchanged);
    4. apply `committed` in order, which may include some of `entries`, and the applied index;
    5. sync if `must_sync`; 6. send `messages`; 7. call `advance`.
    """

    hard_state: HardState | None
    truncate_from: int | None
    entries: tuple[Entry, ...]
    messages: tuple[Message, ...]
    committed: tuple[Entry, ...]
    must_sync: bool
    snapshot: Snapshot | None = None
