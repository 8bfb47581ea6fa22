"""Following the log: positions that can be waited for, and what donor and follower say to each other."""

import random
from collections.abc import Iterable
from typing import Any, cast

import pytest
import trio

from gossip import FactValue, Member, MemberView, State
from gossip.coordinates import Distances
from store import apply, catalogue, log
from store.database import Database
from store.entries import Entry, EntryKind
from store.operations import Create, Write, encode_write
from tests.zoned.conftest import ME, OTHER
from zoned import follow
from zoned.bootstrap import Fetcher
from zoned.errors import PeerRefused
from zoned.follow import Follower, Positions, cluster_id, give, unpack
from zoned.founding import founding_entry, founding_membership
from zoned.peers import Peers
from zoned.posting import Poster

AT = "2026-11-22T09:00:00Z"
OURS = founding_membership("tests", [OTHER])


def entries(count: int) -> list[Entry]:
    """The founding entry and so many creates."""
    made = [
        Entry(
            n + 1,
            1,
            EntryKind.WRITE,
            encode_write(Write(OTHER, n, Create(f"{n:08x}-0000-4000-8000-000000000000", n, AT, {}))),
        )
        for n in range(1, count + 1)
    ]
    return [founding_entry(OURS), *made]


async def keep(database: Database, kept: list[Entry], applied: int) -> None:
    def transaction(connection):
        log.save_entries(connection, kept)
        apply.apply(connection, kept[:applied], ME, 0.0)

    await database.write(transaction)


async def test_waiting_for_a_position_ends_when_it_is_passed(autojump_clock):
    positions = Positions(3)
    async with trio.open_nursery() as nursery:

        async def move() -> None:
            for position in (4, 5, 6):
                await trio.sleep(1)
                positions.advance(position)

        nursery.start_soon(move)
        assert await positions.wait_beyond(5, 10)
        assert trio.current_time() == pytest.approx(3)
    assert await positions.wait_beyond(5, 0)
    assert not await positions.wait_beyond(6, 2)
    assert trio.current_time() == pytest.approx(5)


async def test_a_node_without_a_log_has_no_cluster(database):
    assert cluster_id(database.reader) == ""
    await keep(database, entries(0), 1)
    assert cluster_id(database.reader) == OURS.cluster_id


async def test_a_donor_gives_what_it_has_applied_and_nothing_beyond(database):
    await keep(database, entries(5), 4)
    positions = Positions(catalogue.replica(database.reader).position)
    ours, given = unpack(await give(database, positions, 0, 0))
    assert (ours, given) == (OURS.cluster_id, entries(5)[:4])
    assert unpack(await give(database, positions, 2, 0))[1] == entries(5)[2:4]
    assert unpack(await give(database, positions, 4, 0))[1] == []


def given(packed: Any) -> list[Entry]:
    found = unpack(packed)[1]
    assert found is not None
    return found


async def test_a_donor_gives_batches_of_bounded_count_and_size(database, monkeypatch):
    await keep(database, entries(9), 10)
    monkeypatch.setattr(follow, "BATCH_ENTRIES_MAX", 3)
    assert [entry.index for entry in given(await give(database, Positions(10), 4, 0))] == [5, 6, 7]
    monkeypatch.setattr(follow, "BATCH_BYTES_MAX", 1)
    assert [entry.index for entry in given(await give(database, Positions(10), 4, 0))] == [5]


async def test_a_donor_holds_the_answer_until_something_newer_is_applied(database):
    await keep(database, entries(1), 1)
    positions = Positions(1)
    async with trio.open_nursery() as nursery:

        async def move() -> None:
            await trio.sleep(0.05)
            rest = entries(1)[1:]
            await database.write(lambda c: apply.apply(c, rest, ME, 0.0))
            positions.advance(2)

        nursery.start_soon(move)
        with trio.fail_after(30):
            assert [entry.index for entry in given(await give(database, positions, 1, 60))] == [2]


@pytest.mark.parametrize(
    "packed",
    [None, 5, [], ["x"], ["x", 5], ["x", [[1, 1, 0]]], ["x", [[1, 1, 99, b""]]], ["x", [["a", 1, 0, b""]]], ["x", [5]]],
)
def test_what_is_no_batch_of_entries_is_refused(packed):
    with pytest.raises(PeerRefused):
        unpack(packed)


async def test_the_donor_is_the_nearest_voter_that_is_near_the_head_and_did_not_just_fail(database):
    """By round trips: 10 ms, 200 ms, one that is near but far behind, one that does not vote, one never measured."""
    await keep(database, entries(0), 1)
    cluster = cluster_id(database.reader)
    distances = Distances(random.Random(1))

    def voter(name: str, rtt_s: float | None, position: int = 5_000, **facts: FactValue) -> MemberView:
        if rtt_s is not None:
            distances.measured(name, rtt_s, None)
        told = {"voter": True, "cluster": cluster, **facts}
        member = Member(name, 1, name, "127.0.0.1", 1, facts=told)
        return MemberView(member, State.ALIVE, 0.0, beat=1, vitals={"position": position})

    views = {
        view.node_id: view
        for view in (
            voter("far", 0.2),
            voter("near", 0.01),
            voter("behind", 0.001, position=5),
            voter("follower", 0.001, voter=False),
            voter("foreign", 0.001, cluster="other"),
            voter("unmeasured", None),
        )
    }

    class Book:
        def address_of(self, node_id: str) -> None: ...

        def nearest(self, among: Iterable[MemberView]) -> list[MemberView]:
            return [views[name] for name in distances.nearest((view.node_id, None) for view in among)]

    follower = Follower(
        ME,
        database,
        Peers(Poster(), Book(), "tests"),
        views.values(),
        lambda position, applied: None,
        cast(Fetcher, None),
        random.Random(1),
    )
    assert follower._choose() == "near"
    for failed, then in (("near", "far"), ("far", "near")):
        follower._failed = failed
        assert follower._choose() == then
    del views["near"], views["far"]
    follower._failed = "unmeasured"
    assert follower._choose() == "behind"  # nobody else is left
