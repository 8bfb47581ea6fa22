"""Are the replicas equal? Watched continuously, and worked out record by record when asked.

Every node publishes its position and catalogue hash, and the hash at the last round position (`store.apply`), over
gossip; whoever was at the same position compares. A difference is an alarm: replicas at equal position are equal, or
something is broken. `verify` counts this node's records anew and compares them with each peer's, bucket by bucket,
until it can name the records that differ; it sees what no running hash can, a byte that changed on the disk. The other
replicated tables are compared as wholes.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import apsw
import structlog
import trio

from gossip import FactValue, MemberView
from store import audit, catalogue, digests
from store.database import Database
from store.images import Image
from zoned.errors import PeerRefused, PeerUnreachable
from zoned.peers import Peers

HASH_CHARS = 16  # of the hash, in gossip: 64 bits tell apart what is not malicious
BUCKET_CHARS = 2  # buckets are the first characters of the UUID: 256 of them
ASK_TIMEOUT_S = 120.0  # a peer counts a million records in some seconds
NAMED_MAX = 100  # differing records named
TABLES = "tables"  # in the place of a bucket: whatever is replicated besides the records
TRIES = 5  # to find both sides at one position

logger = structlog.get_logger()

_MODULUS = 1 << 256


def buckets(connection: apsw.Connection) -> tuple[int, dict[str, bytes]]:
    """The position, and per bucket the multiset hash of its records as they are on the disk."""
    sums: dict[str, int] = {}
    for uuid, record in catalogue.records(connection):
        bucket = uuid[:BUCKET_CHARS]
        sums[bucket] = (sums.get(bucket, 0) + catalogue.record_digest(record)) % _MODULUS
    position = catalogue.replica(connection).position
    return position, {bucket: total.to_bytes(32) for bucket, total in sums.items()}


def records(connection: apsw.Connection, bucket: str) -> tuple[int, dict[str, tuple[bytes, int]]]:
    """The position, and of each record of one bucket its hash and the position that changed it last."""
    rows = catalogue.records(connection, bytes.fromhex(bucket))
    found = {uuid: (hashlib.sha256(record).digest(), position_in(record)) for uuid, record in rows}
    return catalogue.replica(connection).position, found


def is_bucket(text: str) -> bool:
    return text == TABLES or (len(text) == BUCKET_CHARS and set(text) <= set("0123456789abcdef"))


def position_in(record: bytes) -> int:
    """The position in a record as it is on the disk; 0 when it cannot even be read."""
    try:
        return Image.decode(record).position
    except (ValueError, TypeError, KeyError):
        return 0


def chain(connection: apsw.Connection, position: int) -> tuple[int, str | None]:
    """The position applied here, and the audit's chain as of `position` in hexadecimal, if that is still known."""
    found = audit.chain_at(connection, position)
    return catalogue.replica(connection).position, found.hex() if found is not None else None


def tables(connection: apsw.Connection) -> tuple[int, dict[str, bytes]]:
    """The position, and per replicated table other than the records the multiset hash of its rows."""
    return catalogue.replica(connection).position, digests.tables(connection)


async def answer(database: Database, bucket: str | int) -> list[Any]:
    """A peer's question: all buckets (""), the records of one, other tables, or the audit's chain as of a position."""
    if isinstance(bucket, int):
        return list(await database.read(lambda c: chain(c, bucket)))
    job: Callable[[apsw.Connection], tuple[int, dict[str, Any]]] = buckets
    if bucket:
        job = tables if bucket == TABLES else lambda c: records(c, bucket)
    position, found = await database.read(job)
    return [position, found]


def differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))


def really_differing(
    ours: Mapping[str, tuple[bytes, int]], theirs: Mapping[str, tuple[bytes, int]], up_to: int
) -> list[str]:
    """UUIDs of records that differ though both sides had applied everything that changed them, by `up_to`."""
    wrong = differing(ours, theirs)
    newest = {uuid: max(side[uuid][1] for side in (ours, theirs) if uuid in side) for uuid in wrong}
    return [uuid for uuid in wrong if newest[uuid] <= up_to]


class Verifier:
    """Compares this node with the others."""

    def __init__(self, me: str, database: Database, peers: Peers, members: Mapping[str, MemberView]) -> None:
        self.diverged: dict[str, int] = {}  # node ID -> position at which its hash was another
        self._me = me
        self._database = database
        self._peers = peers
        self._members = members

    def vitals(self) -> dict[str, FactValue | None]:
        """What this node publishes for others to compare."""
        reader = self._database.reader
        replica = catalogue.replica(reader)
        checkpoint = catalogue.checkpoint(reader, None)
        vitals: dict[str, FactValue | None] = {"position": replica.position, "hash": replica.digest[:HASH_CHARS]}
        if checkpoint is not None:
            vitals |= {"check": checkpoint[0], "check_hash": checkpoint[1][:HASH_CHARS]}
        return vitals

    def compare(self) -> None:
        """Looks at what others published; a difference is logged once per node and kept for status."""
        reader = self._database.reader
        replica = catalogue.replica(reader)
        cluster = self._members[self._me].facts.get("cluster")
        for view in self._members.values():
            if view.node_id == self._me or view.node_id in self.diverged or view.facts.get("cluster") != cluster:
                continue
            position, check = view.vitals.get("position"), view.vitals.get("check")
            if position == replica.position and view.vitals.get("hash") != replica.digest[:HASH_CHARS]:
                self._alarm(view, replica.position)
            elif isinstance(check, int) and not isinstance(check, bool) and abs(check) < 2**53:
                ours = catalogue.checkpoint(reader, check)
                if ours is not None and view.vitals.get("check_hash") != ours[1][:HASH_CHARS]:
                    self._alarm(view, check)

    def _alarm(self, view: MemberView, position: int) -> None:
        self.diverged[view.node_id] = position
        logger.error(
            "replicas differ", peer=view.node_id, member_zone=view.zone, position=position, do="zonectl sync verify"
        )

    async def verify(self, deep: bool = False) -> dict[str, Any]:
        """Counts anew and compares with every peer that is up. Takes some seconds for a million records.

        `deep`: looks also at what stands beside each record for lists to find it by; a minute.
        """
        said, counted = await self._database.read(lambda c: (catalogue.replica(c), catalogue.recount(c)))
        unfit = await self._database.read(lambda c: digests.unfit(c, NAMED_MAX)) if deep else []
        compared = [await self._verify_with(view) for view in self._others()]
        return {
            "here": {
                "position": said.position,
                "hash": said.digest,
                "counted": asdict(counted),
                "equal": said == counted and not unfit,
                "unfit": unfit,
            },
            "peers": compared,
            "not_asked": self._away(),
            "equal": said == counted and not unfit and all(one["equal"] for one in compared),
        }

    async def verify_audit(self) -> dict[str, Any]:
        """Follows the chain through every line that is kept, and asks every peer that is up for its own."""
        counted = await self._database.read(audit.count)
        peers = [await self._verify_chain_with(view) for view in self._others()]
        equal = not counted.problem and all(one["equal"] is not False for one in peers)
        here = {**asdict(counted), "equal": not counted.problem}
        return {"here": here, "peers": peers, "not_asked": self._away(), "equal": equal}

    async def _verify_chain_with(self, view: MemberView) -> dict[str, Any]:
        """Compares at the lower of both positions. Whoever joined later does not know the chain of before."""
        result: dict[str, Any] = {"zone": view.zone, "node_id": view.node_id, "position": None, "equal": None}
        try:
            here, _ = await self._database.read(lambda c: chain(c, 0))
            there, theirs = await self._chain_of(view.node_id, here)
            if there < here:
                there, theirs = await self._chain_of(view.node_id, there)
            position = min(here, there)
            _, ours = await self._database.read(lambda c: chain(c, position))
        except (PeerUnreachable, PeerRefused) as error:
            return {**result, "problem": str(error)}
        if ours is None or theirs is None:
            return {**result, "problem": f"the lines at position {position} are no longer kept on both sides"}
        return {**result, "position": position, "equal": ours == theirs}

    async def _chain_of(self, peer: str, position: int) -> tuple[int, str | None]:
        match await self._peers.ask(peer, "digests", position, ASK_TIMEOUT_S):
            case [int(applied), str() | None as told]:
                return applied, told
            case _:
                raise PeerRefused("answered with no chain")

    def _away(self) -> list[dict[str, str]]:
        """Who is known and not up: that all who were asked are equal says nothing of them."""
        away = [view for view in self._members.values() if not view.is_up]
        return [{"zone": view.zone, "node_id": view.node_id, "state": view.state.name.lower()} for view in away]

    def _others(self) -> Iterable[MemberView]:
        cluster = self._members[self._me].facts.get("cluster")
        others = [view for view in self._members.values() if view.node_id != self._me and view.is_up]
        return [view for view in others if view.facts.get("cluster") == cluster]

    async def _verify_with(self, view: MemberView) -> dict[str, Any]:
        result: dict[str, Any] = {"zone": view.zone, "node_id": view.node_id, "equal": False, "differing": []}
        result["tables"] = None
        try:
            result["tables"] = await self._differing_tables(view.node_id)
            ours, theirs, _ = await self._both(view.node_id, "")
            for bucket in differing(ours, theirs):
                mine, other, positions = await self._both(view.node_id, bucket)
                result["differing"] += really_differing(mine, other, min(positions))
                if len(result["differing"]) >= NAMED_MAX:
                    break
        except (PeerUnreachable, PeerRefused) as error:
            return {**result, "equal": None, "problem": str(error)}
        result["differing"] = result["differing"][:NAMED_MAX]
        return {**result, "equal": not result["differing"] and not result["tables"]}

    async def _differing_tables(self, peer: str) -> list[str] | None:
        """The tables besides the records that differ at one position; None when no moment was found to compare them:
        writes go on, and these tables cannot be compared but as a whole. Raises PeerUnreachable, PeerRefused.
        """
        for _ in range(TRIES):
            ours, theirs, positions = await self._both(peer, TABLES)
            if len(set(positions)) == 1:
                return differing(ours, theirs)
        return None

    async def _both(self, peer: str, bucket: str) -> tuple[dict[str, Any], dict[str, Any], tuple[int, int]]:
        """Both sides' hashes, counted at about the same time, and their positions.

        Writes go on meanwhile, so buckets may differ for no reason but that; the records of a bucket tell.
        Raises PeerUnreachable, PeerRefused.
        """
        here: list[Any] = []

        async def count_here() -> None:
            here.extend(await answer(self._database, bucket))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_here)
            with self._peers_errors() as failed:
                asked = await self._peers.ask(peer, "digests", bucket, ASK_TIMEOUT_S)
        if failed:
            raise failed[0]
        match asked:
            case [int(there), dict(theirs)]:
                return here[1], {key: _paired(value) for key, value in theirs.items()}, (here[0], there)
            case _:
                raise PeerRefused("answered with no hashes")

    @staticmethod
    @contextmanager
    def _peers_errors() -> Iterator[list[Exception]]:
        """Errors of a peer, kept until the nursery is done: they would arrive as a group."""
        failed: list[Exception] = []
        try:
            yield failed
        except (PeerUnreachable, PeerRefused) as error:
            failed.append(error)


def _paired(value: Any) -> Any:
    """msgpack makes lists of tuples."""
    return tuple(value) if isinstance(value, list) else value
