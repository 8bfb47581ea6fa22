"""Real daemons for real-process tests: started on loopback, ended by handle."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from zoned.fleet import Daemon, ended, make, zone_names

PATIENCE_S = 90.0


@pytest.fixture
def fleet(tmp_path: Path):
    """A function that makes N daemons (not started); all are ended after the test."""
    made: list[Daemon] = []

    def make_fleet(count: int, expect: int | None = None, extra: str = "") -> list[Daemon]:
        made.extend(make(tmp_path, zone_names(count), expect or count, extra))
        return made

    with ended(made):
        yield make_fleet


@pytest.fixture
async def client():
    async with httpx.AsyncClient(timeout=60.0, trust_env=False) as opened:
        yield opened


async def until(what: str, look: Callable[[], Awaitable[bool]], patience_s: float = PATIENCE_S) -> None:
    """Waits for a condition in other processes, with a bound."""
    with trio.move_on_after(patience_s):
        while not await look():  # noqa: ASYNC110  # what is awaited happens in another process
            await trio.sleep(0.05)
        return
    raise AssertionError(f"not within {patience_s} s: {what}")


async def status(client: httpx.AsyncClient, daemon: Daemon) -> dict[str, Any]:
    try:
        answer = await client.get(f"{daemon.url}/zone/v1/status")
    except httpx.TransportError as error:
        raise AssertionError(f"{daemon.zone} does not answer; its log ends:\n{daemon.log_tail()}") from error
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def start_all(client: httpx.AsyncClient, daemons: list[Daemon]) -> None:
    for daemon in daemons:
        if not daemon.is_running:
            daemon.start()
    for daemon in daemons:
        await daemon.wait_ready(client)


async def settled(client: httpx.AsyncClient, daemons: list[Daemon]) -> dict[str, Any]:
    """Waits until every journal is empty and all are at one position; the catalogue's state, equal everywhere."""
    states: list[dict[str, Any]] = []

    async def quiet() -> bool:
        states[:] = [await status(client, daemon) for daemon in daemons]
        drained = not any(state["journal"]["entries"] for state in states)
        return drained and len({state["catalogue"]["position"] for state in states}) == 1

    await until("all journals empty and positions equal", quiet)
    assert all(state["catalogue"] == states[0]["catalogue"] for state in states), states
    catalogue: dict[str, Any] = states[0]["catalogue"]
    return catalogue


def with_workers(daemon: Daemon, count: int = 2) -> Daemon:
    """The same daemon, not started yet, with lookup workers."""
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace("[http]\n", f"[http]\nworkers = {count}\n"))
    return daemon
