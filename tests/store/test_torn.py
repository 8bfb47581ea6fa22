"""A power cut at any byte: what was synced is there, and the transaction under way is there wholly or not at all.

Rounds of Raft are written to a real store, its files are copied, and the copy's write-ahead log is cut, zeroed, garbled
or has one byte flipped: in every frame, in each part of it that means something. That is what the simulation
(tests/sim) takes for granted when a crash lets a write happen or not.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import apsw
import pytest
import trio

from store import apply, catalogue, identity, log
from store.database import open_database, open_writer
from store.entries import Entry, EntryKind, HardState
from tests.store.conftest import ME, NOW

ROUNDS = 3
ENTRY_BYTES = 6_000  # more than a page, so that a round is torn between pages as well
WAL_HEADER = 32
FRAME_HEADER = 24
# Within a frame: page number, size after commit, salts, checksums (sqlite.org/fileformat2.html#walformat), the page.
PARTS = (0, 4, 8, 16, 23, FRAME_HEADER, FRAME_HEADER + 1_000)


@dataclass(frozen=True, slots=True)
class Written:
    """A store's files after `ROUNDS` acknowledged rounds, and how long the log was after each."""

    main: bytes
    wal: bytes
    acknowledged: list[int]

    @property
    def frame(self) -> int:
        return FRAME_HEADER + int.from_bytes(self.wal[8:12], "big")

    def due(self, intact: int) -> int:
        """How many rounds must be there when the log is intact up to `intact`, and no more can be."""
        return sum(end <= intact for end in self.acknowledged)

    def places(self) -> Iterator[int]:
        yield from (0, 1, 8, 16, 24, 31)
        for start in range(WAL_HEADER, len(self.wal), self.frame):
            yield from (start + part for part in PARTS)
            yield start + self.frame - 1
        yield len(self.wal)


def write_round(connection: apsw.Connection, number: int) -> None:
    entry = Entry(number, 1, EntryKind.NOOP, bytes([number]) * ENTRY_BYTES)
    log.save_entries(connection, [entry])
    log.save_hard_state(connection, HardState(1, f"vote {number}", number))
    apply.apply(connection, [entry], ME, NOW)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return trio.run(write, tmp_path_factory.mktemp("torn"))


async def write(directory: Path) -> Written:
    path, ends = directory / "zoned.db", []
    async with open_database(directory) as database:
        await database.write(lambda c: identity.start(c, ME, "a", "zoned"))
    async with open_database(directory) as database:
        for number in range(1, ROUNDS + 1):
            await database.write(partial(write_round, number=number))
            ends.append(database.wal_bytes())
        files = path.read_bytes(), path.with_name("zoned.db-wal").read_bytes()
    return Written(*files, ends)


def cut(wal: bytes, at: int) -> bytes:
    return wal[:at]


def zeroed(wal: bytes, at: int) -> bytes:
    return wal[:at] + bytes(len(wal) - at)


def garbled(wal: bytes, at: int) -> bytes:
    return wal[:at] + bytes(255 - byte for byte in wal[at:])


def flipped(wal: bytes, at: int) -> bytes:
    return wal[:at] + bytes(byte ^ 0x10 for byte in wal[at : at + 1]) + wal[at + 1 :]


def found(directory: Path, main: bytes, wal: bytes) -> int:
    """Opens a store of these bytes; the number of rounds in it. Every part of it tells the same number."""
    path = directory / "zoned.db"
    path.with_name("zoned.db-shm").unlink(missing_ok=True)
    path.write_bytes(main)
    path.with_name("zoned.db-wal").write_bytes(wal)
    # Recovery is the same for whoever opens it first; a reader does not fold the log in when it closes.
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        last = log.last_position(connection)
        assert [entry.data for entry in log.read(connection, 1, last + 1, 1 << 30)] == [
            bytes([number]) * ENTRY_BYTES for number in range(1, last + 1)
        ]
        state = log.hard_state(connection)
        assert (state.commit, state.vote) == (last, f"vote {last}" if last else "")
        assert catalogue.replica(connection).position == last
        return last
    finally:
        connection.close()


@pytest.mark.parametrize("harm", [cut, zeroed, garbled, flipped])
def test_whatever_becomes_of_the_end_of_the_log(
    harm: Callable[[bytes, int], bytes], written: Written, tmp_path: Path
) -> None:
    for at in written.places():
        wal = harm(written.wal, at)
        # Zeros may stand where zeros were: intact is what is equal.
        intact = next((n for n, (a, b) in enumerate(zip(wal, written.wal, strict=False)) if a != b), len(wal))
        assert found(tmp_path, written.main, wal) == written.due(intact), f"{harm.__name__} at {at}"


def test_a_checkpoint_that_was_torn_is_done_again(written: Written, tmp_path: Path) -> None:
    """The power goes while pages are copied from the log into the file: the log still has them all."""
    path = tmp_path / "whole.db"
    path.write_bytes(written.main)
    path.with_name("whole.db-wal").write_bytes(written.wal)
    open_writer(path).close()  # the last to close folds the log in
    folded = path.read_bytes()
    assert folded != written.main
    page = written.frame - FRAME_HEADER
    for at in range(0, len(folded) + 1, page // 2):
        mixed = folded[:at] + written.main[at:]
        assert found(tmp_path, mixed, written.wal) == ROUNDS, f"torn at {at}"


def test_without_its_log_the_store_would_be_short(written: Written, tmp_path: Path) -> None:
    """The rounds are in the log alone: the tests above cut what counts."""
    assert written.acknowledged == sorted(set(written.acknowledged))
    assert written.acknowledged[-1] == len(written.wal)
    assert len(written.wal) > 3 * ROUNDS * written.frame
    connection = open_writer(tmp_path / "other.db")
    connection.close()
    path = tmp_path / "zoned.db"
    path.write_bytes(written.main)
    opened = open_writer(path)
    assert log.last_position(opened) == 0
    opened.close()
