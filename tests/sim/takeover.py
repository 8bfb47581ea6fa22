"""The takeover protocol under a seeded world: nodes sleep and crash, answers are lost, the database freezes.

The cores are the real ones (`zoned.postgres.takeover`); the database is one row and one list, each request atomic at
the moment it arrives, which may be long after whoever sent it gave up waiting. What a node does with the core's word is
modelled after `zoned.postgres.node`.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from zoned.postgres.takeover import NOBODY, Ask, Beat, Look, Row, Take, Takeover

TICK_S, ELECTION_S, TIMEOUT_S = 0.2, 1.0, 1.5
CALM_S = 20.0  # at the end nothing is disturbed any more, and everything must come right
NODES = 3


class Violation(AssertionError):
    """What must never be."""


@dataclass
class Database:
    """One row, one log. `moved_at` is when the row changed, by nobody's clock."""

    row: Row = field(default_factory=lambda: Row(1, 0, NOBODY, 0))
    log: list[tuple[int, str]] = field(default_factory=list)  # (term, write)
    moved_at: float = 0.0
    beat_wall: float = 0.0  # what the holder's clock said at its beat: for the mutant that believes it
    frozen_until: float = 0.0
    away_until: float = 0.0
    begun: dict[int, int] = field(default_factory=dict)  # term -> the position when it was taken


@dataclass
class Node:
    id: str
    core: Takeover
    applied: list[str] = field(default_factory=list)
    ready_in: int = 0
    asleep_until: float = 0.0
    wall_off: float = 0.0
    run: int = 0  # answers to an earlier life are not heard
    waiting: bool = False
    committing: bool = False
    queue: list[str] = field(default_factory=list)


class World:
    """One run. Subclasses plant faults."""

    core: type[Takeover] = Takeover

    def __init__(self, seed: int, length_s: float = 60.0) -> None:
        self.rng = Random(seed)
        self.now = 0.0
        self.end = length_s
        self.db = Database()
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        self.acked: set[str] = set()
        self.wanted: list[str] = []
        self.slow = self.rng.choice([0.005, 0.05, 0.3])
        self.loss = self.rng.choice([0.0, 0.02, 0.2])
        self.nodes = [Node(f"n{n}", self.make(f"n{n}")) for n in range(NODES)]

    def make(self, name: str) -> Takeover:
        return self.core(name, TICK_S, ELECTION_S, Random(self.rng.getrandbits(32)))

    def at(self, when: float, what: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.events, (when, self.count, what))

    @property
    def calm(self) -> bool:
        return self.now > self.end - CALM_S

    def play(self) -> None:
        for node in self.nodes:
            self.at(self.rng.uniform(0, TICK_S), lambda node=node: self.tick(node))  # type: ignore[misc]  # bound now
        self.at(1.0, self.disturb)
        self.at(0.5, self.client)
        while self.events and self.now < self.end:
            self.now, _, what = heapq.heappop(self.events)
            what()
        self.check_end()

    # Faults.

    def disturb(self) -> None:
        if self.calm:
            self.slow, self.loss = 0.01, 0.0
            return
        node, rng = self.rng.choice(self.nodes), self.rng
        match rng.randrange(6):
            case 0:
                node.asleep_until = self.now + rng.choice([0.3, 1.5, 4.0])
            case 1:
                node.run += 1  # crashed: only what it applied is on its disk
                node.core, node.ready_in, node.queue = self.make(node.id), 0, []
                node.waiting = node.committing = False
                node.asleep_until = self.now + rng.uniform(0.1, 3.0)
            case 2:
                self.db.frozen_until = self.now + rng.choice([0.5, 2.0, 4.0])
            case 3:
                self.db.away_until = self.now + rng.choice([0.5, 2.0])
            case 4:
                node.wall_off = rng.uniform(-60.0, 60.0)
            case _:
                self.slow = rng.choice([0.005, 0.05, 0.3])
        self.at(self.now + rng.uniform(0.2, 3.0), self.disturb)

    def client(self) -> None:
        """A new write, and again those that nobody said were done, to whoever seems to be the registry."""
        if not self.calm or len(self.wanted) % 2:
            self.wanted.append(f"w{len(self.wanted)}")
        for node in self.nodes:
            if self.is_registry(node):
                node.queue += [one for one in self.wanted if one not in self.acked and one not in node.queue][:5]
                self.commit(node)
        self.at(self.now + self.rng.uniform(0.02, 0.4), self.client)

    # The wire.

    def request(
        self, node: Node, run: Callable[[], Row | None], heard: Callable[[Row | None], None], lost: Callable[[], None]
    ) -> None:
        """Runs at the database some time from now, and is heard some time later: or not, or too late, or never."""
        life, settled = node.run, [False]

        def settle(what: Callable[[], None]) -> None:
            if settled[0] or node.run != life:
                return
            if node.asleep_until > self.now:
                self.at(node.asleep_until, lambda: settle(what))
                return
            settled[0] = True
            what()

        def arrive() -> None:
            if self.db.frozen_until > self.now:
                self.at(self.db.frozen_until + self.rng.uniform(0, 0.01), arrive)
                return
            row = run()
            if self.rng.random() >= self.loss and self.db.away_until <= self.now:
                self.at(self.now + self.rng.expovariate(1 / self.slow), lambda: settle(lambda: heard(row)))

        self.at(self.now + TIMEOUT_S, lambda: settle(lost))
        if self.rng.random() >= self.loss and self.db.away_until <= self.now:
            self.at(self.now + self.rng.expovariate(1 / self.slow), arrive)

    # The database.

    def perform(self, node: Node, ask: Ask) -> Row | None:
        row = self.db.row
        match ask:
            case Look():
                return row
            case Take(seen, term) if self.may_take(row, seen):
                self.check_peace(node, row)
                self.db.row = Row(term, row.position, node.id, row.beat + 1)
                self.db.begun[term] = row.position
            case Beat(term) if (row.term, row.holder) == (term, node.id):
                self.db.row = replace(row, beat=row.beat + 1)
            case _:
                return None
        self.db.moved_at, self.db.beat_wall = self.now, self.now + node.wall_off
        return self.db.row

    def may_take(self, row: Row, seen: Row) -> bool:
        return (row.term, row.beat) == (seen.term, seen.beat)

    def is_fenced(self, row: Row, node: Node, term: int) -> bool:
        return (row.term, row.holder) != (term, node.id)

    def add(self, node: Node, term: int, writes: list[str]) -> Row | None:
        row = self.db.row
        if self.is_fenced(row, node, term):
            return None
        if row.term > term:
            raise Violation(f"{node.id} commits in term {term} after {row.term} was taken")
        self.db.log += [(term, one) for one in writes]
        self.db.row = replace(row, position=row.position + len(writes), beat=row.beat + 1)
        self.db.moved_at, self.db.beat_wall = self.now, self.now + node.wall_off
        return self.db.row

    # The nodes.

    def is_registry(self, node: Node) -> bool:
        return (
            node.asleep_until <= self.now
            and node.core.held is not None
            and node.core.held == node.ready_in
            and node.core.is_current(self.now)
        )

    def tick(self, node: Node) -> None:
        self.at(max(self.now, node.asleep_until) + TICK_S, lambda: self.tick(node))
        if node.asleep_until > self.now or node.waiting:
            return
        node.waiting, ask, asked_at = True, node.core.next(), self.now

        def heard(row: Row | None) -> None:
            node.waiting = False
            if isinstance(ask, Beat) and node.core.held != ask.term:
                return
            before = node.core.held
            self.answered(node, ask, row, asked_at)
            if node.core.held is not None and node.core.held != before:
                self.begin(node, self.begins_at(node, ask, row))

        def lost() -> None:
            node.waiting = False
            node.core.lost()

        self.request(node, lambda: self.perform(node, ask), heard, lost)

    def answered(self, node: Node, ask: Ask, row: Row | None, asked_at: float) -> None:
        node.core.answered(ask, row, asked_at, self.now)

    def begins_at(self, node: Node, ask: Ask, row: Row | None) -> int:
        return row.position if row is not None else 0

    def begin(self, node: Node, position: int) -> None:
        """Reads up to where its term began, and takes writes from then on."""
        term, node.queue, node.committing = node.core.held, [], False

        def heard(row: Row | None) -> None:
            if term is None or node.core.held != term:
                return
            self.apply(node, len(node.applied), [one for _, one in self.db.log[len(node.applied) : position]])
            if len(node.applied) != self.db.begun[term]:
                raise Violation(f"{node.id} begins term {term} without having applied what was committed before")
            node.ready_in = term

        def lost() -> None:
            if node.core.held == term:
                node.core.lost()

        self.request(node, lambda: self.db.row, heard, lost)

    def commit(self, node: Node) -> None:
        if node.committing or not node.queue or not self.is_registry(node):
            return
        term, batch = node.core.held, node.queue[:3]
        assert term is not None
        node.committing, node.queue = True, node.queue[3:]

        def heard(row: Row | None) -> None:
            if node.core.held != term:
                return
            node.committing = False
            if row is None:
                node.core.lost()
                return
            node.core.committed(term, row, self.now)
            self.apply(node, row.position - len(batch), batch)
            self.commit(node)

        def lost() -> None:
            if node.core.held == term:
                node.committing = False
                self.unknown(node, term, batch)

        self.request(node, lambda: self.add(node, term, batch), heard, lost)

    def unknown(self, node: Node, term: int, batch: list[str]) -> None:
        node.core.lost()

    def apply(self, node: Node, at: int, writes: list[str]) -> None:
        if at != len(node.applied):
            raise Violation(f"{node.id} applied {len(node.applied)} entries and goes on behind {at}")
        node.applied += writes
        self.acked.update(writes)

    # What must hold.

    def check_peace(self, node: Node, row: Row) -> None:
        quiet_s = self.now - self.db.moved_at
        if row.holder not in (NOBODY, node.id) and quiet_s < ELECTION_S:
            raise Violation(f"{node.id} took the term from {row.holder}, which moved it {quiet_s:.2f} s ago")

    def check_end(self) -> None:
        log = [one for _, one in self.db.log]
        terms = [term for term, _ in self.db.log]
        if terms != sorted(terms) or len(log) != self.db.row.position:
            raise Violation("the log goes back in term, or has another length than its position")
        for node in self.nodes:
            if node.applied != log[: len(node.applied)]:
                raise Violation(f"{node.id} applied what is not the log")
        missing = set(self.wanted[:-20]) - set(log)
        if missing or not self.acked <= set(log):
            raise Violation(f"never committed, or lost: {sorted(missing)[:5]}, {sorted(self.acked - set(log))[:5]}")


# Planted faults: the simulation's own test is that it finds each of them.


class FenceLeftOut(World):
    def is_fenced(self, row: Row, node: Node, term: int) -> bool:
        return False


class BeatByWallClock(World):
    """Believes the time that the holder wrote beside its beat."""

    def answered(self, node: Node, ask: Ask, row: Row | None, asked_at: float) -> None:
        super().answered(node, ask, row, asked_at)
        if isinstance(ask, Look) and row is not None:
            node.core._unmoved_s = self.now + node.wall_off - self.db.beat_wall


class PositionBeforeFence(World):
    """Begins where the row stood when it was looked at, not where it was when the term was taken."""

    def may_take(self, row: Row, seen: Row) -> bool:
        return row.term == seen.term

    def begins_at(self, node: Node, ask: Ask, row: Row | None) -> int:
        return ask.seen.position if isinstance(ask, Take) else super().begins_at(node, ask, row)

    def check_peace(self, node: Node, row: Row) -> None:
        """Not what this one is looked for by."""


class GoesOnInItsTerm(World):
    """A commit of unknown outcome is taken for one that failed."""

    def unknown(self, node: Node, term: int, batch: list[str]) -> None:
        node.queue = batch + node.queue


class GuessesItIsDone(World):
    """A commit of unknown outcome is taken for one that was done."""

    def unknown(self, node: Node, term: int, batch: list[str]) -> None:
        self.apply(node, len(node.applied), batch)


class NoPatience(World):
    class _Core(Takeover):
        def _draw(self) -> float:
            return self._election_s * 0.3

    core = _Core


MUTANTS: tuple[type[World], ...] = (
    FenceLeftOut,
    BeatByWallClock,
    PositionBeforeFence,
    GoesOnInItsTerm,
    GuessesItIsDone,
    NoPatience,
)
