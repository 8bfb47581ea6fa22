"""Zones that come later: they follow, learn, are promoted, take over, and are removed."""

import httpx
import pytest

from tests.system.conftest import settled, start_all, status, until
from zoned.fleet import Daemon

pytestmark = pytest.mark.system


async def voters(client: httpx.AsyncClient, daemon: Daemon) -> int:
    return len((await status(client, daemon))["registry"]["voters"])


async def registry_of(client: httpx.AsyncClient, daemons: list[Daemon]) -> Daemon | None:
    """The daemon that all of them name as the registry; None while they differ."""
    names = {(await status(client, daemon))["registry"]["zone"] for daemon in daemons}
    return next((daemon for daemon in daemons if names == {daemon.zone}), None)


async def test_one_founder_grows_to_three_voters_and_the_founder_may_go(fleet, client):
    daemons = fleet(3, expect=1)
    first, *later = daemons
    # Only the first founds; the others find it through their seeds and join.
    await start_all(client, [first])
    for number in range(20):
        answer = await client.post(f"{first.url}/zone/v1/images", json={"name": f"before {number}"})
        assert answer.status_code == 201
    await start_all(client, later)

    async def three_vote() -> bool:
        return all([await voters(client, daemon) == 3 for daemon in daemons])

    await until("three voters everywhere", three_vote)
    assert (await settled(client, daemons))["images"] == 20

    assert first.stop() == 0

    async def another_serves() -> bool:
        return await registry_of(client, later) is not None

    await until("another registry serves", another_serves)
    answer = await client.post(f"{later[0].url}/zone/v1/images", json={"name": "after"})
    assert (answer.status_code, answer.json()["state"]) == (201, "committed")
    await start_all(client, [first])
    assert (await settled(client, daemons))["images"] == 21


async def test_more_zones_than_founders_follow_the_log(fleet, client):
    daemons = fleet(4, expect=3, extra="voters = 3\n")
    await start_all(client, daemons)

    async def founded() -> bool:
        return all([await voters(client, daemon) == 3 for daemon in daemons])

    await until("a cluster of three voters", founded)
    roles = [(await status(client, daemon))["registry"]["role"] for daemon in daemons]
    assert roles.count("follower") == 1
    follower = daemons[roles.index("follower")]
    answer = await client.post(f"{follower.url}/zone/v1/images", json={"name": "by the follower"})
    assert (answer.status_code, answer.json()["state"]) == (201, "committed")
    assert (await settled(client, daemons))["images"] == 1


async def test_the_registry_hands_over_when_it_stops(fleet, client):
    daemons = fleet(3)
    await start_all(client, daemons)

    async def elected() -> bool:
        return await registry_of(client, daemons) is not None

    await until("a registry", elected)
    registry = await registry_of(client, daemons)
    assert registry is not None
    others = [daemon for daemon in daemons if daemon is not registry]
    assert registry.stop() == 0
    assert "handing over" in registry.log.read_text()
    answer = await client.post(f"{others[0].url}/zone/v1/images", json={"name": "at once"})
    assert (answer.status_code, answer.json()["state"]) == (201, "committed")
