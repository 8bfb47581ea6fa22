"""The write path of every node: journal first, forward in order, learn the outcome by applying.

`submit` is what a client's write goes through, with or without a registry. `serve` drains the journal: one batch in
flight, the next gathering meanwhile. Nothing here decides whether a write was done; only applying its entry does, so a
lost answer, a deposed registry or a crash of either side just means sending the same sequence again.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Protocol

import structlog
import trio
from structlog.contextvars import bound_contextvars

from conf import Journal, Registry
from store import apply, catalogue, holding, journal, ranges, shared
from store.apply import Applied
from store.database import Database
from store.errors import JournalFull
from store.images import Image
from store.journal import Limits, Receipt
from store.operations import Create, Operation, State, Write, decode, subject
from zoned import clock
from zoned.api import request_id
from zoned.drain import Drain
from zoned.errors import PeerRefused, PeerUnreachable
from zoned.registry import Accepted, Answer, NotRegistry, Overloaded
from zoned.supervise import Backoff, Signal, first_of

FORWARD_BYTES_MAX = 1_048_576
UNPACED_PER_S = 1e9
STALL_S = 5.0  # accepted, yet not applied for so long: sent again, in case an election lost it
REQUEST_IDS_MAX = 10_000  # remembered, of clients whose writes wait
REQUEST_IDS_SENT = 50  # sent with one batch

logger = structlog.get_logger()


class Forwarder(Protocol):
    """How writes reach the registry: straight when this node is it, else over the peer plane."""

    @property
    def registry(self) -> str | None:
        """The node that seems to be the registry; None while there is none."""

    def changed(self) -> trio.Event:
        """Set when the registry may have changed."""

    async def forward(self, registry: str, writes: Sequence[Write]) -> Answer:
        """Raises PeerUnreachable or PeerRefused."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """A write that cannot be lost any more. `receipt` says how far it is; `image` is this node's view of the record."""

    write_id: str
    receipt: Receipt | None
    image: Image | None

    @property
    def state(self) -> str:
        """committed, buffered (also: applied, with an outcome not known here), conflict or refused."""
        if self.receipt is None:
            return "committed"
        return "buffered" if self.receipt.state in ("journaled", "applied") else self.receipt.state


class _Waiter:
    """Somebody, or several, who wait for the outcome of one write."""

    def __init__(self) -> None:
        self.settled = trio.Event()
        self.applied: Applied | None = None  # None still when a snapshot brought it


def _receipt(operation: Operation, applied: Applied, at: float) -> Receipt:
    """As the store has it now, for a write that was journaled at the wall-clock time `at`."""
    outcome = applied.outcome
    state = "committed" if outcome.state is State.DONE else outcome.state.value
    about = (outcome.uuid, outcome.integer, applied.position, outcome.code, outcome.detail, clock.wall())
    return Receipt(applied.sequence, journal.kind_of(operation), state, at, *about)


class Proxy:
    """One node's outgoing writes."""

    def __init__(
        self,
        me: str,
        database: Database,
        forwarder: Forwarder,
        settings: Registry,
        limits: Limits,
        backoff: Backoff,
        drain: Drain | None = None,
    ) -> None:
        self.me = me
        self._database = database
        self._forwarder = forwarder
        self._settings = settings
        self._limits = limits
        self._backoff = backoff
        self.drain = drain or Drain(UNPACED_PER_S, Random(0))
        self.refuses = ""  # why every write is refused as if the journal were full; empty: it is not
        self.refused = 0  # clients' writes, for that
        self.journaled = Signal()  # for whoever shares the journal with other nodes
        self._news = Signal()
        self._numbered = False  # whether the last write was given an integer, so that there are more, as it seems
        self._settled = trio.Event()  # replaced whenever own writes were applied
        self._waiters: dict[int, _Waiter] = {}
        self._seen = apply.mark(database.reader, me)  # of the own writes that were applied, the last
        # Sequences answered as buffered. What an earlier run of the daemon left counts as buffered too: its clients
        # are long gone.
        self._buffered_through = journal.backlog(database.reader).last_sequence
        # Up to here writes may have left this node; of what an earlier run did nothing is known.
        self.left_through = self._buffered_through
        self._buffered: set[int] = set()
        self._request_ids: dict[int, str] = {}  # of the clients whose writes wait, for the logs of both sides
        self._sent = 0  # highest sequence the present registry has accepted
        self._sent_ahead: frozenset[int] = frozenset()  # what it has accepted beyond that
        self._failing = False
        self._blocked = False  # by other nodes' writes, which have to be applied first
        self._away_since: float | None = trio.current_time()

    def set_limits(self, limits: Limits) -> None:
        """Bounds of the journal from now on."""
        self._limits = limits

    # The client's side.

    async def submit(self, operation: Operation, wait: bool = True) -> Submitted:
        """Journals a write and waits for its outcome, at most `registry.wait_s`; not at all while there is no registry.

        Raises Refused, JournalFull or StorageFull when it was not journaled.
        """
        if self.refuses:
            self.refused += wait
            raise JournalFull(self.refuses)
        if isinstance(operation, Create):
            await self._wait_for_range()
        now, limits, me = clock.wall(), self._limits, self.me
        made, held = await self._database.write(
            lambda c: (journal.append(c, me, operation, now, limits), holding.held(c) is not None)
        )
        if made.sequence is None:
            return Submitted(made.write_id, None, made.image)
        self._numbered = made.image is not None and made.image.integer is not None
        if (asked_by := request_id.current()) is not None and len(self._request_ids) < REQUEST_IDS_MAX:
            self._request_ids[made.sequence] = asked_by
        self.journaled.set()
        if not wait:
            self._news.set()
            return Submitted(made.write_id, journal.receipt(self._database.reader, made.sequence), made.image)
        patience_s = 0.0 if held else self._patience_s()
        if not patience_s:
            self._buffered.add(made.sequence)  # before it can be forwarded
            self._news.set()
            return Submitted(made.write_id, journal.waiting(made.sequence, operation, now, made.image), made.image)
        self._news.set()
        applied = await self.wait_for(made.sequence, patience_s)
        if applied is not None:
            image = applied.image or self._image_after(operation) or made.image
            return Submitted(made.write_id, _receipt(operation, applied, now), image)
        receipt = self._late(made.sequence)
        waits = receipt is not None and not receipt.is_finished
        image = None if waits else self._image_after(operation)  # while it waits the view has not moved
        return Submitted(made.write_id, receipt, image or made.image)

    async def outcome(self, sequence: int) -> Receipt | None:
        """The receipt of an own write for its client, after `registry.wait_s` at most; then it counts as buffered."""
        patience_s = 0.0 if holding.held(self._database.reader) else self._patience_s()
        if patience_s:
            await self.wait_for(sequence, patience_s)
        return self._late(sequence)

    def _late(self, sequence: int) -> Receipt | None:
        """The receipt of a write that is not waited for any longer."""
        receipt = journal.receipt(self._database.reader, sequence)
        if receipt is not None and receipt.state == "journaled":
            self._buffered.add(sequence)
        return receipt

    def _image_after(self, operation: Operation) -> Image | None:
        uuid = subject(operation)
        found = catalogue.find(self._database.reader, uuid) if uuid is not None else None
        return found.image if found is not None else None

    async def _wait_for_range(self) -> None:
        """A create that comes while the node's first range is under way waits for it, as it would for its outcome."""
        patience_s = self._patience_s()
        if self._numbered or not patience_s or ranges.has_any(self._database.reader):
            return
        with trio.move_on_after(patience_s):
            while not ranges.has_any(self._database.reader) and journal.has_grant(self._database.reader):
                await self._settled.wait()

    async def wait_for(self, sequence: int, timeout_s: float) -> Applied | None:
        """Waits until this node's `sequence`-th write is applied, or for `timeout_s`.

        Returns how it ended, None if that came before or not at all, or in a snapshot.
        """
        waiter = self._waiters.setdefault(sequence, _Waiter())
        # Asked after the waiter stands: an outcome that came before it is on disk by now.
        if sequence > self._seen or journal.is_pending(self._database.reader, sequence):
            with trio.move_on_after(timeout_s):
                await waiter.settled.wait()
        if not waiter.settled.is_set() and not waiter.settled.statistics().tasks_waiting:
            self._waiters.pop(sequence, None)
        return waiter.applied

    def _patience_s(self) -> float:
        """How long a client waits now: not at all while the registry is known to be away for longer than that."""
        away = self._away_since
        is_away = away is not None and trio.current_time() - away >= self._settings.wait_s
        return 0.0 if is_away else self._settings.wait_s

    @property
    def is_away(self) -> bool:
        """Whether clients do not wait, because the registry is known to be away."""
        return not self._patience_s()

    @property
    def settled(self) -> trio.Event:
        """Set when own writes are applied the next time."""
        return self._settled

    def on_applied(self, position: int, applied: Sequence[Applied]) -> None:
        """Own writes were applied: their clients get answers. A snapshot brings no outcomes, only the mark."""
        if self._blocked:
            self._news.set()
        if not applied and (mark := apply.mark(self._database.reader, self.me)) > self._seen:
            self._seen = mark
            self._request_ids.clear()
            for sequence in [one for one in self._waiters if not journal.is_pending(self._database.reader, one)]:
                self._waiters.pop(sequence).settled.set()
        for one in applied:
            self._buffered.discard(one.sequence)
            self._request_ids.pop(one.sequence, None)
            self._seen = max(self._seen, one.sequence)
            waiter = self._waiters.pop(one.sequence, None)
            if waiter is not None:
                waiter.applied = one
                waiter.settled.set()
        if applied:
            self.drain.settled(len(applied), trio.current_time())
            self._failing = False  # whatever the last answer was, writes do come through
            self._news.set()
            self._settled.set()
            self._settled = trio.Event()

    def wake(self) -> None:
        """Sends what waits now, again if it was sent already."""
        self._forget_sent()
        self._news.set()
        self.journaled.set()

    # The registry's side.

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drains the journal for ever."""
        task_status.started()
        while True:
            self._news.clear()
            changed = self._forwarder.changed()
            registry = self._forwarder.registry
            self._mark_away(registry is None or self._failing)
            rows = self._next_rows() if registry is not None else []
            if registry is not None and (urgent := self._next_urgent(rows)):
                await self._forward(registry, urgent, changed)
            elif registry is not None and rows:
                await self._send(registry, len(rows), changed)
            elif not await first_of(changed, self._news.event, at_most_s=STALL_S):
                self._forget_sent()
            if changed.is_set():
                # Another registry knows nothing of what this one accepted.
                self._forget_sent()
                self._failing = False
                if journal.backlog(self._database.reader).entries > self._settings.forward_batch_max:
                    await trio.sleep(self.drain.stagger_s())

    def _mark_away(self, away: bool) -> None:
        if not away:
            self._away_since = None
        elif self._away_since is None:
            self._away_since = trio.current_time()

    def _next_rows(self) -> list[tuple[int, bytes]]:
        reader = self._database.reader
        after = max(self._sent, apply.mark(reader, self.me))
        rows = journal.read(reader, after, self._settings.forward_batch_max, FORWARD_BYTES_MAX)
        self._blocked = not rows and journal.backlog(reader).last_sequence > after
        return rows

    def _next_urgent(self, rows: Sequence[tuple[int, bytes]]) -> list[Write]:
        """What rides ahead of the next `rows` and all behind them. What was sent goes with what comes for its image."""
        reader = self._database.reader
        beyond = rows[-1][0] if rows else max(self._sent, apply.mark(reader, self.me))
        found = shared.urgent_run(reader, self.me, self.me, beyond, self._settings.forward_batch_max, FORWARD_BYTES_MAX)
        if all(one.sequence in self._sent_ahead for one in found):
            return []
        return [replace(one, buffered=self._is_buffered(one.sequence)) for one in found]

    def _forget_sent(self) -> None:
        self._sent, self._sent_ahead = 0, frozenset()

    def _is_buffered(self, sequence: int) -> bool:
        return sequence <= self._buffered_through or sequence in self._buffered

    @contextmanager
    def _named(self, batch: Sequence[Write]) -> Iterator[None]:
        """Names, in the logs of both sides, the first clients whose writes are forwarded."""
        found = [self._request_ids[one.sequence] for one in batch if one.sequence in self._request_ids]
        if not found:
            yield
            return
        with bound_contextvars(request_id=",".join(found[:REQUEST_IDS_SENT])):
            logger.debug("forwarding", writes=len(batch))
            yield

    async def _send(self, registry: str, waiting: int, changed: trio.Event) -> None:
        """The next writes, at most the `waiting` that the drain's pace is asked for."""
        # When this node is the registry, forwarding never waits: heartbeats must get their turn all the same.
        await trio.sleep(self.drain.pause_s(waiting, trio.current_time()))
        # Read only now, and with nothing awaited until `left_through` says so: what an operator dropped or held during
        # the pause does not leave, and whoever asks afterwards is told that it may have left.
        rows = self._next_rows()[:waiting]
        if not rows:
            return
        batch = [Write(self.me, sequence, decode(data), self._is_buffered(sequence)) for sequence, data in rows]
        await self._forward(registry, batch, changed)

    async def _forward(self, registry: str, batch: Sequence[Write], changed: trio.Event) -> None:
        self.left_through = max(self.left_through, batch[-1].sequence)
        try:
            with self._named(batch):
                answer = await self._forwarder.forward(registry, batch)
        except (PeerUnreachable, PeerRefused) as error:
            if not self._failing:
                logger.warning("registry not reached", registry=registry, problem=str(error))
            answer = None
        self._failing = answer is None or isinstance(answer, NotRegistry)
        match answer:
            case Accepted(through):
                self._backoff.reset()
                if batch[0].ahead:
                    self._sent_ahead |= {one.sequence for one in batch}
                else:
                    self._sent = min(through, batch[-1].sequence)
            case Overloaded():
                await self._backoff.pause()
            case NotRegistry() | None:
                self._forget_sent()
                self._mark_away(True)
                await self._backoff.pause(changed)


def limits(settings: Journal, directory: str) -> Limits:
    """The journal's bounds from its configuration table."""
    return Limits(settings.entries_max, settings.bytes_max, settings.free_disk_min_bytes, directory)


def shared_limits(settings: Journal, directory: str) -> Limits:
    """The bounds of what is kept of other nodes' journals."""
    return Limits(settings.shared_entries_max, settings.shared_bytes_max, settings.free_disk_min_bytes, directory)
