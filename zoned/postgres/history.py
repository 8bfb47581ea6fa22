"""One history: what this node, the other nodes and the database have, made the same before anything new is accepted.

A database that failed over to a standby may have lost its newest entries. Every node applied only what was committed,
so whatever any of them has beyond the database was promised to somebody: it is put back, at its old position, before
the registry takes a write. What nobody reachable has any more cannot be put back, and a node that has it and comes back
later finds another entry in its place: it says which writes those were, and takes no part any more.
"""

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import apsw
import structlog
import trio

from gossip import MemberView
from store import catalogue, log
from store.database import Database
from store.entries import Entry, EntryKind
from store.operations import OperationError, decode_write
from zoned.errors import PeerRefused, PeerUnreachable
from zoned.follow import TooFarBehind, cluster_id, pull
from zoned.peers import Peers
from zoned.postgres import ledger
from zoned.postgres.lanes import Lane
from zoned.postgres.ledger import Foreign

READ_ENTRIES = 2_000
READ_TIMEOUT_S = 60.0
ASK_TIMEOUT_S = 2.0
NAMED_MAX = 100  # lost writes named in one line of the log

logger = structlog.get_logger()

Keep = Callable[[Sequence[Entry]], Awaitable[None]]


class Diverged(Exception):
    """This node applied entries that the database has not, where it has others. Nothing was changed."""

    def __init__(self, first: int, last: int, writes: Sequence[str]) -> None:
        super().__init__(
            f"the database has other entries than this node from position {first} on (to {last} here): it lost what"
            " this node was told was committed; see the writes named in the log, register again what is missing, and"
            " give this node an empty data directory"
        )
        self.writes = list(writes)


class Unfinished(Exception):
    """The history could not be made one yet. What was put back stays; try again."""


class History:
    """Compares and mends. `reads` and `commits` are lanes to the database."""

    def __init__(
        self,
        me: str,
        database: Database,
        peers: Peers,
        members: Mapping[str, MemberView],
        reads: Lane,
        commits: Lane,
        keep: Keep,
    ) -> None:
        self._me = me
        self._database = database
        self._peers = peers
        self._members = members
        self._reads = reads
        self._commits = commits
        self._keep = keep
        self._told: dict[str, int] = {}  # node -> the position up to which it was said that its entries are lost

    @property
    def cluster_id(self) -> str:
        return cluster_id(self._database.reader)

    @property
    def _position(self) -> int:
        return catalogue.replica(self._database.reader).position

    def new_cluster(self) -> str:
        """An ID for a log that begins now. Raises Foreign when others are in a cluster already."""
        seen = {str(view.facts["cluster"]) for view in self._members.values() if view.facts.get("cluster")}
        if seen:
            raise Foreign(f"it is empty, and other nodes have the log of cluster {min(seen)} already")
        return str(uuid.uuid4())

    async def compare(self, head: int) -> None:
        """Whether the last entry that both this node and the database (which is at `head`) have is the same one.

        Raises Diverged when it is not, DatabaseAway.
        """
        position = min(self._position, head)
        ours = self._own(position, position + 1)
        if not ours:
            return  # nothing is here yet, or only what a snapshot brought
        theirs = await self._read(position, position + 1)
        if ours != theirs:
            raise await self._diverged(position)

    async def _diverged(self, position: int) -> Diverged:
        """What differs: backwards from `position`, until both sides have the same."""
        first = position
        while first > 1:
            low = max(1, first - READ_ENTRIES)
            ours = self._own(low, first)
            theirs = {entry.index: entry for entry in await self._read(low, first)}
            same = [entry.index for entry in ours if theirs.get(entry.index) == entry]
            if same or not ours:
                first = max(same, default=low - 1) + 1
                break
            first = low
        lost = self._own(first, self._position + 1)
        return Diverged(first, self._position, _named(lost))

    async def make_one(self, term: int, head: int) -> None:
        """What the holder of `term` does before it takes writes; the database is at `head`.

        Raises Diverged, Unfinished, Foreign, DatabaseAway, StorageFull.
        """
        await self.read_up(head)
        if self._position > head:
            await self._put_back(term, self._own(head + 1, self._position + 1), self._me, head)
        position = self._position
        seam = await self._read(position, position + 1)
        async with trio.open_nursery() as nursery:
            ahead: dict[str, list[Entry]] = {}
            for view in self._others():
                nursery.start_soon(self._ask, view, position, seam, ahead)
        for node in sorted(ahead, key=lambda one: len(ahead[one]), reverse=True):
            beyond = [entry for entry in ahead[node] if entry.index > self._position]
            if beyond:
                await self._put_back(term, beyond, node, self._position)
        self._look_for_lost(ahead)

    async def _put_back(self, term: int, entries: Sequence[Entry], node: str, head: int) -> None:
        if not entries or entries[0].index != head + 1:
            raise Unfinished(
                f"the database lost what is behind position {head}, and node {node} has compacted a part of it:"
                " restore the database from a later backup, or found anew"
            )
        for low in range(0, len(entries), READ_ENTRIES):
            part = entries[low : low + READ_ENTRIES]
            job = partial(ledger.put_back, me=self._me, term=term, entries=part)
            if await self._commits.run(job, READ_TIMEOUT_S) is None:
                raise Unfinished("the term is another's")
            await self._keep(part)
        logger.error(
            "entries that the database lost put back", first=head + 1, last=entries[-1].index, kept_by=node, term=term
        )

    async def read_up(self, head: int) -> None:
        """Applies what the database has up to `head`, if that follows on what is here.

        Raises Diverged, DatabaseAway, StorageFull, Foreign.
        """
        await self.compare(head)
        while (position := self._position) < head:
            entries = await self._read(position + 1, min(head + 1, position + 1 + READ_ENTRIES))
            if not entries or entries[0].index != position + 1:
                raise Foreign(f"its log has no entry {position + 1}, though it says that it goes to {head}")
            await self._keep(entries)

    async def _ask(self, view: MemberView, position: int, seam: Sequence[Entry], ahead: dict[str, list[Entry]]) -> None:
        """What another node has beyond `position`, where it has to have `seam` as well, into `ahead`."""
        with trio.move_on_after(ASK_TIMEOUT_S):
            try:
                found = await pull(self._peers, view.node_id, position - 1, self.cluster_id)
                if found and seam and found[0] != seam[0]:
                    logger.error("a node has another history", peer=view.node_id, position=position)
                    found = []
                more, beyond = found[1:], []
                while more:
                    beyond += more
                    more = await pull(self._peers, view.node_id, more[-1].index, self.cluster_id)
                ahead[view.node_id] = beyond
            except TooFarBehind:
                logger.error("a node compacted what the database lost", peer=view.node_id, position=position)
                ahead[view.node_id] = []
            except (PeerUnreachable, PeerRefused) as error:
                logger.info("node not asked for what it has", peer=view.node_id, problem=str(error))

    def _look_for_lost(self, asked: Mapping[str, object]) -> None:
        """Nodes that said that they are further and could not be asked: waited for while they are up, then named.

        Raises Unfinished.
        """
        for view in self._ahead_of(self._position):
            if view.node_id in asked:
                self._told[view.node_id] = _position_of(view)
                continue
            if view.is_up:
                raise Unfinished(f"node {view.node_id} has applied more than the database has, and does not answer")
            self._told[view.node_id] = _position_of(view)
            logger.error(
                "entries lost by the database and not put back",
                first=self._position + 1,
                last=_position_of(view),
                known_by=view.node_id,
                member_zone=view.zone,
            )

    def somebody_is_ahead(self, head: int) -> bool:
        """Whether a node that can be asked has applied what is not in the database, and nobody has said so yet."""
        return any(view.is_up for view in self._ahead_of(head))

    def _others(self) -> list[MemberView]:
        ours = self.cluster_id
        return [
            view
            for view in self._members.values()
            if view.is_up and view.node_id != self._me and view.facts.get("cluster") == ours
        ]

    def _ahead_of(self, head: int) -> list[MemberView]:
        ours = self.cluster_id
        return [
            view
            for view in self._members.values()
            if view.node_id != self._me
            and view.facts.get("cluster") == ours
            and _position_of(view) > max(head, self._told.get(view.node_id, 0))
        ]

    def _own(self, low: int, high: int) -> list[Entry]:
        def read(connection: apsw.Connection) -> list[Entry]:
            return log.read(connection, low, high, 2**62)

        return self._database.look(read)

    async def _read(self, low: int, high: int) -> list[Entry]:
        return await self._reads.run(partial(ledger.read, low=low, high=high), READ_TIMEOUT_S)


def _position_of(view: MemberView) -> int:
    position = view.vitals.get("position")
    return position if isinstance(position, int) and not isinstance(position, bool) else 0


def _named(entries: Sequence[Entry]) -> list[str]:
    """The writes in these entries, as their receipts name them, each with its image if it is about one."""
    found = []
    for entry in entries[:NAMED_MAX]:
        if entry.kind is EntryKind.WRITE:
            try:
                write = decode_write(entry.data)
            except OperationError:
                continue
            found.append(f"{write.id} {getattr(write.operation, 'uuid', '') or ''}".strip())
    return found
