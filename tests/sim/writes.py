"""The whole write path in the simulation: journals, forwarding, the registry, integers, applying. No trio, no files.

On top of the simulated cluster each node has the product's own tables, in an SQLite in memory that survives its
crashes as a synced file would. Clients write at any node that is up and note what they were told: each answer counts
from the moment the journal has it. The forwarding between nodes loses, repeats and delays like the rest of the network.
At the end everything drains, and the clients' notes are held against every replica.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import apsw

from store import apply, catalogue, identity, journal, ranges, shared
from store.entries import EntryKind
from store.errors import Refused
from store.migrate import migrate
from store.operations import Create, Delete, Drop, Grant, Operation, Point, Retire, Update, Write, decode, encode_write
from tests.sim.checkers import Violation
from tests.sim.swarm import Profile, draw
from tests.sim.world import Host, World
from zoned import clock
from zoned.engine import Engine
from zoned.raft.ready import Busy, NotLeader, Ready
from zoned.registry import Accepted, Answer, NotRegistry, Registry

CEILING = 2**53 - 1
LIMITS = journal.Limits(1_000_000, 2**40, 0, "/")
FORWARD_MS = 25.0  # how often a journal is looked at
LOST_MS = 250.0  # a forward without an answer is given up
REPLICATED = (
    "images",
    "history",
    "aliases",
    "marks",
    "ahead",
    "numbers",
    "ranges",
    "conflicts",
    "checkpoints",
    "replica",
)


@dataclass(frozen=True, slots=True)
class WriteFault:
    """What a mutant of the write path changes; the default changes nothing."""

    crash: Callable[["Node"], None] = lambda node: None  # what a crash does to the tables
    accepted: Callable[["Node", int], None] = lambda node, through: None  # what "accepted" does to them
    blind: bool = False  # the registry appends whatever comes: repeats, gaps. Applying alone must put that right
    slow_to_doubt: bool = False  # goes on behind what a dead registry accepted, until nothing moves any more
    never_goes_back: bool = False  # what one registry accepted is not sent to the next
    urgent: Callable[..., list[Write]] = shared.urgent_run  # what rides ahead


@dataclass(slots=True)
class Notes:
    """What clients were told."""

    integers: dict[str, int] = field(default_factory=dict)  # image -> integer, where the answer had one
    writes: list[tuple["Node", int, Operation]] = field(default_factory=list)


class Node:
    """One node's tables and its side of the write path. `database` below is what `Registry` needs of one."""

    def __init__(self, world: "WriteWorld", host: Host, number: int) -> None:
        self.host = host
        self.id = str(uuid.UUID(int=(4 << 76) | (8 << 60) | (number + 1)))
        self.reader = apsw.Connection(":memory:")
        migrate(self.reader, ":memory:")
        with self.reader:
            identity.start(self.reader, self.id, host.id, "sim")
        self.applied: set[int] = set()  # own sequences whose outcome was told
        self.world = world
        self.forget()

    def forget(self) -> None:
        """What does not survive a crash."""
        self.sent = 0
        self.sent_ahead: set[int] = set()
        self.asking = 0  # number of the forward under way, 0 for none
        self.seen: object = None
        self.moved_at = 0.0
        self.registry = Registry(cast(Engine, self), cast(Any, self))

    # What `Registry` asks of an engine.

    @property
    def core(self) -> Any:
        return self.host.raft

    @property
    def holder(self) -> str | None:
        return cast(str | None, self.core.leader_id)

    @property
    def term(self) -> int:
        return cast(int, self.core.term)

    @property
    def is_registry(self) -> bool:
        return cast(bool, self.core.is_registry)

    def propose(self, writes: Sequence[bytes]) -> range:
        assert self.host.raft is not None
        positions = self.host.raft.propose([(EntryKind.WRITE, data) for data in writes])
        self.world.pump(self.host)
        return positions

    def write(self, operation: Operation) -> journal.Journaled | None:
        """Journals; None when the local view refuses it."""
        self.reader.execute("SAVEPOINT write")
        try:
            made = journal.append(self.reader, self.id, operation, self.world.now, LIMITS)
        except Refused:
            self.reader.execute("ROLLBACK TO write")
            made = None
        self.reader.execute("RELEASE write")
        return made


class WriteWorld(World):
    """One run of clients against the whole write path."""

    def __init__(self, profile: Profile, seed: int, fault: WriteFault | None = None) -> None:
        self.write_fault = fault or WriteFault()
        self.notes = Notes()
        self.rode_ahead = 0
        self.nodes: dict[str, Node] = {}
        self._asked = 0
        self._images: list[str] = []
        super().__init__(profile, seed)
        for number, host in enumerate(self.hosts.values()):
            self.nodes[host.id] = Node(self, host, number)
            self.after(self.rng.random() * FORWARD_MS, self._forward, self.nodes[host.id])

    # What the store is told.

    def _land(self, host: Host, ready: Ready) -> None:
        super()._land(host, ready)
        host.synced = host.written  # the store syncs every transaction
        node = self.nodes[host.id]
        with node.reader:
            own = apply.apply(node.reader, ready.committed, node.id, self.now)
        for one in own:
            if one.sequence in node.applied:
                raise Violation(f"exactly once: write {one.sequence} of {host.id} was applied again")
            node.applied.add(one.sequence)
            node.moved_at = self.now

    def _crash(self, host: Host, *, restart: bool = True) -> None:
        super()._crash(host, restart=restart)
        if host.raft is None:
            self.nodes[host.id].forget()
            self.write_fault.crash(self.nodes[host.id])

    # Clients.

    def _client(self, _: None) -> None:
        if not self._clients:
            return
        rng = self.rng
        self.after(rng.expovariate(1 / self.profile.client_ms), self._client, None)
        node = self.nodes[rng.choice(list(self.nodes))]
        if node.host.raft is None or node.host.paused:
            return
        self._keep_numbered(node)
        operation = self._operation()
        made = node.write(operation)
        if made is None or made.sequence is None:
            return
        self.notes.writes.append((node, made.sequence, operation))
        if isinstance(operation, Create):
            assert made.image is not None
            self._images.append(operation.uuid)
            self._note_integer(operation.uuid, made.image.integer)
        if not self._quiet and rng.random() < self.profile.crash_after_answer:
            self._crash(node.host)

    def _operation(self) -> Operation:
        rng, at = self.rng, clock.text(self.now)
        step = rng.random()
        if step < 0.6 or not self._images:
            return Create(str(uuid.UUID(int=rng.getrandbits(128), version=4)), None, at, {"name": "n"})
        image = rng.choice(self._images)
        if step < 0.92:
            return Update(image, at, properties={f"p{rng.getrandbits(40):x}": (None, "v")})
        return Delete(image, at)

    def _note_integer(self, image: str, integer: int | None) -> None:
        if integer is None:
            return
        if integer in self.notes.integers.values():
            raise Violation(f"integer {integer} was given twice")
        self.notes.integers[image] = integer

    def _keep_numbered(self, node: Node) -> None:
        if ranges.runway(node.reader, self.now).left < 5 and not journal.has_grant(node.reader):
            node.write(Grant(self.rng.choice((1, 4, 20)), CEILING))

    # Forwarding, as `zoned.proxy` does it: one message under way, in sequence, from the mark when in doubt.

    def _forward(self, node: Node) -> None:
        self.after(FORWARD_MS * (0.5 + self.rng.random()), self._forward, node)
        raft = node.host.raft
        if raft is None or node.host.paused or node.asking:
            return
        now_seen = (raft.leader_id, raft.term)
        other = now_seen != node.seen and not self.write_fault.slow_to_doubt
        in_doubt = other or self.now - node.moved_at > 20 * FORWARD_MS
        if in_doubt and not self.write_fault.never_goes_back:
            node.seen, node.sent, node.moved_at = now_seen, 0, self.now
            node.sent_ahead.clear()
        if raft.leader_id is None:
            return
        after = max(node.sent, apply.mark(node.reader, node.id))
        most = self.rng.choice((1, 3, 100))
        rows = journal.read(node.reader, after, most, 100_000)
        writes = [Write(node.id, sequence, decode(data), True) for sequence, data in rows]
        beyond = rows[-1][0] if rows else after
        urgent = self.write_fault.urgent(node.reader, node.id, node.id, beyond, max(3, most), 100_000)
        if any(one.sequence not in node.sent_ahead for one in urgent):
            writes = urgent
        if not writes:
            return
        self._asked += 1
        node.asking = number = self._asked
        self.after(LOST_MS, self._give_up, (node, number))
        target = self.nodes[raft.leader_id]
        self._carry(node, target, self._accept, (node, target, number, writes))

    def _carry(self, sender: Node, recipient: Node, action: Callable[[Any], None], argument: Any) -> None:
        """A request or an answer on its way: lost, late, or there twice."""
        rng, profile = self.rng, self.profile
        if (sender.host.id, recipient.host.id) in self._cut or (not self._quiet and rng.random() < profile.loss):
            return
        for _ in range(1 if self._quiet or rng.random() >= profile.duplicate else 2):
            self.after(1 + rng.expovariate(1 / profile.delay_ms), action, argument)

    def _accept(self, argument: tuple[Node, Node, int, list[Write]]) -> None:
        node, target, number, writes = argument
        if target.host.raft is None or target.host.paused:
            return
        answer = self._append_blindly(target, writes) if self.write_fault.blind else target.registry.accept(writes)
        self._carry(target, node, self._answered, (node, number, writes, answer))

    def _append_blindly(self, target: Node, writes: list[Write]) -> Answer:
        assert target.host.raft is not None
        try:
            target.propose([encode_write(write) for write in writes])
        except (NotLeader, Busy):
            return NotRegistry("")
        return Accepted(writes[-1].sequence, target.host.raft.term)

    def _answered(self, argument: tuple[Node, int, list[Write], Answer]) -> None:
        node, number, writes, answer = argument
        if node.host.raft is None or node.asking != number:
            return
        node.asking = 0
        self.rode_ahead += writes[0].ahead
        match answer:
            case Accepted() if writes[0].ahead:
                node.sent_ahead |= {one.sequence for one in writes}
            case Accepted(through):
                node.sent = min(through, writes[-1].sequence)
                self.write_fault.accepted(node, node.sent)
            case NotRegistry():
                node.sent = 0
            case _:
                pass

    def _give_up(self, argument: tuple[Node, int]) -> None:
        node, number = argument
        if node.asking == number:
            node.asking = 0
            node.sent = node.sent if self.write_fault.never_goes_back else 0

    # The end.

    def _drained(self) -> bool:
        waiting = [node for node in self.nodes.values() if journal.backlog(node.reader).entries]
        return not waiting and super()._drained()

    def run(self) -> int:
        events = super().run()
        first, *others = self.nodes.values()
        state = _dump(first.reader)
        for node in others:
            if _dump(node.reader) != state:
                raise Violation(f"replicas differ: {first.host.id} and {node.host.id}")
        if catalogue.recount(first.reader) != catalogue.replica(first.reader):
            raise Violation("the running hash is not that of the records")
        self._check_notes(first.reader)
        return events

    def _check_notes(self, replica: apsw.Connection) -> None:
        """The clients' notes against what every replica holds."""
        for node, sequence, operation in self.notes.writes:
            self._check_write(node, sequence, operation, replica)
        for image, integer in self.notes.integers.items():
            found = catalogue.find(replica, image)
            if found is None or found.image.integer != integer:
                raise Violation(f"{image} was promised integer {integer}, and has {found and found.image.integer}")

    def _check_write(self, node: Node, sequence: int, operation: Operation, replica: apsw.Connection) -> None:
        receipt = journal.receipt(node.reader, sequence)
        if receipt is None or receipt.state == "journaled":
            raise Violation(f"write {sequence} of {node.host.id} has no outcome")
        assert not isinstance(operation, Grant | Retire | Drop | Point)
        found = catalogue.find(replica, operation.uuid)
        if receipt.state != "committed":
            if isinstance(operation, Create) or receipt.code != "gone":
                raise Violation(f"write {sequence} of {node.host.id} ended as {receipt.state}: {receipt.detail}")
        elif found is None:
            raise Violation(f"{operation.uuid} was acknowledged and is not there")
        elif isinstance(operation, Update) and not set(operation.properties) <= set(found.image.properties):
            raise Violation(f"an acknowledged change of {operation.uuid} is not there")
        elif isinstance(operation, Delete) and found.image.deleted_at is None:
            raise Violation(f"{operation.uuid} was deleted and lives")


def _dump(connection: apsw.Connection) -> list[object]:
    return [list(connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2")) for table in REPLICATED]


def draw_writes(seed: int, kind: str = "swarm") -> Profile:
    """A profile without what the write path does not do by itself: members that come and go, compaction."""
    profile = draw(seed, kind)
    weights = {**profile.weights, "change": 0}
    return replace(
        profile, name="writes", learners=0, spares=0, compact=0.0, weights=weights, duration_ms=3_000, client_ms=15.0,
        options=replace(profile.options, uncommitted_max_bytes=20_000),
    )  # fmt: skip


def run_writes(seed: int, fault: WriteFault | None = None, kind: str = "swarm") -> str | None:
    """What went wrong with this seed, None when nothing did."""
    try:
        WriteWorld(draw_writes(seed, kind), seed, fault).run()
    except Violation as violation:
        return str(violation)
    return None
