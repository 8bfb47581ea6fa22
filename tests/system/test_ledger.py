"""Bad days with real daemons: repeats through other zones, a dead node's writes, conflicts, a live drill."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.system.conftest import settled, start_all, status, until
from tests.system.faults import have_integers
from tests.system.test_operations import answer, zonectl
from zoned.fleet import Daemon

pytestmark = pytest.mark.system

SHORT_WAIT = "wait_s = 0.3\n"
PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}


async def register(client: httpx.AsyncClient, daemon: Daemon, key: str, name: str = "backup") -> httpx.Response:
    headers = {"Idempotency-Key": key}
    return await client.post(f"{daemon.url}/zone/v1/images", json={"name": name}, headers=headers)


async def rename(client: httpx.AsyncClient, daemon: Daemon, uuid: str, name: str) -> httpx.Response:
    body = [{"op": "replace", "path": "/name", "value": name}]
    return await client.patch(f"{daemon.url}/v2/images/{uuid}", json=body, headers=PATCH)


async def applied(client: httpx.AsyncClient, daemon: Daemon, position: int) -> None:
    """Waits until the zone has applied the position."""
    headers = {"Zone-After-Position": str(position)}
    assert (await client.get(f"{daemon.url}/zone/v1/images?limit=1", headers=headers)).status_code == 200


async def test_a_repeat_in_any_zone_is_the_same_write(fleet, client):
    daemons = fleet(3, extra=SHORT_WAIT)
    await start_all(client, daemons)
    await have_integers(client, daemons)
    first = await register(client, daemons[0], "nightly-1")
    assert first.status_code == 201
    for daemon in daemons[1:]:
        await applied(client, daemon, first.json()["position"])
        again = await register(client, daemon, "nightly-1")
        assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")
        assert again.json() == first.json()
    assert (await register(client, daemons[1], "nightly-1", "other")).status_code == 422

    # A majority dies. A request goes to the zone that is left, and, when that dies as well, to another.
    daemons[1].kill()
    daemons[2].kill()
    lost = await register(client, daemons[0], "nightly-2")
    assert lost.status_code == 202
    daemons[0].kill()
    daemons[1].start()
    await daemons[1].wait_ready(client)
    second = await register(client, daemons[1], "nightly-2")
    assert (second.status_code, second.json()["uuid"]) == (202, lost.json()["uuid"])
    assert second.json()["integer"] != lost.json()["integer"]
    await start_all(client, daemons)
    state = await settled(client, daemons)
    assert state["images"] == 2, "a repeat made an image of its own"
    shown = [(await client.get(f"{daemon.url}/zone/v1/images/{lost.json()['uuid']}")).json() for daemon in daemons]
    assert shown[0]["integer"] in (lost.json()["integer"], second.json()["integer"])
    assert shown == [shown[0]] * 3
    for daemon in daemons:
        again = await register(client, daemon, "nightly-2")
        assert again.json()["uuid"] == lost.json()["uuid"]
    assert (await settled(client, daemons))["images"] == 2


async def test_a_conflict_between_zones_is_settled_by_a_person(fleet, client):
    daemons = fleet(3, extra=SHORT_WAIT)
    await start_all(client, daemons)
    await have_integers(client, daemons)
    made = (await register(client, daemons[0], "k")).json()
    await applied(client, daemons[1], made["position"])
    assert zonectl(daemons[1], "writes", "hold").returncode == 0
    late = await rename(client, daemons[1], made["uuid"], "theirs")
    assert late.headers["zone-write"].endswith("state=buffered")
    assert (await rename(client, daemons[0], made["uuid"], "ours")).is_success
    await applied(client, daemons[1], (await status(client, daemons[0]))["catalogue"]["position"])
    assert zonectl(daemons[1], "writes", "release").returncode == 0
    await settled(client, daemons)
    (conflict,) = answer(daemons[2], "conflicts", "list")
    assert (conflict["ours"]["value"], conflict["theirs"]["value"]) == ("ours", "theirs")
    assert (conflict["theirs"]["zone"], conflict["theirs"]["by"]) == (daemons[1].zone, "admin")
    assert answer(daemons[2], "conflicts", "resolve", str(conflict["id"]), "--take", "theirs")["state"] == "resolved"
    await settled(client, daemons)
    for daemon in daemons:
        assert (await client.get(f"{daemon.url}/zone/v1/images/{made['uuid']}")).json()["name"] == "theirs"
        shown = answer(daemon, "conflicts", "show", str(conflict["id"]))
        assert (shown["resolved"]["take"], shown["resolved"]["zone"]) == ("theirs", daemons[2].zone)


async def test_writes_on_a_dead_nodes_disk_are_not_lost(fleet, client, tmp_path: Path):
    daemons = fleet(3, extra=SHORT_WAIT)
    await start_all(client, daemons)
    await have_integers(client, daemons)
    dying = daemons[2]
    assert zonectl(dying, "writes", "hold").returncode == 0  # nothing of what follows leaves the node
    waiting = [(await register(client, dying, f"k{n}", f"n{n}")).json() for n in range(3)]
    dying.kill()
    file = tmp_path / "writes"
    exported = zonectl(dying, "writes", "export", "--data-dir", dying.directory / "data", file)
    assert "3 writes exported" in exported.stderr, exported.stderr
    for daemon in daemons[:2]:  # twice, in two zones: they take effect once
        imported = zonectl(daemon, "-f", "json", "writes", "import", file)
        assert imported.returncode == 0, imported.stderr

    async def all_are_there() -> bool:
        shown = [await client.get(f"{daemons[0].url}/zone/v1/images/{one['integer']}") for one in waiting]
        return [one.headers.get("zone-source") for one in shown] == ["local"] * 3

    await until("the dead node's writes are committed", all_are_there)
    before = await settled(client, daemons[:2])
    dying.start()
    await dying.wait_ready(client)
    assert await settled(client, daemons) == before
    assert [one["state"] for one in answer(dying, "writes", "list", "-n", "3")] != ["journaled"] * 3
    kept = await register(client, dying, "k1", "n1")
    assert kept.json()["uuid"] == waiting[1]["uuid"]


async def test_a_live_partition_ends_although_zonectl_died(fleet, client):
    daemons = fleet(3, extra=SHORT_WAIT)
    await start_all(client, daemons)
    await have_integers(client, daemons)

    async def registry_elsewhere() -> bool:
        return bool((await status(client, daemons[0]))["registry"]["zone"] not in (None, daemons[2].zone))

    if not await registry_elsewhere():
        zonectl(daemons[2], "registry", "transfer")
        await until("another zone has the registry", registry_elsewhere)
    plan = answer(daemons[2], "drill", "partition")
    voters = next(line for line in plan["plan"] if line["what"] == "voters")
    assert voters["says"].startswith("2 of 3 voters are up elsewhere, 2 are needed")
    played = _play(daemons[2], "partition", "5s")
    try:

        async def begun() -> bool:
            return _drill(daemons[2])["live"] is not None

        await until("the drill is live", begun)
    finally:
        played.send_signal(signal.SIGKILL)
        played.wait()
    during = await register(client, daemons[2], "during")
    assert during.status_code == 202

    async def came_through() -> bool:
        answered = await client.get(f"{daemons[0].url}/zone/v1/images/{during.json()['uuid']}")
        live = _drill(daemons[2])["live"]  # asked for after the answer: still cut means that it was so then
        cut = live is not None and not live["recovering"]
        assert answered.status_code == 404 or not cut, "something came through"
        return int(answered.status_code) == 200

    await until("what was written during the drill is everywhere", came_through)

    async def over() -> bool:
        return _drill(daemons[2])["last"] is not None

    await until("the drill's recovery was seen", over)
    last = _drill(daemons[2])["last"]
    compared = {line["what"]: line["state"] for line in last["compared"]}
    assert (compared["lookups"], compared["writes"], compared["staleness"]) == ("ok", "ok", "ok"), last
    assert last["measured"]["journaled"] >= 1
    await settled(client, daemons)


def _play(daemon: Daemon, kind: str, for_how_long: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from zoned.ctl import main; main()", "--socket", str(daemon.socket)]
    return subprocess.Popen([*command, "drill", kind, "--live", "--for", for_how_long], stderr=subprocess.DEVNULL)


def _drill(daemon: Daemon) -> Any:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(daemon.socket)), base_url="http://admin") as admin:
        return admin.get("/admin/v1/drill").json()
