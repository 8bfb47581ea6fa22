"""Outages in the simulation: five zones that scatter, share their journals, and forward for each other.

On top of the whole write path (tests/sim/writes.py) nodes pull each other's journals with the product's own tables and
rules: `store.shared`, `journal.take_in`, `zoned.sharing.Relief`, `zoned.receipts.told`. Clients change the same fields
in several zones at once, and look at receipts. In the middle of the run one node's journal may be lost for ever; what
a receipt called shared before that must be in the log all the same.
"""

import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import apsw
import orjson

from store import apply, catalogue, journal, shared, urgent
from store.images import Image, uuid_text
from store.operations import Create, Delete, Operation, Update, Write
from store.packing import unpack
from store.shared import Row
from tests.sim.checkers import Violation
from tests.sim.swarm import Profile
from tests.sim.world import Host
from tests.sim.writes import LOST_MS, Node, WriteFault, WriteWorld, draw_writes
from zoned import clock
from zoned.receipts import sightings, told
from zoned.registry import Answer
from zoned.sharing import Relief

NODES = 5
PULL_MS = 20.0  # how often one donor is asked
RELIEF_MS = 40.0
DIRECT_MS = 150.0  # a donor whose answer came within so long is reached directly
ENTRIES_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class OutageFault(WriteFault):
    """What a mutant of sharing changes; the default changes nothing."""

    keep: Callable[..., Any] = journal.take_in
    given: Callable[[Node, Node, list[Row]], None] = lambda donor, asker, rows: None  # what giving does to the donor
    helps: bool = True
    relief: Callable[[random.Random], Relief] = Relief
    silent: bool = False  # nobody passes on what it keeps of others


@dataclass(slots=True)
class Shares:
    """One node's side of sharing that is not on its disk."""

    relief: Relief
    direct: dict[str, float] = field(default_factory=dict)
    heard: dict[str, int] = field(default_factory=dict)  # zone -> position
    asking: int = 0
    seen: object = None


RANKS = {"journaled": 0, "shared": 1, "committed": 2, "seen": 3, "conflict": 4, "refused": 4}


class OutageWorld(WriteWorld):
    """One run."""

    def __init__(self, profile: Profile, seed: int, fault: OutageFault | None = None) -> None:
        self.fault_here = fault or OutageFault()
        self.shares: dict[str, Shares] = {}
        self.gone: Node | None = None
        self.promised: set[int] = set()  # sequences of the node that is gone which others hold
        self.told: dict[tuple[str, int], tuple[str, set[str], set[str]]] = {}
        self.values: dict[int, str] = {}  # integer -> image
        self.promises: list[tuple[Node, int, int, str]] = []  # with the write that made them
        super().__init__(profile, seed, self.fault_here)
        for node in self.nodes.values():
            self.shares[node.id] = self._new_shares(node)
            self.after(self.rng.random() * PULL_MS, self._pull, node)
            self.after(self.rng.random() * RELIEF_MS, self._relieve, node)
        self.by_id = {node.id: node for node in self.nodes.values()}
        self.after(self.rng.random() * profile.relief_ms, self._scatter, None)
        if self.rng.random() < 0.7:
            self.after(profile.duration_ms * (0.2 + 0.6 * self.rng.random()), self._lose_one, None)

    def _new_shares(self, node: Node) -> Shares:
        return Shares(self.fault_here.relief(random.Random(self.rng.random())))

    # Harm.

    def _scatter(self, _: None) -> None:
        """Everybody into one of three camps, often with no majority anywhere."""
        if self._quiet:
            return
        camps: dict[str, int] = {node_id: self.rng.randrange(3) for node_id in self.hosts}
        self._cut |= {(a, b) for a in self.hosts for b in self.hosts if camps[a] != camps[b]}
        if self.rng.random() < 0.5:  # two camps that do not see each other, and both see the third
            self._cut -= {(a, b) for a, b in self._cut if 0 in (camps[a], camps[b])}
        relief = self.rng.expovariate(1 / (2 * self.profile.relief_ms))
        self.after(relief, self._heal_links, None)
        self.after(relief + self.rng.expovariate(1 / self.profile.trouble_ms), self._scatter, None)

    def _lose_one(self, _: None) -> None:
        """A journal is gone for good, at the worst moment: when nobody knows its writes but those who hold them."""
        if self._quiet:
            return
        held: dict[str, set[int]] = {node.id: set() for node in self.nodes.values()}
        for node, sequence, _operation in self.notes.writes:
            if journal.is_waiting(node.reader, sequence) and shared.holders(node.reader, sequence):
                held[node.id].add(sequence)
        most = max(held, key=lambda one: len(held[one]))
        if not held[most]:
            self.after(20.0, self._lose_one, None)
            return
        self.gone, self.promised = self.by_id[most], held[most]

    def _crash(self, host: Host, *, restart: bool = True) -> None:
        super()._crash(host, restart=restart)
        node = self.nodes.get(host.id)
        if host.raft is None and node is not None:
            self.shares[node.id] = self._new_shares(node)

    def _is_there(self, node: Node) -> bool:
        return node.host.raft is not None and not node.host.paused and node is not self.gone

    # Clients.

    def _client(self, _: None) -> None:
        if self._clients and self.rng.random() < 0.3:
            self._look()
        if self._clients and self.rng.random() < 0.1:
            self._compare_views()
        super()._client(None)

    def _operation(self) -> Operation:
        rng, at = self.rng, clock.text(self.now)
        step = rng.random()
        if step < 0.35 or not self._images:
            return Create(str(uuid.UUID(int=rng.getrandbits(128), version=4)), None, at, {"name": "n"})
        image = rng.choice(self._images[-12:])  # few of them, so that changes meet
        if step > 0.97:
            return self._switch(image, at)
        if step < 0.4:
            return Create(image, None, at, {"name": "n"})  # a retry, perhaps in another zone
        if step < 0.92:
            seen = self._seen_by_client(image)
            return Update(
                image, at, fields={"name": (seen, f"{rng.getrandbits(40):x}")},
                properties={f"p{rng.getrandbits(40):x}": (None, "v")},
            )  # fmt: skip
        return Delete(image, at)

    def _switch(self, image: str, at: str) -> Operation:
        """Off, or on again: whatever the asked node shows it not to be."""
        found = catalogue.find(self._asked_node.reader, image)
        seen = str(found.image.fields["status"]) if found is not None else "queued"
        return Update(image, at, fields={"status": (seen, "active" if seen == "deactivated" else "deactivated")})

    def _seen_by_client(self, image: str) -> str:
        found = catalogue.find(self._asked_node.reader, image)
        return str(found.image.fields["name"]) if found is not None else "n"

    def _keep_numbered(self, node: Node) -> None:
        self._asked_node = node
        super()._keep_numbered(node)

    def _note_integer(self, image: str, integer: int | None) -> None:
        """A retry in a zone that knows nothing of the first promises a second integer; nobody else gets either."""
        if integer is None:
            return
        if self.values.setdefault(integer, image) != image:
            raise Violation(f"integer {integer} was given twice")
        node, sequence, _ = self.notes.writes[-1]
        self.promises.append((node, sequence, integer, image))

    def _look(self) -> None:
        """A receipt may only go forward."""
        if not self.notes.writes:
            return
        node, sequence, _ = self.rng.choice(self.notes.writes[-60:])
        if not self._is_there(node):
            return
        receipt = journal.receipt(node.reader, sequence)
        if receipt is None:
            raise Violation(f"write {sequence} of {node.host.id} has no receipt")
        zones = {**dict.fromkeys(self.hosts, 0), **self.shares[node.id].heard, node.host.id: node.host.written[1]}
        seen = journal.seen(node.reader, sequence)
        journal.note_seen(node.reader, sequence, sightings(receipt, seen, zones), self.now)
        now = told(receipt, shared.holders(node.reader, sequence), journal.seen(node.reader, sequence), zones)
        state, holders, before = self.told.get((node.id, sequence), ("journaled", set(), set()))
        back = RANKS[now.state] < RANKS[state] or (RANKS[state] == 4 and now.state != state)
        if back or not holders <= set(now.shared) or not before <= set(now.seen):
            raise Violation(f"receipt of write {sequence} of {node.host.id} went from {state} back to {now.state}")
        if state in ("committed", "seen") and now.state in ("conflict", "refused"):
            raise Violation(f"receipt of write {sequence} of {node.host.id} went from {state} to {now.state}")
        self.told[node.id, sequence] = (now.state, set(now.shared), set(now.seen))

    def _compare_views(self) -> None:
        """Who is said to hold a write holds it; what is committed shows as committed; what two nodes know alike they
        show alike, also by integer.
        """
        for node in self.nodes.values():
            holders: Any = node.reader.execute("SELECT node, through FROM holders").fetchall()
            for holder, through in holders:
                reader = self.by_id[holder].reader
                beyond = range(shared.have(reader).get(node.id, 0) + 1, through + 1)
                if not set(beyond) <= urgent.applied(reader, node.id):
                    raise Violation(f"{holder} does not hold what {node.host.id} shared with it, up to {through}")
        for node, sequence, given, image in self.promises[-40:]:
            if self._is_there(node) and journal.is_pending(node.reader, sequence):
                held = catalogue.find(node.reader, given)
                if held is None or held.image.uuid != image:
                    raise Violation(f"{node.host.id} promised {given} for {image} and does not find it by that")
        views: dict[tuple[object, ...], bytes] = {}
        for node in self.nodes.values():
            if not self._is_there(node):
                continue
            rows: Any = node.reader.execute("SELECT uuid, record, provisional FROM overlay").fetchall()
            for key, packed, provisional in rows:
                if not provisional:
                    continue
                image, record = uuid_text(key), unpack(packed)
                if catalogue.committed(node.reader, image) is not None:
                    raise Violation(f"{node.host.id} shows a provisional {image} in the place of the committed one")
                known: Any = node.reader.execute(
                    "SELECT node, sequence FROM shared WHERE uuid = ? ORDER BY 1, 2", (image,)
                ).fetchall()
                if views.setdefault((image, *known), record) != record:
                    raise Violation(f"two nodes that know the same of {image} show it differently")
                integer = Image.decode(record).integer
                found = catalogue.find(node.reader, integer) if integer is not None else None
                if integer is not None and (found is None or found.image.uuid != image):
                    raise Violation(f"provisional {image} is not found by its integer")

    # Pulling.

    def _pull(self, node: Node) -> None:
        self.after(PULL_MS * (0.5 + self.rng.random()), self._pull, node)
        if not self._is_there(node):
            return
        donor = self.rng.choice([one for one in self.nodes.values() if one is not node])
        share = self.shares[node.id]
        share.direct = {one: at for one, at in share.direct.items() if self.now - at < DIRECT_MS}
        without = set(share.direct) - {donor.id}
        self._carry(node, donor, self._give, (node, donor, shared.have(node.reader), without, node.host.life))

    def _give(self, argument: tuple[Node, Node, dict[str, int], set[str], int]) -> None:
        asker, donor, wanted, without, life = argument
        if not self._is_there(donor):
            return
        through = wanted.get(donor.id, 0)
        if journal.is_waiting(donor.reader, through):
            shared.note_holder(donor.reader, asker.id, through)
        most = self.rng.choice((1, 3, 100))
        others = set(shared.nodes(donor.reader)) if self.fault_here.silent else set[str]()
        last = journal.backlog(donor.reader).last_sequence
        rows = shared.give(donor.reader, donor.id, last, wanted, {asker.id, *without, *others}, most, 100_000)
        self.fault_here.given(donor, asker, rows)
        position = donor.host.written[1]
        self._carry(donor, asker, self._given, (asker, donor, rows, position, life))

    def _given(self, argument: tuple[Node, Node, list[Row], int, int]) -> None:
        node, donor, rows, position, life = argument
        if not self._is_there(node) or node.host.life != life:
            return
        share = self.shares[node.id]
        share.direct[donor.id] = self.now
        share.heard[donor.host.id] = max(position, share.heard.get(donor.host.id, 0))
        with node.reader:
            self.fault_here.keep(node.reader, node.id, rows, ENTRIES_MAX, 2**40)
        if rows and not self._quiet and self.rng.random() < self.profile.crash_after_answer:
            self._crash(node.host)

    # Forwarding for others.

    def _relieve(self, node: Node) -> None:
        self.after(RELIEF_MS * (0.5 + self.rng.random()), self._relieve, node)
        raft, share = node.host.raft, self.shares[node.id]
        if not self.fault_here.helps or raft is None or not self._is_there(node):
            return
        now_seen = (raft.leader_id, raft.term)
        if now_seen != share.seen:
            share.seen = now_seen
            share.relief.doubt(self.now / 100)
        if raft.leader_id is None or share.asking:
            return
        marks = {one: apply.mark(node.reader, one) for one in shared.nodes(node.reader)}
        hurried = [
            self.write_fault.urgent(node.reader, node.id, one, marks[one] + 1, 100, 100_000)
            for one in set(urgent.nodes(node.reader)) & marks.keys()
        ]
        for writes in hurried:
            if writes and self.rng.random() < 0.3:  # the product waits between two times
                self._carry(
                    node, self.nodes[raft.leader_id], self._accept_help, (node, self.nodes[raft.leader_id], 0, writes)
                )
        due = share.relief.due(self.now / 100, marks, shared.waits_for(node.reader, node.id))
        runs = [shared.run(node.reader, one, after, self.rng.choice((1, 100)), 100_000) for one, after in due]
        runs = [run for run in runs if run]
        if not runs:
            return
        writes = self.rng.choice(runs)
        self._asked += 1
        share.asking = number = self._asked
        self.after(LOST_MS, self._no_help, (node, number))
        target = self.nodes[raft.leader_id]
        self._carry(node, target, self._accept_help, (node, target, number, writes))

    def _accept_help(self, argument: tuple[Node, Node, int, list[Write]]) -> None:
        node, target, number, writes = argument
        if target.host.raft is None or target.host.paused:
            return
        answer = target.registry.accept(writes)
        self._carry(target, node, self._helped, (node, number, writes, answer))

    def _helped(self, argument: tuple[Node, int, list[Write], Answer]) -> None:
        node, number, writes, answer = argument
        share = self.shares[node.id]
        if node.host.raft is None or share.asking != number or not number:
            return
        share.asking = 0
        share.relief.answered(writes, answer, self.now / 100)

    def _no_help(self, argument: tuple[Node, int]) -> None:
        node, number = argument
        if self.shares[node.id].asking == number:
            self.shares[node.id].asking = 0

    def _forward(self, node: Node) -> None:
        if node is self.gone:
            self.after(1_000.0, self._forward, node)
            return
        super()._forward(node)

    # The end.

    def _drained(self) -> bool:
        gone = self.gone
        if gone is not None and not self.promised <= gone.applied:
            return False
        if gone is not None:
            held = journal.backlog(gone.reader).entries
            if any(
                one.reader.execute("SELECT count(*) FROM shared").get for one in self.nodes.values() if one is not gone
            ):
                return False
            gone.reader.execute("UPDATE node SET journal_entries = 0")
            drained = super()._drained()
            gone.reader.execute("UPDATE node SET journal_entries = ?", (held,))
            return drained
        return super()._drained()

    def _check_notes(self, replica: apsw.Connection) -> None:
        changes: dict[str, list[tuple[int, Any, Any]]] = {}
        places: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for node, sequence, operation in self.notes.writes:
            if node is self.gone and sequence not in node.applied:
                continue  # nobody held it, or a promise is broken, which `_drained` waits for in vain
            self._check_write(node, sequence, operation, replica)
            receipt = journal.receipt(node.reader, sequence)
            assert receipt is not None
            if receipt.position is not None:
                places.setdefault((node.id, getattr(operation, "uuid", "")), []).append((sequence, receipt.position))
            if isinstance(operation, Update) and "name" in operation.fields:
                seen, wanted = operation.fields["name"]
                if receipt.state == "committed":
                    assert receipt.position is not None
                    changes.setdefault(operation.uuid, []).append((receipt.position, seen, wanted))
        for (who, image), pairs in places.items():
            if [position for _, position in sorted(pairs)] != sorted(position for _, position in pairs):
                raise Violation(f"the writes of {who} to {image} changed places")
        for image, found in changes.items():
            value = "n"
            for _, seen, wanted in sorted(found):
                if seen != value:
                    raise Violation(f"{image}: the name {value!r} was lost without a word")
                value = wanted
        for node, sequence, integer, image in self.promises:
            receipt = journal.receipt(node.reader, sequence)
            if receipt is None or receipt.state not in ("committed", "conflict"):
                continue  # lost with its journal, or refused because the image was deleted: its client can know
            held = catalogue.find(replica, integer)
            if held is None or held.image.uuid != image:
                raise Violation(f"{image} was promised integer {integer}, which leads to {held and held.image.uuid}")

    def _check_write(self, node: Node, sequence: int, operation: Operation, replica: apsw.Connection) -> None:
        receipt = journal.receipt(node.reader, sequence)
        if receipt is not None and receipt.state == "conflict" and isinstance(operation, Create | Update):
            found = catalogue.find(replica, operation.uuid)
            if found is None or not set(operation.properties) <= set(found.image.properties):
                raise Violation(f"what did not conflict in {operation.uuid} is not there")
            lost: Any = replica.execute(
                "SELECT what, wanted FROM conflicts WHERE node = ? AND sequence = ?", (node.id, sequence)
            ).fetchall()
            ((field, asked),) = operation.fields.items()
            wanted = asked[1] if isinstance(asked, tuple) else asked
            if [(what, orjson.loads(one)) for what, one in lost] != [(field, wanted)]:
                raise Violation(f"the {field} that write {sequence} of {node.host.id} wanted is not in the ledger")
            return
        if receipt is not None and receipt.code == "gone" and isinstance(operation, Create):
            return  # a retry of what was deleted meanwhile
        super()._check_write(node, sequence, operation, replica)


def draw_outage(seed: int) -> Profile:
    """Five voters, scattered again and again."""
    profile = draw_writes(seed, "swarm")
    return replace(
        profile, name="outage", voters=NODES, learners=0, spares=0, slow_disks=(), lasting="none",
        duration_ms=4_000, relief_ms=300.0, trouble_ms=400.0, client_ms=12.0,
        options=replace(profile.options, uncommitted_max_bytes=20_000),
    )  # fmt: skip


def run_outage(seed: int, fault: OutageFault | None = None) -> str | None:
    """What went wrong with this seed, None when nothing did."""
    try:
        OutageWorld(draw_outage(seed), seed, fault).run()
    except Violation as violation:
        return str(violation)
    return None
