"""Snapshots: written beside writers, checked, installed in one rename, restored as a new cluster."""

from pathlib import Path

import apsw
import pytest

from store import apply as applying
from store import catalogue, holding, identity, journal, log, ranges, snapshot
from store.apply import apply
from store.database import connect_reader, open_database, open_writer
from store.entries import Entry, EntryKind, HardState, Membership
from store.errors import CannotOpen, Impossible, StorageFull
from store.operations import Create, Delete, Grant, Origin, Update, decode, encode
from tests.store.conftest import AT, ME, NOW, OTHER, dump, entry

CEILING = 2**53 - 1
MEMBERSHIP = Entry(1, 1, EntryKind.MEMBERSHIP, Membership("c", (OTHER,)).encode())
NEWER = "00000000-0000-4000-8000-0000000000ee"


def uuid_of(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012}"


def new(number: int, integer: int | None = None, **fields) -> Create:
    return Create(uuid_of(number), integer, AT, fields)


def fill(connection: apsw.Connection, count: int = 20, me: str = ME) -> list[Entry]:
    """Membership, a grant to OTHER, a grant to ME, then records of OTHER; one of them deleted."""
    entries = [MEMBERSHIP, entry(2, 1, Grant(100, CEILING), OTHER), entry(3, 1, Grant(50, CEILING), ME)]
    entries += [entry(n + 4, n + 2, new(n, n + 1, name=f"n{n}"), OTHER) for n in range(count)]
    entries.append(entry(count + 4, count + 2, Delete(uuid_of(0), AT), OTHER))
    with connection:
        log.save_entries(connection, entries)
        log.save_hard_state(connection, HardState(4, "", len(entries)))
        apply(connection, entries, me, NOW)
    return entries


def donor(directory: Path) -> apsw.Connection:
    directory.mkdir()
    connection = open_writer(directory / "zoned.db")
    with connection:
        identity.start(connection, NEWER, "donor", "zoned")
    fill(connection, me=NEWER)
    return connection


def test_a_snapshot_holds_what_is_equal_everywhere_and_nothing_of_its_node(tmp_path: Path):
    source = donor(tmp_path / "donor")
    made = snapshot.write(tmp_path / "donor" / "zoned.db", tmp_path / "s")
    assert (made.position, made.term, made.membership) == (24, 1, MEMBERSHIP)
    assert snapshot.describe(tmp_path / "s") == made
    assert snapshot.check(tmp_path / "s") == catalogue.replica(source)
    copy = apsw.Connection(str(tmp_path / "s"))
    assert dump(copy) == dump(source)
    for table in ("node", "log", *snapshot.LOCAL):
        assert copy.execute(f"SELECT count(*) FROM {table}").get == 0
    assert copy.execute("SELECT count(*) FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'images'").get == (
        source.execute("SELECT count(*) FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'images'").get
    )


def test_a_snapshot_of_a_compacted_log_knows_its_term_and_membership(tmp_path: Path):
    source = donor(tmp_path / "donor")
    with source:
        assert log.compact(source, 24) == 24
    assert (log.first_position(source), log.last_position(source)) == (25, 24)
    assert (log.term_at(source, 24), log.term_at(source, 23)) == (1, None)
    assert log.membership(source, 24) == MEMBERSHIP
    made = snapshot.write(tmp_path / "donor" / "zoned.db", tmp_path / "s")
    assert (made.position, made.term, made.membership) == (24, 1, MEMBERSHIP)


def test_only_applied_entries_are_compacted(tmp_path: Path):
    source = donor(tmp_path / "donor")
    with source:
        log.save_entries(source, [Entry(25, 4, EntryKind.NOOP)])
        assert log.compact(source, 25) == 0
        assert log.compact(source, 10) == 10
        assert log.compact(source, 10) == 0
    assert [e.index for e in log.read(source, 1, 100, 10_000)] == list(range(11, 26))


def test_a_damaged_snapshot_is_refused(tmp_path: Path):
    source = donor(tmp_path / "donor")
    record = source.execute("SELECT record FROM images WHERE name = 'n7'").get
    source.close()
    made = snapshot.write(tmp_path / "donor" / "zoned.db", tmp_path / "s")
    data = bytearray((tmp_path / "s").read_bytes())
    data[data.index(record) + len(record) // 2] ^= 1
    (tmp_path / "s").write_bytes(data)
    assert snapshot.file_sha256(tmp_path / "s") != made.sha256
    with pytest.raises(CannotOpen, match="is damaged"):
        snapshot.check(tmp_path / "s")
    (tmp_path / "t").write_bytes(b"nonsense" * 1000)
    with pytest.raises(CannotOpen, match="is no snapshot"):
        snapshot.describe(tmp_path / "t")
    with pytest.raises(CannotOpen, match="not a snapshot"):
        snapshot.describe(tmp_path / "donor" / "zoned.db")


def test_a_drop_that_a_snapshot_holds_is_told_as_one(tmp_path: Path, limits: journal.Limits):
    source, mine = donor(tmp_path / "donor"), open_writer(tmp_path / "mine.db")
    with mine:
        identity.start(mine, ME, "a", "zoned")
        journal.append(mine, ME, Grant(50, CEILING), NOW, limits)
        journal.append(mine, ME, new(99, name="wrong"), NOW, limits)
        assert holding.drop(mine, ME, 2, "wrong", AT, Origin("a", "bob", 1))
    entries = [entry(25, 2, decode(journal.read(mine, 1, 1, 1_000)[0][1]))]
    with source:
        log.save_entries(source, entries)
        apply(source, entries, NEWER, NOW)
    mine.close()
    snapshot.write(tmp_path / "donor" / "zoned.db", tmp_path / "s")
    snapshot.adopt(tmp_path / "s", tmp_path / "mine.db", ME, lambda c: None)
    receipt = journal.receipt(apsw.Connection(str(tmp_path / "s")), 2)
    assert receipt is not None
    assert (receipt.state, receipt.code, receipt.kind, receipt.integer) == ("dropped", "dropped", "drop", None)


async def test_installing_keeps_what_belongs_to_the_node(tmp_path: Path, limits: journal.Limits):
    donor(tmp_path / "donor").close()
    snapshot.write(tmp_path / "donor" / "zoned.db", tmp_path / "s")
    async with open_database(tmp_path / "mine") as database:
        await database.write(lambda c: identity.start(c, ME, "a", "zoned"))
        # Its first write, the grant, is in the snapshot already; the second is not.
        await database.write(lambda c: journal.append(c, ME, Grant(50, CEILING), NOW, limits))
        await database.write(lambda c: journal.append(c, ME, new(99, name="waiting"), NOW, limits))
        old_reader = database.reader

        def prepare() -> Path:
            snapshot.adopt(tmp_path / "s", database.path, ME, lambda c: log.save_hard_state(c, HardState(7, "", 24)))
            return tmp_path / "s"

        await database.replace(prepare)
        reader = database.reader
        assert reader is not old_reader
        assert catalogue.recount(reader) == catalogue.replica(reader)
        assert (log.first_position(reader), log.last_position(reader), log.hard_state(reader).term) == (25, 24, 7)
        assert [lease.next for lease in ranges.leases(reader)] == [101]
        first, second = journal.receipt(reader, 1), journal.receipt(reader, 2)
        assert first is not None
        assert second is not None
        assert (first.state, second.state) == ("applied", "journaled")
        assert journal.backlog(reader).entries == 1
        found = catalogue.find(reader, uuid_of(99))
        assert found is not None
        assert found.source is catalogue.Source.JOURNAL
        assert catalogue.find(reader, 5) is not None
        # It goes on from there.
        made = await database.write(lambda c: journal.append(c, ME, new(98), NOW, limits))
        assert made.image is not None
        assert made.image.integer == 101
        await database.write(lambda c: applying.apply(c, [entry(25, 2, new(99, name="waiting"))], ME, NOW))
        assert await database.read(lambda c: catalogue.replica(c).images) == 20
    assert not (tmp_path / "s").exists()


def test_an_older_copy_of_this_node_is_noticed_when_a_snapshot_is_installed(tmp_path: Path):
    donor(tmp_path / "donor").close()
    snapshot.write(tmp_path / "donor" / "zoned.db", tmp_path / "s")
    mine = open_writer(tmp_path / "zoned.db")
    with mine:
        identity.start(mine, ME, "a", "zoned")
    with pytest.raises(Impossible, match="an older copy was put back"):
        snapshot.adopt(tmp_path / "s", tmp_path / "zoned.db", ME, lambda c: None)


def test_a_restored_store_is_a_new_cluster_whose_counter_never_goes_back(tmp_path: Path):
    source = donor(tmp_path / "donor")
    snapshot.write(tmp_path / "donor" / "zoned.db", tmp_path / "s")
    before = catalogue.replica(source)
    first = snapshot.restore(tmp_path / "s", tmp_path / "new.db", 1_000_000, "d", ME, ("a", "zoned"))
    assert first == before.next_integer + 1_000_000
    restored = open_writer(tmp_path / "new.db")
    after = catalogue.replica(restored)
    assert (after.digest, after.images, after.next_integer) == (before.digest, before.images, first)
    found = log.membership(restored, 99)
    assert found is not None
    assert (found.index, Membership.decode(found.data)) == (25, Membership("d", (ME,)))
    assert log.hard_state(restored) == HardState(2, ME, 25)
    assert (log.first_position(restored), after.position) == (26, 25)
    assert identity.start(restored, "unused", "a", "zoned").generation == 1
    with pytest.raises(CannotOpen, match="exists"):
        snapshot.restore(tmp_path / "s", tmp_path / "new.db", 0, "d", ME, ("a", "zoned"))
    assert (tmp_path / "s").exists()


def test_a_restore_beside_what_is_left_of_another_store_is_refused(tmp_path: Path):
    donor(tmp_path / "donor").close()
    snapshot.write(tmp_path / "donor" / "zoned.db", tmp_path / "s")
    (tmp_path / "new.db-wal").write_bytes(b"left over")
    with pytest.raises(CannotOpen, match=r"new\.db-wal exists"):
        snapshot.restore(tmp_path / "s", tmp_path / "new.db", 0, "d", ME, ("a", "zoned"))


async def test_a_store_that_somebody_else_reads_is_not_replaced_and_goes_on(tmp_path: Path, limits: journal.Limits):
    """Another connection keeps the write-ahead log alive; beside the new file it would be played over that."""
    donor(tmp_path / "donor").close()
    snapshot.write(tmp_path / "donor" / "zoned.db", tmp_path / "s")
    async with open_database(tmp_path / "mine") as database:
        await database.write(lambda c: identity.start(c, ME, "a", "zoned"))
        await database.write(lambda c: journal.append(c, ME, Grant(50, CEILING), NOW, limits))
        stranger = apsw.Connection(str(database.path))
        stranger.execute("BEGIN")
        assert stranger.execute("SELECT count(*) FROM images").get == 0
        await database.write(lambda c: identity.remember_peers(c, [("h", 1)]))

        def prepare() -> Path:
            snapshot.adopt(tmp_path / "s", database.path, ME, lambda c: None)
            return tmp_path / "s"

        with pytest.raises(StorageFull, match="was not replaced"):
            await database.replace(prepare)
        assert catalogue.replica(database.reader).images == 0
        assert identity.known_peers(database.reader) == [("h", 1)]
        stranger.execute("COMMIT")
        stranger.close()
        await database.replace(prepare)
        assert catalogue.replica(database.reader).images == 19
        assert database.reader.execute("PRAGMA integrity_check").get == "ok"


async def test_other_processes_let_go_of_the_store_before_it_is_replaced(tmp_path: Path, limits: journal.Limits):
    donor(tmp_path / "donor").close()
    snapshot.write(tmp_path / "donor" / "zoned.db", tmp_path / "s")
    async with open_database(tmp_path / "mine") as database:
        await database.write(lambda c: identity.start(c, ME, "a", "zoned"))
        await database.write(lambda c: journal.append(c, ME, Grant(50, CEILING), NOW, limits))
        seen: list[int] = []

        class Reader:
            connection = connect_reader(database.path)

            async def let_go(self) -> None:
                seen.append(catalogue.replica(self.connection).images)
                self.connection.close()

            async def resume(self) -> None:
                self.connection = connect_reader(database.path)
                seen.append(catalogue.replica(self.connection).images)

        def prepare() -> Path:
            snapshot.adopt(tmp_path / "s", database.path, ME, lambda c: None)
            return tmp_path / "s"

        reader = Reader()
        reader.connection.execute("SELECT count(*) FROM images").fetchall()
        database.outsiders = reader
        await database.replace(prepare)
        assert seen == [0, 19]
        reader.connection.close()


async def test_a_receipt_never_says_more_than_the_snapshot_shows(tmp_path: Path, limits: journal.Limits):
    """A write that the log refused, met in a snapshot, is `applied`, not `committed`."""
    source = donor(tmp_path / "donor")
    stale = Update(uuid_of(3), AT, {"name": ("n3", "mine")}, if_match="somebody.1")
    fresh = Update(uuid_of(4), AT, {"name": ("n4", "mine")})
    with source:
        apply(source, [entry(25, 2, stale, ME), entry(26, 3, fresh, ME)], NEWER, NOW)
        log.save_entries(source, [])
        source.execute("INSERT INTO log VALUES (26, 1, 0, x'')")
    snapshot.write(tmp_path / "donor" / "zoned.db", tmp_path / "s")
    async with open_database(tmp_path / "mine") as database:
        await database.write(lambda c: identity.start(c, ME, "a", "zoned"))
        await database.write(lambda c: journal.append(c, ME, Grant(50, CEILING), NOW, limits))
        for operation in (stale, fresh):
            data = encode(operation)

            def put(c: apsw.Connection, operation: Update = operation, data: bytes = data) -> None:
                c.execute("UPDATE node SET sequence = sequence + 1, journal_entries = journal_entries + 1")
                c.execute("INSERT INTO journal SELECT sequence, ?, ?, 0.0, NULL FROM node", (operation.uuid, data))

            await database.write(put)

        def prepare() -> Path:
            snapshot.adopt(tmp_path / "s", database.path, ME, lambda c: None)
            return tmp_path / "s"

        await database.replace(prepare)
        receipts = [journal.receipt(database.reader, sequence) for sequence in (2, 3)]
        assert [one.state for one in receipts if one] == ["applied", "committed"]
