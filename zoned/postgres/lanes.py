"""Connections to the database, each used by one thread at a time. The only module that knows threads and time-outs.

A lane is a connection for one kind of work, so a heartbeat never queues behind a long read: four of them are the whole
pool. psycopg waits in threads; what takes too long, because the server is frozen or the network swallows everything, is
ended by shutting the socket down under it. Whether a commit that ended so happened is not known.
"""

import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import psycopg
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from zoned.postgres.ledger import Connection

T = TypeVar("T")
Job = Callable[[Connection], T]

CONNECT_TIMEOUT_S = 2
IDLE_IN_TRANSACTION_MS = 2_000  # between two statements of one transaction, which nothing but a crash or a freeze takes
AGAIN = frozenset(("40001", "40P01", "55P03"))  # rolled back whole, for others' sake: the same again may succeed
AGAIN_MAX = 5


class DatabaseAway(Exception):
    """The database did not do as asked; the text is one line. What was under way may have happened or not."""


def dsn_problem(dsn: str) -> str | None:
    """What is wrong with a connection string, in one line; None when nothing is."""
    try:
        given = conninfo_to_dict(dsn)
    except psycopg.Error as error:
        return _one_line(error)
    # The configuration is shown to whoever may read the admin socket.
    secrets = sorted(name for name in given if "password" in name)
    return f"it holds a {secrets[0]}; put that into a file and name it by passfile=PATH" if secrets else None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _connect(dsns: Sequence[str], name: str) -> Connection:
    """The first that lets this node write. Raises psycopg.Error of the last that does not."""
    failed: psycopg.Error | None = None
    for dsn in dsns:
        try:
            conninfo = conninfo_to_dict(dsn)
            conninfo.setdefault("target_session_attrs", "read-write")
            conninfo.setdefault("connect_timeout", CONNECT_TIMEOUT_S)
            conninfo.setdefault("application_name", name)
            # Never prepared: a pooler between may give each transaction another session. With autocommit every
            # `connection.transaction()` is one, and no statement outside leaves one open.
            connection = psycopg.connect(make_conninfo("", **conninfo), autocommit=True, prepare_threshold=None)
            # A registry that is frozen in mid-commit holds the row, and nobody could take over.
            try:
                connection.execute(f"SET idle_in_transaction_session_timeout = {IDLE_IN_TRANSACTION_MS}".encode())
            except psycopg.Error:
                connection.close()
                raise
            return connection
        except psycopg.Error as error:
            failed = error
    assert failed is not None
    raise failed


class _Wire:
    """A connection and a handle of its own on its socket, so that whoever must not touch the one can end the other."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))

    def cut(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is gone already

    def close(self) -> None:
        self.cut()
        self._socket.close()
        self.connection.close()


class Lane:
    """One connection, opened when it is needed and given up after any error."""

    def __init__(self, dsns: Sequence[str], name: str) -> None:
        self._dsns = dsns
        self._name = name
        self._wire: _Wire | None = None
        self._lock = trio.Lock()

    async def run(self, job: Job[T], timeout_s: float) -> T:
        """`job` in a thread. What the database rolled back for others' sake is done again, whole.

        Raises DatabaseAway, and whatever else the job raises (then nothing was changed).
        """
        async with self._lock:
            for _ in range(AGAIN_MAX):
                try:
                    return await self._try(job, timeout_s)
                except psycopg.Error as error:
                    if error.sqlstate not in AGAIN:
                        self.close()
                        raise DatabaseAway(_one_line(error)) from None
                except Exception:
                    raise  # the job's own: it was rolled back, and the connection is as good as before
                except BaseException:
                    self.close()  # nobody waits any more, and the wire was cut
                    raise
            raise DatabaseAway(f"rolled back {AGAIN_MAX} times in favour of others")

    async def _try(self, job: Job[T], timeout_s: float) -> T:
        if self._wire is None:
            opening = _Opening()
            try:
                self._wire = await trio.to_thread.run_sync(opening.open, self._dsns, self._name, abandon_on_cancel=True)
            except trio.Cancelled:
                opening.leave()
                raise
        wire, result = self._wire, _Result[T]()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_in_time, wire, result, timeout_s)
            # Not abandoned: the thread ends, at the latest because its socket does.
            await trio.to_thread.run_sync(result.make, job, wire.connection, abandon_on_cancel=False)
            nursery.cancel_scope.cancel()
        return result.get()

    def close(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()


class _Result(list[T]):
    """What a thread came to: a value or an error, and whether it has come to it."""

    error: Exception | None = None
    done = False

    def make(self, job: Job[T], connection: Connection) -> None:
        try:
            self.append(job(connection))
        except Exception as error:
            self.error = error
        self.done = True

    def get(self) -> T:
        if self.error is not None:
            raise self.error
        return self[0]


async def _end_in_time(wire: _Wire, result: _Result[T], timeout_s: float) -> None:
    """Cuts the wire when the thread takes longer, or when nobody waits for it any more."""
    try:
        await trio.sleep(timeout_s)
    finally:
        if not result.done:
            wire.cut()


class _Opening:
    """A connection that may be there only after whoever wanted it has gone."""

    def __init__(self) -> None:
        self._left = False
        self._wire: _Wire | None = None
        self._lock = threading.Lock()

    def open(self, dsns: Sequence[str], name: str) -> _Wire:
        wire = _Wire(_connect(dsns, name))
        with self._lock:
            self._wire = wire
            if self._left:
                wire.close()
        return wire

    def leave(self) -> None:
        with self._lock:
            self._left = True
            if self._wire is not None:
                self._wire.close()
