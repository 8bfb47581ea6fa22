"""How old an answer of this node can be: an upper bound that is proved, not guessed, and compares no clocks.

This node asks the registry for a read index and notes its own monotonic time t0 *before* asking. The registry confirms
with a majority that it still is the registry and answers with a position; everything committed before t0 is at or below
it. Once this node has applied that position, everything committed before t0 is in its answers. So at any later time the
bound is the time since t0, by this node's clock alone. Cut off from the registry, the bound simply grows.

Voters ask the registry. A follower asks the voter that it pulls from, which answers when it has proved something since:
its position then holds everything committed before the question came, and so before t0. No clocks are compared there
either, and the registry is asked by a handful of nodes however many follow.
"""

import math
from collections import deque

import structlog
import trio

from zoned import clock
from zoned.errors import PeerRefused, PeerUnreachable
from zoned.raft.log import RaftError
from zoned.replication import Replication
from zoned.supervise import beat

ASK_S = 0.5  # how often, which is about how small the bound gets
PROOF_S = 3 * ASK_S  # a node that could prove nothing for so long says so to whoever asks it
PENDING_MAX = 64  # answers whose position is not applied yet; beyond, the newest are dropped

logger = structlog.get_logger()


class Bound:
    """The arithmetic. Sans-IO: times are the caller's monotonic seconds, which must not stop in a suspend."""

    def __init__(self) -> None:
        self.fresh_at: float | None = None
        self._pending: deque[tuple[float, int]] = deque()  # (t0, position that proves it), both growing

    def answered(self, asked_at: float, index: int, applied: int) -> None:
        """A question asked at `asked_at` was answered with `index`; `applied` is this node's position now."""
        if len(self._pending) < PENDING_MAX:
            self._pending.append((asked_at, index))
        self.applied(applied)

    def applied(self, position: int) -> None:
        """This node has applied `position`."""
        kept: deque[tuple[float, int]] = deque()
        for asked_at, index in self._pending:
            if index <= position:
                self.fresh_at = max(self.fresh_at or -math.inf, asked_at)
            else:
                kept.append((asked_at, index))
        self._pending = kept

    def at(self, now: float) -> float | None:
        """The bound at `now`, seconds; None while nothing was ever proved."""
        return None if self.fresh_at is None else now - self.fresh_at


class Staleness:
    """Asks for ever, and tells the bound."""

    def __init__(self, replication: Replication) -> None:
        self._replication = replication
        self._bound = Bound()
        self.moved = trio.Event()  # set and replaced whenever the bound may have moved
        self._history = replication.cluster_id

    @property
    def bound_s(self) -> float | None:
        """Nothing committed longer ago than this is missing; None while this node has never reached a registry."""
        return self._bound.at(clock.boot())

    @property
    def fresh_at(self) -> float | None:
        """The time, by `clock.boot`, up to which everything committed is here now."""
        return self._bound.fresh_at

    async def serve(self) -> None:
        """Keeps the bound small while there is a registry."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_applied)
            while True:
                await self.ask(patient=True)
                await beat(ASK_S)

    async def ask(self, *, patient: bool = False) -> int | None:
        """One read index: everything committed before this call is at or below. None when nobody could say."""
        asked_at, history = clock.boot(), self._replication.cluster_id
        try:
            index = await self._replication.read_index(patient=patient)
        except (PeerUnreachable, PeerRefused, RaftError) as error:
            logger.debug("no read index", problem=str(error))
            return None
        if history != self._replication.cluster_id:
            return None  # what was proved in a history that was given up meanwhile says nothing of the present one
        if index is not None:
            self._bound.answered(asked_at, index, self._replication.positions.position)
            self._tell()
        return index

    async def position_since(self, instant: float) -> int | None:
        """A position such that everything committed before `instant`, by `clock.boot`, is at or below it; None when
        nothing was proved for PROOF_S.
        """
        history = self._replication.cluster_id
        with trio.move_on_after(PROOF_S):
            while self._bound.fresh_at is None or self._bound.fresh_at < instant:
                await self.moved.wait()
            if self._replication.cluster_id == history:
                return self._replication.positions.position
        return None

    async def wait_until(self, at_most_s: float, deadline: float) -> bool:
        """Waits until the bound is at most `at_most_s`; False when the deadline comes first."""
        with trio.move_on_at(deadline):
            if not self._is_at_most(at_most_s):
                await self.ask()
            while not self._is_at_most(at_most_s):
                await self.moved.wait()
            return True
        return False

    def _is_at_most(self, seconds: float) -> bool:
        return self.bound_s is not None and self.bound_s <= seconds

    async def _watch_applied(self) -> None:
        positions = self._replication.positions
        while True:
            moved = positions.moved
            if self._history != self._replication.cluster_id:
                self._history, self._bound = self._replication.cluster_id, Bound()
            self._bound.applied(positions.position)
            self._tell()
            await moved.wait()

    def _tell(self) -> None:
        self.moved.set()
        self.moved = trio.Event()
