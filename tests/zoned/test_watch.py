"""The feed of a store: which positions are events, who is behind what, and how little many watchers cost."""

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from store import apply, log
from store.database import Database
from store.entries import Entry, EntryKind, HardState
from store.operations import Create, Delete, Grant, Operation, Update, Write, encode_write
from tests.zoned.conftest import ME, OTHER
from zoned.follow import Positions
from zoned.watch import Compacted, Feed

AT = "2026-11-22T09:00:00Z"
UUID = "c9ec9bad-8ab1-4555-b70e-7590c2b07303"


@pytest.fixture
async def feed(database: Database) -> AsyncIterator[Feed]:
    yield Feed(database, Positions(0))


async def commit(feed: Feed, *operations: Operation | None) -> None:
    """Puts each in the log and applies it; None is an entry that writes nothing."""
    database, positions = feed._database, feed._positions

    def job(connection):
        start = log.last_position(connection) + 1
        sequence = apply.mark(connection, OTHER)
        entries = []
        for index, operation in enumerate(operations, start):
            data = b""
            if operation is not None:
                sequence += 1
                data = encode_write(Write(OTHER, sequence, operation))
            entries.append(Entry(index, 1, EntryKind.WRITE if operation is not None else EntryKind.NOOP, data))
        log.save_entries(connection, entries)
        log.save_hard_state(connection, HardState(1, ME, entries[-1].index))
        apply.apply(connection, entries, ME, 0.0)
        return entries[-1].index

    positions.advance(await database.write(job))
    feed.on_applied(positions.position, [])


def renamed(name: str) -> Update:
    return Update(UUID, AT, {"name": (None, name)})


async def test_only_writes_that_changed_a_record_are_events(feed: Feed) -> None:
    await commit(feed, Create(UUID, 1, AT, {}), None, renamed("n"), Grant(10, 2**40), Delete(UUID, AT), renamed("m"))
    through, events = await feed.after(0)
    assert through == 6
    assert [(one.position, one.kind) for one in events] == [(1, "created"), (3, "updated"), (5, "deleted")]
    assert await feed.after(6) == (6, [])
    assert [one.position for one in (await feed.after(3))[1]] == [5]


async def test_who_is_behind_the_log_is_told_where_it_begins(feed: Feed) -> None:
    await commit(feed, Create(UUID, 1, AT, {}), *(renamed(str(n)) for n in range(9)))
    await feed._database.write(lambda c: log.compact(c, 5))
    with pytest.raises(Compacted) as told:
        feed.check(4)
    assert told.value.first == 6
    feed.check(5)
    with pytest.raises(Compacted):
        await feed.after(4)
    assert [one.position for one in (await feed.after(5))[1]] == [6, 7, 8, 9, 10]


async def test_a_thousand_watchers_at_the_head_cost_one_reading(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    await commit(feed, Create(UUID, 1, AT, {}), *(renamed(str(n)) for n in range(9)))
    readings = 0
    read = feed._database.read

    async def counted(job):
        nonlocal readings
        readings += 1
        return await read(job)

    monkeypatch.setattr(feed._database, "read", counted)
    seen: list[int] = []

    async def watcher() -> None:
        _, events = await feed.after(0)
        seen.append(len(events))

    async with trio.open_nursery() as nursery:
        for _ in range(1_000):
            nursery.start_soon(watcher)
    assert (readings, set(seen)) == (1, {10})


async def test_what_is_kept_is_bounded(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoned.watch.KEPT_MAX", 20)
    monkeypatch.setattr("zoned.watch.BATCH_ENTRIES", 10)
    await commit(feed, *(Create(f"{n:08x}{UUID[8:]}", n + 1, AT, {}) for n in range(100)))
    position, seen = 0, []
    while position < 100:
        position, events = await feed.after(position)
        seen += [one.position for one in events]
        for one in events:
            feed.text(one, lambda image: {})
    assert seen == list(range(1, 101))
    assert (len(feed._kept), len(feed._texts)) == (20, 20)


async def test_watchers_wait_for_news_and_end_with_the_daemon(feed: Feed) -> None:
    await commit(feed, Create(UUID, 1, AT, {}))
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed.wait, 1, 1_000.0)
            await commit(feed, renamed("n"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed.wait, 2, 1_000.0)
            await trio.testing.wait_all_tasks_blocked()
            feed.end()
        await feed.wait(2, 0.0)
