"""Opening, locking, migrating, group commit."""

import subprocess
import sys
from pathlib import Path

import apsw
import pytest
import trio

from store import identity
from store.database import Database, inline, lock_directory, open_database, open_writer
from store.entries import Entry, EntryKind, HardState, Membership
from store.errors import CannotOpen, Impossible, Refused, StorageFull, WriterEnded
from store.log import (
    first_position,
    hard_state,
    last_position,
    membership,
    read,
    save_entries,
    save_hard_state,
    term_at,
)
from store.operations import Outcome, State
from tests.store.conftest import ME


async def test_writes_asked_for_together_share_a_transaction(tmp_path: Path):
    async with open_database(tmp_path) as database:
        commits: list[int] = []

        def count() -> bool:
            commits.append(1)
            return False

        database._writer.set_commit_hook(count)
        await database.write(lambda c: c.execute("CREATE TABLE t (x)") and None)
        commits.clear()
        async with trio.open_nursery() as nursery:
            for n in range(100):
                nursery.start_soon(database.write, lambda c, n=n: c.execute("INSERT INTO t VALUES (?)", (n,)) and None)
        assert len(commits) < 10
        assert database.reader.execute("SELECT count(*) FROM t").get == 100
        assert await database.read(lambda c: c.execute("SELECT count(*) FROM t").get) == 100


async def test_a_refused_job_is_undone_alone(tmp_path: Path):
    def bad(connection: apsw.Connection) -> None:
        connection.execute("INSERT INTO t VALUES (2)")
        raise Refused(Outcome(State.REFUSED, "no", "no"))

    async with open_database(tmp_path, run=inline) as database:
        await database.write(lambda c: c.execute("CREATE TABLE t (x)") and None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.write, lambda c: c.execute("INSERT INTO t VALUES (1)") and None)

            async def refused() -> None:
                with pytest.raises(Refused):
                    await database.write(bad)

            nursery.start_soon(refused)
        assert list(database.reader.execute("SELECT x FROM t")) == [(1,)]


async def test_an_unexpected_error_ends_the_block(tmp_path: Path):
    with pytest.raises(BaseExceptionGroup) as caught:
        async with open_database(tmp_path) as database:
            await database.write(lambda c: c.execute("nonsense") and None)
    assert caught.group_contains(apsw.SQLError)


async def test_a_full_disk_is_said_so_and_passes(tmp_path: Path):
    async with open_database(tmp_path) as database:
        await database.write(lambda c: c.execute("CREATE TABLE t (x)") and None)
        pages: int = database._writer.pragma("page_count")
        await database.write(lambda c: c.pragma("max_page_count", pages) and None)
        with pytest.raises(StorageFull, match="full"):
            await database.write(lambda c: c.execute("INSERT INTO t VALUES (zeroblob(100000))") and None)
        await database.write(lambda c: c.pragma("max_page_count", 100_000) and None)
        await database.write(lambda c: c.execute("INSERT INTO t VALUES (zeroblob(100000))") and None)


def test_every_commit_is_synced(tmp_path: Path):
    writer = open_writer(tmp_path / "zoned.db")
    assert writer.pragma("synchronous") == 2
    assert writer.pragma("journal_mode") == "wal"
    writer.close()


def test_a_second_daemon_on_the_directory_is_refused(tmp_path: Path):
    with lock_directory(tmp_path):
        script = (
            f"import store.database, pathlib\nwith store.database.lock_directory(pathlib.Path({str(tmp_path)!r})): pass"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert "is in use by another zoned (process" in done.stderr
    with lock_directory(tmp_path):
        pass


async def test_a_directory_that_cannot_be_used_is_a_clear_error(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CannotOpen, match=r"node\.data_dir .* cannot be used"):
        async with open_database(tmp_path / "file" / "under"):
            pass
    (tmp_path / "zoned.db").write_bytes(b"no database at all" * 100)
    (tmp_path / "zoned.db").chmod(0o600)
    with pytest.raises(CannotOpen, match="cannot be opened"):
        async with open_database(tmp_path):
            pass


def test_a_newer_or_foreign_store_is_refused_untouched(tmp_path: Path):
    path = tmp_path / "zoned.db"
    open_writer(path).close()
    connection = apsw.Connection(str(path))
    connection.pragma("user_version", 99)
    connection.close()
    with pytest.raises(CannotOpen, match="schema version 99"):
        open_writer(path)
    foreign = apsw.Connection(str(tmp_path / "other.db"))
    foreign.execute("CREATE TABLE theirs (x)")
    foreign.close()
    with pytest.raises(CannotOpen, match="another program"):
        open_writer(tmp_path / "other.db")


def test_a_directory_of_another_node_is_refused(connection):
    assert identity.start(connection, "new", "a", "zoned").generation == 2
    with pytest.raises(CannotOpen, match=r"node\.zone = 'a', the configuration says 'b'"):
        identity.start(connection, "new", "b", "zoned")
    with pytest.raises(CannotOpen, match=r"gossip\.label"):
        identity.start(connection, "new", "a", "other")
    assert identity.start(connection, "new", "a", "zoned") == identity.Identity(ME, "a", "zoned", 3)


def test_a_founding_promise_binds(connection):
    first, second = Membership("c", ("1", "2")), Membership("d", ("1", "3"))
    assert identity.promised(connection) is None
    assert identity.promise(connection, first) == first
    assert identity.promise(connection, second) == first


def test_peers_are_remembered(connection):
    identity.remember_peers(connection, [("h", 1), ("h", 2), ("h", 1)])
    assert identity.known_peers(connection) == [("h", 1), ("h", 2)]
    identity.remember_peers(connection, [("h", 3)])
    assert identity.known_peers(connection) == [("h", 3)]


def test_the_log_keeps_what_raft_saved(connection):
    state = HardState(3, "v", 2)
    save_hard_state(connection, state)
    assert hard_state(connection) == state
    entries = [Entry(n, 1, EntryKind.WRITE, b"x" * 10) for n in range(1, 6)]
    save_entries(connection, [Entry(1, 1, EntryKind.MEMBERSHIP, b"m"), *entries[1:]])
    assert (first_position(connection), last_position(connection), term_at(connection, 4)) == (1, 5, 1)
    assert term_at(connection, 6) is None
    assert [e.index for e in read(connection, 2, 6, 25)] == [2, 3]
    assert [e.index for e in read(connection, 2, 4, 1)] == [2]
    save_entries(connection, [Entry(4, 2, EntryKind.NOOP)])
    assert (last_position(connection), term_at(connection, 4)) == (4, 2)
    found = membership(connection, 4)
    assert found is not None
    assert found.data == b"m"
    assert membership(connection, 0) is None
    with pytest.raises(Impossible, match="gap"):
        save_entries(connection, [Entry(9, 2, EntryKind.NOOP)])
    connection.execute("UPDATE replica SET position = 3")
    with pytest.raises(Impossible, match="3 entries are applied"):
        save_entries(connection, [Entry(3, 3, EntryKind.NOOP)])


async def test_whoever_waits_for_a_writer_that_ends_is_told_so(tmp_path: Path):
    """Also under a shield: a daemon that ends must not hang on a write that nobody makes any more."""
    told: list[BaseException] = []

    async def shielded(database: Database) -> None:
        with trio.CancelScope(shield=True):
            try:
                await database.write(lambda c: c.execute("SELECT 1") and None)
            except WriterEnded as error:
                told.append(error)

    with trio.fail_after(30), pytest.raises(BaseExceptionGroup) as caught:
        async with open_database(tmp_path) as database, trio.open_nursery() as nursery:
            nursery.start_soon(database.write, lambda c: c.execute("nonsense") and None)
            nursery.start_soon(shielded, database)
            await trio.sleep_forever()
    assert caught.group_contains(apsw.SQLError)
    assert told
    with pytest.raises(WriterEnded):
        await database.write(lambda c: None)
