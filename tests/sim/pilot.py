"""The autopilot in the simulated cluster: whoever leads steers, on what it believes of the others, right or wrong."""

from typing import TYPE_CHECKING

from store.entries import Membership
from tests.sim.checkers import Violation
from zoned.autopilot import Candidate, Hearing, heard_by, next_step
from zoned.raft.core import Raft
from zoned.raft.quorum import is_sound, majority

if TYPE_CHECKING:
    from tests.sim.world import World

LOOK_MS = 50.0
STABLE_MS = 100.0
NEAR_ENTRIES = 20
WRONG = 0.05  # chance that gossip is wrong about a node


def steer(world: "World") -> None:
    """Every leader looks, and takes one step if there is one."""
    world.after(LOOK_MS * (0.5 + world.rng.random()), steer, world)
    for host in world.hosts.values():
        raft = host.raft
        if raft is None or host.paused or raft.membership is None or not raft.is_registry:
            continue
        wanted = next_step(raft.membership, candidates(world, raft), world.profile.wanted, hearing(world, raft))
        if wanted is not None:
            check(raft.membership, wanted, world.profile.wanted)
            world.order(host, lambda core, wanted=wanted: core.change(wanted))  # type: ignore[misc]  # mypy infers no lambda defaults


def candidates(world: "World", raft: Raft) -> list[Candidate]:
    found = []
    progress = raft.progress
    for n, host in enumerate(world.hosts.values()):
        well = host.raft is not None and not host.paused and world.now - host.since >= STABLE_MS
        if raft.membership is not None and host.id in raft.membership.learners:
            well = well and host.id in progress and progress[host.id].match + NEAR_ENTRIES >= raft.commit
        well ^= world.rng.random() < WRONG
        found.append(Candidate(host.id, f"zone-{n % 3}", well, host.id in world.witnesses))
    return found


def hearing(world: "World", raft: Raft) -> Hearing:
    heard = heard_by(raft)
    patience = world.profile.remove_after_ms
    lost = [
        host.id
        for host in world.hosts.values()
        if patience
        and host.id not in heard
        and ((host.raft is None and world.now - host.since >= patience) or world.rng.random() < WRONG)
    ]
    return Hearing(heard, lost)


def is_due(world: "World", dead: str) -> bool:
    """Whether who is dead for good votes, and is to lose its place: three or more vote, and a full node stands by."""
    voters = world.members().voters
    if dead not in voters:
        return False
    others = [host for host in world.hosts.values() if host.id not in voters and host.id not in world.witnesses]
    return len(voters) >= 3 and any(host.raft is not None for host in others)


def check(before: Membership, after: Membership, wanted: int) -> None:
    """What the autopilot may never ask for, whatever it believes."""
    if not is_sound(after):
        raise Violation(f"autopilot: {after} is not sound")
    fewer = len(after.voters) < len(before.voters)
    if fewer and len(after.voters) + bool(after.learners) < majority(wanted):
        raise Violation(f"autopilot: {len(after.voters)} voters would be left of {wanted}")
