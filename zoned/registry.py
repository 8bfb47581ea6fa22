"""The elected role: accepts writes of all nodes and orders them.

A node's writes must enter the log in their sequence. The registry remembers, for as long as it leads, the last
sequence that it appended for each node; what comes twice is acknowledged and skipped, what comes too early is sent
back. Applying checks all of this once more (`store.apply`): the memory here only keeps the log free of repeats.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

from store import apply, urgent
from store.database import Database
from store.operations import Write, encode_write
from zoned.engine import Engine
from zoned.errors import PeerRefused
from zoned.raft.ready import Busy, NotLeader


@dataclass(frozen=True, slots=True)
class Accepted:
    """Everything up to `through` is in the registry's log of `term`, not necessarily committed."""

    through: int
    term: int


@dataclass(frozen=True, slots=True)
class NotRegistry:
    """This node does not order writes; `registry` is who seems to, or ""."""

    registry: str


@dataclass(frozen=True, slots=True)
class Overloaded:
    """Too much is uncommitted; try again a little later. Nothing was appended."""


Answer = Accepted | NotRegistry | Overloaded


class Registry:
    """The accepting side of the write path, on whichever node is elected."""

    def __init__(self, engine: Engine, database: Database) -> None:
        self._engine = engine
        self._database = database
        self._term = 0
        self._appended: dict[str, int] = {}  # per node, only for `_term`
        self._ahead: dict[str, set[int]] = {}  # beyond that, likewise: what rode ahead

    @property
    def is_registry(self) -> bool:
        return self._engine.is_registry

    def accept(self, writes: Sequence[Write]) -> Answer:
        """Appends writes of one node, in sequence order without gaps; not committed when this returns.

        What rides ahead is appended whatever is missing before it, and never again in this term.
        """
        engine = self._engine
        if not engine.is_registry:
            return NotRegistry(engine.holder or "")
        if engine.term != self._term:
            # A new term: an earlier registry's entries are all applied, so the marks are whole.
            self._term = engine.term
            self._appended.clear()
            self._ahead.clear()
        reader, node = self._database.reader, writes[0].node
        appended = max(self._appended.get(node, 0), apply.mark(reader, node))
        ahead = {one for one in self._ahead.get(node, set()) | urgent.applied(reader, node) if one > appended}
        fresh = due(writes, appended, ahead)
        if not fresh:
            return Accepted(appended, self._term)
        try:
            engine.propose([encode_write(write) for write in fresh])
        except NotLeader as error:
            return NotRegistry(error.leader_id or "")
        except Busy:
            return Overloaded()
        if fresh[0].ahead:
            self._ahead[node] = ahead | {write.sequence for write in fresh}
            return Accepted(appended, self._term)
        self._appended[node] = fresh[-1].sequence
        return Accepted(fresh[-1].sequence, self._term)


def due(writes: Sequence[Write], appended: int, ahead: Set[int]) -> list[Write]:
    """What of `writes`, all ahead or none, belongs in the log behind `appended` and what came `ahead` of that."""
    fresh = [write for write in writes if write.sequence > appended and write.sequence not in ahead]
    if fresh and not fresh[0].ahead:
        between = range(appended + 1, fresh[0].sequence)
        return fresh if all(one in ahead for one in between) else []
    return fresh


def pack(answer: Answer) -> list[Any]:
    """An answer for the peer plane."""
    match answer:
        case Accepted(through, term):
            return ["accepted", through, term]
        case NotRegistry(registry):
            return ["not-registry", registry]
        case Overloaded():
            return ["overloaded"]


def unpack(packed: Any) -> Answer:
    """Raises PeerRefused for anything but a packed answer."""
    match packed:
        case ["accepted", int(through), int(term)]:
            return Accepted(through, term)
        case ["not-registry", str(registry)]:
            return NotRegistry(registry)
        case ["overloaded"]:
            return Overloaded()
        case _:
            raise PeerRefused("answered a forwarded write with something else")
