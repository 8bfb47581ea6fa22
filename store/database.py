"""The one file, its one writer and its readers. The only module of the store that knows trio, threads and files.

Group commit: writes asked for while a transaction is being synced wait together and share the next one, each in a
savepoint of its own so that a refused one does not take the others with it. That makes thirty clients cost one fsync
instead of thirty, and it is why every kind of write (journal, log, catalogue) goes through the same `write`.

Point reads run inline on a connection of the trio thread (about 20 us; a hop to a thread costs 300); scans go to
threads. WAL readers never wait for the writer.
"""

import fcntl
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import apsw
import outcome
import trio

from store import listing
from store.errors import CannotOpen, Refused, StorageFull, StoreError, WriterEnded
from store.migrate import migrate

T = TypeVar("T")
Job = Callable[[apsw.Connection], T]

JOBS_PER_ROUND_MAX = 256
READERS = 4
WAL_BYTES_KEPT = 67_108_864  # a write-ahead log that a slow reader let grow is cut to this once it is folded in
# Folded in at this length, 16 MiB: many writes change the same pages, which are then copied and synced once for all.
WAL_PAGES = 4_096
CACHE_KIB = 16_384  # page cache of each connection


# `trio.to_thread.run_sync`, or a stand-in that calls at once: virtual clocks and real threads do not mix.
RunInThread = Callable[..., Awaitable[Any]]


async def inline(function: Callable[..., T], *args: Any) -> T:
    """A RunInThread that runs in the calling task, for tests under a virtual clock."""
    await trio.lowlevel.checkpoint()
    return function(*args)


class Outsiders(Protocol):
    """Other processes that have the file open."""

    async def let_go(self) -> None:
        """Returns when none of them has the file open any more."""

    async def resume(self) -> None:
        """They may open it again, under the same name."""


class _Waiting:
    """A job on its way to the writer."""

    __slots__ = ("done", "job", "result")

    def __init__(self, job: Job[Any]) -> None:
        self.job = job
        self.done = trio.Event()
        self.result: outcome.Outcome[Any] | None = None


class Database:
    """An open store. `reader` is for point reads in the trio thread; scans go through `read`."""

    def __init__(self, path: Path, writer: apsw.Connection, run: RunInThread) -> None:
        self.path = path
        self.outsiders: Outsiders | None = None
        self.reader = connect_reader(path)
        self._writer = writer
        self._run = run
        self._queue: deque[_Waiting] = deque()
        self._wake = trio.Event()
        self._ended = False
        self._readers = [connect_reader(path) for _ in range(READERS)]
        self._readers_free = trio.Semaphore(READERS)
        self._writing = trio.Lock()  # a round of writes, or the file's replacement
        self.on_round: Callable[[float], None] = lambda duration_s: None  # told how long each transaction took

    async def write(self, job: Job[T]) -> T:
        """Runs `job` on the writing connection; returns its result once it is synced to disk. It may be run twice, the
        first time for nothing, so what it does beside the store must bear that.

        Raises what the job raised, if that is a StoreError (the job is undone, the store goes on), or StorageFull.
        Cancelling the caller does not cancel the job.
        """
        if self._ended:
            await trio.lowlevel.checkpoint()  # a caller that is cancelled as well need not hear more
            raise WriterEnded("the store's writer has ended")
        waiting = _Waiting(job)
        self._queue.append(waiting)
        self._wake.set()
        await waiting.done.wait()
        assert waiting.result is not None
        result: T = waiting.result.unwrap()
        return result

    def look(self, job: Job[T]) -> T:
        """Runs `job`, which must be quick, at once and inside one read transaction."""
        return in_snapshot(self.reader, job)

    async def read(self, job: Job[T]) -> T:
        """Runs `job` in a thread, inside one read transaction, on a connection of its own."""
        async with self._readers_free:
            connection = self._readers.pop()
            try:
                result: T = await self._run(in_snapshot, connection, job)
                return result
            finally:
                self._readers.append(connection)

    def wal_bytes(self) -> int:
        """The size of the write-ahead log: it grows as long as any reader holds an old state."""
        try:
            return self.path.with_name(self.path.name + "-wal").stat().st_size
        except FileNotFoundError:
            return 0

    async def serve_writes(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs rounds of writes for ever. An unexpected error leaves it, and must end the daemon."""
        task_status.started()
        taken: list[_Waiting] = []
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                await self._make_rounds(taken)
        except trio.Cancelled:
            # What was asked for before the end is still made: those who asked may be shielded, and wait for it.
            with trio.CancelScope(shield=True):
                await self._make_rounds(taken)
            raise
        finally:
            # Whoever waits, perhaps shielded, must not wait for ever.
            self._ended = True
            for waiting in (*taken, *self._queue):
                waiting.result = outcome.Error(WriterEnded("the store's writer has ended"))
                waiting.done.set()

    async def _make_rounds(self, taken: list[_Waiting]) -> None:
        """Until nothing is queued; `taken` holds the jobs of the round under way."""
        while self._queue:
            taken += [self._queue.popleft() for _ in range(min(len(self._queue), JOBS_PER_ROUND_MAX))]
            # Shielded: whoever is cancelled meanwhile, a transaction that began also ends.
            with trio.CancelScope(shield=True):
                async with self._writing:
                    began = trio.current_time()
                    results = await self._run(_round, self._writer, [waiting.job for waiting in taken])
                    self.on_round(trio.current_time() - began)
            for waiting, result in zip(taken, results, strict=True):
                waiting.result = result
                waiting.done.set()
            taken.clear()

    async def copy(self, job: Callable[[Path], T]) -> T:
        """Runs `job`, which opens the file by itself, in a thread; the file is not replaced meanwhile."""
        async with self._readers_free:
            result: T = await self._run(job, self.path)
            return result

    async def replace(self, prepare: Callable[[], Path]) -> None:
        """Puts another file in the place of this one. `prepare` runs in a thread while nothing is written.

        It returns the file to use, complete and synced, on the same file system. Raises StorageFull, and goes on with
        the old file, when that cannot be closed cleanly. Writes wait meanwhile; readers go on
        until the last moment, which takes milliseconds. Killed at any instruction, one of the two files is there whole.
        """
        with trio.CancelScope(shield=True):
            async with self._writing:
                prepared = await self._run(prepare)
                for _ in range(READERS):
                    await self._readers_free.acquire()
                if self.outsiders is not None:
                    await self.outsiders.let_go()
                # Closing the last connection folds the write-ahead log into the old file and removes it: it must not
                # be there when the new file takes the name.
                self.close()
                try:
                    left = self.path.with_name(self.path.name + "-wal")
                    if left.exists():
                        # Beside the new file it would be played over that. The old file and its log are whole.
                        raise StorageFull(f"{left} could not be folded in, so the store was not replaced")
                    prepared.rename(self.path)
                    sync_path(self.path.parent)
                finally:
                    self._writer = open_writer(self.path)
                    self.reader = connect_reader(self.path)
                    self._readers = [connect_reader(self.path) for _ in range(READERS)]
                    for _ in range(READERS):
                        self._readers_free.release()
                    if self.outsiders is not None:
                        await self.outsiders.resume()

    def close(self) -> None:
        for connection in (self.reader, *self._readers, self._writer):
            connection.close()


def _round(writer: apsw.Connection, jobs: list[Job[Any]]) -> list[outcome.Outcome[Any]]:
    """One transaction for all `jobs`; a StoreError undoes only its own job."""
    try:
        # Savepoints cost each job more than a refusal costs in all, as nearly every one comes before anything is
        # written. After another one everything is undone, and made again with savepoints.
        results = _in_one(writer, jobs)
        return results if results is not None else _one_by_one(writer, jobs)
    except apsw.FullError as error:
        _roll_back(writer)
        # One outcome each: an outcome can be unwrapped only once.
        return [outcome.Error(StorageFull(f"the disk of the data directory is full: {error}")) for _ in jobs]
    except BaseException:
        _roll_back(writer)
        raise


def _in_one(writer: apsw.Connection, jobs: list[Job[Any]]) -> list[outcome.Outcome[Any]] | None:
    """None, and nothing done, if a job was refused after it had written something."""
    results: list[outcome.Outcome[Any]] = []
    writer.execute("BEGIN IMMEDIATE")
    for job in jobs:
        changes = writer.total_changes()
        try:
            results.append(outcome.Value(job(writer)))
        except (Refused, StorageFull) as error:
            if writer.total_changes() != changes:
                writer.execute("ROLLBACK")
                return None
            results.append(outcome.Error(error))
    writer.execute("COMMIT")
    return results


def _one_by_one(writer: apsw.Connection, jobs: list[Job[Any]]) -> list[outcome.Outcome[Any]]:
    results: list[outcome.Outcome[Any]] = []
    writer.execute("BEGIN IMMEDIATE")
    for job in jobs:
        writer.execute("SAVEPOINT job")
        try:
            results.append(outcome.Value(job(writer)))
        except (Refused, StorageFull) as error:
            writer.execute("ROLLBACK TO job")
            results.append(outcome.Error(error))
        writer.execute("RELEASE job")
    writer.execute("COMMIT")
    return results


def _roll_back(writer: apsw.Connection) -> None:
    if writer.in_transaction:
        writer.execute("ROLLBACK")


def sync_path(path: Path) -> None:
    """fsync of a file or a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def in_snapshot(connection: apsw.Connection, job: Job[T]) -> T:
    """Runs `job` inside one read transaction."""
    connection.execute("BEGIN")
    try:
        return job(connection)
    finally:
        connection.execute("COMMIT")


def connect_reader(path: Path) -> apsw.Connection:
    """A connection that only reads. Any process of this user may have one, while the daemon has the store open."""
    return _connect(path, apsw.SQLITE_OPEN_READONLY)


def _connect(path: Path, flags: int) -> apsw.Connection:
    connection = apsw.Connection(str(path), flags=flags)
    connection.set_busy_timeout(10_000)
    connection.pragma("cache_size", -CACHE_KIB)
    listing.prepare(connection)
    return connection


def open_writer(path: Path) -> apsw.Connection:
    """The connection that does all writing and all checkpointing; makes and migrates the file."""
    path.touch(0o600)  # before SQLite makes it, with the permissions that its companions then get as well
    connection = _connect(path, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
    migrate(connection, str(path))
    connection.pragma("journal_mode", "wal")
    # FULL syncs the log at each commit: NORMAL may lose acknowledged commits at a power cut.
    connection.pragma("synchronous", "full")
    connection.pragma("foreign_keys", True)
    connection.pragma("journal_size_limit", WAL_BYTES_KEPT)
    connection.pragma("wal_autocheckpoint", WAL_PAGES)
    return connection


@contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Makes the directory (0700) and holds it against every other daemon. Raises CannotOpen."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        problem = "is no directory" if isinstance(error, FileExistsError) else f"cannot be used: {error.strerror}"
        raise CannotOpen(f"node.data_dir {directory} {problem}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            raise CannotOpen(
                f"node.data_dir {directory} is in use by another zoned (process {holder or 'unknown'});"
                " stop it or set another node.data_dir"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@asynccontextmanager
async def open_database(directory: Path, run: RunInThread = trio.to_thread.run_sync) -> AsyncIterator[Database]:
    """The store in `directory`, locked against other daemons, its writer running until the end of the block."""
    with lock_directory(directory):
        path = directory / "zoned.db"
        try:
            if path.is_file() and path.stat().st_mode & 0o007:
                raise CannotOpen(f"others may read or write {path}; chmod 600 it")
            writer = open_writer(path)
        except StoreError:
            raise
        except OSError as error:
            raise CannotOpen(f"{path} cannot be opened: {error.strerror}; check node.data_dir") from None
        except (apsw.CantOpenError, apsw.NotADBError, apsw.CorruptError, apsw.ReadOnlyError, apsw.IOError) as error:
            raise CannotOpen(f"{path} cannot be opened: {error}; check node.data_dir and its permissions") from None
        database = Database(path, writer, run)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(database.serve_writes)
                yield database
                nursery.cancel_scope.cancel()
        finally:
            database.close()
