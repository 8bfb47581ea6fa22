"""The elected role: sequence order without gaps, on a log in memory and on a real Raft log of one voter.

`LogInMemory` stands in for a Raft node wherever a test needs to decide what an election keeps; the contract below is
run on it and on the real thing.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Protocol

import pytest

from store import apply, catalogue, log
from store.database import Database, open_writer
from store.entries import EntryKind
from store.operations import Create, Write, decode_write
from tests.zoned.conftest import ME, OTHER
from zoned.errors import PeerRefused
from zoned.founding import founding_entry, founding_membership
from zoned.raft.core import Raft
from zoned.raft.ready import Busy, NotLeader, RaftOptions, Ready
from zoned.raft.storage import StoredLog
from zoned.registry import Accepted, NotRegistry, Overloaded, Registry, pack, unpack

THIRD = "00000000-0000-4000-8000-00000000000c"
AT = "2026-11-22T09:00:00Z"


@dataclass
class Core:
    """What `Registry` looks at of a Raft core."""

    is_registry: bool = True
    term: int = 1
    leader_id: str | None = "leader"


class OverCore:
    """What `zoned.engine.Engine` asks for beside proposing, of whatever core there is."""

    core: Core | Raft
    is_informed = True

    @property
    def holder(self) -> str | None:
        return self.core.leader_id

    @property
    def term(self) -> int:
        return self.core.term

    @property
    def is_registry(self) -> bool:
        return self.core.is_registry

    async def read_index(self, *, patient: bool = False) -> int | None:
        raise NotImplementedError


@dataclass
class LogInMemory(OverCore):
    """A Raft node of which a test decides role, term, and which entries survive."""

    core: Core = field(default_factory=Core)
    entries: list[bytes] = field(default_factory=list)
    busy: bool = False

    def propose(self, writes: Sequence[bytes]) -> range:
        if not self.core.is_registry:
            raise NotLeader(self.core.leader_id)
        if self.busy:
            raise Busy
        self.entries += writes
        return range(len(self.entries) - len(writes) + 1, len(self.entries) + 1)

    def registry(self, database: Database) -> Registry:
        return Registry(self, database)

    def sequences(self, node: str = OTHER) -> list[int]:
        return [one.sequence for one in map(decode_write, self.entries) if one.node == node]


def write(sequence: int, node: str = OTHER) -> Write:
    return Write(node, sequence, Create(f"{sequence:08x}-0000-4000-8000-{node[-12:]}", None, AT, {}))


def writes(*sequences: int, node: str = OTHER) -> list[Write]:
    return [write(sequence, node) for sequence in sequences]


async def mark(database: Database, node: str, sequence: int) -> None:
    """As if that much of the node's writes had been applied."""
    await database.write(lambda c: c.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (node, sequence)))


class Opened(Protocol):
    """A registry and what entered its log."""

    registry: Registry

    def sequences(self, node: str = OTHER) -> list[int]: ...


@dataclass
class Memory:
    registry: Registry
    node: LogInMemory

    def sequences(self, node: str = OTHER) -> list[int]:
        return self.node.sequences(node)


class Real(OverCore):
    """A real Raft core of one voter on the real store, its rounds done at once."""

    core: Raft

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reader = database.reader
        self._writer = open_writer(database.path)
        membership = founding_membership("tests", [ME])
        self._write(lambda: log.save_entries(self._writer, [founding_entry(membership)]))
        options = RaftOptions(cluster_id=membership.cluster_id)
        self.core = Raft(ME, StoredLog(self._database), log.hard_state(self._reader), 0, options, Random(1))
        for _ in range(10 * options.election_ticks):
            self.core.tick()
            self._rounds()
        assert self.core.is_registry
        self.registry = Registry(self, self._database)

    def propose(self, writes: Sequence[bytes]) -> range:
        positions: range = self.core.propose([(EntryKind.WRITE, data) for data in writes])
        self._rounds()
        return positions

    def _rounds(self) -> None:
        while (ready := self.core.ready()) is not None:
            self._write(partial(self._persist, ready))
            self.core.advance(ready)

    def _persist(self, ready: Ready) -> None:
        log.save_entries(self._writer, ready.entries)
        if ready.hard_state is not None:
            log.save_hard_state(self._writer, ready.hard_state)
        apply.apply(self._writer, ready.committed, ME, 0.0)

    def _write(self, job: Callable[[], object]) -> None:
        with self._writer:
            job()

    def sequences(self, node: str = OTHER) -> list[int]:
        entries = log.read(self._reader, 1, log.last_position(self._reader) + 1, 1_000_000)
        found = [decode_write(entry.data) for entry in entries if entry.kind is EntryKind.WRITE]
        return [one.sequence for one in found if one.node == node]

    def close(self) -> None:
        self._writer.close()


@pytest.fixture(params=["memory", "raft"])
async def opened(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[Opened]:
    if request.param == "memory":
        node = LogInMemory()
        yield Memory(node.registry(database), node)
    else:
        real = Real(database)
        yield real
        real.close()


async def test_writes_enter_the_log_in_their_sequence(opened):
    answer = opened.registry.accept(writes(1, 2, 3))
    assert isinstance(answer, Accepted)
    assert answer.through == 3
    assert opened.registry.accept(writes(4)) == Accepted(4, answer.term)
    assert opened.sequences() == [1, 2, 3, 4]


async def test_what_comes_twice_is_acknowledged_and_enters_once(opened):
    opened.registry.accept(writes(1, 2))
    again = opened.registry.accept(writes(1, 2))
    assert isinstance(again, Accepted)
    assert again.through == 2
    assert opened.registry.accept(writes(2, 3)) == Accepted(3, again.term)
    assert opened.sequences() == [1, 2, 3]


async def test_what_comes_too_early_is_sent_back_to_what_is_missing(opened):
    answer = opened.registry.accept(writes(3, 4))
    assert isinstance(answer, Accepted)
    assert answer.through == 0
    assert opened.registry.accept(writes(1, 2, 3)) == Accepted(3, answer.term)
    assert opened.sequences() == [1, 2, 3]


async def test_each_node_has_a_sequence_of_its_own(opened):
    opened.registry.accept(writes(1, 2))
    answer = opened.registry.accept(writes(1, node=THIRD))
    assert isinstance(answer, Accepted)
    assert answer.through == 1
    assert opened.sequences() == [1, 2]
    assert opened.sequences(THIRD) == [1]


async def test_what_rides_ahead_enters_at_once_and_never_again(opened):
    ahead = [replace(one, ahead=True) for one in writes(5, 7)]
    term = opened.registry.accept(writes(1)).term
    assert opened.registry.accept(ahead) == opened.registry.accept(ahead) == Accepted(1, term)
    assert opened.sequences() == [1, 5, 7]
    assert opened.registry.accept(writes(2, 3, 4, 5, 6)) == Accepted(6, term)
    assert opened.registry.accept(writes(8)) == Accepted(8, term), "what came ahead is no gap"
    assert opened.registry.accept(writes(10)) == Accepted(8, term), "this is one"
    assert opened.sequences() == [1, 5, 7, 2, 3, 4, 6, 8]
    assert opened.registry.accept(ahead) == Accepted(8, term)


async def test_what_was_applied_before_is_not_asked_for_again(opened, database):
    await mark(database, THIRD, 7)
    answer = opened.registry.accept(writes(6, 7, node=THIRD))
    assert isinstance(answer, Accepted)
    assert answer.through == 7
    assert opened.registry.accept(writes(7, 8, node=THIRD)) == Accepted(8, answer.term)
    assert opened.sequences(THIRD) == [8]


async def test_an_accepted_write_is_applied_by_the_real_log(database):
    real = Real(database)
    real.registry.accept(writes(1, 2, node=THIRD))
    assert apply.mark(database.reader, THIRD) == 2
    assert catalogue.replica(database.reader).images == 2
    real.close()


async def test_a_node_that_is_not_the_registry_names_who_seems_to_be(database):
    node = LogInMemory(Core(is_registry=False, leader_id="another"))
    assert node.registry(database).accept(writes(1)) == NotRegistry("another")
    node.core.leader_id = None
    assert node.registry(database).accept(writes(1)) == NotRegistry("")
    assert node.entries == []


async def test_a_registry_deposed_between_looking_and_proposing_says_so(database):
    class Deposed(LogInMemory):
        def propose(self, writes: Sequence[bytes]) -> range:
            raise NotLeader("another")

    assert Deposed().registry(database).accept(writes(1)) == NotRegistry("another")


async def test_a_busy_registry_takes_nothing_and_forgets_nothing(database):
    node = LogInMemory()
    registry = node.registry(database)
    registry.accept(writes(1))
    node.busy = True
    assert registry.accept(writes(2)) == Overloaded()
    node.busy = False
    assert registry.accept(writes(2)) == Accepted(2, 1)
    assert node.sequences() == [1, 2]


async def test_a_new_term_forgets_what_an_election_may_have_lost(database):
    node = LogInMemory()
    registry = node.registry(database)
    registry.accept(writes(1, 2, 3))
    await mark(database, OTHER, 1)
    del node.entries[1:]
    node.core.term = 2
    assert registry.accept(writes(4)) == Accepted(1, 2)
    assert registry.accept(writes(2, 3, 4)) == Accepted(4, 2)
    assert node.sequences() == [1, 2, 3, 4]


@pytest.mark.parametrize("answer", [Accepted(7, 2), NotRegistry("x"), NotRegistry(""), Overloaded()])
def test_an_answer_survives_the_wire(answer):
    assert unpack(pack(answer)) == answer


@pytest.mark.parametrize(
    "packed",
    [None, 5, "accepted", [], ["accepted"], ["accepted", "7", 2], ["accepted", 1, 2, 3], ["not-registry", 5], {}],
)
def test_what_is_no_answer_is_refused(packed):
    with pytest.raises(PeerRefused):
        unpack(packed)


def test_the_log_in_memory_numbers_positions_as_a_log_does():
    node = LogInMemory()
    assert (node.propose([b"a", b"b"]), node.propose([b"c"])) == (range(1, 3), range(3, 4))
