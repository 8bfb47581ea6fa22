"""Who should vote: one small step at a time towards `voters` voters spread over zones. `next_step` is sans-IO.

Only the registry steers, through the log like any other change. A newcomer is first a learner; it is promoted when it
has been near the head and reachable for a while. An even number of voters tolerates no more deaths than the odd number
below it, so from an odd number two are promoted or none. Which nodes are witnesses is what they say of themselves, and
a witness is a voter like any other, except that no majority may be of witnesses alone.

Nobody is removed automatically by default: a zone that is away for a week and comes back should find its place. With
`registry.remove_after_s` a node that has been away for so long gives its place up, if that makes room for another or
lets the rest survive one more loss; never so many that fewer than a majority of `voters` would be left, with who stands
by.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog
import trio

from conf import Registry as RegistrySettings
from gossip import MemberView
from store.entries import Membership
from zoned.raft.core import Raft
from zoned.raft.log import RaftError
from zoned.raft.node import RaftNode
from zoned.raft.quorum import is_sound, majority
from zoned.supervise import beat

LOOK_S = 1.0
STABLE_S = 5.0  # a newcomer must have been up, and a learner near the head, for so long
COMING_S = 3 * STABLE_S  # a learner that is up is expected to be well by then; later it keeps nobody else waiting
REMOVED_MAX = 64  # removed nodes remembered
NEAR_ENTRIES = 1_000  # behind the head by at most so many counts as near

logger = structlog.get_logger()


class SteerRefused(Exception):
    """A change of membership was not begun; the text says why. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that might vote: its zone, whether it has been well (up; a learner: near the head) for long enough,
    whether it says that it is a witness, and whether it is a young learner that may soon be well."""

    node_id: str
    zone: str
    well: bool
    witness: bool = False
    coming: bool = False


@dataclass(frozen=True, slots=True)
class Hearing:
    """Who answers the registry now, itself included; and who has been away so long that it may lose its place."""

    heard: Collection[str] = ()
    lost: Collection[str] = ()


def next_step(
    membership: Membership, candidates: Sequence[Candidate], wanted: int, hearing: Hearing | None = None
) -> Membership | None:
    """The next membership on the way to `wanted` voters, one node away from `membership`; None to leave it be."""
    hearing = hearing or Hearing()
    ready = [one.node_id for one in _spread(candidates, membership.voters) if one.node_id in membership.learners]
    return (
        _labelled(membership, candidates)
        or _less_one_lost(membership, ready, wanted, hearing)
        or _one_promoted(membership, ready, wanted)
        or _one_more_learner(membership, candidates, ready, wanted, hearing)
    )


def _spread(candidates: Iterable[Candidate], seated: Collection[str]) -> list[Candidate]:
    """Who is well, those of the zones with the fewest `seated` first; among equals witnesses, who are good for nothing
    else. The ID only makes the choice the same each time."""
    candidates = list(candidates)
    used = Counter(one.zone for one in candidates if one.node_id in seated)
    well = (one for one in candidates if one.well)
    return sorted(well, key=lambda one: (used[one.zone], not one.witness, one.node_id))


def _labelled(membership: Membership, candidates: Iterable[Candidate]) -> Membership | None:
    """The log learns what a node says of itself: that it is a witness, or is none any more."""
    for one in candidates:
        if one.well and one.node_id in (*membership.voters, *membership.learners):
            others = set(membership.witnesses) - {one.node_id}
            witnesses = tuple(sorted(others | {one.node_id} if one.witness else others))
            after = replace(membership, witnesses=witnesses)
            if witnesses != membership.witnesses and is_sound(after):
                return after
    return None


def _less_one_lost(membership: Membership, ready: Sequence[str], wanted: int, hearing: Hearing) -> Membership | None:
    """One that is lost gives up its place. A learner's costs nothing; a voter's only while the lost are a minority,
    and only if the rest gains by it: a learner stands by, or one more may die than before."""
    gone = [one for one in membership.learners if one in hearing.lost]
    if gone:
        return dropped(membership, gone[0])
    gone = [one for one in membership.voters if one in hearing.lost]
    voters = len(membership.voters)
    left = voters - 1 + (1 if ready else 0)
    if 2 * len(gone) >= voters or left < majority(wanted) or len(gone) + len(ready) < _pair(voters):
        return None
    for one in gone:
        after = dropped(membership, one)
        if is_sound(after) and unreachable(after, hearing.heard) is None:
            return after
    return None


def _one_promoted(membership: Membership, ready: Sequence[str], wanted: int) -> Membership | None:
    missing = wanted - len(membership.voters)
    able = _promotable(membership, ready, missing)
    if missing > 0 and len(able) >= min(_pair(len(membership.voters)), missing):
        return promoted(membership, able[0])
    return None


def _one_more_learner(
    membership: Membership, candidates: Iterable[Candidate], ready: Sequence[str], wanted: int, hearing: Hearing
) -> Membership | None:
    """A node that is new here, if it could come to vote. A learner that is not well for long holds nobody's place."""
    candidates = list(candidates)
    living = sum(one not in hearing.lost for one in membership.voters)
    waiting = len(_promotable(membership, ready, wanted - living))
    coming = sum(one.coming for one in candidates if one.node_id in membership.learners)
    if living + waiting + coming >= wanted:
        return None
    known = {*membership.voters, *membership.learners, *membership.removed}
    labelled = sum(one in membership.witnesses for one in (*membership.voters, *ready))
    for one in _spread(candidates, (*membership.voters, *membership.learners)):
        if one.node_id not in known and not (one.witness and labelled + 1 >= majority(wanted)):
            learners = tuple(sorted((*membership.learners, one.node_id)))
            return replace(membership, learners=learners)
    return None


def _pair(voters: int) -> int:
    """How many voters more, or fewer, make a difference to how many may die."""
    return 1 if voters % 2 == 0 else 2


def _promotable(membership: Membership, ready: Iterable[str], at_most: int) -> list[str]:
    """Those of `ready` that can be promoted one after the other without giving witnesses a majority."""
    found: list[str] = []
    for one in ready:
        after = promoted(membership, one)
        if len(found) < at_most and is_sound(after):
            found.append(one)
            membership = after
    return found


def promoted(membership: Membership, node_id: str) -> Membership:
    """`membership` with a learner made a voter."""
    learners = tuple(one for one in membership.learners if one != node_id)
    return replace(membership, voters=tuple(sorted((*membership.voters, node_id))), learners=learners)


def dropped(membership: Membership, node_id: str) -> Membership:
    """`membership` without a node, which may come again."""
    voters, learners, witnesses = (
        tuple(one for one in nodes if one != node_id)
        for nodes in (membership.voters, membership.learners, membership.witnesses)
    )
    return replace(membership, voters=voters, learners=learners, witnesses=witnesses)


def added(membership: Membership, node_id: str) -> Membership:
    """`membership` with a node made a learner because an operator says so, removed before or not."""
    learners = tuple(sorted({*membership.learners, node_id} - set(membership.voters)))
    return replace(membership, learners=learners, removed=tuple(one for one in membership.removed if one != node_id))


def without(membership: Membership, node_id: str, heard: Collection[str], me: str) -> Membership:
    """`membership` without a node for good. Raises SteerRefused when that could leave no working majority."""
    if node_id not in (*membership.voters, *membership.learners):
        raise SteerRefused(f"{node_id} takes no part in the registry")
    if node_id == me:
        raise SteerRefused("the registry does not remove itself; hand it over first: zonectl registry transfer")
    after = dropped(membership, node_id)
    problem = unreachable(after, heard)
    if problem is not None:
        raise SteerRefused(problem)
    return replace(after, removed=(*membership.removed, node_id)[-REMOVED_MAX:])


def unreachable(membership: Membership, heard: Collection[str]) -> str | None:
    """Why `membership` would not work now, by who answers; None when it would."""
    reachable = sum(one in heard for one in membership.voters)
    if reachable >= majority(len(membership.voters)):
        return None
    return f"only {reachable} of the {len(membership.voters)} voters that would remain are reachable"


def heard_by(core: Raft) -> set[str]:
    """Who answers this leader, itself included."""
    return {core.node_id, *(peer for peer, status in core.progress.items() if status.active)}


class Autopilot:
    """Runs beside a RaftNode; acts only while that is the registry."""

    def __init__(self, node: RaftNode, members: Mapping[str, MemberView], settings: RegistrySettings) -> None:
        self._node = node
        self._members = members
        self._settings = settings
        self._near_since: dict[str, float] = {}
        self._learner_since: dict[str, float] = {}
        self._away_since: dict[str, float] = {}

    async def serve(self) -> None:
        while True:
            await beat(LOOK_S)
            core = self._node.core
            membership = core.membership
            if not core.is_registry or membership is None:
                self._near_since.clear()
                self._learner_since.clear()
                self._away_since.clear()
                continue
            now = trio.current_time()
            candidates = list(self._candidates(membership, now))
            wanted = next_step(membership, candidates, self._settings.voters, self._listen(membership, now))
            if wanted is None:
                continue
            try:
                position = self._node.change(wanted)
            except RaftError as error:
                logger.debug("membership not changed", problem=str(error))
            else:
                says = {name: getattr(wanted, name) for name in ("voters", "learners", "witnesses")}
                logger.info("membership changes", position=position, **says)

    def _listen(self, membership: Membership, now: float) -> Hearing:
        """Away is who neither answers this registry nor is up by gossip, from when this registry first saw that."""
        heard, patience_s = heard_by(self._node.core), self._settings.remove_after_s
        members = (*membership.voters, *membership.learners)
        away = [one for one in members if one not in heard and not (one in self._members and self._members[one].is_up)]
        self._away_since = {one: self._away_since.get(one, now) for one in away}
        lost = [one for one, since in self._away_since.items() if patience_s and now - since >= patience_s]
        return Hearing(heard, lost)

    def _candidates(self, membership: Membership, now: float) -> Iterable[Candidate]:
        core = self._node.core
        progress = core.progress
        for view in self._members.values():
            node_id, since, young = view.node_id, view.since, False
            if node_id in membership.learners:
                peer = progress.get(node_id)
                near = peer is not None and peer.active and peer.match + NEAR_ENTRIES >= core.commit
                since = self._near_since[node_id] = self._near_since.get(node_id, now) if near else now
                young = now - self._learner_since.setdefault(node_id, now) < COMING_S
            ours = view.facts.get("cluster") in (None, "", membership.cluster_id)
            well = view.is_up and ours and now - since >= STABLE_S
            coming = view.is_up and ours and young and not well
            yield Candidate(node_id, view.zone, well, view.facts.get("witness") is True, coming)
