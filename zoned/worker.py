"""A lookup worker: a process that answers plain lookups on the daemon's public port, and hands on everything else.

It reads the same store file, read-only, and takes position and staleness from the page that it shares with the daemon
(`zoned.page`). Whatever is no plain lookup goes to the daemon (`zoned.api.forward`). The daemon starts it, with
everything it needs as one JSON argument and three inherited descriptors: the listening socket, the page, and the
control socket. When that closes, the daemon is gone, and so is the worker at once.

The listening socket is the daemon's own, shared: connections that no worker has accepted yet are in its queue, whoever
dies. (With one socket each, SO_REUSEPORT, a worker's queue would die with it.)
"""

import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import apsw
import orjson
import structlog
import trio

from conf import Auth, Http
from store import catalogue, listing
from store.catalogue import Found
from store.database import connect_reader, in_snapshot
from store.listing import Query
from zoned import clock, logs
from zoned.api.forward import Forward
from zoned.api.http1 import HttpLimits
from zoned.api.lookup import HotReads
from zoned.api.server import serve_http
from zoned.auth.doors import known_beside, open_rates
from zoned.page import Page

MMAP_BYTES = 1 << 46  # the whole store: a page of it then costs no call of the kernel
# Said over the control socket. The daemon's words are one byte each; a worker's are lines, of JSON for what it counted.
OPEN, CLOSE, DRAIN = b"O", b"C", b"D"
HERE, READY, CLOSED = b"here\n", b"ready\n", b"closed\n"
TALLY_S = 1.0  # how often a worker tells what it counted

logger = structlog.get_logger()
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is told when it is started."""

    zone: str
    store: str  # its file
    auth: Auth
    trusted: bool  # as `zoned.auth.Doors` has it for the public listener
    daemon: str  # name of the daemon's abstract Unix socket, in hexadecimal
    limits: HttpLimits
    http: Http
    log_level: str
    log_format: str
    log_requests: bool
    listener: int  # descriptors
    page: int
    control: int

    def encode(self) -> str:
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def decode(cls, text: str) -> "Task":
        raw: dict[str, Any] = orjson.loads(text)
        return cls(
            **{**raw, "limits": HttpLimits(**raw["limits"]), "auth": Auth(**raw["auth"]), "http": Http(**raw["http"])}
        )


class View:
    """The store as this process sees it. Implements `zoned.api.lookup.Readable`; closed, it finds nothing."""

    def __init__(self, name: str, store: Path, page: Page) -> None:
        self.name = name
        self.store = store
        self._page = page
        self._connection: apsw.Connection | None = None

    @property
    def position(self) -> int:
        return self._page.position

    @property
    def fresh_at(self) -> float | None:
        return self._page.fresh_at

    @property
    def history(self) -> str:
        return self._page.history

    def find(self, reference: str | int) -> Found | None:
        """The record, or None: the daemon may know more."""
        return self._read(lambda c: catalogue.find(c, reference), None)

    def find_many(self, references: Sequence[str | int | None]) -> list[Found | None]:
        nothing: list[Found | None] = [None] * len(references)
        return self._read(lambda c: in_snapshot(c, lambda c: catalogue.find_many(c, references)), nothing)

    def quick_page(self, query: Query) -> listing.Page | None:
        return self._read(lambda c: in_snapshot(c, lambda c: listing.quick_page(c, query)), None)

    def _read(self, job: Callable[[apsw.Connection], T], otherwise: T) -> T:
        if self._connection is None:
            return otherwise
        try:
            return job(self._connection)
        except apsw.Error as error:
            # If the store is damaged the daemon finds that out from the same request, and ends.
            logger.warning("a worker cannot read the store", problem=f"{type(error).__name__}: {error}")
            return otherwise

    def open(self) -> None:
        if self._connection is None:
            self._connection = connect_reader(self.store)
            self._connection.pragma("mmap_size", MMAP_BYTES)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Tally:
    """What this worker answered, told to the daemon from time to time: its metrics are those of the whole node."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[bool, bytes, int, str]] = Counter()
        self._limited: Counter[str] = Counter()
        self._telling = trio.Lock()

    def count(self, is_native: bool, method: bytes, status: int, source: str) -> None:
        self._counts[is_native, method, status, source] += 1

    def limit(self, name: str) -> None:
        self._limited[name] += 1

    async def report(self, control: trio.SocketStream) -> None:
        while True:
            await trio.sleep(TALLY_S)
            await self.tell(control)

    async def tell(self, control: trio.SocketStream) -> None:
        async with self._telling:
            told: list[list[Any]] = [
                [is_native, method.decode(), status, source, number]
                for (is_native, method, status, source), number in self._counts.items()
            ]
            told += [[name, number] for name, number in self._limited.items()]
            self._counts.clear()
            self._limited.clear()
            if told:
                await control.socket.send(orjson.dumps(told) + b"\n")


async def obey(control: trio.SocketStream, view: View, serving: trio.CancelScope) -> None:
    """Do what the daemon says; return when it says nothing more."""
    try:
        await control.send_all(HERE)
        async for data in control:
            for command in (data[n : n + 1] for n in range(len(data))):
                if command == OPEN:
                    view.open()
                    await control.send_all(READY)
                elif command == CLOSE:
                    view.close()
                    await control.send_all(CLOSED)
                elif command == DRAIN:
                    serving.cancel()
    except trio.BrokenResourceError:
        pass


async def drain_when_asked(serving: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            serving.cancel()


async def work(task: Task) -> None:
    """Serves until the daemon says to drain or is gone, or SIGTERM."""
    structlog.contextvars.bind_contextvars(zone=task.zone)
    view = View(task.zone, Path(task.store), Page(task.page))
    control = trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=task.control)))
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(socket.socket(fileno=task.listener)))
    known = known_beside(task.auth, task.trusted, view.store.parent)
    tally = Tally()
    forward = Forward(b"\0" + bytes.fromhex(task.daemon))
    on_request = logs.request if task.log_requests else None
    async with trio.open_nursery() as nursery:
        serving = trio.CancelScope()
        nursery.start_soon(drain_when_asked, serving)
        nursery.start_soon(tally.report, control)

        @nursery.start_soon
        async def serve() -> None:
            with serving:
                lookup = HotReads(view, known, tally.count, open_rates(task.http, tally.limit))
                await serve_http(
                    forward,
                    [listener],
                    task.limits,
                    now=clock.wall,
                    lookup=lookup,
                    on_request=on_request,
                    on_limit=lambda limit: tally.limit(f"http.{limit}"),
                )
            await tally.tell(control)
            nursery.cancel_scope.cancel()

        await obey(control, view, serving)
        # The daemon is gone: its port must be free for the next one, and nobody keeps our answers fresh any more.
        os._exit(0)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from the terminal it reaches the daemon as well, which drains us
    task = Task.decode(sys.argv[1])
    logs.set_up(task.log_level, task.log_format)
    trio.run(work, task)


if __name__ == "__main__":
    main()
