"""The daemon's lookup workers: started, watched, replaced when they die, asked to let go of the store, drained.

Each is a process of its own (`zoned.worker`). The daemon keeps one stream to each, the control socket; its end is how
either side learns of the other's death. The public listening socket stays the daemon's, which itself accepts nothing on
it while there are workers: connections that come while one of them is being replaced wait in its queue.
"""

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from random import SystemRandom

import orjson
import structlog
import trio

from conf import Http, Log
from store.database import Database
from zoned.api.http1 import HttpLimits
from zoned.page import Page
from zoned.supervise import Backoff, Signal
from zoned.worker import CLOSE, CLOSED, DRAIN, HERE, OPEN, READY, Task
from zoned.zone import Zone

LET_GO_S = 10.0  # then it is killed: the store is not replaced while anybody has the old file open
DRAIN_EXTRA_S = 2.0  # beyond the grace that a worker gives its requests
PAUSE_S = (0.02, 5.0)  # between a death and the next start
HEADER_EXTRA_BYTES = 1_024  # what a worker adds to a head
BACKLOG = 1_024
READ_BYTES = 65_536
END_S = 1.0  # for a worker that has closed its control socket to end by itself

logger = structlog.get_logger()


def open_inner() -> trio.SocketListener:
    """Where workers hand requests on: a Unix socket without a file. Its peer's user is checked for each request."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound.bind("")  # the kernel chooses an abstract name (unix(7), autobind)
    bound.listen(BACKLOG)
    return trio.SocketListener(trio.socket.from_stdlib_socket(bound))


def inner_limits(bounds: HttpLimits) -> HttpLimits:
    """A worker holds its clients to `bounds`; between the two processes only sizes matter."""
    return replace(
        bounds,
        header_bytes_max=bounds.header_bytes_max + HEADER_EXTRA_BYTES,
        headers_max=bounds.headers_max + 3,
        idle_timeout_s=1e9,
        connections_max=2 * bounds.connections_max,
    )


class _Worker:
    """One process and its control socket."""

    def __init__(self, process: trio.Process, control: trio.socket.SocketType) -> None:
        self.process = process
        self.is_here = False  # has come so far that it listens
        self.is_open = False  # has the store open, or is about to
        self.closed = trio.Event()
        self.asked_to_end = False
        self._control = control

    async def say(self, command: bytes) -> None:
        try:
            await self._control.send(command)
        except OSError:
            pass  # it is gone; its keeper sees to it

    async def heard(self) -> AsyncIterator[bytes]:
        """What it says, until it is gone."""
        unread = b""
        while True:
            try:
                data = await self._control.recv(READ_BYTES)
            except OSError:
                return
            if not data:
                return
            *lines, unread = (unread + data).split(b"\n")
            for line in lines:
                yield line + b"\n"

    async def end(self) -> None:
        """It is gone when this returns."""
        self._control.close()
        self.process.kill()  # does nothing if it has ended
        await self.process.wait()
        self.closed.set()


class Workers:
    """Implements `store.database.Outsiders`."""

    def __init__(
        self,
        zone: Zone,
        bounds: HttpLimits,
        database: Database,
        public: trio.SocketListener,
        inner: bytes,
        trusted: bool,
    ) -> None:
        """`public` is the listener that they share, `inner` the name of the socket that they hand requests on to."""
        self.page = Page()
        self._inner = inner
        self.running: set[_Worker] = set()
        self._zone = zone
        self._count = zone.settings.config.http.workers
        self._trusted = trusted
        self._database = database
        self._public = public
        self.bound_by(bounds)
        self._draining = False
        self._came = Signal()  # another one is ready
        # Heard from here on: a reload may come while the first ones start.
        self._known = self._followed()
        self._changed = Signal()
        zone.settings.listen(lambda _: self._changed.set())
        self._may_open = True

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps all of them running until they are drained; started once all are ready. Cancelled, it kills them."""
        self._database.outsiders = self
        try:
            async with trio.open_nursery() as nursery:
                all_ready = [trio.Event() for _ in range(self._count)]
                for ready in all_ready:
                    nursery.start_soon(self._keep, ready)
                for ready in all_ready:
                    await ready.wait()
                nursery.start_soon(self.follow)
                task_status.started()
        finally:
            self._database.outsiders = None
            self.page.close()

    async def publish(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps the page true. The position is there before anybody can be told of it."""
        zone, page = self._zone, self.page

        def on_applied(position: int, _: object) -> None:
            page.position, page.history = position, zone.history

        on_applied(zone.position, None)
        zone.replication.listen(on_applied)
        task_status.started()
        while True:
            moved = zone.staleness.moved
            page.fresh_at, page.history = zone.fresh_at, zone.history
            await moved.wait()

    async def drain(self) -> None:
        """Lets them finish what they do, within the grace, and end."""
        self._draining = True
        async with trio.open_nursery() as nursery:
            for worker in self.running:
                nursery.start_soon(worker.say, DRAIN)
        with trio.move_on_after(self._bounds.grace_s + DRAIN_EXTRA_S):
            for worker in list(self.running):
                await worker.process.wait()
        for worker in self.running:
            if worker.process.returncode is None:
                logger.warning("worker did not end in time", pid=worker.process.pid)
                worker.process.kill()

    def bound_by(self, bounds: HttpLimits) -> None:
        """What those that are started from now on hold their clients to."""
        self._bounds = replace(bounds, connections_max=-(-bounds.connections_max // max(1, self._count)))

    def _followed(self) -> tuple[Log, Http]:
        """What they are told when they start."""
        return self._zone.settings.config.log, self._zone.settings.config.http

    async def follow(self) -> None:
        """Replaces them, one after the other, when the settings of the log or the limits have changed."""
        known = self._known
        while True:
            await self._changed.wait()
            if self._followed() != known:
                known = self._followed()
                for worker in list(self.running):
                    worker.asked_to_end = True
                    self._came.clear()
                    await worker.say(DRAIN)
                    await self._came.wait()

    # For the store.

    async def let_go(self) -> None:
        self._may_open = False
        async with trio.open_nursery() as nursery:
            for worker in self.running:
                nursery.start_soon(self._close, worker)

    async def _close(self, worker: _Worker) -> None:
        if not worker.is_open:
            return
        worker.is_open = False
        worker.closed = trio.Event()
        with trio.move_on_after(LET_GO_S):
            await worker.say(CLOSE)
            await worker.closed.wait()
        if not worker.closed.is_set():
            logger.warning("worker did not close the store", pid=worker.process.pid)
            worker.process.kill()
            with trio.CancelScope(shield=True):
                await worker.process.wait()

    async def resume(self) -> None:
        self._may_open = True
        for worker in list(self.running):
            if worker.is_here:
                await self._open(worker)

    async def _open(self, worker: _Worker) -> None:
        worker.is_open = True
        await worker.say(OPEN)

    # One process after the other.

    async def _keep(self, ready: trio.Event) -> None:
        backoff = Backoff(*PAUSE_S, SystemRandom())
        while not self._draining:
            worker = await self._start()
            try:
                self.running.add(worker)
                async for said in worker.heard():
                    if said == HERE:
                        worker.is_here = True
                        if self._may_open:
                            await self._open(worker)
                    elif said == CLOSED:
                        worker.closed.set()
                    elif said == READY:
                        backoff.reset()
                        ready.set()
                        self._came.set()
                    else:
                        for counted in orjson.loads(said):
                            self._zone.counts.told(*counted)
                with trio.move_on_after(END_S):
                    await worker.process.wait()
            finally:
                with trio.CancelScope(shield=True):
                    await worker.end()
                self.running.discard(worker)
            if not (self._draining or worker.asked_to_end):
                logger.warning(
                    "worker ended, starting another", pid=worker.process.pid, status=worker.process.returncode
                )
                await backoff.pause()

    async def _start(self) -> _Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            fds = (self._public.socket.fileno(), self.page.descriptor, theirs.fileno())
            config = self._zone.settings.config
            log = config.log
            path = str(self._database.path)
            said = (log.level, log.format, log.requests)
            task = Task(
                *(config.node.zone, path, config.auth, self._trusted, self._inner[1:].hex(), self._bounds, config.http),
                *(*said, *fds),
            )
            # The very package that runs here, whatever lies in the working directory (-P).
            paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
            process = await trio.lowlevel.open_process(
                [sys.executable, "-P", "-m", "zoned.worker", task.encode()],
                stdin=subprocess.DEVNULL,
                pass_fds=fds,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
        return _Worker(process, trio.socket.from_stdlib_socket(ours))
