"""Two zones and a witness, each a real process: what a witness is, and what it is for."""

import httpx
import pytest
import trio

from tests.system.conftest import settled, status, until
from tests.system.test_operations import answer, register, registry_of, zonectl
from zoned.fleet import Daemon

pytestmark = pytest.mark.system


def make_witness(daemon: Daemon) -> None:
    """Before its first start."""
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace("[node]\n", '[node]\nrole = "witness"\n'))


async def wait_up(client: httpx.AsyncClient, daemon: Daemon) -> None:
    """A witness is never ready for users, so its life is asked for."""

    async def lives() -> bool:
        try:
            return (await client.get(f"{daemon.url}/livez")).status_code == 200
        except httpx.TransportError:
            return False

    await until(f"{daemon.zone} is up", lives)


@pytest.fixture
async def two_and_a_witness(fleet, client) -> list[Daemon]:
    """zone-a and zone-b serve, zone-c is the witness; all three vote."""
    daemons: list[Daemon] = fleet(3, expect=3, extra="voters = 3\nlog_entries_keep = 100\n")
    make_witness(daemons[2])
    for daemon in daemons:
        daemon.start()
    for daemon in daemons:
        await wait_up(client, daemon)

    async def labelled() -> bool:
        states = [(await status(client, daemon))["registry"] for daemon in daemons]
        roles = [state["role"] for state in states]
        return sorted(roles[:2]) == ["registry", "voter"] and roles[2] == "witness"

    await until("the witness is one by the log, and another is the registry", labelled)
    return daemons


async def test_a_witness_votes_answers_operators_and_sends_users_elsewhere(client, two_and_a_witness):
    a, b, witness = two_and_a_witness
    made = await register(client, a, 3, "n")
    (uuid, integer), *_ = made.items()
    for path in (
        "/readyz",
        f"/v2/images/{uuid}",
        "/v2/images",
        f"/zone/v1/images/{integer}",
        "/v1/images",
        "/versions",
    ):
        said = await client.get(f"{witness.url}{path}")
        assert (said.status_code, said.json()["code"]) == (503, "witness"), path
    assert (await client.post(f"{witness.url}/zone/v1/images", json={"name": "n"})).status_code == 503
    for path in ("/livez", "/metrics", "/zone/v1/health"):
        assert (await client.get(f"{witness.url}{path}")).status_code == 200, path
    # Operators see what it is, there and from elsewhere.
    shown = zonectl(a, "registry", "status").stdout
    assert [line.split()[0] for line in shown.splitlines() if "zone-c" in line] == ["witness"]
    (row,) = [line for line in zonectl(witness, "zones").stdout.splitlines() if "zone-c" in line]
    assert " witness " in row
    assert "http" not in row
    ids = {daemon.zone: (await status(client, daemon))["node"]["node_id"] for daemon in two_and_a_witness}
    assert answer(witness, "registry", "status")["witnesses"] == [ids["zone-c"]]
    refused = zonectl(a, "registry", "transfer", "zone-c")
    assert refused.returncode == 5
    assert "is a witness" in refused.stderr
    # Its copy is as good as any.
    await settled(client, two_and_a_witness)
    assert answer(witness, "sync", "verify")["equal"] is True
    # Its vote is worth a zone's: with it, one of two may die.
    first = await registry_of(client, [a, b])
    other = b if first is a else a
    first.kill()

    async def taken_over() -> bool:
        return bool(await registry_of(client, [other, witness]) is other)  # the witness may have been it in between

    await until("the other zone is the registry", taken_over)

    async def written() -> bool:
        said = await client.post(f"{other.url}/zone/v1/images", json={"name": "after"})
        return bool(said.status_code == 201)

    await until("a write is committed by one zone and the witness", written)
    first.start()
    await first.wait_ready(client)
    assert (await settled(client, two_and_a_witness))["images"] >= len(made) + 1


async def test_a_witness_that_alone_has_the_newest_entries_hands_them_on(client, two_and_a_witness):
    """zone-b sleeps while zone-a and the witness go on, beyond what their logs keep; then zone-a is gone for good."""
    a, b, witness = two_and_a_witness
    if await registry_of(client, [a, b]) is b:
        assert zonectl(b, "registry", "transfer", "zone-a").returncode == 0

        async def moved() -> bool:
            return await registry_of(client, [a, b]) is a

        await until("zone-a is the registry", moved)
    await settled(client, two_and_a_witness)
    b.kill()
    made: dict[str, int] = {}

    async def write() -> None:
        made.update(await register(client, a, 30, "n"))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(write)

    async def compacted() -> bool:
        state = await status(client, witness)
        return bool(state["registry"]["log_first"] > 100 and state["catalogue"]["images"] == 300)

    await until("the witness has it all and has compacted its log", compacted)
    a.kill()
    b.start()
    await b.wait_ready(client)

    async def taken_over() -> bool:
        return bool((await status(client, b))["registry"]["role"] == "registry")

    await until("zone-b is the registry, with what only the witness had", taken_over)
    for uuid, integer in list(made.items())[::50]:
        assert (await client.get(f"{b.url}/zone/v1/images/{integer}")).json()["uuid"] == uuid
    fresh = await register(client, b, 3, "after")
    assert min(fresh.values()) > 0
    assert (await settled(client, [b, witness]))["images"] == 303
    # In the end the witness is all that is left: what is in its copy can be gone on with.
    b.kill()

    async def possible() -> bool:
        return bool(answer(witness, "registry", "recover")["possible"])

    await until("the majority is known to be lost", possible)
    assert zonectl(witness, "registry", "recover", "--yes").returncode == 0

    async def begun_anew() -> bool:
        return bool((await status(client, witness))["registry"]["role"] == "registry")

    await until("a cluster of the witness alone", begun_anew)
    assert (await status(client, witness))["catalogue"]["images"] == 303
