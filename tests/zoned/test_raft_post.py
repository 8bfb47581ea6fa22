"""Raft on the wire: what may go with the answer to a peer's request, and what a tick does for patient readers."""

import random
from collections.abc import Sequence
from typing import Any, cast

import pytest
import trio
import trio.testing

from store.entries import Entry, EntryKind, HardState, Membership
from store.errors import Impossible
from zoned.errors import PeerUnreachable
from zoned.peers import Peers, RaftPost
from zoned.raft.core import Raft
from zoned.raft.log import MemoryStorage
from zoned.raft.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    Message,
    PreVote,
    PreVoteReply,
    Vote,
    VoteReply,
    decode_batch,
    encode_batch,
)
from zoned.raft.node import RaftNode, Snapshots
from zoned.raft.pace import Pace
from zoned.raft.ready import RaftOptions
from zoned.raft.storage import StoredLog


class Wire:
    """Keeps what is posted; answers with `answer`, or fails while it is None."""

    def __init__(self) -> None:
        self.posted: list[Message] = []
        self.answer: bytes | None = b""

    async def post(self, node_id: str, path: str, data: bytes, timeout_s: float) -> bytes:
        await trio.lowlevel.checkpoint()
        messages = decode_batch(data)
        assert {message.recipient for message in messages} == {node_id}
        self.posted += messages
        if self.answer is None:
            raise PeerUnreachable(node_id)
        return self.answer


HEARD = HeartbeatReply("c", "a", "b", 1, 5)
ENTRIES = Append("c", "a", "b", 1, 1, 1, 1)
ELSEWHERE = HeartbeatReply("c", "a", "d", 1, 5)


async def test_what_is_said_at_once_to_a_peer_that_asks_goes_with_the_answer():
    wire, stepped = Wire(), list[Sequence[Message]]()
    async with trio.open_nursery() as nursery:
        post = RaftPost(cast(Peers, wire), nursery, 1.0, Pace(0.1, 0.5), stepped.append)
        with post.answering("b") as answer:
            post.send([HEARD, ENTRIES, ELSEWHERE])
        post.send([HEARD])
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert answer == [HEARD]
    assert sorted(wire.posted, key=repr) == sorted([ENTRIES, ELSEWHERE, HEARD], key=repr)


async def test_what_the_core_finds_impossible_ends_the_node_and_not_the_request_that_brought_it(database):
    storage = StoredLog(database)
    raft = Raft("a", storage, HardState(), 0, RaftOptions(cluster_id="c"), random.Random(1))

    def step(message: Message) -> None:
        raise Impossible("an entry that was committed would be replaced")

    raft.step = step  # type: ignore[method-assign]
    quiet: Any = lambda *told: None  # noqa: E731
    node = RaftNode(raft, database, Pace(0.1, 0.5), quiet, quiet, quiet, cast(Snapshots, None))
    with trio.fail_after(30), pytest.RaisesGroup(Impossible, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(node.serve)
            node.step([HEARD])
            node.step([HEARD])


@pytest.mark.parametrize("bad", [None, b"\xc1 no batch"])
async def test_what_comes_with_an_answer_is_heard_and_a_bad_one_is_a_loss(bad: bytes | None):
    wire, stepped = Wire(), list[Sequence[Message]]()
    reply = HeartbeatReply("c", "b", "a", 1, 5)
    async with trio.open_nursery() as nursery:
        post = RaftPost(cast(Peers, wire), nursery, 1.0, Pace(0.1, 0.5), stepped.append)
        for wire.answer in (bad, b"", encode_batch([reply])):
            post.send([Heartbeat("c", "a", "b", 1, 0, 5)])
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert len(wire.posted) == 3
    assert stepped == [[reply]]


def obliging(message: Message) -> Message | None:
    """What a voter says that grants and keeps everything."""
    about = ("c", "b", "a", message.term)
    match message:
        case PreVote():
            return PreVoteReply(*about, True)
        case Vote():
            return VoteReply(*about, True)
        case Append(prev_index=prev_index, entries=entries):
            return AppendReply(*about, prev_index + len(entries))
        case _:
            return None


@pytest.mark.parametrize("voters", ["a", "ab"])
def test_a_read_asked_just_before_a_tick_is_confirmed_by_that_ticks_heartbeat(voters: str):
    founding = Entry(1, 1, EntryKind.MEMBERSHIP, Membership("c", tuple(voters)).encode())
    storage = MemoryStorage([founding])
    raft = Raft("a", storage, HardState(), 0, RaftOptions(), random.Random(1))

    def work() -> list[Message]:
        said = raft.urgent()
        while (ready := raft.ready()) is not None:
            storage.write(ready.entries, ready.truncate_from)
            raft.advance(ready)
            said += [*ready.messages, *raft.urgent()]
        return said

    while not raft.is_registry:
        raft.tick()
        for message in work():
            reply = obliging(message)
            if reply is not None:
                raft.step(reply)
    work()
    ticket = raft.read_index()
    raft.tick()
    heartbeats = [message for message in work() if isinstance(message, Heartbeat) and message.round]
    assert len(heartbeats) == len(voters) - 1, "the read must not cost a heartbeat of its own"
    for message in heartbeats:
        raft.step(HeartbeatReply("c", "b", "a", message.term, message.round))
    assert [(read.ticket, read.index) for read in raft.reads()] == [(ticket, raft.commit)]
