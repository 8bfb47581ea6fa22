"""What one seed means: the shape of the cluster, its limits, and how badly it is treated.

Uniform faults under fixed limits miss the famous bugs. So a seed draws *everything*, tiny limits included (swarm
testing, Groce and others 2012), and a profile only says from which ranges. Times are in milliseconds of the
simulation; one tick is `TICK_MS`.
"""

import random
from dataclasses import dataclass, field

from zoned.raft.ready import RaftOptions

TICK_MS = 10
PROFILES = ("swarm", "churn", "ballots", "moves", "pilot", "calm")


@dataclass(frozen=True, slots=True)
class Profile:
    """Everything that a seed decides before the run starts. Rates are probabilities a message or a step."""

    name: str
    voters: int
    learners: int
    duration_ms: int
    options: RaftOptions
    loss: float
    duplicate: float
    delay_ms: float  # mean of the exponential part; one more is always added
    far_delay: float  # share of messages that take fifty times as long
    sync_ms: float  # mean time of a write that is synced
    slow_disks: tuple[int, ...]  # which nodes have a disk ten times as slow
    crash_after_answer: float  # per synced write with messages: the node dies right after they left
    crash_before_answer: float  # ... or right before
    trouble_ms: float  # mean time between the nemesis' actions
    relief_ms: float  # mean time until what it did is undone
    weights: dict[str, int] = field(hash=False)
    client_ms: float = 15.0  # mean time between proposals
    lasting: str = "none"  # the fault that stays while the cluster must make progress
    strike_new_leader: float = 0.0  # chance that a leader is half cut off and dies soon after its election
    strike_committer: float = 0.0  # ... and the same when its commit index moves
    spares: int = 0  # nodes that start outside of the membership
    compact: float = 0.0  # chance that a node compacts its log after applying
    witnesses: int = 0  # of the voters
    asks_ms: float = 60.0  # mean time between read indices of one node, for its bound of staleness
    wanted: int = 0  # voters that the autopilot steers to; 0: there is none
    remove_after_ms: float = 0.0  # away for so long means lost to the autopilot
    elections_max: int = 0  # more are without cause; 0: any number may have one


def draw(seed: int, kind: str = "swarm") -> Profile:
    """The profile of `seed`; `kind` is `swarm` (the default mixture), or one of PROFILES."""
    rng = random.Random(f"{kind}:{seed}")
    if kind == "churn":
        return _churn(rng)
    if kind == "ballots":
        return _ballots(rng)
    if kind == "moves":
        return _moves(rng)
    if kind == "pilot":
        return _pilot(rng)
    if kind == "calm":
        return _calm(rng)
    tiny = rng.random() < 0.5
    options = RaftOptions(
        heartbeat_ticks=rng.choice((1, 2, 3)),
        append_max_entries=rng.choice((1, 2, 5)) if tiny else 512,
        append_max_bytes=rng.choice((1, 200, 10_000)) if tiny else 65_536,
        inflight_max_messages=rng.choice((1, 2, 4)) if tiny else 64,
        inflight_max_bytes=rng.choice((1, 300)) if tiny else 65_536,
        uncommitted_max_bytes=rng.choice((100, 1_000)) if tiny else 20_000,
        committed_max_entries=rng.choice((1, 2, 7)) if tiny else 512,
        cache_max_entries=rng.choice((1, 3, 64)),
        cache_max_bytes=rng.choice((40, 100_000)),
    )
    voters = rng.choice((1, 3, 3, 3, 5, 5, 7))
    changing = rng.random() < 0.4
    orders = {"change": rng.choice((2, 8)) if changing else 0, "transfer": rng.choice((0, 0, 3))}
    names = ("crash", "crash_leader", "split", "isolate", "isolate_leader", "one_way", "pause", "crash_all")
    return Profile(
        name="swarm",
        voters=voters,
        learners=rng.choice((0, 0, 1, 2)),
        duration_ms=rng.choice((4_000, 8_000)),
        options=options,
        loss=rng.choice((0.0, 0.01, 0.1, 0.3)),
        duplicate=rng.choice((0.0, 0.02, 0.2)),
        delay_ms=rng.choice((1.0, 5.0, 20.0)),
        far_delay=rng.choice((0.0, 0.0, 0.01)),
        sync_ms=rng.choice((1.0, 3.0, 15.0)),
        slow_disks=tuple(i for i in range(voters) if rng.random() < 0.15),
        crash_after_answer=rng.choice((0.0, 0.0, 0.002, 0.02)),
        crash_before_answer=rng.choice((0.0, 0.0, 0.01)),
        trouble_ms=rng.choice((150.0, 400.0, 1_500.0)),
        relief_ms=rng.choice((50.0, 200.0, 500.0)),
        weights={name: rng.choice((0, 1, 1, 3)) for name in names} | {"crash": 1} | orders,
        spares=rng.choice((0, 1, 2)) if changing else 0,
        compact=rng.choice((0.0, 0.0, 0.02, 0.3)),
        client_ms=rng.choice((4.0, 15.0, 40.0)),
        lasting=rng.choice(("none", "deaf", "mute", "dead", "slow", "heir")) if voters > 1 else "none",
        witnesses=min(rng.choice((0, 0, 1, 2)), voters // 2),
    )


def _churn(rng: random.Random) -> Profile:
    """Leaders are struck down just after their election or in the act of committing (the paper's figure 8)."""
    sync_ms = rng.choice((1.0, 4.0, 20.0))
    return Profile(
        name="churn",
        voters=rng.choice((3, 5, 5, 5)),
        learners=0,
        duration_ms=8_000,
        options=RaftOptions(
            election_ticks=rng.choice((4, 10)) if sync_ms < 10 else 10,
            append_max_entries=rng.choice((1, 1, 8)),
            inflight_max_messages=rng.choice((1, 1, 8)),
            cache_max_entries=4,
        ),
        loss=rng.choice((0.0, 0.05)),
        duplicate=rng.choice((0.0, 0.1)),
        delay_ms=rng.choice((1.0, 4.0)),
        far_delay=rng.choice((0.0, 0.01)),
        sync_ms=sync_ms,
        slow_disks=(),
        crash_after_answer=rng.choice((0.0, 0.01, 0.05)),
        crash_before_answer=0.0,
        trouble_ms=rng.choice((100.0, 300.0)),
        relief_ms=rng.choice((30.0, 80.0)),
        weights={"crash_leader": 3, "isolate_leader": 3, "split": 1, "one_way": 1, "crash_all": 1},
        client_ms=rng.choice((15.0, 60.0)),
        lasting=rng.choice(("none", "deaf", "mute")),
        strike_new_leader=rng.choice((0.3, 0.6)),
        strike_committer=rng.choice((0.02, 0.1, 0.4)),
        witnesses=rng.choice((0, 1)),
    )


def _ballots(rng: random.Random) -> Profile:
    """Elections without end: short timeouts, slow syncs, and nodes that die just before or after they promise."""
    return Profile(
        name="ballots",
        voters=rng.choice((3, 4, 5, 5)),
        learners=0,
        duration_ms=8_000,
        options=RaftOptions(election_ticks=rng.choice((5, 6)), cache_max_entries=4),
        loss=rng.choice((0.0, 0.1)),
        duplicate=rng.choice((0.0, 0.1)),
        delay_ms=rng.choice((1.0, 4.0)),
        far_delay=rng.choice((0.0, 0.01)),
        sync_ms=rng.choice((4.0, 12.0)),
        slow_disks=(),
        crash_after_answer=rng.choice((0.0, 0.05, 0.2)),
        crash_before_answer=rng.choice((0.0, 0.05, 0.2)),
        trouble_ms=rng.choice((60.0, 150.0)),
        relief_ms=rng.choice((10.0, 40.0)),
        weights={"crash": 1, "crash_leader": 2, "isolate_leader": 2, "split": 1, "one_way": 1, "crash_all": 1},
        client_ms=40.0,
        lasting=rng.choice(("none", "deaf", "mute", "dead")),
        strike_new_leader=rng.choice((0.0, 0.5)),
    )


def _moves(rng: random.Random) -> Profile:
    """Members come and go, logs shrink, newcomers live on snapshots, and new leaders order changes and die."""
    return Profile(
        name="moves",
        voters=rng.choice((2, 3, 4)),
        learners=rng.choice((0, 1)),
        duration_ms=6_000,
        options=RaftOptions(append_max_entries=rng.choice((1, 8)), cache_max_entries=rng.choice((1, 50))),
        loss=rng.choice((0.0, 0.05)),
        duplicate=rng.choice((0.0, 0.1)),
        delay_ms=rng.choice((1.0, 4.0)),
        far_delay=rng.choice((0.0, 0.01)),
        sync_ms=rng.choice((2.0, 15.0)),
        slow_disks=(),
        crash_after_answer=rng.choice((0.0, 0.02)),
        crash_before_answer=rng.choice((0.0, 0.05)),
        trouble_ms=rng.choice((40.0, 100.0)),
        relief_ms=rng.choice((40.0, 100.0)),
        weights={"crash": 2, "isolate": 2, "isolate_leader": 1, "pause": 1, "transfer": 1, "change": 6},
        client_ms=rng.choice((5.0, 20.0)),
        lasting=rng.choice(("none", "deaf", "mute", "dead")),
        strike_new_leader=rng.choice((0.0, 0.3, 0.6)),
        spares=rng.choice((1, 2)),
        compact=rng.choice((0.05, 0.5)),
        witnesses=rng.choice((0, 1)),
    )


def _pilot(rng: random.Random) -> Profile:
    """The autopilot steers, on what it believes of others: promotes, labels witnesses, gives up the lost."""
    wanted = rng.choice((3, 5))
    return Profile(
        name="pilot",
        voters=rng.choice((1, 3, wanted)),
        learners=0,
        duration_ms=6_000,
        options=RaftOptions(append_max_entries=rng.choice((1, 64)), cache_max_entries=rng.choice((1, 50))),
        loss=rng.choice((0.0, 0.05)),
        duplicate=rng.choice((0.0, 0.1)),
        delay_ms=rng.choice((1.0, 4.0)),
        far_delay=rng.choice((0.0, 0.01)),
        sync_ms=rng.choice((1.0, 5.0)),
        slow_disks=(),
        crash_after_answer=rng.choice((0.0, 0.005)),
        crash_before_answer=0.0,
        trouble_ms=rng.choice((200.0, 600.0)),
        relief_ms=rng.choice((100.0, 1_500.0)),
        weights={"crash": 3, "crash_leader": 1, "isolate": 2, "isolate_leader": 1, "split": 1, "pause": 1},
        client_ms=rng.choice((20.0, 60.0)),
        lasting=rng.choice(("none", "dead", "dead")),
        spares=rng.choice((1, 2, 3)),
        compact=rng.choice((0.0, 0.05)),
        witnesses=rng.choice((0, 0, 1)),
        wanted=wanted,
        remove_after_ms=rng.choice((0.0, 300.0, 1_000.0)),
    )


def _calm(rng: random.Random) -> Profile:
    """Nothing goes wrong, but the disks are slow: some syncs take longer than an election timeout."""
    return Profile(
        name="calm",
        voters=rng.choice((3, 5)),
        learners=0,
        duration_ms=8_000,
        options=RaftOptions(),
        loss=0.0,
        duplicate=0.0,
        delay_ms=2.0,
        far_delay=0.0,
        sync_ms=30.0,
        slow_disks=(),
        crash_after_answer=0.0,
        crash_before_answer=0.0,
        trouble_ms=1e9,
        relief_ms=100.0,
        weights={"crash": 1},
        client_ms=10.0,
        elections_max=2,
    )
