"""One contract, on the log in memory that the core is tested with and on the one on disk."""

from pathlib import Path

import pytest

from store import identity, log
from store.database import Database, inline, open_writer
from store.entries import Entry, EntryKind, HardState, Membership
from zoned.raft.log import Compacted, LogStorage, MemoryStorage
from zoned.raft.storage import StoredLog

ME = "00000000-0000-4000-8000-00000000000a"
MEMBERSHIP = Entry(1, 1, EntryKind.MEMBERSHIP, Membership("c", (ME,)).encode())
ENTRIES = [MEMBERSHIP, *(Entry(n, 1 + n // 4, EntryKind.WRITE, b"x" * 10) for n in range(2, 9))]


class OnDisk:
    def __init__(self, path: Path) -> None:
        self.writer = open_writer(path / "zoned.db")
        with self.writer:
            identity.start(self.writer, ME, "a", "zoned")
        self.database = Database(path / "zoned.db", self.writer, inline)
        self.storage: LogStorage = StoredLog(self.database)

    def write(self, entries: list[Entry]) -> None:
        with self.writer:
            log.save_entries(self.writer, entries)

    def compact(self, index: int) -> None:
        with self.writer:
            self.writer.execute("UPDATE replica SET position = ?", (index,))
            log.save_hard_state(self.writer, HardState(1, "", index))
            assert log.compact(self.writer, index) > 0

    def close(self) -> None:
        self.database.close()


class InMemory:
    def __init__(self, path: Path) -> None:
        self.memory = MemoryStorage()
        self.storage: LogStorage = self.memory

    def write(self, entries: list[Entry]) -> None:
        self.memory.write(entries, None)

    def compact(self, index: int) -> None:
        self.memory.compact(index)

    def close(self) -> None:
        pass


@pytest.fixture(params=[OnDisk, InMemory])
def held(request, tmp_path):
    made = request.param(tmp_path)
    yield made
    made.close()


def test_an_empty_log_begins_at_one(held):
    storage = held.storage
    assert (storage.first_index(), storage.last_index(), storage.term(0)) == (1, 0, 0)
    assert storage.membership(10) is None


def test_what_was_written_is_read(held):
    held.write(ENTRIES)
    storage = held.storage
    assert (storage.first_index(), storage.last_index()) == (1, 8)
    assert [storage.term(index) for index in range(9)] == [0, *(entry.term for entry in ENTRIES)]
    assert list(storage.entries(2, 5, 10_000)) == ENTRIES[1:4]
    assert storage.membership(8) == storage.membership(1) == MEMBERSHIP
    assert storage.membership(0) is None


def test_what_is_compacted_is_said_so_and_its_last_term_and_membership_stay(held):
    held.write(ENTRIES)
    held.compact(5)
    storage = held.storage
    assert (storage.first_index(), storage.last_index(), storage.term(5)) == (6, 8, ENTRIES[4].term)
    assert storage.membership(8) == MEMBERSHIP
    assert list(storage.entries(6, 9, 10_000)) == ENTRIES[5:]
    for index in (0, 1, 4):
        with pytest.raises(Compacted):
            storage.term(index)
    with pytest.raises(Compacted):
        storage.entries(5, 9, 10_000)
    held.compact(8)
    assert (storage.first_index(), storage.last_index(), storage.term(8)) == (9, 8, ENTRIES[7].term)
