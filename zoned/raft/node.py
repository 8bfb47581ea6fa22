"""The shell around the Raft core: ticks, the disk, the wire. No decision is made here.

One round: take the core's Ready, write hard state, log entries and the effects of committed entries in one transaction,
then send the messages that vouch for it, then tell the core. While the disk works, messages that vouch for nothing
unsynced keep leaving through `urgent`, so that a slow sync never looks like a dead leader.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import apsw
import structlog
import trio

from store import apply, log
from store.apply import Applied
from store.database import Database
from store.entries import EntryKind, Membership
from store.errors import StorageFull
from zoned import clock
from zoned.engine import Reading
from zoned.raft.core import Raft
from zoned.raft.log import RaftError
from zoned.raft.messages import Message
from zoned.raft.pace import Pace
from zoned.raft.ready import (
    BecameLeader,
    Campaigning,
    LeaderChanged,
    NotLeader,
    Ready,
    Snapshot,
    SnapshotWanted,
    SteppedDown,
    Suspicious,
    TransferFailed,
)
from zoned.supervise import Signal

ROUNDING = 1e-6  # of a tick
FULL_RETRY_S = 1.0  # a full disk is tried again this often; the messages of the round wait with it

OnApplied = Callable[[int, Sequence[Applied]], None]
Send = Callable[[Iterable[Message]], None]

logger = structlog.get_logger()


class Snapshots(Protocol):
    """How the state itself is got and put in place when the log does not reach back far enough."""

    def want(self, leader_id: str) -> None:
        """Fetches it from the leader, beside everything else, and then calls `RaftNode.restore`."""

    async def install(self, ready: Ready) -> None:
        """Puts the fetched state of `ready.snapshot` in place together with `ready.hard_state`, in one step."""


class RaftNode:
    """Runs one core. `send` queues messages without waiting; `on_applied` hears of each applied position, `on_change`
    of a new leader, term or role."""

    def __init__(
        self,
        core: Raft,
        database: Database,
        pace: Pace,
        send: Send,
        on_applied: OnApplied,
        on_change: Callable[[], None],
        snapshots: "Snapshots",
    ) -> None:
        self.core = core
        self._database = database
        self._pace = pace
        self._send = send
        self._on_applied = on_applied
        self._on_change = on_change
        self._snapshots = snapshots
        self._work = Signal()
        self._fault: Exception | None = None  # what a message led to, and ends this node
        self._reads: dict[int, Reading] = {}  # by the core's ticket
        self._patient: Reading | None = None  # what waits for the next tick, together
        self._doze = trio.CancelScope()  # the ticks' sleep
        self._counted = trio.current_time()  # up to when the core knows how much time has passed
        self._tick_s = pace.tick_s(self._counted)
        self._seen = (core.leader_id, core.is_registry, core.term)
        self.why = ""  # while `on_change` is called: what began the change, in words, if this node knows

    # `zoned.engine.Engine`.

    @property
    def is_informed(self) -> bool:
        return True

    @property
    def holder(self) -> str | None:
        core = self.core
        return None if core.leader_id == core.node_id and not core.is_registry else core.leader_id

    @property
    def term(self) -> int:
        return self.core.term

    @property
    def is_registry(self) -> bool:
        return self.core.is_registry

    def step(self, messages: Iterable[Message]) -> None:
        """Shows the core messages from peers, and sends what it has to say at once.

        What it finds impossible ends the daemon, not the one request that brought it: `serve` raises it.
        """
        if self._fault is not None:
            return
        try:
            self._count(trio.current_time())
            for message in messages:
                self.core.step(message)
            self._pump()
        except Exception as error:
            self._fault = error
            self._work.set()

    def propose(self, writes: Sequence[bytes]) -> range:
        """Appends encoded writes; returns their positions. Raises NotLeader or Busy."""
        positions = self.core.propose([(EntryKind.WRITE, data) for data in writes])
        self._pump()
        return positions

    def change(self, wanted: Membership) -> int:
        """Proposes another membership; returns its position. Raises NotLeader or Refused."""
        position = self.core.change(wanted)
        self._pump()
        return position

    def furthest(self) -> str | None:
        """The reachable other voter, no witness, that has most of the log; None when there is none, or this node does
        not lead."""
        progress, membership = self.core.progress, self.core.membership
        able = set(membership.voters) - set(membership.witnesses) if membership is not None else ()
        others = [voter for voter in sorted(able) if voter in progress and progress[voter].active]
        return max(others, key=lambda voter: progress[voter].match, default=None)

    def transfer(self, target: str) -> None:
        """Begins to hand the leadership over. Raises NotLeader or Refused."""
        self.core.transfer(target)
        self._pump()

    def restore(self, snapshot: Snapshot) -> bool:
        """A fetched state may be put in place; False when it is of no use any more."""
        useful = self.core.restore(snapshot)
        self._pump()
        return useful

    async def read_index(self, *, patient: bool = False) -> int | None:
        """A position such that everything acknowledged before this call is at or below it.

        `patient`: all that wait for the next tick share its heartbeat, and cost nothing; others cause one of their own.
        None when leadership was lost meanwhile. Raises NotLeader or Busy.
        """
        if self.core.leader_id != self.core.node_id:
            raise NotLeader(self.core.leader_id)
        if patient:
            reading = self._patient = self._patient or Reading()
        else:
            reading = self._reads[self.core.read_index()] = Reading()
            self._pump()
        await reading.settled.wait()
        return reading.index

    def _read_patiently(self) -> None:
        """Just before a tick, so that its heartbeat is the one that confirms."""
        reading, self._patient = self._patient, None
        if reading is None:
            return
        try:
            self._reads[self.core.read_index()] = reading
        except RaftError:
            reading.settle(None)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled. An impossible state or a failed sync leaves it, and must end the daemon."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tick)
                task_status.started()
                self._pump()
                while True:
                    await self._work.wait()
                    if self._fault is not None:
                        raise self._fault
                    while (ready := self.core.ready()) is not None:
                        await self._round(ready)
        finally:
            for reading in (*self._reads.values(), *filter(None, (self._patient,))):
                reading.settle(None)

    async def _tick(self) -> None:
        """Ticks one by one while the core has to do something, and sleeps through those that it would only count.

        The tick at which something happens is always slept for by itself: ticks missed in a stall prove nothing about
        the leader, whose messages may be waiting to be read.
        """
        while True:
            now = trio.current_time()
            self._tick_s = self._pace.tick_s(now)
            if now - self._counted > self._tick_s:
                self._counted = now
            quiet = self.core.quiet_ticks
            self._doze.deadline = due = self._counted + max(1, quiet) * self._tick_s
            with self._doze:
                await trio.sleep_forever()
            now = trio.current_time()
            late_s = max(0.0, now - due)
            if now >= due:
                self._pace.saw(late_s, now)
            if quiet:  # whole ticks that a stall added are not counted, and as many again are taken off
                missed = int(late_s / self._tick_s)
                self._count(now - 2 * missed * self._tick_s, at_least=int(now >= due))
            else:
                self._read_patiently()
                self._counted = now
                self.core.tick()
            self._doze = trio.CancelScope()
            self._pump()

    def _count(self, until: float, at_least: int = 0) -> None:
        """Tells the core of the ticks slept through so far."""
        count = max(at_least, int((until - self._counted) / self._tick_s + ROUNDING))
        count = min(count, self.core.quiet_ticks)
        if count > 0:
            self._counted += count * self._tick_s
            self.core.tick(count)

    def _pump(self) -> None:
        """Sends what need not wait, and wakes the rounds."""
        self._send(self.core.urgent())
        for read in self.core.reads():
            reading = self._reads.pop(read.ticket, None)
            if reading is not None:
                reading.settle(read.index)
        self._tell()
        self._work.set()
        if not self.core.quiet_ticks:  # it leads, or is about to stand: no long sleep any more
            self._doze.deadline = min(self._doze.deadline, trio.current_time() + self._tick_s)

    async def _round(self, ready: Ready) -> None:
        began = trio.current_time()
        applied = await self._persist(ready)
        self._pace.saw(trio.current_time() - began, trio.current_time())
        self._send(ready.messages)
        self.core.advance(ready)
        self._pump()
        if ready.committed:
            self._on_applied(ready.committed[-1].index, applied)
        elif ready.snapshot is not None:
            self._on_applied(ready.snapshot.index, [])

    async def _persist(self, ready: Ready) -> list[Applied]:
        me = self.core.node_id

        def transaction(connection: apsw.Connection) -> list[Applied]:
            if ready.truncate_from is not None and ready.snapshot is None:
                log.truncate(connection, ready.truncate_from)
            log.save_entries(connection, ready.entries)
            if ready.hard_state is not None:
                log.save_hard_state(connection, ready.hard_state)
            return apply.apply(connection, ready.committed, me, clock.wall())

        installed = ready.snapshot is None
        while True:
            try:
                # Shielded: a transaction that was asked for also happens, and then the rest of the round must follow.
                with trio.CancelScope(shield=True):
                    if not installed:
                        await self._snapshots.install(ready)
                        installed = True
                    return await self._database.write(transaction)
            except StorageFull as error:
                logger.error("log cannot be written", problem=str(error), retry_s=FULL_RETRY_S)
                self._hand_over()
                await trio.sleep(FULL_RETRY_S)

    def _hand_over(self) -> None:
        """A leader that cannot write gives way to one that can."""
        target = self.furthest()
        if target is not None:
            try:
                self.transfer(target)
            except RaftError as error:
                logger.info("registry not handed over", problem=str(error))

    def _tell(self) -> None:
        for notice in self.core.notices():
            match notice:
                case BecameLeader(term):
                    logger.info("became leader", term=term)
                case SteppedDown(term, reason):
                    self.why = self.why or f"this node stepped down: {reason.value}"
                    logger.warning("stepped down", term=term, reason=reason.value)
                case LeaderChanged(term, leader_id):
                    logger.info("leader changed", term=term, leader=leader_id)
                case Campaigning(term, pre):
                    self.why = self.why or ("no heartbeat of the registry" if pre else "handed over to this node")
                    logger.info("campaigning", term=term, pre_vote=pre)
                case TransferFailed(term, target):
                    logger.warning("leadership not handed over", term=term, target=target)
                case SnapshotWanted(leader_id):
                    self._snapshots.want(leader_id)
                case Suspicious(sender, what):
                    logger.warning("message dropped", sender=sender, what=what)
        seen = (self.core.leader_id, self.core.is_registry, self.core.term)
        if seen != self._seen:
            self._seen = seen
            self._on_change()
        self.why = ""
