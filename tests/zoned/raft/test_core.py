"""The core's face: who may say what to it, what it refuses, and that it never blocks on its shell."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from store.entries import Entry, EntryKind, HardState, Membership
from zoned.raft import messages as wire
from zoned.raft.core import Raft
from zoned.raft.log import ImpossibleState, MemoryStorage
from zoned.raft.messages import Message
from zoned.raft.ready import Busy, LeaderChanged, NotLeader, RaftOptions, Refused, Role, Suspicious

WRITE = EntryKind.WRITE


def node(node_id: str = "a", voters: str = "abc", options: RaftOptions | None = None) -> tuple[Raft, MemoryStorage]:
    founding = Entry(1, 1, EntryKind.MEMBERSHIP, Membership("c", tuple(voters)).encode())
    storage = MemoryStorage([founding] if voters else [])
    raft = Raft(node_id, storage, HardState(), 0, options or RaftOptions(), random.Random(1))
    return raft, storage


def work(raft: Raft, storage: MemoryStorage) -> list[Message]:
    """Everything the node says, with a disk that takes no time."""
    said = raft.urgent()
    while (ready := raft.ready()) is not None:
        storage.write(ready.entries, ready.truncate_from)
        said += ready.messages
        raft.advance(ready)
        said += raft.urgent()
    return said


def leader() -> tuple[Raft, MemoryStorage]:
    raft, storage = node()
    for _ in range(20):
        raft.tick()
        if raft.role is Role.PRE_CANDIDATE:
            break
    raft.step(wire.PreVoteReply("c", "b", "a", 2, True))
    work(raft, storage)
    raft.step(wire.VoteReply("c", "b", "a", 2, True))
    assert raft.role is Role.LEADER
    work(raft, storage)
    return raft, storage


def state(raft: Raft) -> tuple[object, ...]:
    return raft.role, raft.term, raft.leader_id, raft.commit, raft.last_index, raft.ready()


@pytest.mark.parametrize("heard", [0, 3])
def test_quiet_ticks_may_be_given_at_once(heard: int) -> None:
    said = []
    for at_once in (False, True):
        raft, storage = node()
        work(raft, storage)
        raft.tick(min(heard, raft.quiet_ticks))
        if heard:
            raft.step(wire.Heartbeat("c", "b", "a", 2, 0, 1))
        work(raft, storage)
        quiet = raft.quiet_ticks
        assert quiet > 0
        for count in [quiet] if at_once else [1] * quiet:
            raft.tick(count)
        assert (raft.quiet_ticks, raft.role, work(raft, storage)) == (0, Role.FOLLOWER, [])
        raft.tick()
        assert raft.role is Role.PRE_CANDIDATE
        said.append((quiet, [repr(message) for message in work(raft, storage)]))
    assert said[0] == said[1]


def test_a_leader_needs_every_tick() -> None:
    assert leader()[0].quiet_ticks == 0


def test_messages_of_strangers_change_nothing() -> None:
    raft, storage = node()
    work(raft, storage)
    before = state(raft)
    for cluster_id, sender, recipient in (("other", "b", "a"), ("c", "b", "x"), ("c", "a", "a"), ("", "b", "a")):
        raft.step(wire.Heartbeat(cluster_id, sender, recipient, 9, 0, 1))
        raft.step(wire.Vote(cluster_id, sender, recipient, 9, 99, 9))
    assert state(raft) == before
    assert raft.urgent() == []


def test_an_empty_node_never_campaigns_and_knows_only_the_cluster_it_was_told() -> None:
    raft, storage = node("d", voters="")
    for _ in range(100):
        raft.tick()
    raft.step(wire.Heartbeat("c", "a", "d", 9, 0, 1))
    raft.step(wire.Heartbeat("", "a", "d", 9, 0, 1))
    assert (work(raft, storage), raft.term, raft.membership) == ([], 0, None)

    told, storage = node("d", voters="", options=RaftOptions(cluster_id="c"))
    told.step(wire.Heartbeat("c", "a", "d", 9, 0, 1))
    assert work(told, storage) == [wire.HeartbeatReply("c", "d", "a", 9, 1)]
    for _ in range(100):
        told.tick()
    assert (told.role, work(told, storage)) == (Role.FOLLOWER, [])


def test_only_a_leader_takes_proposals_and_says_who_leads() -> None:
    raft, storage = node()
    raft.step(wire.Heartbeat("c", "b", "a", 3, 0, 1))
    for order in (lambda: raft.propose([(WRITE, b"x")]), lambda: raft.transfer("b"), raft.read_index):
        with pytest.raises(NotLeader) as caught:
            order()
        assert caught.value.leader_id == "b"
    work(raft, storage)
    assert LeaderChanged(3, "b") in raft.notices()
    assert raft.notices() == []


def test_proposals_in_one_turn_share_an_append() -> None:
    raft, _storage = leader()
    raft.step(wire.AppendReply("c", "b", "a", 2, 2))
    raft.urgent()
    assert raft.propose([(WRITE, b"1"), (WRITE, b"2")]) == range(3, 5)
    assert raft.propose([(WRITE, b"3")]) == range(5, 6)
    assert raft.propose([]) == range(6, 6)
    (to_b,) = [m for m in raft.urgent() if isinstance(m, wire.Append) and m.recipient == "b"]
    assert [entry.data for entry in to_b.entries] == [b"1", b"2", b"3"]
    with pytest.raises(ValueError, match="membership"):
        raft.propose([(EntryKind.MEMBERSHIP, b"")])


def test_heartbeats_do_not_wait_for_the_disk() -> None:
    raft, _storage = leader()
    raft.propose([(WRITE, b"x")])
    in_flight = raft.ready()
    assert in_flight is not None
    assert in_flight.must_sync
    raft.urgent()
    raft.tick()
    assert {type(m) for m in raft.urgent()} >= {wire.Heartbeat}
    assert raft.ready() is None  # one at a time
    raft.propose([(WRITE, b"y")])
    raft.step(wire.HeartbeatReply("c", "b", "a", 2, 1))
    with pytest.raises(ImpossibleState, match="not in flight"):
        raft.advance(in_flight.__class__(None, None, (), (), (), False))


def test_the_leaders_own_disk_counts_only_when_written() -> None:
    raft, storage = leader()
    raft.step(wire.AppendReply("c", "b", "a", 2, 2))
    work(raft, storage)
    assert raft.is_registry
    raft.propose([(WRITE, b"x")])
    ready = raft.ready()
    assert ready is not None
    raft.step(wire.AppendReply("c", "b", "a", 2, 3))
    commit_before = raft.commit
    storage.write(ready.entries, ready.truncate_from)
    raft.advance(ready)
    assert (commit_before, raft.commit) == (2, 3)


def test_uncommitted_bytes_are_bounded() -> None:
    raft, storage = leader()
    with pytest.raises(Busy):
        for _ in range(10_000):
            raft.propose([(WRITE, bytes(10_000))])
    assert raft.last_index < 2_000
    with pytest.raises(Busy, match="committed yet"):
        raft.read_index()
    with pytest.raises(Refused, match="applied yet"):
        raft.change(Membership("c", ("a", "b", "c"), ("d",)))
    raft.step(wire.AppendReply("c", "b", "a", 2, raft.last_index))
    work(raft, storage)
    raft.step(wire.AppendReply("c", "b", "a", 2, raft.last_index))
    raft.propose([(WRITE, bytes(10_000))])


def test_what_is_committed_cannot_be_overwritten() -> None:
    raft, storage = node()
    entries = (Entry(2, 2, EntryKind.NOOP), Entry(3, 2, WRITE, b"x"))
    raft.step(wire.Append("c", "b", "a", 2, 1, 1, 3, entries))
    work(raft, storage)
    assert raft.commit == 3
    with pytest.raises(ImpossibleState, match="committed up to 3"):
        raft.step(wire.Append("c", "c", "a", 3, 1, 1, 0, (Entry(2, 3, EntryKind.NOOP),)))


def test_a_follower_commits_only_what_was_proved() -> None:
    raft, storage = node()
    raft.step(wire.Append("c", "b", "a", 2, 1, 1, 0, (Entry(2, 2, EntryKind.NOOP), Entry(3, 2, WRITE, b"x"))))
    raft.step(wire.Append("c", "c", "a", 3, 1, 1, 99, ()))
    assert raft.commit == 1
    raft.step(wire.Heartbeat("c", "c", "a", 3, 99, 1))
    assert raft.commit == 1
    assert any(isinstance(notice, Suspicious) for notice in raft.notices())
    work(raft, storage)


def test_messages_without_sense_never_raise() -> None:
    """Types are right (the wire sees to that), values are not."""
    rng = random.Random(3)
    numbers: Sequence[int] = (0, 1, 2, 3, 4, 5, 10, 2**53 - 1)
    members = (Membership("c", ("b", "d")).encode(), b"\xc1", b"")

    def number() -> int:
        return rng.choice(numbers)

    def entry() -> Entry:
        kind = rng.choice(list(EntryKind))
        data = rng.choice(members) if kind is EntryKind.MEMBERSHIP else b"x"
        return Entry(number(), number(), kind, data)

    shapes: dict[Callable[..., Message], int] = {
        wire.AppendReply: 4,
        wire.Heartbeat: 2,
        wire.HeartbeatReply: 1,
        wire.PreVote: 2,
        wire.PreVoteReply: 1,
        wire.Vote: 3,
        wire.VoteReply: 1,
        wire.TimeoutNow: 0,
        wire.SnapshotOffer: 2,
    }
    impossible = 0
    for _ in range(300):
        raft, storage = leader() if rng.random() < 0.5 else node()
        for _step in range(60):
            head = ("c", rng.choice("bcdx"), "a", rng.choice((1, 2, 2, 3, 3, raft.term, raft.term, 2**53 - 1)))
            if rng.random() < 0.4:
                many = tuple(entry() for _unused in range(rng.randrange(3)))
                message: Message = wire.Append(*head, number(), number(), number(), many)
            else:
                shape = rng.choice(list(shapes))
                fields: list[Any] = [number() for _unused in range(shapes[shape])]
                message = shape(*head, *fields)
            try:
                raft.step(message)
                if rng.random() < 0.5:
                    raft.tick()
                work(raft, storage)
            except (
                ImpossibleState
            ) as error:  # a "leader" that overwrites what is committed: the one thing that is fatal
                assert "committed up to" in str(error)
                impossible += 1
                break
    assert impossible < 150


def test_who_answers_is_active_at_any_moment_and_who_does_not_is_not() -> None:
    """Also right after the check of the quorum, which begins a new period: `registry remove` asks at any moment."""
    raft, storage = leader()
    assert {peer for peer, status in raft.progress.items() if status.active} == set()
    for _ in range(5 * RaftOptions().election_ticks):
        raft.tick()
        for message in work(raft, storage):
            if isinstance(message, wire.Heartbeat) and message.recipient == "b" and message.round:
                raft.step(wire.HeartbeatReply("c", "b", "a", message.term, message.round))
        assert raft.role is Role.LEADER
        assert {peer for peer, status in raft.progress.items() if status.active} == {"b"}
    for _ in range(RaftOptions().election_ticks + 1):
        raft.tick()
    assert not any(status.active for status in raft.progress.values())
