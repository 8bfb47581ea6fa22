"""The document of everything, once and as a stream; the registry's past; figures over time."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import trio
from starlette.requests import Request

from conf import parse
from tests.zoned.conftest import config_text, until
from zoned import daemon
from zoned.api import overview as module
from zoned.api.asgi import Scope
from zoned.api.caller import AGAIN, CALLER, Caller
from zoned.api.problems import Problem
from zoned.zone import Zone

Own = tuple[httpx.AsyncClient, Zone, trio.Event]
LOOK = {"Accept": module.EVENTS}
WAIT_S = 30.0


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[Own]:
    """A zone in this loop: client, zone, and the event that stops it."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        running = await nursery.start(daemon.serve, parse(config_text(tmp_path)), stop)
        async with httpx.AsyncClient(base_url=running.url, timeout=WAIT_S, trust_env=False) as client:
            await until(lambda: bool(running.zone.is_synced), WAIT_S)
            yield client, running.zone, stop
        stop.set()


async def documents(lines: AsyncIterator[str]) -> AsyncIterator[dict[str, Any]]:
    async for line in lines:
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


@asynccontextmanager
async def looking(client: httpx.AsyncClient) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    with trio.fail_after(WAIT_S):
        async with client.stream("GET", "/zone/v1/overview?every=1", headers=LOOK) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith(module.EVENTS)
            yield documents(answer.aiter_lines())


async def test_it_says_what_the_parts_say(own: Own) -> None:
    client, zone, _ = own
    await client.post("/zone/v1/images", json={"name": "one"})
    await client.get("/zone/v1/images/1")
    await trio.sleep(module.AGE_S_MAX)  # an older document may be given until then
    whole = (await client.get("/zone/v1/overview")).json()
    status = (await client.get("/zone/v1/status")).json()
    assert whole["status"]["catalogue"]["images"] == status["catalogue"]["images"] == 1
    assert [one["zone"] for one in whole["zones"]] == ["alpha"]
    assert whole["served"]["committed"] == 1
    assert whole["served"]["lookups"] >= 1
    assert whole["room"]["journal_entries_max"] == zone.settings.config.journal.entries_max

    async def agree() -> bool:  # integers are being granted meanwhile
        health = (await client.get("/zone/v1/health")).json()
        return bool((await client.get("/zone/v1/overview")).json()["health"] == health)

    await until(agree, WAIT_S)
    registry = (await client.get("/zone/v1/registry")).json()
    assert registry["known"]
    assert whole["elections"] == len(registry["elections"]) == 1
    assert whole["registry"] == registry["elections"][0]
    assert registry["elections"][0]["zone"] == "alpha"
    trend = (await client.get("/zone/v1/trend")).json()
    assert trend["samples"][0].keys() >= {"at", "staleness_s", "waiting", "lookups", "committed"}


async def test_the_stream_comes_again_and_ends_with_the_daemon(
    own: Own,
) -> None:
    client, _, stop = own
    async with looking(client) as stream:
        first = await anext(stream)
        await client.post("/zone/v1/images", json={"name": "one"})
        async for later in stream:
            assert later["at"] > first["at"]
            if later["served"]["committed"]:
                break
        stop.set()
        assert [one async for one in stream if "at" not in one] == []


async def test_a_change_of_the_registry_is_told_at_once(
    own: Own,
) -> None:
    _, zone, _ = own
    overview = module.Overview(zone)
    sent: list[bytes] = []

    async def send(message: Scope) -> None:
        sent.append(message.get("body", b""))

    async def receive() -> Scope:
        await trio.sleep_forever()

    app = SimpleNamespace(state=SimpleNamespace(zone=zone))
    scope: Scope = {"type": "http", "headers": [], "app": app, CALLER: Caller()}
    stream = module._Stream(Request(scope), overview, 3_600)
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream, scope, receive, send)
            await until(lambda: len(sent) == 2, WAIT_S)

            def told_again() -> bool:
                zone.replication.note_change()
                return len(sent) >= 3

            await until(told_again, WAIT_S)
            assert overview.viewers == 1
            nursery.cancel_scope.cancel()
    assert overview.viewers == 0


async def test_the_stream_ends_with_the_right_to_look(own: Own) -> None:
    _, zone, _ = own
    now: list[Caller | Problem] = [Caller()]
    sent: list[Scope] = []

    async def again() -> Caller:
        if isinstance(now[0], Problem):
            raise now[0]
        return now[0]

    async def send(message: Scope) -> None:
        sent.append(message)

    async def receive() -> Scope:
        await trio.sleep_forever()

    for later in (Caller("p", frozenset(("member",))), Problem(401, "unauthorized", "")):
        now[0] = Caller()
        sent.clear()
        stream = module._Stream(Request({"type": "http", "headers": [], AGAIN: again}), module.Overview(zone), 1)
        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream, {}, receive, send)
                await until(lambda: len(sent) > 1, WAIT_S)
                now[0] = later
        assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_too_many_readers_are_told_so(own: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    client, _, _ = own
    monkeypatch.setattr(module, "VIEWERS_MAX", 0)
    answer = await client.get("/zone/v1/overview", headers=LOOK)
    assert (answer.status_code, answer.json()["code"]) == (503, "too-many-watchers")
    assert (await client.get("/zone/v1/overview")).status_code == 200


@pytest.mark.parametrize("query", ["every=0", "every=x", "every=-1"])
async def test_how_often_has_bounds(zone: httpx.AsyncClient, query: str) -> None:
    assert (await zone.get(f"/zone/v1/overview?{query}", headers=LOOK)).status_code == 400


async def test_a_zone_without_a_registry_says_so_everywhere(lone: httpx.AsyncClient) -> None:
    whole = (await lone.get("/zone/v1/overview")).json()
    assert (whole["registry"], whole["elections"], whole["status"]["registry"]["known"]) == (None, 0, False)
    assert "NO_REGISTRY" in {one["code"] for one in whole["health"]["findings"]}
    assert (await lone.get("/zone/v1/registry")).json()["elections"] == []


async def test_a_survey_that_is_young_enough_is_not_made_again(own: Own) -> None:
    client, zone, _ = own
    first = (await client.get("/zone/v1/reachability")).json()
    assert first["round_trips_ms"] == {"alpha": {"alpha": 0.0}}
    (row,) = first["nodes"]
    assert row["lag"] == {row["node_id"]: 0}
    made_at, _ = await zone.survey(WAIT_S, 0.0)
    assert (await zone.survey(WAIT_S, 3_600.0))[0] == made_at
    assert (await zone.survey(WAIT_S, 0.0))[0] > made_at
    assert (await client.get("/zone/v1/reachability?max_age=x")).status_code == 400
