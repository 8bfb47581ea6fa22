"""The registry's SQL on a real PostgreSQL, and the connections that it is asked over."""

import threading
from functools import partial

import psycopg
import pytest
import trio

from store.entries import Entry, EntryKind, Membership
from zoned.postgres import ledger
from zoned.postgres.lanes import AGAIN_MAX, DatabaseAway, Lane
from zoned.postgres.ledger import Connection, Foreign
from zoned.postgres.scratch import Server
from zoned.postgres.takeover import Beat, Look, Row, Take

CLUSTER = "00000000-0000-4000-8000-0000000000cc"


def connected(dsn: str) -> Connection:
    return psycopg.connect(dsn, autocommit=True)


@pytest.fixture
def connection(dsn: str):
    with connected(dsn) as opened:
        ledger.migrate(opened)
        ledger.found(opened, CLUSTER)
        yield opened


def held(connection: Connection, me: str = "a") -> Row:
    seen = ledger.perform(connection, me, CLUSTER, Look())
    assert seen is not None
    row = ledger.perform(connection, me, CLUSTER, Take(seen, seen.term + 1))
    assert row is not None
    return row


def test_the_log_begins_with_its_cluster_and_begins_once(connection: Connection):
    ledger.found(connection, "another")
    assert ledger.cluster_of(connection) == CLUSTER
    [entry] = ledger.read(connection, 1, 10)
    assert (entry.index, entry.term, entry.kind) == (1, 1, EntryKind.MEMBERSHIP)
    assert Membership.decode(entry.data) == Membership(CLUSTER, ())
    with pytest.raises(Foreign, match="another"):
        ledger.perform(connection, "a", "another", Look())


def test_nodes_that_start_at_once_make_one_schema(dsn: str):
    problems: list[Exception] = []

    def make() -> None:
        for _ in range(5):
            try:
                with connected(dsn) as opened:
                    ledger.migrate(opened)
                    ledger.found(opened, CLUSTER)
                return
            except psycopg.Error as error:  # as a lane does: again
                last = error
        problems.append(last)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    with connected(dsn) as opened:
        assert opened.execute("SELECT count(*) FROM log").fetchone() == (1,)


def test_a_newer_schema_is_left_alone(connection: Connection):
    connection.execute("UPDATE zoned_schema SET version = 99")
    with pytest.raises(Foreign, match="schema has version 99"):
        ledger.migrate(connection)


def test_a_commit_numbers_without_gaps_and_only_in_its_own_term(connection: Connection):
    first = held(connection)
    assert ledger.commit(connection, "a", first.term, [b"1", b"2"]) == Row(first.term, 3, "a", first.beat + 1)
    second = held(connection, "b")
    assert ledger.commit(connection, "a", first.term, [b"lost"]) is None
    assert ledger.perform(connection, "a", CLUSTER, Beat(first.term)) is None
    assert ledger.perform(connection, "a", CLUSTER, Take(first, 9)) is None
    assert not ledger.give_up(connection, "a", first.term, "")
    assert ledger.commit(connection, "b", second.term, [b"3"]) is not None
    assert ledger.read(connection, 2, 5) == [
        Entry(2, first.term, EntryKind.WRITE, b"1"),
        Entry(3, first.term, EntryKind.WRITE, b"2"),
        Entry(4, second.term, EntryKind.WRITE, b"3"),
    ]


def test_a_term_in_use_is_not_taken_while_a_commit_is_under_way(dsn: str, connection: Connection):
    """The first statement locks the row: whoever takes the term waits, and finds the beat moved."""
    row = held(connection)
    result: list[Row | None] = []
    with connected(dsn) as other:
        thread = threading.Thread(
            target=lambda: result.append(ledger.perform(other, "b", CLUSTER, Take(row, row.term + 1)))
        )
        with connection.transaction():
            ledger.commit(connection, "a", row.term, [b"1"])
            thread.start()
            while not connection.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall():
                assert thread.is_alive()
        thread.join()
    assert result == [None]


def test_what_was_lost_is_put_back_in_its_place_or_not_at_all(connection: Connection):
    row = held(connection)
    lost = [Entry(2, 1, EntryKind.WRITE, b"x"), Entry(3, 1, EntryKind.WRITE, b"y")]
    with pytest.raises(Foreign, match="ends at 1, not before 3"):
        ledger.put_back(connection, "a", row.term, lost[1:])
    assert ledger.put_back(connection, "b", row.term, lost) is None
    assert ledger.put_back(connection, "a", row.term, lost) is not None
    assert ledger.read(connection, 2, 9) == lost


async def test_a_query_that_takes_too_long_is_cut_and_the_lane_goes_on(dsn: str):
    lane = Lane([dsn], "test")
    with pytest.raises(DatabaseAway):
        await lane.run(lambda c: c.execute("SELECT pg_sleep(60)"), 0.1)
    assert await lane.run(lambda c: c.execute("SELECT 7").fetchone(), 20.0) == (7,)
    with trio.move_on_after(0.1) as scope:
        await lane.run(lambda c: c.execute("SELECT pg_sleep(60)"), 50.0)
    assert scope.cancelled_caught
    assert await lane.run(lambda c: c.execute("SELECT 8").fetchone(), 20.0) == (8,)
    lane.close()


async def test_a_registry_that_is_frozen_in_mid_commit_does_not_hold_the_row_for_long(dsn: str, connection: Connection):
    row, holds, goes_on = held(connection), threading.Event(), threading.Event()

    def frozen(other: Connection) -> None:
        with other.transaction():
            assert ledger.commit(other, "a", row.term, [b"1"]) is not None
            holds.set()
            goes_on.wait(60.0)

    lane = Lane([dsn], "test")
    async with trio.open_nursery() as nursery:

        async def commit() -> None:
            with pytest.raises(DatabaseAway):
                await lane.run(frozen, 60.0)

        nursery.start_soon(commit)
        assert await trio.to_thread.run_sync(holds.wait, 60.0)
        taken = await trio.to_thread.run_sync(ledger.perform, connection, "b", CLUSTER, Take(row, row.term + 1))
        goes_on.set()
    assert taken == Row(row.term + 1, row.position, "b", row.beat + 1)
    lane.close()


async def test_what_was_rolled_back_for_others_is_done_again_whole(dsn: str):
    lane, tries = Lane([dsn], "test"), 0

    def job(connection: Connection) -> int:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise psycopg.errors.SerializationFailure("restart transaction")
        return tries

    assert await lane.run(job, 20.0) == 3

    def never(connection: Connection) -> int:
        raise psycopg.errors.DeadlockDetected("deadlock detected")

    with pytest.raises(DatabaseAway, match=f"{AGAIN_MAX} times"):
        await lane.run(never, 20.0)
    lane.close()


async def test_the_first_server_that_takes_writes_is_used(dsn: str, server: Server):
    nobody = dsn.replace(str(server.directory), "/nonexistent")
    lane = Lane([nobody, f"{dsn} options='-c default_transaction_read_only=on'", dsn], "test")
    assert await lane.run(lambda c: c.execute("SELECT 1").fetchone(), 20.0) == (1,)
    await lane.run(ledger.migrate, 20.0)
    lane.close()
    alone = Lane([nobody], "test")
    with pytest.raises(DatabaseAway, match="nonexistent"):
        await alone.run(partial(ledger.cluster_of), 20.0)
