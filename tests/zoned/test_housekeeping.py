"""What keeps the store from growing: old log entries and old receipts."""

import pytest
import trio

from conf import Audit, Registry
from store import apply, audit, journal, log
from store.entries import Entry, EntryKind
from store.operations import Create, Delete, Write, encode_write
from tests.zoned.conftest import captured_logs, until
from zoned import housekeeping
from zoned.follow import Positions
from zoned.housekeeping import Housekeeping, cut

ME = "00000000-0000-4000-8000-00000000000a"
OTHER = "00000000-0000-4000-8000-00000000000b"
AT = "2026-11-22T09:00:00Z"


@pytest.mark.parametrize(
    ("first", "applied", "keep", "expected"),
    [(1, 100, 100, None), (1, 125, 100, None), (1, 126, 100, 26), (1, 100_000, 100, 5_001), (90, 200, 100, None)],
)
def test_a_log_is_cut_late_and_a_little_at_a_time(first, applied, keep, expected):
    assert cut(first, applied, keep) == expected


async def test_the_log_is_compacted_and_old_receipts_go(database):
    entries = [Entry(n, 1, EntryKind.NOOP) for n in range(1, 300)]
    limits = journal.Limits(10, 10_000, 0, str(database.path.parent))
    create = Create("00000000-0000-4000-8000-000000000001", None, AT, {})
    entries.append(Entry(300, 1, EntryKind.WRITE, encode_write(Write(ME, 1, create))))

    def fill(connection) -> None:
        journal.append(connection, ME, create, 0.0, limits)
        log.save_entries(connection, entries)
        apply.apply(connection, entries, ME, 1_000.0)  # finished in 1970

    await database.write(fill)
    assert journal.receipt(database.reader, 1) is not None
    async with trio.open_nursery() as nursery:
        settings = Registry(log_entries_keep=100)
        nursery.start_soon(Housekeeping(database, Positions(300), settings).serve)
        await until(lambda: log.first_position(database.reader) == 201)
        await until(lambda: journal.receipt(database.reader, 1) is None)
        nursery.cancel_scope.cancel()
    assert log.last_position(database.reader) == 300
    assert housekeeping.RECEIPTS_S >= 30 * 86_400


async def test_old_lines_of_the_audit_go(database):
    missing = "00000000-0000-4000-8000-000000000001"
    entries = [
        Entry(n, 1, EntryKind.WRITE, encode_write(Write(OTHER, n, Delete(missing, AT)))) for n in range(1, 1_501)
    ]
    await database.write(lambda connection: apply.apply(connection, entries, ME, 0.0))
    async with trio.open_nursery() as nursery:
        kept = Audit(entries_keep=1_000)
        nursery.start_soon(Housekeeping(database, Positions(1_500), Registry(), kept).serve)
        await until(lambda: not audit.has_before(database.reader, 500))
        nursery.cancel_scope.cancel()
    assert audit.count(database.reader) == audit.Counted(1_000, 501, 1_500, "")


async def test_a_reader_that_does_not_finish_is_told_of_once(database, monkeypatch):
    monkeypatch.setattr(housekeeping, "WAL_LOUD_BYTES", 1)
    monkeypatch.setattr(housekeeping, "LOOK_S", 0.01)
    with captured_logs() as said:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Housekeeping(database, Positions(0), Registry()).serve)
            await until(lambda: bool(said))
            await trio.sleep(0.1)  # time to say it again
            nursery.cancel_scope.cancel()
    assert database.wal_bytes() > 0
    assert [one["event"] for one in said] == ["write-ahead log grows"]
