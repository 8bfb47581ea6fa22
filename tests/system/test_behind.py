"""Zones that fall behind everybody's log: they get the state itself, whatever happens on the way."""

import httpx
import pytest
import trio

from tests.system.conftest import settled, start_all, status, until, with_workers
from zoned.fleet import Daemon

pytestmark = pytest.mark.system

KEEP = 100  # log entries kept
RECORDS = 400


async def fill(client: httpx.AsyncClient, daemon: Daemon, count: int, name: str) -> None:
    async with trio.open_nursery() as nursery:

        async def some(numbers: range) -> None:
            for number in numbers:
                answer = await client.post(f"{daemon.url}/zone/v1/images", json={"name": f"{name} {number}"})
                assert answer.status_code in (201, 202), answer.text

        for first in range(8):
            nursery.start_soon(some, range(first, count, 8))


async def test_a_voter_and_a_newcomer_far_behind_install_a_snapshot(fleet, client):
    daemons = fleet(4, expect=3, extra=f"voters = 3\nlog_entries_keep = {KEEP}\n")
    *founders, newcomer = daemons
    for daemon in (founders[-1], newcomer):
        with_workers(daemon, 1)  # other processes that have the replaced store open
    await start_all(client, founders)
    await fill(client, founders[0], 20, "early")
    await settled(client, founders)
    sleeper = founders[-1]
    sleeper.kill()
    await fill(client, founders[0], RECORDS, "meanwhile")

    async def compacted() -> bool:
        states = [await status(client, daemon) for daemon in founders[:-1]]
        return bool(min(state["registry"]["log_first"] for state in states) > KEEP)

    await until("the log begins behind the sleeper", compacted)
    for daemon in founders[:-1]:
        daemon.kill()  # they hold the log's tail in memory as well
    await start_all(client, founders[:-1])
    await start_all(client, [sleeper, newcomer])
    found = await settled(client, daemons)
    assert found["images"] == RECORDS + 20
    for daemon in (sleeper, newcomer):
        assert "snapshot installed" in daemon.log.read_text()
    answer = await client.post(f"{newcomer.url}/zone/v1/images", json={"name": "by the newcomer"})
    assert (answer.status_code, answer.json()["integer"] is not None) == (201, True)
    answer = await client.post(f"{sleeper.url}/zone/v1/images", json={"name": "by the sleeper"})
    assert answer.status_code == 201
    await settled(client, daemons)
    for daemon in (sleeper, newcomer):
        # Through the worker that had the old store open until it was asked to let go of it.
        shown = await client.get(f"{daemon.url}/zone/v1/images/{answer.json()['uuid']}")
        assert (shown.status_code, shown.headers["zone-source"]) == (200, "local")
        assert not [line for line in daemon.log.read_text().splitlines() if "worker" in line]
    # A restart on the installed store.
    for daemon in (sleeper, newcomer):
        daemon.kill()
    await start_all(client, daemons)
    assert (await settled(client, daemons))["images"] == RECORDS + 22
