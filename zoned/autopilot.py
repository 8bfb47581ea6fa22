"""Who should vote: one small step at a time towards `voters` voters spread over zones. `next_step` is sans-IO.

Only the registry steers, through the log like any other change. A newcomer is first a learner; it is promoted when it
has been near the head and reachable for a while. An even number of voters tolerates no more deaths than the odd number
below it, so from an odd number two are promoted or none. Nobody is removed automatically: a zone that is away for a
week and comes back should find its place.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog
import trio

from gossip import MemberView
from store.entries import Membership
from zoned.raft.log import RaftError
from zoned.raft.node import RaftNode
from zoned.raft.progress import PeerStatus
from zoned.raft.quorum import majority

LOOK_S = 1.0
STABLE_S = 5.0  # a newcomer must have been up, and a learner near the head, for so long
REMOVED_MAX = 64  # removed nodes remembered
NEAR_ENTRIES = 1_000  # behind the head by at most so many counts as near

logger = structlog.get_logger()


class SteerRefused(Exception):
    """A change of membership was not begun; the text says why. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that might vote: its zone and whether it has been well (up; a learner: near the head) for long enough."""

    node_id: str
    zone: str
    well: bool


def next_step(membership: Membership, candidates: Sequence[Candidate], wanted: int) -> Membership | None:
    """The next membership on the way to `wanted` voters, one node away from `membership`; None to leave it be."""
    zones = {one.node_id: one.zone for one in candidates}
    used = Counter(zones.get(voter, "") for voter in membership.voters)
    # Zones with the fewest voters first; the ID only makes the choice the same each time.
    well = sorted((one for one in candidates if one.well), key=lambda one: (used[one.zone], one.node_id))
    ready = [one.node_id for one in well if one.node_id in membership.learners]
    voters = len(membership.voters)
    pair = 1 if voters % 2 == 0 else 2
    if voters < wanted and len(ready) >= min(pair, wanted - voters):
        return promoted(membership, ready[0])
    known = {*membership.voters, *membership.learners, *membership.removed}
    fresh = [one.node_id for one in well if one.node_id not in known]
    # A learner that is not well holds nobody's place: it may be gone for good.
    if fresh and voters + len(ready) < wanted:
        return replace(membership, learners=tuple(sorted((*membership.learners, fresh[0]))))
    return None


def promoted(membership: Membership, node_id: str) -> Membership:
    """`membership` with a learner made a voter."""
    learners = tuple(one for one in membership.learners if one != node_id)
    return replace(membership, voters=tuple(sorted((*membership.voters, node_id))), learners=learners)


def added(membership: Membership, node_id: str) -> Membership:
    """`membership` with a node made a learner because an operator says so, removed before or not."""
    learners = tuple(sorted({*membership.learners, node_id} - set(membership.voters)))
    return replace(membership, learners=learners, removed=tuple(one for one in membership.removed if one != node_id))


def without(membership: Membership, node_id: str, progress: Mapping[str, PeerStatus], me: str) -> Membership:
    """`membership` without a node. Raises SteerRefused when that could leave no working majority."""
    if node_id not in (*membership.voters, *membership.learners):
        raise SteerRefused(f"{node_id} takes no part in the registry")
    if node_id == me:
        raise SteerRefused("the registry does not remove itself; hand it over first: zonectl registry transfer")
    voters = tuple(one for one in membership.voters if one != node_id)
    reachable = sum(one == me or (one in progress and progress[one].active) for one in voters)
    if reachable < majority(len(voters)):
        raise SteerRefused(f"only {reachable} of the {len(voters)} voters that would remain are reachable")
    learners = tuple(one for one in membership.learners if one != node_id)
    removed = (*membership.removed, node_id)[-REMOVED_MAX:]
    return replace(membership, voters=voters, learners=learners, removed=removed)


class Autopilot:
    """Runs beside a RaftNode; acts only while that is the registry."""

    def __init__(self, node: RaftNode, members: Mapping[str, MemberView], wanted: int) -> None:
        self._node = node
        self._members = members
        self._wanted = wanted
        self._near_since: dict[str, float] = {}

    async def serve(self) -> None:
        while True:
            await trio.sleep(LOOK_S)
            core = self._node.core
            membership = core.membership
            if not core.is_registry or membership is None:
                self._near_since.clear()
                continue
            wanted = next_step(membership, list(self._candidates(membership, trio.current_time())), self._wanted)
            if wanted is None:
                continue
            try:
                position = self._node.change(wanted)
                logger.info("membership changes", position=position, voters=wanted.voters, learners=wanted.learners)
            except RaftError as error:
                logger.debug("membership not changed", problem=str(error))

    def _candidates(self, membership: Membership, now: float) -> Iterable[Candidate]:
        core = self._node.core
        progress = core.progress
        for view in self._members.values():
            node_id = view.node_id
            up = view.is_up and (not view.facts.get("cluster") or view.facts["cluster"] == membership.cluster_id)
            if node_id in membership.learners:
                peer = progress.get(node_id)
                near = peer is not None and peer.active and peer.match + NEAR_ENTRIES >= core.commit
                since = self._near_since.setdefault(node_id, now)
                if not near:
                    self._near_since[node_id] = since = now
                yield Candidate(node_id, view.zone, up and now - since >= STABLE_S)
            else:
                yield Candidate(node_id, view.zone, up and now - view.since >= STABLE_S)
