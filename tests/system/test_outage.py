"""Goal: an outage nobody notices. Method: one zone takes 50 registrations a second while the majority is killed and
comes back; nobody may get an error, the other surviving zone must show every image, and in the end all are committed.
`OUTAGE_S=60` in the environment makes it a whole minute.
"""

import os
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import trio

from tests.system.conftest import settled, start_all, status, until
from zoned.fleet import Daemon

pytestmark = pytest.mark.system

PER_S = 50
OUTAGE_S = float(os.environ.get("OUTAGE_S", "6"))


@dataclass
class Worker:
    """Backup workers of one zone: what they were told."""

    http: httpx.AsyncClient
    daemon: Daemon
    told: dict[str, int] = field(default_factory=dict)  # UUID -> integer
    states: dict[int, int] = field(default_factory=dict)  # HTTP status -> how often

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                nursery.start_soon(self._register)
                await trio.sleep(1 / PER_S)

    async def _register(self) -> None:
        with trio.CancelScope(shield=True):  # whoever began gets an answer
            answer = await self.http.post(f"{self.daemon.url}/zone/v1/images", json={"name": "backup"})
        self.states[answer.status_code] = self.states.get(answer.status_code, 0) + 1
        assert answer.status_code in (201, 202), answer.text
        made: dict[str, Any] = answer.json()
        self.told[made["uuid"]] = made["integer"]


async def shown(http: httpx.AsyncClient, daemon: Daemon) -> dict[str, int]:
    """UUID -> integer of every image that a zone lists."""
    found: dict[str, int] = {}
    marker: str | None = ""
    while marker is not None:
        page = (await http.get(f"{daemon.url}/zone/v1/images?limit=1000{marker and f'&marker={marker}'}")).json()
        found.update({one["uuid"]: one["integer"] for one in page["images"]})
        marker = page["next"]
    return found


async def test_nobody_notices_that_the_majority_is_gone(fleet, client):
    daemons = fleet(4, 3, f"voters = 3\n[ids]\nlease_min = {1_000 + round(10 * PER_S * OUTAGE_S)}\n")
    here, *majority, neighbour = daemons
    neighbour.config.write_text(neighbour.config.read_text().replace("expect = 3", "expect = 0"))
    await start_all(client, daemons)

    async def has_integers() -> bool:
        return all([(await status(client, daemon))["ids"]["left"] for daemon in daemons])

    await until("every zone has integers", has_integers)
    worker = Worker(client, here)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        await trio.sleep(1.0)
        for daemon in majority:
            daemon.kill()
        await trio.sleep(OUTAGE_S)
        during = dict(worker.told)

        async def shows_all() -> bool:
            found = await shown(client, neighbour)
            return all(found.get(uuid) == integer for uuid, integer in during.items())

        await until("the neighbour shows what was registered", shows_all)
        last = list(during)[-1]
        found = await client.get(f"{neighbour.url}/zone/v1/images/{during[last]}")
        assert found.json()["uuid"] == last
        assert found.headers["Zone-Source"] == "provisional"
        for daemon in majority:
            daemon.start()
        await start_all(client, daemons)
        await trio.sleep(1.0)
        nursery.cancel_scope.cancel()
    await settled(client, daemons)
    for daemon in daemons:
        found_there = await shown(client, daemon)
        assert all(found_there.get(uuid) == integer for uuid, integer in worker.told.items())
    assert len(set(worker.told.values())) == len(worker.told)
    assert worker.states[202] > 50, "there was no outage to notice"
    assert set(worker.states) <= {201, 202}


async def test_what_a_zone_shared_before_it_burnt_down_is_committed_without_it(fleet, client):
    daemons = fleet(4, 3, "voters = 3\n")
    lost, *majority, neighbour = daemons
    neighbour.config.write_text(neighbour.config.read_text().replace("expect = 3", "expect = 0"))
    await start_all(client, daemons)

    async def has_integers() -> bool:
        return all([(await status(client, daemon))["ids"]["left"] for daemon in daemons])

    await until("every zone has integers", has_integers)
    for daemon in majority:
        daemon.kill()
    answer = await client.post(
        f"{lost.url}/zone/v1/images", json={"name": "last words"}, headers={"Zone-Durability": "peers=1"}
    )
    assert answer.status_code == 202, answer.text
    made = answer.json()
    receipt = (await client.get(f"{lost.url}{answer.headers['Location']}")).json()
    assert receipt["state"] == "shared"
    assert [one["zone"] for one in receipt["shared"]] == [neighbour.zone]
    # Somebody renames it where it is only provisional.
    patch = [{"op": "replace", "path": "/name", "value": "renamed elsewhere"}]
    kind = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
    changed = await client.patch(f"{neighbour.url}/v2/images/{made['uuid']}", json=patch, headers=kind)
    assert changed.status_code == 200, changed.text
    lost.kill()
    for daemon in majority:
        daemon.start()
    others = [*majority, neighbour]
    await start_all(client, others)

    async def committed() -> bool:
        found = await client.get(f"{majority[0].url}/zone/v1/images/{made['integer']}")
        return found.status_code == 200 and bool(found.json()["name"] == "renamed elsewhere")

    await until("the write of the lost zone is committed, and the change behind it", committed)
    await settled(client, others)
    # It returns, and its journal has what was forwarded for it meanwhile.
    await start_all(client, daemons)
    await settled(client, daemons)
    receipt = (await client.get(f"{lost.url}{answer.headers['Location']}?wait=30s&until=seen")).json()
    assert receipt["state"] == "seen"
    assert set(receipt["seen"]) == {daemon.zone for daemon in daemons}
