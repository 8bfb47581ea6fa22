"""A donor's snapshot takes as much disk as the store: it is there while somebody wants it, and not longer."""

import trio

from store import apply, log
from store.entries import Entry, EntryKind, Membership
from tests.zoned.conftest import until
from zoned import bootstrap
from zoned.bootstrap import Donor

ME = "00000000-0000-4000-8000-00000000000a"


async def test_a_snapshot_that_nobody_fetches_any_more_is_removed(database, monkeypatch):
    monkeypatch.setattr(bootstrap, "OFFERED_S", 2.0)
    folder = database.path.parent / bootstrap.FOLDER
    folder.mkdir()
    (folder / "own-7").write_bytes(b"of an earlier run")
    entries = [Entry(1, 1, EntryKind.MEMBERSHIP, Membership("c", (ME,)).encode())]

    def fill(connection) -> None:
        log.save_entries(connection, entries)
        apply.apply(connection, entries, ME, 0.0)

    await database.write(fill)
    donor = Donor(database)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(donor.serve)
        await until(lambda: not list(folder.iterdir()))
        assert donor.offer() is None
        await until(lambda: (folder / "own-1").exists() and donor.offer() is not None)
        offered = donor.offer()
        assert offered is not None
        for _ in range(10):  # while somebody fetches, it stays
            await trio.sleep(0.25)
            assert await donor.part(offered.sha256, 0, 10)
        await until(lambda: not list(folder.iterdir()))
        assert await donor.part(offered.sha256, 0, 10) is None
        assert donor.offer() is None  # and is written anew
        await until(lambda: donor.offer() is not None)
        nursery.cancel_scope.cancel()
