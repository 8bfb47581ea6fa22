"""Daemons in threads of this process, served for a whole session, and a store on disk for each test."""

import queue
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
import structlog.testing
import trio

from conf import parse
from store import identity
from store.database import Database, open_database
from zoned import daemon, policy
from zoned.api.app import make_app
from zoned.api.asgi import App
from zoned.api.guard import with_caller
from zoned.auth.identity import Open
from zoned.daemon import Running
from zoned.settings import Settings

ME = "00000000-0000-4000-8000-00000000000a"
OTHER = "00000000-0000-4000-8000-00000000000b"
LABEL = "tests"
START_S = 60.0


@dataclass(frozen=True, slots=True)
class Served:
    """A running daemon: where its faces are and who it is."""

    url: str
    peer_url: str
    socket: Path
    node_id: str


def config_text(directory: Path, more: str = "", registry: str = "wait_s = 60") -> str:
    """A daemon on free loopback ports with its store in `directory`."""
    return f"""
[node]
zone = "alpha"
data_dir = "{directory}"
[http]
listen = "127.0.0.1:0"
body_bytes_max = 200_000
header_bytes_max = 16_384
[gossip]
label = "{LABEL}"
[journal]
free_disk_min_bytes = 0
[registry]
{registry}
[peers]
listen = "127.0.0.1:0"
{more}
"""


@contextmanager
def serve(
    text: str, path: Path | None = None, beside: Callable[[Running], Awaitable[None]] | None = None
) -> Iterator[Running]:
    """Runs a daemon in a thread with a trio loop of its own until the end of the block; `path` is its file, if any.

    `beside` runs in the same loop once the daemon does.
    """
    settings = Settings(parse(text), path)
    told: queue.Queue[tuple[Running, trio.lowlevel.TrioToken, trio.CancelScope] | BaseException] = queue.Queue()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            running = await nursery.start(daemon.serve, settings.config, trio.Event(), settings)
            if beside is not None:
                nursery.start_soon(beside, running)
            told.put((running, trio.lowlevel.current_trio_token(), nursery.cancel_scope))

    def work() -> None:
        try:
            trio.run(main)
        except BaseException as error:
            told.put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    started = told.get(timeout=START_S)
    if isinstance(started, BaseException):
        raise started
    running, token, scope = started
    try:
        yield running
    finally:
        with suppress(trio.RunFinishedError):  # it ended by itself, with an error that is raised below
            token.run_sync_soon(scope.cancel)
        thread.join(START_S)
    assert not thread.is_alive(), "the daemon did not stop"
    if not told.empty():
        ended = told.get()
        assert isinstance(ended, BaseException)
        raise ended


def described(running: Running) -> Served:
    node_id = running.zone.identity.node_id
    return Served(running.url, "http://{}:{}".format(*running.peer), running.socket, node_id)


@pytest.fixture(scope="session", autouse=True)
def quiet_logs() -> Iterator[None]:
    """Log lines of daemons in threads would land in whatever output a test captures at the time."""
    structlog.configure(
        processors=[structlog.processors.KeyValueRenderer()], logger_factory=structlog.ReturnLoggerFactory()
    )
    yield
    structlog.reset_defaults()


@contextmanager
def captured_logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """What this thread logs: the session's zones go on in threads of their own, and log as well."""
    here = threading.get_ident()

    def only_here(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if threading.get_ident() != here:
            raise structlog.DropEvent
        return event

    with structlog.testing.capture_logs([only_here]) as logs:
        yield logs


def wait_for_integers(url: str) -> None:
    deadline = time.monotonic() + START_S
    while httpx.get(f"{url}/zone/v1/ids").json()["left"] == 0:
        assert time.monotonic() < deadline, "no integers were granted"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, quiet_logs: None) -> Iterator[Served]:
    """One zone that founded itself, with integers in hand."""
    with serve(config_text(tmp_path_factory.mktemp("served"))) as running:
        wait_for_integers(running.url)
        yield described(running)


@pytest.fixture(scope="session")
def cut_off(tmp_path_factory: pytest.TempPathFactory, quiet_logs: None) -> Iterator[Served]:
    """A zone that waits for two others in vain: no registry, no catalogue, no integers."""
    text = config_text(tmp_path_factory.mktemp("cut"), 'seeds = ["127.0.0.1:9"]', "expect = 3\nwait_s = 0.05")
    with serve(text) as running:
        yield described(running)


def open_app(zone: Any) -> App:
    """The public application behind a door that stands open: everybody is an administrator unless headers say less."""
    return with_caller(make_app(zone), Open(policy.DEFAULT, trusted=True), None)


@asynccontextmanager
async def open_store(directory: Path, me: str = ME) -> AsyncIterator[Database]:
    """The store of node `me` in `directory`."""
    async with open_database(directory) as database:
        await database.write(lambda c: identity.start(c, me, "alpha", LABEL))
        yield database


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_store(tmp_path / "store") as opened:
        yield opened


async def until(condition: Callable[[], bool | Awaitable[bool]], at_most_s: float = 30.0) -> None:
    """Waits until the condition holds; fails the test when it does not in time."""
    with trio.fail_after(at_most_s):
        while True:
            held = condition()
            if (held if isinstance(held, bool) else await held) is True:
                return
            await trio.sleep(0.005)
