"""What the replicated log is made of: entries, hard state, membership. Sans-IO.

Shared by the Raft core (which orders entries) and the store (which keeps them); neither knows the other.
Words are those of the Raft paper (Ongaro and Ousterhout, 2014) and of etcd-io/raft.
"""

from dataclasses import dataclass
from enum import IntEnum

import msgpack


class EntryKind(IntEnum):
    """What applying an entry does."""

    NOOP = 0  # a new leader's first entry of its own term
    WRITE = 1  # data is one encoded `store.operations.Write`
    MEMBERSHIP = 2  # data is an encoded `Membership`


@dataclass(frozen=True, slots=True)
class Entry:
    """One ordered change. `index` starts at 1 and has no gaps; `data` is opaque to Raft."""

    index: int
    term: int
    kind: EntryKind
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class HardState:
    """What must be on disk before a message that depends on it leaves. `vote` is a node ID, or "" for none."""

    term: int = 0
    vote: str = ""
    commit: int = 0


@dataclass(frozen=True, slots=True)
class Membership:
    """Who takes part. Node IDs are UUID texts, sorted; `cluster_id` is fixed by the founding entry for ever.

    `learners` receive the log and do not vote. `removed` were taken out by an operator: nobody adds them by itself.
    `witnesses` are those of the voters and learners that serve nobody and give leadership away.
    """

    cluster_id: str
    voters: tuple[str, ...]
    learners: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    witnesses: tuple[str, ...] = ()

    def encode(self) -> bytes:
        nodes = (self.voters, self.learners, self.removed, self.witnesses)
        packed: bytes = msgpack.packb([self.cluster_id, *map(list, nodes)])
        return packed

    @classmethod
    def decode(cls, data: bytes) -> "Membership":
        cluster_id, voters, learners, removed, witnesses = msgpack.unpackb(data)
        return cls(cluster_id, tuple(voters), tuple(learners), tuple(removed), tuple(witnesses))
