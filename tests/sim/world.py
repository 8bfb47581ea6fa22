"""A cluster on bare cores in one thread: an event heap, a network, disks, clients and somebody who means harm.

No trio, no clock, no sockets: a run is a pure function of its seed. The host around each core does exactly what a
shell must do with a Ready, one write at a time, so that the simulation is also the shell's specification.
"""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from store.entries import Entry, EntryKind, HardState, Membership
from tests.sim import pilot
from tests.sim.checkers import Checkers, Violation
from tests.sim.freshness import Freshness
from tests.sim.swarm import TICK_MS, Profile
from zoned.raft.core import Raft
from zoned.raft.log import ImpossibleState, MemoryStorage
from zoned.raft.messages import Message, VoteReply, decode, encode
from zoned.raft.ready import (
    BecameLeader,
    Busy,
    NotLeader,
    RaftOptions,
    Ready,
    Refused,
    Role,
    Snapshot,
    SnapshotWanted,
    Suspicious,
)

CLUSTER = "sim"
EVENTS_MAX = 2_000_000
OUTSTANDING_MAX = 200  # proposals a node's clients wait for


@dataclass(frozen=True, slots=True)
class Fault:
    """What a mutant changes; the default changes nothing."""

    core: type[Raft] = Raft
    answers_before_sync: bool = False
    forgets_vote: bool = False
    forgets_term: bool = False
    tears: bool = False  # a crash while writing may leave half a transaction
    heartbeats_wait: bool = False  # nothing leaves while the disk works
    freshness: type[Freshness] = Freshness


class Host:
    """One node: its disk, which survives, and its core, which does not."""

    def __init__(self, node_id: str, slow: bool) -> None:
        self.id = node_id
        self.slow = slow
        self.storage = MemoryStorage()
        self.written: tuple[HardState, int] = (HardState(), 0)  # hard state and applied index, as a restart finds them
        self.synced: tuple[HardState, int] = (HardState(), 0)  # the same as a power cut leaves them
        self.raft: Raft | None = None
        self.life = 0  # events of earlier lives are void
        self.writing: Ready | None = None
        self.paused = False
        self.inbox: list[Message] = []
        self.commit = 0
        self.term = 0
        self.since = 0.0  # up or down since then
        self.pending: dict[bytes, int] = {}  # proposal -> largest index acknowledged to anybody when it was made
        self.reading: dict[int, int] = {}  # ticket -> the same


class World:
    """One run. `run()` raises `Violation` or returns the number of events."""

    def __init__(self, profile: Profile, seed: int, fault: Fault | None = None) -> None:
        self.profile = profile
        self.fault = fault or Fault()
        self.rng = random.Random(f"run:{profile.name}:{seed}")
        self.now = 0.0
        self.checkers = Checkers()
        self.events = 0
        self.log: Callable[[str], None] | None = None
        self._heap: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._sequence = 0
        self._cut: set[tuple[str, str]] = set()
        self._quiet = False  # no more chance faults
        self._clients = True
        self._proposals = 0
        members = profile.voters + profile.learners
        ids = [f"n{i}" for i in range(members + profile.spares)]
        voters = ids[: profile.voters]
        # Which nodes are witnesses the autopilot is told by themselves; without one, by the founding entry.
        self.witnesses = frozenset(voters[-profile.witnesses :] if profile.witnesses else ())
        witnesses = () if profile.wanted else tuple(sorted(self.witnesses))
        self.founders = Membership(CLUSTER, tuple(voters), tuple(ids[profile.voters : members]), witnesses=witnesses)
        self.hosts = {node_id: Host(node_id, i in profile.slow_disks) for i, node_id in enumerate(ids)}
        founding = Entry(1, 1, EntryKind.MEMBERSHIP, self.founders.encode())
        for host in self.hosts.values():
            if host.id in self.founders.voters:
                host.storage.write((founding,), None)
            self._start(host)
        self.freshness = self.fault.freshness(self)

    # The heap.

    def after(self, delay_ms: float, action: Callable[[Any], None], argument: Any) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (self.now + delay_ms, self._sequence, action, argument))

    def _run_until(self, end_ms: float, done: Callable[[], bool] | None = None) -> bool:
        heap = self._heap
        checked = 0
        while heap and heap[0][0] <= end_ms:
            self.now, _, action, argument = heapq.heappop(heap)
            self.events += 1
            if self.events > EVENTS_MAX:
                raise Violation("liveness: the cluster talks without end")
            action(argument)
            if done is not None and self.events - checked > 50:
                checked = self.events
                if done():
                    return True
        self.now = max(self.now, end_ms)
        return done is not None and done()

    # One run: harm, then a lasting but bearable fault, then the cure.

    def run(self) -> int:
        profile = self.profile
        try:
            self.after(0.0, self._nemesis, None)
            self.after(0.0, self._client, None)
            self.freshness.begin()
            if profile.wanted:
                self.after(0.0, pilot.steer, self)
            self._run_until(profile.duration_ms)
            self._quiet = True
            self._heal(None)
            patience = 40 * 2 * profile.options.election_ticks * TICK_MS
            if profile.lasting != "none":
                self._progress_despite(profile.lasting, patience)
            self._heal(None)
            self._clients = self.freshness.asks = False
            self._drain(patience)
        except ImpossibleState as error:
            raise Violation(f"a core gave up: {error}") from error
        if profile.elections_max and len(self.checkers.leaders) > profile.elections_max:
            raise Violation(f"{len(self.checkers.leaders)} elections, and nothing was wrong")
        members = self.members()
        for host in self.hosts.values():
            due = self.checkers.acked_max if host.id in (*members.voters, *members.learners) else 0
            self.checkers.final(host.id, host.storage, host.written[1], due)
        return self.events

    def _progress_despite(self, lasting: str, patience: float) -> None:
        """One node (the leader, if there is one, or its heir) stays deaf, mute, dead or slow: the others do without."""
        leader = self._leader()
        voters = self.members().voters
        known = [host.raft.membership for host in self.hosts.values() if host.raft is not None]
        if any(membership is not None and len(membership.voters) < 3 for membership in known):
            return  # somewhere a change to two voters may yet be decided, and two cannot do without one
        victim = leader or self.hosts[self.rng.choice(voters)]
        others = [other for other in self.hosts if other != victim.id]
        heirs = [voter for voter in voters if voter != victim.id]
        match lasting:
            case "heir":  # the leader is told to hand over to one that has just died
                victim = self.hosts[self.rng.choice(heirs)]
                self._crash(victim, restart=False)
                if leader is not None:
                    self.order(leader, lambda raft: raft.transfer(victim.id))
            case "deaf":
                self._cut |= {(other, victim.id) for other in others}
            case "mute":
                self._cut |= {(victim.id, other) for other in others}
            case "dead":
                self._crash(victim, restart=False)
            case "slow":
                victim.slow = True
        before = len(self.checkers.history) + 2  # more than what was on its way
        if not self._run_until(self.now + patience, lambda: len(self.checkers.history) > before):
            raise Violation(f"liveness: no progress in {patience} ms with {victim.id} {lasting}: {self.describe()}")
        if lasting == "dead" and self.profile.remove_after_ms:
            if not self._run_until(self.now + patience, lambda: not pilot.is_due(self, victim.id)):
                raise Violation(f"autopilot: {victim.id} is dead and keeps its place: {self.members()}")
            if len(self.members().voters) < 2:
                raise Violation(f"autopilot: too few are left: {self.members()}")

    def _drain(self, patience: float) -> None:
        """A backlog of one entry a round trip takes its time; no progress at all within `patience` is a failure."""
        before = None
        while not self._run_until(self.now + patience, self._drained):
            place = [host.raft and (host.raft.applied, host.raft.last_index) for host in self.hosts.values()]
            if place == before:
                raise Violation(f"liveness: stuck {patience} ms after the last fault: {self.describe()}")
            before = place

    def _drained(self) -> bool:
        leader = self._leader()
        if leader is None or leader.raft is None or not leader.raft.is_registry:
            return False
        last = leader.raft.last_index
        members = self.members()
        if leader.id in members.witnesses:
            return False
        for host in self.hosts.values():
            if host.id in members.voters or host.id in members.learners:
                raft = host.raft
                if raft is None or host.writing or raft.applied != last or raft.last_index != last:
                    return False
        return True

    def members(self) -> Membership:
        """By the log of whoever leads, or ever got furthest."""
        known = [host.raft for host in self.hosts.values() if host.raft is not None and host.raft.membership]
        best = max(known, key=lambda raft: (raft.role is Role.LEADER, raft.term, raft.last_index), default=None)
        return best.membership if best is not None and best.membership is not None else self.founders

    def describe(self) -> str:
        return "; ".join(
            f"{host.id} down"
            if host.raft is None
            else f"{host.id} {host.raft.role.value} term {host.raft.term} commit {host.raft.commit}"
            f" applied {host.raft.applied} last {host.raft.last_index}"
            for host in self.hosts.values()
        )

    def _leader(self) -> Host | None:
        leaders = [h for h in self.hosts.values() if h.raft is not None and h.raft.role is Role.LEADER]
        return max(leaders, key=lambda h: h.term) if leaders else None

    # Hosts.

    def _start(self, host: Host) -> None:
        hard_state, applied = host.written
        options = self.profile.options
        options = RaftOptions(
            **{name: getattr(options, name) for name in options.__slots__ if name != "cluster_id"}, cluster_id=CLUSTER
        )
        host.raft = self.fault.core(host.id, host.storage, hard_state, applied, options, self.rng)
        host.commit = hard_state.commit
        host.paused = False
        host.since = self.now
        self.after(self.rng.random() * TICK_MS, self._tick, (host, host.life))

    def _crash(self, host: Host, *, restart: bool = True) -> None:
        """A power cut: what was not synced is gone; a write in progress has happened wholly or not at all."""
        if host.raft is None:
            return
        if host.writing is not None and self.rng.random() < 0.5:
            self._land(host, host.writing)
        elif host.writing is not None and self.fault.tears:
            host.written = host.synced = (host.writing.hard_state or host.written[0], host.written[1])
        if self.rng.random() < 0.5:
            host.written = host.synced
        self._trace("crash", host)
        host.raft, host.writing, host.paused = None, None, False
        host.since = self.now
        host.inbox.clear()
        self.freshness.forget(host)
        host.pending.clear()
        host.reading.clear()
        host.life += 1
        if restart:
            self.after(self.rng.expovariate(1 / self.profile.relief_ms), self._restart, (host, host.life))

    def _restart(self, argument: tuple[Host, int]) -> None:
        host, life = argument
        if host.raft is None and host.life == life:
            self._start(host)
            self.pump(host)

    def _tick(self, argument: tuple[Host, int]) -> None:
        host, life = argument
        if host.raft is None or host.life != life:
            return
        self.after(TICK_MS * (0.9 + 0.2 * self.rng.random()), self._tick, argument)
        if not host.paused:
            host.raft.tick()
            self.pump(host)

    def pump(self, host: Host) -> None:
        """What a shell does after every input."""
        raft = host.raft
        assert raft is not None
        if host.writing is None or not self.fault.heartbeats_wait:
            for message in raft.urgent():
                self._send(message)
        if host.writing is None:
            ready = raft.ready()
            if ready is not None:
                host.writing = ready
                mean = self.profile.sync_ms * (10 if host.slow else 1) if ready.must_sync else 0.2
                if self.fault.answers_before_sync:
                    for message in ready.messages:
                        self._send(message)
                self.after(self.rng.expovariate(1 / mean), self._written, (host, host.life, ready))
        self._observe(host, raft)

    def _observe(self, host: Host, raft: Raft) -> None:
        commit = raft.commit
        if commit != host.commit:
            if commit < host.commit:
                raise Violation(f"{host.id} went back from commit {host.commit} to {commit}")
            host.commit = commit
            if raft.role is Role.LEADER and raft.membership is not None:
                self.freshness.committed(commit)
                disks = [self.hosts[voter].storage for voter in raft.membership.voters]
                self.checkers.committed(host.id, commit, raft._log.term(commit), disks)
                self._strike(host, self.profile.strike_committer, spare=0.0)
        host.term = raft.term
        if host.reading:
            for read in raft.reads():
                self.checkers.read(host.id, read.index, host.reading.pop(read.ticket))
                self.freshness.answer(host, read)
        if raft._notices:
            for notice in raft.notices():
                match notice:
                    case BecameLeader(term):
                        self._trace("leads", host)
                        self.checkers.became_leader(term, host.id, host.storage)
                        self._strike(host, self.profile.strike_new_leader, spare=0.2)
                    case SnapshotWanted(leader_id):
                        source = self.hosts[leader_id]
                        self.after(self.profile.delay_ms * 3, self._fetch, (host, host.life, source))
                    case Suspicious():
                        raise Violation(f"{host.id} met {notice}")
                    case _:
                        pass

    def _fetch(self, argument: tuple[Host, int, Host]) -> None:
        """The bulk of a snapshot goes from shell to shell; the core hears of it when it is all there."""
        host, life, source = argument
        if host.raft is None or host.life != life or host.paused or source.raft is None or source.paused:
            return
        if (source.id, host.id) in self._cut or (host.id, source.id) in self._cut:
            return
        applied = source.written[1]
        membership = source.storage.membership(applied)
        assert membership is not None
        self._trace(f"fetched {applied} from {source.id}", host)
        host.raft.restore(Snapshot(applied, source.storage.term(applied), membership))
        self.pump(host)

    def _land(self, host: Host, ready: Ready) -> None:
        """The transaction: log, hard state, applied."""
        entries = ready.entries
        if ready.snapshot is not None:
            host.storage.install(ready.snapshot.index, ready.snapshot.term, ready.snapshot.membership)
            host.written = (host.written[0], ready.snapshot.index)
        if entries:
            self.checkers.entries_written(entries, host.storage.term(entries[0].index - 1))
        host.storage.write(entries, ready.truncate_from)
        hard_state, applied = host.written
        if ready.hard_state is not None:
            old = hard_state
            hard_state = ready.hard_state
            if self.fault.forgets_vote:
                hard_state = HardState(hard_state.term, "", hard_state.commit)
            if self.fault.forgets_term:
                hard_state = HardState(old.term, old.vote, hard_state.commit)
        if ready.committed:
            if ready.committed[0].index != applied + 1:
                raise Violation(f"{host.id} would apply {ready.committed[0].index} after {applied}")
            applied = ready.committed[-1].index
        host.written = (hard_state, applied)
        if ready.must_sync:
            host.synced = host.written
        term = hard_state.term
        for entry in ready.committed:
            self.checkers.applied(host.id, term, entry)
        self.freshness.applied(host, host.written[1])

    def _written(self, argument: tuple[Host, int, Ready]) -> None:
        host, life, ready = argument
        if host.raft is None or host.life != life:
            return
        if host.paused:
            self.after(TICK_MS, self._written, argument)
            return
        chance = self.rng.random() if ready.must_sync and not self._quiet else 1.0
        if chance < self.profile.crash_before_answer:
            self._crash(host)
            return
        self._land(host, ready)
        host.writing = None
        if not self.fault.answers_before_sync:
            for message in ready.messages:
                self._send(message)
        for entry in ready.committed:
            if entry.data in host.pending:
                self.checkers.acknowledged(entry, host.pending.pop(entry.data))
        if chance < self.profile.crash_before_answer + self.profile.crash_after_answer:
            self._crash(host)
            return
        host.raft.advance(ready)
        if ready.committed and self.rng.random() < self.profile.compact:
            host.synced = host.written
            keep = self.rng.choice((0, 1, 5, 50))
            host.storage.compact(max(host.storage.first_index() - 1, host.written[1] - keep))
        self.pump(host)

    # The network.

    def _send(self, message: Message) -> None:
        if isinstance(message, VoteReply) and message.granted:
            self.checkers.vote_granted(message.term, message.sender, message.recipient)
        self.carry(message.sender, message.recipient, self._deliver, message)

    def carry(self, sender: str, recipient: str, arrive: Callable[[Any], None], what: Any) -> None:
        """Late, twice, out of order or not at all, as the network is."""
        profile, rng = self.profile, self.rng
        if (sender, recipient) in self._cut:
            return
        copies = 1
        if not self._quiet:
            if profile.loss and rng.random() < profile.loss:
                return
            if profile.duplicate and rng.random() < profile.duplicate:
                copies = 2
        for _ in range(copies):
            delay = 1 + rng.expovariate(1 / profile.delay_ms)
            if profile.far_delay and not self._quiet and rng.random() < profile.far_delay:
                delay *= 50
            self.after(delay, arrive, what)

    def _deliver(self, message: Message) -> None:
        host = self.hosts[message.recipient]
        if host.raft is None or (message.sender, message.recipient) in self._cut:
            return
        if host.paused:
            host.inbox.append(message)
            return
        if not self.events & 255:
            assert decode(encode(message)) == message
        host.raft.step(message)
        self.pump(host)

    # Clients.

    def _client(self, _: None) -> None:
        if not self._clients:
            return
        rng = self.rng
        self.after(rng.expovariate(1 / self.profile.client_ms), self._client, None)
        origin = rng.choice(list(self.hosts.values()))
        if origin.raft is None or origin.paused:
            return
        if len(origin.pending) >= OUTSTANDING_MAX:
            origin.pending.clear()  # clients give up; what became of their proposals, they never learn
        leader_id = origin.raft.leader_id
        leader = self.hosts[leader_id] if leader_id is not None else None
        if leader is None or leader.raft is None or leader.paused or (origin.id, leader.id) in self._cut:
            return
        if rng.random() < 0.1:
            self._read_anywhere()
            return
        items = []
        for _unused in range(rng.choice((1, 1, 1, 3, 10))):
            self._proposals += 1
            items.append((EntryKind.WRITE, b"%d" % self._proposals))
        try:
            leader.raft.propose(items)
        except (NotLeader, Busy):
            return
        for _kind, data in items:
            origin.pending[data] = self.checkers.acked_max
        self.pump(leader)

    def _read_anywhere(self) -> None:
        """Ask whoever believes to lead; an old leader that does not know better is the interesting one."""
        for host in self.hosts.values():
            if host.raft is not None and host.raft.role is Role.LEADER and not host.paused:
                self.read(host, host.raft)
                self.pump(host)

    def read(self, host: Host, raft: Raft) -> int | None:
        try:
            ticket = raft.read_index()
        except (NotLeader, Busy):
            return None
        host.reading[ticket] = self.checkers.acked_max
        return ticket

    # The nemesis.

    def _nemesis(self, _: None) -> None:
        if self._quiet:
            return
        rng, profile = self.rng, self.profile
        self.after(rng.expovariate(1 / profile.trouble_ms), self._nemesis, None)
        (action,) = rng.choices(list(profile.weights), list(profile.weights.values()))
        victim = rng.choice(list(self.hosts.values()))
        leader = self._leader() or victim
        relief = rng.expovariate(1 / profile.relief_ms)
        match action:
            case "crash":
                self._crash(victim)
            case "crash_leader":
                self._crash(leader)
            case "crash_all":
                for host in self.hosts.values():
                    self._crash(host)
            case "pause":
                if victim.raft is not None and not victim.paused:
                    victim.paused = True
                    self.after(relief, self._resume, (victim, victim.life))
            case "transfer":
                if leader.raft is not None and not leader.paused:
                    self.order(leader, lambda raft: raft.transfer(victim.id))
            case "change":
                if leader.raft is not None and not leader.paused:
                    wanted = self._another(leader.raft.membership or self.founders, victim.id)
                    self.order(leader, lambda raft: raft.change(wanted))
            case "isolate":
                self._cut_off([victim.id], relief)
            case "isolate_leader":
                self._cut_off([leader.id], relief)
            case "split":
                side = [node_id for node_id in self.hosts if rng.random() < 0.5]
                self._cut_off(side, relief)
            case "one_way":
                self._cut |= {(victim.id, other) for other in self.hosts if rng.random() < 0.7}
                self._cut |= {(other, leader.id) for other in self.hosts if rng.random() < 0.3}
                self.after(relief, self._heal_links, None)

    def order(self, leader: Host, order: Callable[[Raft], object]) -> None:
        assert leader.raft is not None
        try:
            order(leader.raft)
        except (NotLeader, Refused):
            return
        self.pump(leader)

    def _another(self, current: Membership, node_id: str) -> Membership:
        """A membership in which `node_id` has moved one step: in, up, down or out; or has become a witness, or none."""
        voters, learners, witnesses = set(current.voters), set(current.learners), set(current.witnesses)
        if self.profile.witnesses and self.rng.random() < 0.2:
            witnesses ^= {node_id}
        elif node_id in voters:
            voters.discard(node_id)
            if self.rng.random() < 0.5:
                learners.add(node_id)
        elif node_id in learners:
            learners.discard(node_id)
            if self.rng.random() < 0.7:
                voters.add(node_id)
        else:
            learners.add(node_id)
        witnesses &= voters | learners
        lists = (tuple(sorted(nodes)) for nodes in (voters, learners, (), witnesses))
        return Membership(current.cluster_id, *lists)

    def _strike(self, leader: Host, chance: float, spare: float) -> None:
        """Strike a leader at its worst moment: just elected, or just calling something committed.

        Nobody (but a share of `spare`) hears what it says from now on, it goes on alone for a few syncs, and dies.
        """
        if self._quiet or not chance or self.rng.random() >= chance:
            return
        if self.profile.weights.get("change") and leader.raft is not None:
            wanted = self._another(leader.raft.membership or self.founders, self.rng.choice(list(self.hosts)))
            self.after(self.rng.random() * 6 * self.profile.sync_ms, self._order_change, (leader, leader.life, wanted))
        self._cut |= {(leader.id, other) for other in self.hosts if self.rng.random() >= spare}
        self.after(self.profile.relief_ms, self._heal_links, None)
        self.after(self.rng.random() * 6 * self.profile.sync_ms, self._struck, (leader, leader.life))

    def _order_change(self, argument: tuple[Host, int, Membership]) -> None:
        leader, life, wanted = argument
        if leader.life == life and not leader.paused:
            self.order(leader, lambda raft: raft.change(wanted))

    def _struck(self, argument: tuple[Host, int]) -> None:
        host, life = argument
        if host.life == life:
            self._crash(host)

    def _cut_off(self, side: list[str], relief: float) -> None:
        others = [node_id for node_id in self.hosts if node_id not in side]
        self._cut |= {(a, b) for a in side for b in others} | {(b, a) for a in side for b in others}
        self.after(relief, self._heal_links, None)

    def _heal_links(self, _: None) -> None:
        if not self._quiet:
            self._cut.clear()

    def _heal(self, _: None) -> None:
        self._cut.clear()
        for host in self.hosts.values():
            host.slow = False
            self._restart((host, host.life))
            self._resume((host, host.life))

    def _resume(self, argument: tuple[Host, int]) -> None:
        """After a pause the clock has jumped: the missed ticks may all come before the first message."""
        host, life = argument
        if host.raft is None or host.life != life or not host.paused:
            return
        host.paused = False
        for _ in range(self.rng.choice((0, 1, 5, 25))):
            host.raft.tick()
        self._read_anywhere()
        for message in host.inbox:
            host.raft.step(message)
        host.inbox.clear()
        self.pump(host)

    def _trace(self, what: str, host: Host) -> None:
        if self.log is not None:
            term = host.raft.term if host.raft is not None else host.term
            self.log(f"{self.now:9.1f} {host.id} {what} term {term} commit {host.commit}")
