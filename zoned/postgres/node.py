"""One node's part in a registry that is kept in a database: the shell around `takeover`.

Two loops. One looks at the registry's row, or moves its beat, every tick. The other does what follows from that: a node
that holds the term first makes sure that it, the database and the other nodes have the same history (`history`), and
then commits what is forwarded to it; any other node follows, of its peers as everywhere, and of the database itself
when they do not have what the row says is there.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from random import Random

import structlog
import trio

from conf import Registry
from gossip import MemberView
from store import catalogue
from store.database import Database
from store.entries import Entry, EntryKind
from store.errors import StorageFull
from zoned.engine import Reading
from zoned.follow import Follower, Positions, keep
from zoned.peers import Peers
from zoned.postgres import ledger, tables
from zoned.postgres.history import Diverged, History, Unfinished
from zoned.postgres.lanes import DatabaseAway, Lane
from zoned.postgres.ledger import Foreign
from zoned.postgres.takeover import NOBODY, Beat, Look, Row, Takeover
from zoned.raft.node import OnApplied
from zoned.raft.ready import Busy, NotLeader
from zoned.supervise import Backoff, Signal, first_of

# (tick, shortest election time), seconds, by `registry.profile`; patience is drawn from one to two election times.
PROFILES = {"lan": (0.2, 1.0), "wan": (0.5, 5.0)}
COMMIT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0
COMMIT_ENTRIES_MAX = 1_024
COMMIT_BYTES_MAX = 1_048_576
BEHIND_TICKS = 3  # peers that bring nothing for so long, while the row is ahead: the database itself is read
AHEAD_BEATS = 3  # a node may hear of a commit a moment before this one does
TABLES_S = 0.25  # how often the tables for people are brought up to date
STEP_DOWN_TIMEOUT_S = 1.0

logger = structlog.get_logger()


class DatabaseNode:
    """Implements `zoned.engine.Engine`."""

    def __init__(
        self,
        me: str,
        database: Database,
        settings: Registry,
        peers: Peers,
        members: Mapping[str, MemberView],
        positions: Positions,
        make_follower: Callable[[Callable[[str], Awaitable[None]]], Follower],
        on_applied: OnApplied,
        on_change: Callable[[], None],
        rng: Random,
    ) -> None:
        self.me = me
        self.problem = ""  # what keeps this node from taking part, one line
        self.diverged = False
        self.takeover = Takeover(me, *PROFILES[settings.profile], rng)
        self._tick_s, self._election_s = PROFILES[settings.profile]
        self._database = database
        self._members = members
        self._positions = positions
        self._follower = make_follower(self._on_parted)
        self._on_applied = on_applied
        self._on_change = on_change
        self._uncommitted_bytes_max = settings.uncommitted_bytes_max
        self._beats, self._commits, self._reads, self._tables = (
            Lane(settings.dsn, f"zoned {name}") for name in ("beat", "commit", "read", "tables")
        )
        self._history = History(me, database, peers, members, self._reads, self._commits, self._keep)
        self._backoff = Backoff(0.05, self._election_s, rng)
        self._ready_in = 0  # the term in which this node takes writes
        self._prepared = False
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._queued = Signal()
        self._taken = Signal()  # the held term is another, or there is none any more
        self._hurry = Signal()  # somebody waits for the next beat
        self._reading: list[Reading] = []
        self._checked_in = -1  # the term in which this node's history was last compared with the database's
        self._ahead_beats = 0  # in a row in which a node was further than the database
        self._seen: object = None

    # `zoned.engine.Engine`.

    @property
    def is_informed(self) -> bool:
        return self.takeover.row is not None

    @property
    def holder(self) -> str | None:
        holder = self.takeover.holder
        if self._positions.position == 0 or (holder == self.me and not self.is_registry):
            return None  # of no cluster yet, or not yet what the row says
        return holder

    @property
    def term(self) -> int:
        return self.takeover.held or self.takeover.term

    @property
    def is_registry(self) -> bool:
        held = self.takeover.held
        return held is not None and held == self._ready_in and self.takeover.is_current(trio.current_time())

    def propose(self, writes: Sequence[bytes]) -> None:
        if not self.is_registry:
            raise NotLeader(self.holder)
        if self._queued_bytes > self._uncommitted_bytes_max:
            raise Busy("too much waits for the database")
        self._queue.extend(writes)
        self._queued_bytes += sum(map(len, writes))
        self._queued.set()

    async def read_index(self, *, patient: bool = False) -> int | None:
        if not self.is_registry:
            raise NotLeader(self.holder)
        reading = Reading()
        self._reading.append(reading)
        if not patient:
            self._hurry.set()
        await reading.settled.wait()
        return reading.index

    @property
    def is_sure(self) -> bool:
        """Whether what this node has is what the database has, as of the present term: then others may pull it."""
        row = self.takeover.row
        return not self.diverged and self._checked_in > 0 and (row is None or row.term == self._checked_in)

    async def give_up(self, heir: str) -> None:
        """Leaves the registry to `heir`, "" for whoever takes it. Raises NotLeader."""
        if self.takeover.held is None:
            raise NotLeader(self.holder)
        await self._leave(heir)

    async def _leave(self, heir: str = NOBODY) -> None:
        term = self.takeover.held
        if term is None:
            return
        try:
            await self._beats.run(partial(ledger.give_up, me=self.me, term=term, heir=heir), STEP_DOWN_TIMEOUT_S)
        except DatabaseAway as error:
            logger.info("registry not given up", problem=str(error))
        self._lose(gave_up=True)

    # Looking.

    async def serve(self) -> None:
        """Takes part until cancelled. An impossible state leaves it, and must end the daemon."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._look)
                while True:
                    self._taken.clear()
                    held = self.takeover.held
                    if held is None:
                        await self._follow()
                    else:
                        await self._hold(held)
        finally:
            self._settle(None)
            for lane in (self._beats, self._commits, self._reads, self._tables):
                lane.close()

    async def _look(self) -> None:
        while True:
            began = trio.current_time()
            reading, self._reading = self._reading, []
            held = self.takeover.held
            try:
                row = await self._ask()
            except (DatabaseAway, Foreign) as error:
                self._say(str(error))
                row = None
                self._lose()
                await self._backoff.pause()
            for one in reading:
                one.settle(row.position if row is not None and self.takeover.held == held is not None else None)
            self._tell()
            if not self._reading:
                await first_of(self._hurry.event, at_most_s=began + self._tick_s - trio.current_time())
            self._hurry.clear()

    async def _ask(self) -> Row | None:
        """The next step of the protocol. Raises DatabaseAway or Foreign."""
        cluster = await self._prepare()
        if not cluster:
            return None
        ask = self.takeover.next() if not self.diverged else Look()
        asked_at = trio.current_time()
        # A beat waits behind a commit of this node's, and so may a taking behind one of the holder's.
        timeout_s = self._election_s if isinstance(ask, Look) else COMMIT_TIMEOUT_S
        held = self.takeover.held
        row = await self._beats.run(partial(ledger.perform, me=self.me, cluster_id=cluster, ask=ask), timeout_s)
        if isinstance(ask, Beat) and self.takeover.held != ask.term:
            return None  # it was given up meanwhile
        self.takeover.answered(ask, row, asked_at, trio.current_time())
        self._say("" if not self.diverged else self.problem)
        self._backoff.reset()
        if self.takeover.held != held:
            self._changed_hands()
        elif row is not None and held == self._ready_in:
            self._watch_others(row.position)
        return row

    def _watch_others(self, head: int) -> None:
        """Looks, at each beat, whether a node came back with entries that the database has not."""
        self._ahead_beats = self._ahead_beats + 1 if self._history.somebody_is_ahead(head) else 0
        if self._ahead_beats >= AHEAD_BEATS:
            self._ahead_beats = 0
            logger.warning("a node has applied more than the database has", position=head)
            self._lose()  # a new term begins by putting back what was lost

    async def _prepare(self) -> str:
        """The cluster that this node and the database belong to; the schema, and the beginning of the log, are made."""
        ours = self._history.cluster_id
        if self._prepared and ours:
            return ours
        await self._beats.run(ledger.migrate, READ_TIMEOUT_S)
        theirs = await self._beats.run(ledger.cluster_of, READ_TIMEOUT_S)
        if theirs is None:
            if ours:
                raise Foreign(f"it is empty, and this node has the log of cluster {ours} already")
            await self._beats.run(partial(ledger.found, cluster_id=self._history.new_cluster()), READ_TIMEOUT_S)
            theirs = await self._beats.run(ledger.cluster_of, READ_TIMEOUT_S)
        self._prepared = True
        return ours or theirs or ""

    def _say(self, problem: str) -> None:
        """What keeps this node from taking part; told once per change."""
        if problem != self.problem:
            self.problem = problem
            if problem:
                logger.warning("registry's database", problem=problem)
            else:
                logger.info("registry's database answers")

    def _lose(self, gave_up: bool = False) -> None:
        """What is under way is not known: the term is given up, and nothing is guessed."""
        held = self.takeover.held
        self.takeover.lost(gave_up)
        if held is not None:
            self._changed_hands()
        self._tell()

    def _changed_hands(self) -> None:
        held, row = self.takeover.held, self.takeover.row
        if held is not None and row is not None:
            logger.info("registry taken over", term=held, position=row.position)
        else:
            logger.warning("registry lost")
        self._taken.set()

    def _tell(self) -> None:
        seen = (self.holder, self.is_registry, self.takeover.held)
        if seen != self._seen:
            self._seen = seen
            self._on_change()

    def _settle(self, index: int | None) -> None:
        reading, self._reading = self._reading, []
        for one in reading:
            one.settle(index)

    # Following.

    async def _follow(self) -> None:
        """Keeps up with the log until this node holds a term."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pull)
            await self._until_behind()
            nursery.cancel_scope.cancel()
        row = self.takeover.row
        if self.takeover.held is None and row is not None and not self.diverged:
            try:
                await self._history.read_up(row.position)
                self._checked_in = row.term
                self._on_change()
            except Diverged as error:
                self._part_ways(error)
            except (DatabaseAway, Foreign, StorageFull) as error:
                logger.info("log not read", problem=str(error))

    async def _pull(self) -> None:
        if not self.diverged and await self._is_of_one_history():
            await self._follower.serve(until=lambda: False)

    async def _is_of_one_history(self) -> bool:
        """Whether what this node has is what the database has, looked at once a term."""
        row = self.takeover.row
        if row is None or row.term == self._checked_in:
            return True
        try:
            await self._history.compare(row.position)
        except Diverged as error:
            self._part_ways(error)
            return False
        except (DatabaseAway, Foreign) as error:
            logger.info("log not compared", problem=str(error))
            return True
        self._checked_in = row.term
        self._on_change()
        return True

    async def _on_parted(self, donor: str) -> None:
        """A peer has another entry than this node where this node's end: the database says who is wrong."""
        logger.error("a peer has another history", peer=donor, position=self._positions.position)
        self._checked_in = min(self._checked_in, 0)
        await self._is_of_one_history()

    def _part_ways(self, error: Diverged) -> None:
        self.diverged, self.problem = True, str(error)
        logger.error("history differs from the database's", problem=str(error), lost_writes=error.writes)

    async def _until_behind(self) -> None:
        """Returns when there is something else to do than to follow peers."""
        still, at, stands_aside = 0, -1, self.diverged
        while self.takeover.held is None and self.diverged == stands_aside:
            await first_of(self._taken.event, at_most_s=self._tick_s)
            row = self.takeover.row
            if row is not None and row.term != self._checked_in and not self.diverged:
                break
            behind = (
                row is not None and at == self._positions.position < row.position and not self._follower.is_fetching
            )
            still = still + 1 if behind else 0
            at = self._positions.position
            if still >= BEHIND_TICKS:
                break

    # Holding.

    async def _hold(self, term: int) -> None:
        """Is the registry of `term`, until that ends."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._until_lost, term, nursery.cancel_scope)
            row = self.takeover.row
            try:
                if row is not None:
                    await self._history.make_one(term, row.position)
                    self._checked_in = term
                    self._on_change()
            except Diverged as error:
                self._part_ways(error)
                await self._leave()
            except (DatabaseAway, Foreign, StorageFull, Unfinished) as error:
                logger.warning("registry not begun", term=term, problem=str(error))
                self._say(str(error))
                await self._backoff.pause()
                self._lose()
            if self.takeover.held == term:
                self._queue.clear()
                self._queued_bytes = 0
                self._ready_in = term
                logger.info("is the registry", term=term, position=self._positions.position)
                self._tell()
                nursery.start_soon(self._keep_tables)
                await self._commit(term)
            nursery.cancel_scope.cancel()

    async def _until_lost(self, term: int, scope: trio.CancelScope) -> None:
        while self.takeover.held == term:
            await first_of(self._taken.event, at_most_s=self._tick_s)
            self._tell()
        scope.cancel()

    async def _commit(self, term: int) -> None:
        """Commits what is proposed, in batches; applying one goes on beside the next."""
        send, receive = trio.open_memory_channel[list[Entry]](1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._apply, receive)
            async with send:
                while self.takeover.held == term:
                    await self._queued.wait()
                    while self._queue and self.takeover.held == term:
                        entries = await self._commit_batch(term, self._take())
                        if entries:
                            await send.send(entries)

    def _take(self) -> list[bytes]:
        batch: list[bytes] = []
        size = 0
        while self._queue and len(batch) < COMMIT_ENTRIES_MAX and (not batch or size < COMMIT_BYTES_MAX):
            batch.append(self._queue.popleft())
            size += len(batch[-1])
        self._queued_bytes -= size
        return batch

    async def _commit_batch(self, term: int, batch: list[bytes]) -> list[Entry]:
        try:
            job = partial(ledger.commit, me=self.me, term=term, writes=batch)
            row = await self._commits.run(job, COMMIT_TIMEOUT_S)
        except DatabaseAway as error:
            self._say(str(error))
            row = None
        if row is None:
            self._lose()
            return []
        self.takeover.committed(term, row, trio.current_time())
        first = row.position - len(batch) + 1
        return [Entry(first + n, term, EntryKind.WRITE, data) for n, data in enumerate(batch)]

    async def _apply(self, receive: "trio.MemoryReceiveChannel[list[Entry]]") -> None:
        async with receive:
            async for entries in receive:
                try:
                    await self._keep(entries)
                except StorageFull as error:
                    logger.error("log cannot be written", problem=str(error))
                    await self._leave()
                    await (
                        trio.sleep_forever()
                    )  # what comes behind it must not be applied; all of this ends with the term

    async def _keep(self, entries: Sequence[Entry]) -> None:
        """Committed entries, applied here and told. Raises StorageFull."""
        known = catalogue.replica(self._database.reader).position
        fresh = [entry for entry in entries if entry.index > known]
        if fresh:
            applied = await keep(self._database, self.me, fresh)
            self._on_applied(fresh[-1].index, applied)

    async def _keep_tables(self) -> None:
        """Brings the tables for people up to date, a moment behind the log."""
        while True:
            moved = self._positions.moved
            try:
                again = await tables.catch_up(self._database, self._tables)
            except (DatabaseAway, Foreign) as error:
                logger.info("tables not brought up to date", problem=str(error))
                again = False
            if not again:
                await first_of(moved)
                await trio.sleep(TABLES_S)
