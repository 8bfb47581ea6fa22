"""Following: how a node that does not vote keeps its catalogue. It pulls applied entries from any node near the head.

Long-poll: the donor answers as soon as it has applied something newer. What a donor gives is committed for good, so the
follower writes and applies a batch in one transaction and simply asks for what comes next, of whichever donor.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from random import Random
from typing import Any

import apsw
import structlog
import trio

from gossip import MemberView
from store import apply, catalogue, log
from store.apply import Applied
from store.database import Database
from store.entries import Entry, EntryKind, Membership
from store.errors import StorageFull
from zoned import clock
from zoned.bootstrap import Fetcher, install
from zoned.errors import PeerRefused, PeerUnreachable
from zoned.peers import Peers
from zoned.raft.node import OnApplied
from zoned.supervise import Backoff, first_of

POLL_S = 10.0  # a donor with nothing newer answers after this long
PULL_TIMEOUT_S = 10.0  # for the answer itself
BATCH_BYTES_MAX = 1_048_576
BEHIND_MAX = 1_000  # a donor further behind the furthest is not asked
BATCH_ENTRIES_MAX = 2_048

logger = structlog.get_logger()


class Positions:
    """The applied position, and a way to wait until it moves."""

    def __init__(self, position: int) -> None:
        self.position = position
        self.moved = trio.Event()  # set and replaced whenever the position moves

    def advance(self, position: int) -> None:
        self.position = position
        self.moved.set()
        self.moved = trio.Event()

    async def wait_beyond(self, position: int, at_most_s: float) -> bool:
        """Waits until more than `position` is applied; False when `at_most_s` passed before that."""
        deadline = trio.current_time() + at_most_s
        while self.position <= position:
            if not await first_of(self.moved, at_most_s=deadline - trio.current_time()):
                return False
        return True


def cluster_id(reader: apsw.Connection) -> str:
    """The cluster of this node's log, "" while it has none."""
    founded = log.membership(reader, log.last_position(reader))
    return Membership.decode(founded.data).cluster_id if founded else ""


async def give(database: Database, positions: Positions, after: int, wait_s: float) -> list[Any]:
    """The donor's side: [cluster ID, entries behind `after` that are applied here], once there are any.

    [cluster ID, None] when the log begins later: only a snapshot helps.
    """
    if after + 1 < log.first_position(database.reader):
        return [cluster_id(database.reader), None]
    await positions.wait_beyond(after, min(wait_s, POLL_S))
    high = min(positions.position, after + BATCH_ENTRIES_MAX) + 1
    entries = await database.read(lambda c: log.read(c, after + 1, high, BATCH_BYTES_MAX))
    return [cluster_id(database.reader), [[e.index, e.term, int(e.kind), e.data] for e in entries]]


class TooFarBehind(Exception):
    """The donor's log begins behind what was asked for. Nothing was changed; a snapshot is needed."""


def unpack(packed: Any) -> tuple[str, list[Entry] | None]:
    """The follower's side of `give`; None for "too far behind". Raises PeerRefused for what is no answer to it."""
    match packed:
        case [str(cluster), None]:
            return cluster, None
        case [str(cluster), [*rows]]:
            return cluster, [_entry(row) for row in rows]
        case _:
            raise PeerRefused("answered with no entries")


def _entry(row: Any) -> Entry:
    match row:
        case [int(index), int(term), (0 | 1 | 2) as kind, bytes(data)] if 0 < index < 2**53 and 0 < term < 2**53:
            return Entry(index, term, EntryKind(kind), data)
        case _:
            raise PeerRefused("answered with what is no entry")


async def pull(peers: Peers, donor: str, after: int, known_cluster: str, wait_s: float = 0.0) -> list[Entry]:
    """Committed entries behind `after` from `donor`, if it is of our cluster ("": any).

    Raises TooFarBehind, PeerUnreachable or PeerRefused.
    """
    cluster, entries = unpack(await peers.ask(donor, "log", [after, wait_s], wait_s + PULL_TIMEOUT_S))
    if known_cluster and cluster != known_cluster:
        raise PeerRefused(f"belongs to cluster {cluster}, this node to {known_cluster}")
    if entries is None:
        raise TooFarBehind
    if [entry.index for entry in entries] != list(range(after + 1, after + 1 + len(entries))):
        raise PeerRefused("answered with entries that do not follow on ours")
    return entries


def _position(view: MemberView) -> int:
    position = view.vitals.get("position")
    return position if isinstance(position, int) else 0


class Follower:
    """Pulls the log of whoever is near."""

    def __init__(
        self,
        me: str,
        database: Database,
        peers: Peers,
        members: Iterable[MemberView],
        on_applied: OnApplied,
        fetcher: Fetcher,
        rng: Random,
        parted: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """`parted`: what is committed may have been lost, so of every donor it is looked first whether it has this
        node's last entry; this is called, with the donor, when it has another one there.
        """
        self._me = me
        self._database = database
        self._peers = peers
        self._members = members
        self._on_applied = on_applied
        self._fetcher = fetcher
        self._rng = rng
        self._parted = parted
        self._joined: str | None = None  # the donor of which that was seen
        self._backoff = Backoff(0.1, 5.0, rng)
        self._failed = ""  # the donor that failed last
        self.donor: str | None = None  # asked now
        self.is_fetching = False  # a snapshot is on its way

    async def serve(self, until: Callable[[], bool]) -> None:
        """Pulls until `until` holds; asked after each batch."""
        self._joined = None
        while not until():
            donor = self.donor = self._choose()
            if donor is None or not await self._pull(donor):
                await self._backoff.pause()
            else:
                self._backoff.reset()

    def _choose(self) -> str | None:
        """The nearest that publishes the most, leaving out whoever just failed while there is another."""
        ours = cluster_id(self._database.reader)
        able = [view for view in self._members if view.is_up and view.facts.get("voter") and view.node_id != self._me]
        able = [view for view in able if not ours or view.facts.get("cluster") == ours]
        able = [view for view in able if view.node_id != self._failed] or able
        head = max((_position(view) for view in able), default=0)
        ahead = [view for view in able if _position(view) + BEHIND_MAX >= head]
        self._rng.shuffle(ahead)  # those at no known distance share the work
        return next((view.node_id for view in self._peers.nearest(ahead)), None)

    async def _pull(self, donor: str) -> bool:
        reader = self._database.reader
        try:
            position = catalogue.replica(reader).position
            seam = self._seam(donor, position)
            try:
                entries = await pull(self._peers, donor, position - len(seam), cluster_id(reader), POLL_S)
            except TooFarBehind:
                await self._install(donor)
                return True
            if self._parted is not None and seam and entries[:1] != seam:
                if entries:
                    self._failed = donor
                    await self._parted(donor)
                return not entries  # it has not come that far yet
            self._joined, entries = donor, entries[len(seam) :]
            applied = await keep(self._database, self._me, entries) if entries else []
        except (PeerUnreachable, PeerRefused) as error:
            logger.info("donor not reached", peer=donor, problem=str(error))
            self._failed = donor
            return False
        except StorageFull as error:
            logger.error("log cannot be written", problem=str(error))
            return False
        if entries:
            self._on_applied(entries[-1].index, applied)
        return True

    def _seam(self, donor: str, position: int) -> list[Entry]:
        """This node's last entry, if the donor is to show that it has the same; none when there is nothing to show."""
        if self._parted is None or donor == self._joined:
            return []
        return self._database.look(lambda c: log.read(c, position, position + 1, BATCH_BYTES_MAX))

    async def _install(self, donor: str) -> None:
        self.is_fetching = True
        try:
            fetched = await self._fetcher.fetch(donor, cluster_id(self._database.reader))
        finally:
            self.is_fetching = False

        def finish(connection: apsw.Connection) -> None:
            log.advance_commit(connection, fetched.term, fetched.position)

        try:
            await install(self._database, fetched, self._me, finish)
        except StorageFull:
            fetched.path.unlink(missing_ok=True)
            raise
        self._on_applied(fetched.position, [])


async def keep(database: Database, me: str, entries: Sequence[Entry]) -> list[Applied]:
    """Committed entries that follow on this node's, into its log and its catalogue; the outcomes of its own writes.

    Raises StorageFull.
    """
    last = entries[-1]

    def transaction(connection: apsw.Connection) -> list[Applied]:
        log.save_entries(connection, entries)
        log.advance_commit(connection, last.term, last.index)
        return apply.apply(connection, entries, me, clock.wall())

    # Shielded: a transaction that was asked for also happens, and its outcomes must be told.
    applied: list[Applied] = []
    with trio.CancelScope(shield=True):
        applied = await database.write(transaction)
    return applied  # noqa: RET504  # a return inside the scope looks to mypy as if the scope might swallow it
