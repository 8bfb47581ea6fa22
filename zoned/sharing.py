"""Shared journals: nodes pull each other's unapplied writes, show them, and forward for whoever cannot.

While there is a registry a write is applied within milliseconds, and nothing is shared. What waits longer, or was made
while the registry is known to be away, is *offered*; every node that reaches this one has asked for it already (long
poll), syncs it, and says with its next question that it has. So a write outlives the node that made it, is readable in
other zones as a provisional record, and reaches the registry by whoever reaches that.

Nodes that cannot reach each other get each other's writes from a third: a donor passes on what it keeps of others,
except of nodes that the asker reaches by itself.
"""

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import apsw
import structlog
import trio

from conf import Registry as RegistrySettings
from gossip import MemberView
from store import apply, journal, shared, urgent
from store.database import Database
from store.errors import StorageFull
from store.images import is_uuid
from store.journal import Limits
from store.operations import OperationError, Write, decode
from store.shared import Row
from store.soundness import OPERATION_BYTES_MAX, unsound
from zoned.errors import PeerRefused, PeerUnreachable
from zoned.peers import Peers
from zoned.proxy import FORWARD_BYTES_MAX, Proxy
from zoned.registry import Accepted, Answer
from zoned.replication import Replication
from zoned.supervise import Backoff, Signal, beat, first_of

POLL_S = 5.0  # a donor with nothing new answers after this long
PULL_TIMEOUT_S = 10.0  # for the answer itself
RIPE_S = 0.25  # a write that waits for so long is offered ...
RIPE_AWAY_S = 0.05  # ... and after so long while the registry is known to be away
BATCH_ENTRIES_MAX = 1_024  # in one answer
BATCH_BYTES_MAX = 4_194_304
ROW_BYTES_MAX = OPERATION_BYTES_MAX + 4_096  # of one that was dropped, its reason and who did it
PEERS_NEAR = 24  # the nearest are pulled from, and pass on what the others have ...
PEERS_FAR = (
    8  # ... and so many of the rest, other ones for each node: or two far groups would keep theirs to themselves
)
CHOOSE_S = 0.5  # how often it is looked who is there
RELIEF_S = 0.2  # how often it is looked who needs help
PATIENCE_S = 1.0  # up to twice as long a journal stands still before others forward it
STALL_S = 5.0  # accepted, yet not applied for so long: sent again

logger = structlog.get_logger()


@dataclass(slots=True)
class _Case:
    """One other node's journal: the mark when last looked at, since when, and how far the registry accepted it."""

    mark: int
    since: float
    patience: float
    sent: int = 0
    helping: bool = False


class Relief:
    """Whose writes to forward, and from where on. Sans-IO: `now` is monotonic seconds.

    A journal that moves is forwarded by somebody already; one that stands still needs help. Several may help at once:
    the registry skips what it knows, and whoever is told of more than it sent leaves the rest to the other.
    """

    def __init__(self, rng: Random, stall_s: float = STALL_S) -> None:
        self._rng = rng
        self._stall_s = stall_s
        self._cases: dict[str, _Case] = {}

    def doubt(self, now: float) -> None:
        """Another registry, or none: what the last one accepted may be lost."""
        for case in self._cases.values():
            case.sent, case.since = 0, now

    def due(self, now: float, marks: Mapping[str, int], urgent: Set[str]) -> list[tuple[str, int]]:
        """(node, the sequence to go on behind) of the journals to forward now.

        `marks` is of every node of which something is kept; what `urgent` ones have is waited for by others.
        """
        self._cases = {node: case for node, case in self._cases.items() if node in marks}
        found = []
        for node, mark in marks.items():
            case = self._cases.setdefault(node, _Case(mark, now, self._draw()))
            if case.mark != mark:
                case.mark, case.since = mark, now
            if node in urgent or now - case.since >= case.patience:
                case.helping = True
            if case.sent > mark and now - case.since >= self._stall_s:
                case.sent, case.since = 0, now
            if case.helping:
                found.append((node, max(case.sent, mark)))
        return found

    def answered(self, writes: list[Write], answer: Answer | None, now: float) -> bool:
        """What came of forwarding `writes`; whether it makes sense to go on at once."""
        case = self._cases[writes[0].node]
        if isinstance(answer, Accepted) and writes[0].sequence <= answer.through <= writes[-1].sequence:
            case.sent = answer.through
            return True
        # Somebody else is further, or there is a gap that only time closes, or nobody listens.
        case.helping, case.since, case.patience = False, now, self._draw()
        return False

    def _draw(self) -> float:
        return PATIENCE_S * self._rng.uniform(1.0, 2.0)


def pack(rows: list[Row]) -> list[Any]:
    """Rows for the peer plane."""
    return [[row.node, row.sequence, row.at, row.needs, row.operation] for row in rows]


def unpack(packed: Any) -> list[Row]:
    """Raises PeerRefused for anything but rows that a correct node could give."""
    if not isinstance(packed, list):
        raise PeerRefused("answered with no journal")
    return [_row(one) for one in packed]


def _row(packed: Any) -> Row:
    match packed:
        case [str(node), int(sequence), float(at), bytes() | None as needs, bytes(operation)] if (
            is_uuid(node) and 0 < sequence < 2**53 and math.isfinite(at) and len(operation) <= ROW_BYTES_MAX
        ):
            try:
                shared.unpack_needs(needs)
                problem = unsound(decode(operation))
            except (ValueError, OperationError) as error:
                problem = str(error)
            if problem:
                raise PeerRefused(f"answered with a write that is unsound: {problem}")
            return Row(node, sequence, at, needs, operation)
        case _:
            raise PeerRefused("answered with what is no write")


def donors(me: str, near: Sequence[str]) -> set[str]:
    """Whom to pull from, of the nodes that are up, the nearest first. Sans-IO."""
    rest = sorted(near[PEERS_NEAR:], key=lambda node: hashlib.sha256(f"{me} {node}".encode()).digest())
    return {*near[:PEERS_NEAR], *rest[:PEERS_FAR]}


class Sharing:
    """One node's part: giving, pulling, forwarding for others."""

    def __init__(
        self,
        me: str,
        database: Database,
        peers: Peers,
        members: Mapping[str, MemberView],
        replication: Replication,
        proxy: Proxy,
        settings: RegistrySettings,
        limits: Limits,
        rng: Random,
    ) -> None:
        self.held = trio.Event()  # replaced whenever another node said that it holds more of this node's journal
        self._me = me
        self._database = database
        self._peers = peers
        self._members = members
        self._replication = replication
        self._proxy = proxy
        self._settings = settings
        self._limits = limits
        self._rng = rng
        self._relief = Relief(rng)
        self._hurried: dict[tuple[str, int], float] = {}  # others' writes that rode ahead by this node, and when
        self._offered = journal.backlog(database.reader).last_sequence
        self._news = trio.Event()  # replaced whenever there is more to give
        self._kept = Signal()
        self._through: dict[str, int] = {}  # what is on disk of who holds what
        self._pulling: set[str] = set()
        self._direct: set[str] = set()  # nodes whose own answers come

    def set_limits(self, limits: Limits) -> None:
        """Bounds of what is kept of others from now on."""
        self._limits = limits

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Offers, pulls and forwards for ever."""
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._offer)
            nursery.start_soon(self._relieve)
            while True:
                for node in self._chosen() - self._pulling:
                    self._pulling.add(node)
                    nursery.start_soon(self._pull_from, node)
                await beat(CHOOSE_S)

    # Giving.

    async def _offer(self) -> None:
        while True:
            await self._proxy.journaled.wait()
            last = journal.backlog(self._database.reader).last_sequence
            await trio.sleep(RIPE_AWAY_S if self._proxy.is_away else RIPE_S)
            self._offered = max(self._offered, last)
            if apply.mark(self._database.reader, self._me) < last:
                self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def give(self, asker: str, wanted: Mapping[str, int], without: Set[str], wait_s: float) -> list[Row]:
        """What `asker` does not have, once there is something; nothing after `wait_s`. Notes what it has of ours."""
        await self._note(asker, wanted.get(self._me, 0))
        deadline = trio.current_time() + min(wait_s, POLL_S)
        left_out = {asker, *without}
        while True:
            news = self._news
            bounds = BATCH_ENTRIES_MAX, BATCH_BYTES_MAX
            rows: list[Row] = []
            if shared.any_unapplied(self._database.reader):  # else the way to a thread can be spared
                rows = await self._database.read(partial(_give, self._me, self._offered, wanted, left_out, bounds))
            own = [row.sequence for row in rows if row.node == self._me]
            self._proxy.left_through = max(self._proxy.left_through, *own, 0)
            if rows or not await first_of(news, at_most_s=deadline - trio.current_time()):
                return rows

    async def _note(self, holder: str, through: int) -> None:
        """On disk before anybody is told: a receipt that said "shared" must not forget it."""
        if through <= self._through.get(holder, 0) or not journal.is_waiting(self._database.reader, through):
            return
        await self._database.write(lambda c: shared.note_holder(c, holder, through))
        self._through[holder] = through
        self.held.set()
        self.held = trio.Event()

    # Pulling.

    def _chosen(self) -> set[str]:
        """The nearest nodes of this cluster that are up."""
        ours = self._replication.cluster_id
        near = sorted(
            (view.rtt_s if view.rtt_s is not None else math.inf, view.node_id)
            for view in self._members.values()
            if ours and view.is_up and view.node_id != self._me and view.facts.get("cluster") == ours
        )
        return donors(self._me, [node for _, node in near])

    async def _pull_from(self, donor: str) -> None:
        """Asks one node again and again, as long as it is to be asked."""
        backoff = Backoff(0.1, 2.0, self._rng)
        try:
            while donor in self._chosen():
                if await self._pull(donor):
                    backoff.reset()
                else:
                    await backoff.pause()
        finally:
            self._pulling.discard(donor)
            self._direct.discard(donor)

    async def _pull(self, donor: str) -> bool:
        """One question and its answer; whether it makes sense to ask again at once."""
        try:
            rows = await self._ask(donor)
            self._direct.add(donor)
            return not rows or bool(await self.keep(rows))
        except (PeerUnreachable, PeerRefused, StorageFull) as error:
            self._direct.discard(donor)
            logger.info("journal not pulled", peer=donor, problem=str(error))
            return False

    async def _ask(self, donor: str) -> list[Row]:
        self._check_room()
        wanted = shared.have(self._database.reader)
        body = [self._replication.cluster_id, self._me, POLL_S, wanted, sorted(self._direct - {donor})]
        return unpack(await self._peers.ask(donor, "journal", body, POLL_S + PULL_TIMEOUT_S))

    def _check_room(self) -> None:
        """This node's own writes come first: others' are kept while there is twice the room that those must leave."""
        disk = os.statvfs(self._limits.directory)
        free = disk.f_bavail * disk.f_frsize
        if free < 2 * self._limits.free_disk_min_bytes:
            raise StorageFull(f"{free} bytes of disk are free, too few to keep other nodes' writes")

    async def keep(self, rows: list[Row]) -> int:
        """Keeps what is new of other nodes' writes, to show and to forward; how many that were. Raises StorageFull."""
        self._check_room()  # asking took its time, and the disk may be full by now
        bounds = self._limits.entries_max, self._limits.bytes_max
        new = await self._database.write(lambda c: journal.take_in(c, self._me, rows, *bounds))
        if new:
            self._kept.set()
            self._tell()
        return len(new)

    # Forwarding for others.

    async def _relieve(self) -> None:
        while True:
            self._kept.clear()
            registry, changed = self._replication.registry, self._replication.changed()
            marks = {node: apply.mark(self._database.reader, node) for node in shared.nodes(self._database.reader)}
            went_on = False
            if registry is not None and marks:
                await self._hurry(registry, marks)
                went_on = await self._help(registry, marks)
            if not went_on:
                again_s = RELIEF_S if marks and registry is not None else math.inf
                await first_of(changed, self._kept.event, at_most_s=again_s)
            if changed.is_set():
                self._relief.doubt(trio.current_time())
                self._hurried.clear()

    async def _hurry(self, registry: str, marks: Mapping[str, int]) -> None:
        """Others' switch-offs at once, however long their journals are and whether or not they move."""
        reader, now = self._database.reader, trio.current_time()
        for node in set(urgent.nodes(reader)) & marks.keys():
            bounds = self._settings.forward_batch_max, FORWARD_BYTES_MAX
            writes = shared.urgent_run(reader, self._me, node, marks[node] + 1, *bounds)
            if all(now - self._hurried.get((node, one.sequence), -math.inf) < STALL_S for one in writes):
                continue
            with _unreached():
                if isinstance(await self._replication.forward(registry, writes), Accepted):
                    self._hurried.update(((node, one.sequence), now) for one in writes)
        self._hurried = {one: at for one, at in self._hurried.items() if now - at < STALL_S}

    async def _help(self, registry: str, marks: Mapping[str, int]) -> bool:
        """One batch of each journal that needs it; whether there is reason to go on at once."""
        reader, went_on = self._database.reader, False
        waited_for = shared.waits_for(reader, self._me)
        for node, after in self._relief.due(trio.current_time(), marks, waited_for):
            writes = shared.run(reader, node, after, self._settings.forward_batch_max, FORWARD_BYTES_MAX)
            if not writes:
                continue
            await trio.lowlevel.checkpoint()
            answer = None
            with _unreached():
                answer = await self._replication.forward(registry, writes)
            went_on |= self._relief.answered(writes, answer, trio.current_time())
        return went_on


def _give(
    me: str,
    offered: int,
    wanted: Mapping[str, int],
    without: Set[str],
    bounds: tuple[int, int],
    connection: apsw.Connection,
) -> list[Row]:
    return shared.give(connection, me, offered, wanted, without, *bounds)


@contextmanager
def _unreached() -> Iterator[None]:
    try:
        yield
    except (PeerUnreachable, PeerRefused) as error:
        logger.debug("not forwarded for another node", problem=str(error))
