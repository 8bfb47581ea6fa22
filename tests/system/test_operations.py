"""What operators do on a bad day: verify, back up, restore, hand over, remove, recover. Each with the real commands."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import apsw
import httpx
import pytest
import trio

from store import audit
from store.images import uuid_text
from tests.system.conftest import settled, start_all, status, until
from zoned.fleet import Daemon, make

pytestmark = pytest.mark.system


def zonectl(daemon: Daemon, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from zoned.ctl import main; main()", "--socket", str(daemon.socket)]
    return subprocess.run([*command, *map(str, words)], capture_output=True, text=True, timeout=60, check=False)


def restore(daemon: Daemon, file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zoned", "restore", "-c", str(daemon.config), str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def answer(daemon: Daemon, *words: str | Path) -> Any:
    done = zonectl(daemon, "-f", "json", *words)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


async def register(client: httpx.AsyncClient, daemon: Daemon, count: int, name: str) -> dict[str, int]:
    made = {}
    for number in range(count):
        said = await client.post(f"{daemon.url}/zone/v1/images", json={"name": f"{name} {number}"})
        assert said.status_code in (201, 202), said.text
        made[said.json()["uuid"]] = said.json()["integer"]
    return made


async def registry_of(client: httpx.AsyncClient, daemons: list[Daemon]) -> Daemon:
    """The registry, once all daemons name the same one."""
    found: list[Daemon] = []

    async def agreed() -> bool:
        names = {(await status(client, daemon))["registry"]["zone"] for daemon in daemons}
        found[:] = [daemon for daemon in daemons if names == {daemon.zone}]
        return bool(found)

    await until("one registry", agreed)
    return found[0]


def flip_a_byte(daemon: Daemon, name: str) -> str:
    """Changes one bit of a record on the disk of a stopped daemon; the record's UUID."""
    connection = apsw.Connection(str(daemon.directory / "data" / "zoned.db"))
    row: Any = connection.execute("SELECT uuid, record FROM images WHERE name = ?", (name,)).fetchone()
    uuid, damaged = row[0], bytearray(row[1])
    damaged[len(damaged) // 2] ^= 1
    connection.execute("UPDATE images SET record = ? WHERE uuid = ?", (bytes(damaged), uuid))
    connection.close()
    return uuid_text(uuid)


def rewrite_the_audit(daemon: Daemon) -> None:
    """As somebody would who has the disk of a stopped daemon and knows how the chain is made."""
    connection = apsw.Connection(str(daemon.directory / "data" / "zoned.db"))
    chain = audit.BEGINNING
    with connection:
        for line in audit.read(connection, 0, 1_000):
            text = line.text.replace(b'"create"', b'"delete"')
            connection.execute("UPDATE audit SET before = ?, line = ? WHERE position = ?", (chain, text, line.position))
            chain = audit.chained(chain, text)
        connection.execute("UPDATE replica SET chain = ?", (chain,))
    connection.close()


async def test_a_flipped_byte_is_found_and_named(fleet, client):
    daemons = fleet(3)
    await start_all(client, daemons)
    made = await register(client, daemons[0], 10, "n")
    await settled(client, daemons)
    fine = answer(daemons[0], "sync", "verify")
    assert fine["equal"] is True
    assert [one["equal"] for one in fine["peers"]] == [True, True]
    assert [one["tables"] for one in fine["peers"]] == [[], []]
    assert answer(daemons[0], "sync", "verify", "--deep")["here"]["unfit"] == []
    chained = answer(daemons[0], "audit", "verify")
    assert chained["equal"] is True
    assert [one["equal"] for one in chained["peers"]] == [True, True]
    daemons[2].stop()

    async def named() -> bool:
        asked = [answer(daemons[0], what, "verify")["not_asked"] for what in ("sync", "audit")]
        return all([one["zone"] for one in who] == ["zone-c"] for who in asked)

    await until("the zone that was not asked is named", named)
    uuid = flip_a_byte(daemons[2], "n 7")
    rewrite_the_audit(daemons[2])
    await start_all(client, daemons)
    await settled(client, daemons)

    async def seen() -> bool:
        return len(answer(daemons[0], "sync", "verify")["peers"]) == 2

    await until("all are up again", seen)
    done = zonectl(daemons[0], "-f", "json", "sync", "verify")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["here"]["equal"] is True
    assert {one["zone"]: one["differing"] for one in found["peers"]} == {"zone-b": [], "zone-c": [uuid]}
    assert answer(daemons[2], "sync", "verify")["here"]["equal"] is False
    # A chain that was made anew is whole, and not the others' chain.
    done = zonectl(daemons[0], "-f", "json", "audit", "verify")
    assert done.returncode == 1
    verdicts = json.loads(done.stdout)
    assert verdicts["here"]["equal"] is True
    assert {one["zone"]: one["equal"] for one in verdicts["peers"]} == {"zone-b": True, "zone-c": False}
    # The damaged copy is not served as if it were the record; others, and other zones, are.
    said = [await client.get(f"{daemon.url}/zone/v1/images/{uuid}") for daemon in daemons]
    assert [one.status_code for one in said] == [200, 200, 500]
    done = zonectl(daemons[2], "health")
    assert (done.returncode, "RECORD_DAMAGED" in done.stdout) == (2, True), done.stdout
    other = next(one for one in made if one != uuid)
    assert (await client.get(f"{daemons[2].url}/zone/v1/images/{other}")).status_code == 200


async def test_backup_and_restore(fleet, client, tmp_path: Path):
    daemons = fleet(3)
    await start_all(client, daemons)
    made = await register(client, daemons[0], 30, "n")
    before = await settled(client, daemons)
    file = tmp_path / "backup"
    done = zonectl(daemons[1], "backup", file)
    assert done.returncode == 0, done.stderr
    assert f"position {before['position']}" in done.stdout
    assert zonectl(daemons[1], "backup", file).returncode == 5  # exists
    later = await register(client, daemons[0], 5, "after the backup")
    for daemon in daemons:
        daemon.kill()

    # The zones burnt down; one is restored, another joins it.
    first, second = make(tmp_path / "new", ["zone-a", "zone-b"], expect=1)
    restored = restore(first, file)
    assert restored.returncode == 0, restored.stderr
    assert before["hash"] in restored.stdout
    assert (first.directory / "data" / "zoned.db").stat().st_mode & 0o077 == 0
    try:
        await start_all(client, [first, second])
        after = await settled(client, [first, second])
        assert (after["images"], after["hash"]) == (before["images"], before["hash"])
        for uuid, integer in made.items():
            assert (await client.get(f"{second.url}/zone/v1/images/{integer}")).json()["uuid"] == uuid
        fresh = await register(client, second, 5, "new")
        assert min(fresh.values()) > max([*made.values(), *later.values()])
        again = restore(first, file)
        assert again.returncode == 1
        assert "in use by another zoned" in again.stderr
    finally:
        for daemon in (first, second):
            if daemon.is_running:
                daemon.kill()


async def test_hand_over_remove_and_replace(fleet, client):
    daemons = fleet(4, expect=3, extra="voters = 3\nlog_entries_keep = 100\n")
    await start_all(client, daemons)
    registry = await registry_of(client, daemons)
    assert "is being handed over" in zonectl(registry, "registry", "transfer").stdout

    async def moved() -> bool:
        return await registry_of(client, daemons) is not registry

    await until("another registry", moved)
    present = await registry_of(client, daemons)
    members = (await status(client, present))["registry"]["voters"]
    ids = {daemon.zone: (await status(client, daemon))["node"]["node_id"] for daemon in daemons}
    victim = next(daemon for daemon in daemons if ids[daemon.zone] in members and daemon is not present)
    refused = zonectl(victim, "registry", "remove", present.zone)
    assert refused.returncode == 5
    assert "hand it over first" in refused.stderr
    # A zone burns down: its node is removed, and the follower takes its place by itself.
    victim.kill()
    removed = zonectl(present, "registry", "remove", ids[victim.zone])
    assert removed.returncode == 0, removed.stderr
    rest = [daemon for daemon in daemons if daemon is not victim]

    async def replaced() -> bool:
        voters = [(await status(client, daemon))["registry"]["voters"] for daemon in rest]
        return all(len(one) == 3 and ids[victim.zone] not in one for one in voters)

    await until("three voters without the dead one", replaced)
    # It comes back after all, behind everybody's log, and finds itself removed: it follows.
    await register(client, present, 250, "while it was away")
    victim.start()
    await victim.wait_ready(client)

    async def follows() -> bool:
        return bool((await status(client, victim))["registry"]["role"] == "follower")

    await until("the removed node follows", follows)
    await register(client, victim, 3, "by the removed one")
    assert (await settled(client, daemons))["images"] == 253


async def test_recovery_after_a_lost_majority(fleet, client):
    daemons = fleet(3)
    await start_all(client, daemons)
    made = await register(client, daemons[0], 10, "n")
    await settled(client, daemons)
    survivor, *lost = daemons
    before = await client.get(f"{survivor.url}/zone/v1/status")
    token = {"Zone-After-Position": before.headers["zone-position"], "Zone-History": before.headers["zone-history"]}
    plan = answer(survivor, "registry", "recover")
    assert plan["possible"] is False
    assert plan["why_not"] == "there is a registry"
    refused = zonectl(survivor, "registry", "recover", "--yes")
    assert refused.returncode == 5
    for daemon in lost:
        daemon.kill()

    async def possible() -> bool:
        return bool(answer(survivor, "registry", "recover")["possible"])

    await until("the majority is known to be lost", possible)
    buffered = await register(client, survivor, 5, "meanwhile")
    assert len(answer(survivor, "registry", "recover")["voters_down"]) == 2
    done = zonectl(survivor, "registry", "recover", "--yes")
    assert done.returncode == 0, done.stderr

    async def drained() -> bool:
        state = await status(client, survivor)
        return bool(state["registry"]["role"] == "registry" and state["journal"]["entries"] == 0)

    await until("it serves as the registry and its journal is empty", drained)
    for uuid, integer in {**made, **buffered}.items():
        assert (await client.get(f"{survivor.url}/zone/v1/images/{integer}")).json()["uuid"] == uuid
    assert len(answer(survivor, "registry", "status")["voters"]) == 1
    # A position of before may be of a write that was given up: it is not taken for one of now.
    given_up = await client.get(f"{survivor.url}/zone/v1/status", headers=token)
    assert (given_up.status_code, given_up.json()["code"]) == (412, "other-history")
    now = {"Zone-After-Position": given_up.headers["zone-position"], "Zone-History": given_up.headers["zone-history"]}
    assert (await client.get(f"{survivor.url}/zone/v1/status", headers=now)).status_code == 200
    # The lost ones come back with empty data directories, as the plan says, and join.
    for daemon in lost:
        shutil.rmtree(daemon.directory / "data")
    await start_all(client, lost)
    assert (await settled(client, daemons))["images"] == 15
    fresh = await register(client, lost[0], 3, "after all that")
    assert min(fresh.values()) > max([*made.values(), *buffered.values()])


async def test_a_voter_that_lost_its_data_comes_back_as_another_node(fleet, client):
    daemons = fleet(3)
    await start_all(client, daemons)
    await register(client, daemons[0], 5, "n")
    await settled(client, daemons)
    victim = daemons[0]
    before = (await status(client, victim))["node"]["node_id"]
    victim.kill()
    for file in (victim.directory / "data").glob("zoned.db*"):
        file.unlink()
    await start_all(client, [victim])
    assert (await settled(client, daemons))["images"] == 5
    state = await status(client, victim)
    assert state["node"]["node_id"] != before
    assert state["registry"]["role"] == "follower"
    # It takes the lost one's seat once that is removed.
    present = await registry_of(client, daemons)
    assert zonectl(present, "registry", "remove", before).returncode == 0

    async def seated() -> bool:
        return bool((await status(client, victim))["registry"]["role"] in ("voter", "registry"))

    await until("the new node votes", seated)


async def test_an_older_copy_of_a_data_directory_is_refused(fleet, client, tmp_path: Path):
    daemons = fleet(3)
    await start_all(client, daemons)
    await settled(client, daemons)
    victim, *rest = daemons
    victim.stop()
    shutil.copytree(victim.directory / "data", tmp_path / "copy", ignore=shutil.ignore_patterns("*.sock"))
    await start_all(client, [victim])
    await register(client, victim, 5, "n")
    await settled(client, daemons)
    victim.kill()
    shutil.rmtree(victim.directory / "data")
    shutil.copytree(tmp_path / "copy", victim.directory / "data")
    victim.start()
    assert victim.process is not None
    assert victim.process.wait(20) == 1
    said = [line for line in victim.log.read_text().splitlines() if line.startswith("zoned: ")]
    assert len(said) == 1
    assert "an older copy was put back" in said[0]
    assert (await settled(client, rest))["images"] == 5


async def test_a_node_moves_to_another_machine_with_its_data_directory(fleet, client, tmp_path: Path):
    daemons = fleet(3)
    await start_all(client, daemons)
    made = await register(client, daemons[0], 5, "before")
    await settled(client, daemons)
    mover = daemons[1]
    node = (await status(client, mover))["node"]["node_id"]
    mover.stop()
    meanwhile = await register(client, daemons[0], 5, "meanwhile")
    # Another machine: other addresses, and a file that says so.
    (there,) = make(tmp_path / "there", [mover.zone], 3)
    shutil.rmtree(there.directory / "data", ignore_errors=True)
    await trio.run_process(["cp", "-a", mover.directory / "data", there.directory / "data"])
    seeds = ", ".join(f'"127.0.0.1:{daemon.peer_port}"' for daemon in (daemons[0], daemons[2]))
    there.config.write_text(there.config.read_text().replace("seeds = []", f"seeds = [{seeds}]"))
    try:
        await start_all(client, [there])
        moved = [daemons[0], there, daemons[2]]
        after = await settled(client, moved)
        assert (after["images"], (await status(client, there))["node"]["node_id"]) == (10, node)
        assert node in (await status(client, daemons[0]))["registry"]["voters"]

        async def known_there() -> bool:
            zones = (await client.get(f"{daemons[2].url}/zone/v1/zones")).json()["zones"]
            return [one["url"] for one in zones if one["node_id"] == node and one["state"] == "alive"] == [there.url]

        await until("others know the new address", known_there)
        fresh = await register(client, there, 5, "from there")
        assert len({*made.values(), *meanwhile.values(), *fresh.values()}) == 15
        # What stayed behind is refused when somebody starts it all the same.
        mover.start()
        assert mover.process is not None
        assert mover.process.wait(30) == 1
        assert "zoned: " in mover.log.read_text()
        assert (await settled(client, moved))["images"] == 15
    finally:
        if there.is_running:
            there.kill()
