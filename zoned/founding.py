"""How a cluster begins: exactly once, or not at all.

Join first: a node that sees any evidence of a cluster never founds one. Otherwise, once `expect` unfounded nodes with
the same `expect` see each other, each asks all of them, one by one. First without obligation: does everybody see the
same set? Then bindingly: each writes a promise to its disk and never promises another set. Only when all have promised
the same set does a node write the founding entry, which everybody derives alike from that set, so it does not matter
who is first or whether somebody dies in between. (After Consul's bootstrap-expect; the promise closes the race that two
overlapping sets could win there.)
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import structlog
import trio

from gossip import MemberView
from store import identity, log
from store.database import Database
from store.entries import Entry, EntryKind, Membership
from store.errors import StorageFull
from zoned.errors import PeerRefused, PeerUnreachable
from zoned.peers import Peers

LOOK_S = 0.1
ASK_TIMEOUT_S = 2.0

# Namespace of cluster IDs (RFC 9562, version 5): the founders' IDs and the label make the name.
_NAMESPACE = uuid.UUID("6f1f6c52-38a3-4a0e-9d6b-6a9f4a5d3e10")

logger = structlog.get_logger()


def founding_membership(label: str, founders: Iterable[str]) -> Membership:
    """What these founders, and nobody else, begin with; the same wherever it is worked out."""
    voters = tuple(sorted(set(founders)))
    return Membership(str(uuid.uuid5(_NAMESPACE, "\n".join((label, *voters)))), voters)


def founding_entry(membership: Membership) -> Entry:
    return Entry(1, 1, EntryKind.MEMBERSHIP, membership.encode())


def candidates(members: Iterable[MemberView], expect: int) -> list[str]:
    """IDs of the nodes that may found together, in order; at most `expect`, the lowest IDs first. None for 0."""
    willing = [view.node_id for view in members if view.is_up and view.facts.get("expect") == expect]
    return sorted(willing)[:expect]


def cluster_seen(members: Iterable[MemberView]) -> str | None:
    """The ID of a cluster that somebody says exists."""
    return next((str(view.facts["cluster"]) for view in members if view.facts.get("cluster")), None)


@dataclass(frozen=True, slots=True)
class Stance:
    """What a node says about founding: the set it sees, the promise it gave, the cluster it is in."""

    expect: int
    candidates: tuple[str, ...]
    promised: str  # cluster ID, or ""
    cluster: str

    def pack(self) -> list[Any]:
        return [self.expect, list(self.candidates), self.promised, self.cluster]


def unpack_stance(packed: Any) -> Stance:
    """Raises PeerRefused for anything but a stance."""
    match packed:
        case [int(expect), [*listed], str(promised), str(cluster)] if all(isinstance(one, str) for one in listed):
            return Stance(expect, tuple(listed), promised, cluster)
        case _:
            raise PeerRefused("answered with no stance on founding")


class Founding:
    """One node's part in the founding; over as soon as its log has the first entry."""

    def __init__(
        self, me: str, label: str, expect: int, database: Database, peers: Peers, members: Iterable[MemberView]
    ) -> None:
        self._me = me
        self._label = label
        self._expect = expect
        self._database = database
        self._peers = peers
        self._members = members

    def stance(self) -> Stance:
        promised = identity.promised(self._database.reader)
        reader = self._database.reader
        founded = log.membership(reader, log.last_position(reader))
        return Stance(
            self._expect,
            tuple(candidates(self._members, self._expect)),
            promised.cluster_id if promised else "",
            Membership.decode(founded.data).cluster_id if founded else "",
        )

    async def promise(self, founders: Iterable[str]) -> str:
        """Binds this node to these founders unless it is bound already; the cluster ID it is bound to."""
        membership = founding_membership(self._label, founders)
        if self._me not in membership.voters or len(membership.voters) != self._expect:
            return self.stance().promised
        bound = await self._database.write(lambda c: identity.promise(c, membership))
        return bound.cluster_id if bound is not None else ""

    async def run(self) -> Membership | None:
        """Returns the membership once this node has founded with others, None once another cluster is seen."""
        while True:
            wanted = identity.promised(self._database.reader)
            seen = cluster_seen(self._members)
            if seen is not None and (wanted is None or seen != wanted.cluster_id):
                return None
            founders = candidates(self._members, self._expect)
            complete = len(founders) == self._expect and self._me in founders
            if wanted is None and complete and await self._all_see(founders):
                wanted = founding_membership(self._label, founders)
            try:
                if wanted is not None and (seen == wanted.cluster_id or await self._all_promised(wanted)):
                    await self._found(wanted)
                    return wanted
            except StorageFull as error:
                logger.warning("founding waits", problem=str(error))
            await trio.sleep(LOOK_S)

    async def _all_see(self, founders: list[str]) -> bool:
        for node_id in founders:
            stance = await self._ask(node_id, None)
            if stance is None or stance.cluster or stance.candidates != tuple(founders):
                return False
        return True

    async def _all_promised(self, membership: Membership) -> bool:
        """Asks for promises in the order of IDs, this node's own in its turn, and stops at the first that differs.

        The order is what keeps two overlapping sets from each holding a promise that the other needs: whoever gets the
        lowest common node goes on, the other binds nobody behind it.
        """
        for node_id in membership.voters:
            stance = await self._ask(node_id, membership.voters)
            if stance is None or stance.promised != membership.cluster_id:
                return False
            if stance.cluster not in ("", membership.cluster_id):
                return False
        return True

    async def _ask(self, node_id: str, founders: tuple[str, ...] | None) -> Stance | None:
        """A node's stance, None if it cannot be had now; with `founders` it is asked to promise first."""
        if node_id == self._me:
            if founders:
                await self.promise(founders)
            return self.stance()
        try:
            answer = await self._peers.ask(node_id, "founding", list(founders) if founders else None, ASK_TIMEOUT_S)
            return unpack_stance(answer)
        except (PeerUnreachable, PeerRefused) as error:
            logger.info("founder not reached", peer=node_id, problem=str(error))
            return None

    async def _found(self, membership: Membership) -> None:
        entry = founding_entry(membership)
        await self._database.write(lambda c: log.save_entries(c, [entry]))
        logger.info("cluster founded", cluster=membership.cluster_id, voters=len(membership.voters))
