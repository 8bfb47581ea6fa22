"""The stream of changes over real sockets: both spellings, heartbeats, going on, who sees what, ends."""

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import trio
from starlette.requests import Request

from conf import parse
from store import log
from tests.zoned.conftest import config_text, until
from zoned import daemon
from zoned.api import watching as watching_module
from zoned.api.asgi import Scope
from zoned.api.caller import AGAIN, CALLER, Caller
from zoned.api.problems import Problem

MINE = {"X-Project-Id": "p1", "X-Roles": "member"}
THEIRS = {"X-Project-Id": "p2", "X-Roles": "member"}
KIND = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
WAIT_S = 60


class Messages:
    """The messages of one watch. A plain socket: a stream without end is not what HTTP clients are good at."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._data = b""

    async def line(self) -> str:
        """The next line; raises StopAsyncIteration at the end."""
        while b"\n" not in self._data:
            more = await self._stream.receive_some()
            if not more:
                raise StopAsyncIteration
            self._data += bytes(more)
        line, _, self._data = self._data.partition(b"\n")
        return line.decode().rstrip("\r")

    def __aiter__(self) -> "Messages":
        return self

    async def __anext__(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self.line())
        return found

    async def about(self, image: str) -> dict[str, Any]:
        """The next message about an image: others' tests write as well."""
        async for message in self:
            if message.get("uuid") == image:
                return message
        raise AssertionError("the stream ended")


@asynccontextmanager
async def watching(
    zone: httpx.AsyncClient, query: str = "", headers: dict[str, str] | None = None
) -> AsyncIterator[Messages]:
    """One watch, with its messages."""
    asked = {"Connection": "close", **(headers or {})}
    head = f"GET /zone/v1/watch{query} HTTP/1.0\r\n" + "".join(f"{n}: {v}\r\n" for n, v in asked.items()) + "\r\n"
    with trio.fail_after(WAIT_S):
        async with await trio.open_tcp_stream(zone.base_url.host, zone.base_url.port or 80) as stream:
            await stream.send_all(head.encode())
            messages = Messages(stream)
            assert "200" in await messages.line()
            answered = {}
            while line := await messages.line():
                name, _, value = line.partition(": ")
                answered[name.lower()] = value
            wanted = asked.get("Accept", "application/jsonl")
            assert answered["content-type"].startswith(wanted)
            yield messages


async def test_changes_arrive_as_they_are_applied_with_the_record(zone: httpx.AsyncClient) -> None:
    async with watching(zone) as messages:
        first = await anext(messages)
        assert (first["type"], first["position"] > 0) == ("heartbeat", True)
        made = (await zone.post("/zone/v1/images", json={"name": "n"})).json()
        created = await messages.about(made["uuid"])
        assert (created["type"], created["write"], created["image"]["name"]) == ("created", made["write"], "n")
        assert created["position"] > first["position"]
        await zone.put(f"/v2/images/{made['uuid']}/tags/t")
        changed = await messages.about(made["uuid"])
        assert (changed["type"], changed["changed"], changed["image"]["tags"]) == ("updated", ["tags/t"], ["t"])
        await zone.delete(f"/zone/v1/images/{made['uuid']}")
        deleted = await messages.about(made["uuid"])
        assert (deleted["type"], deleted["image"], deleted["integer"]) == ("deleted", None, made["integer"])


async def test_who_comes_back_goes_on_where_it_was(zone: httpx.AsyncClient) -> None:
    start = int((await zone.get("/zone/v1/status")).headers["zone-position"])
    made = [(await zone.post("/zone/v1/images", json={})).json()["uuid"] for _ in range(3)]
    async with watching(zone, f"?from={start}") as messages:
        first = await messages.about(made[0])
    for query, headers in ((f"?from={first['position']}", {}), ("?from=0", {"Last-Event-ID": str(first["position"])})):
        async with watching(zone, query, headers) as messages:
            seen: list[str] = []
            while made[2] not in seen:
                seen.append((await anext(messages)).get("uuid", ""))
        assert [one for one in seen if one in made] == made[1:]


async def test_a_browser_gets_server_sent_events(zone: httpx.AsyncClient) -> None:
    async with watching(zone, headers={"Accept": "text/event-stream"}) as messages:
        head = [await messages.line() for _ in range(4)]
        assert (head[0][:4], head[1], head[2][:6], head[3]) == ("id: ", "event: heartbeat", "data: ", "")
        made = (await zone.post("/zone/v1/images", json={})).json()
        while True:
            event = [await messages.line() for _ in range(4)]
            document = json.loads(event[2].removeprefix("data: "))
            if document.get("uuid") == made["uuid"]:
                break
        assert event == [f"id: {document['position']}", "event: created", event[2], ""]


async def test_silence_is_broken_by_heartbeats_that_say_how_far_one_is(zone: httpx.AsyncClient) -> None:
    async with watching(zone, "?heartbeat=1", THEIRS) as messages:
        first = await anext(messages)
        hidden = (await zone.post("/v2/images", json={"visibility": "private"}, headers=MINE)).headers
        assert first["position"] < int(hidden["zone-position"])
        while True:
            beat = await anext(messages)
            if beat["type"] == "heartbeat" and beat["position"] >= int(hidden["zone-position"]):
                break
    assert set(beat) == {"position", "type", "staleness_s"}


async def test_a_reader_sees_what_it_may_see_and_learns_when_that_ends(zone: httpx.AsyncClient) -> None:
    async with watching(zone, headers=THEIRS) as messages, watching(zone, headers=MINE) as own:
        hidden = (await zone.post("/v2/images", json={"visibility": "private"}, headers=MINE)).json()["id"]
        shared = (await zone.post("/v2/images", json={}, headers=MINE)).json()["id"]
        await zone.post(f"/v2/images/{shared}/members", json={"member": "p2"}, headers=MINE)
        await zone.delete(f"/v2/images/{shared}/members/p2", headers=MINE)
        step = [{"op": "replace", "path": "/name", "value": "not theirs any more"}]
        await zone.patch(f"/v2/images/{shared}", json=step, headers={**MINE, **KIND})
        last = (await zone.post("/v2/images", json={"visibility": "community"}, headers=MINE)).json()["id"]
        seen: list[dict[str, Any]] = []
        while not seen or seen[-1].get("uuid") != last:
            seen.append(await anext(messages))
        told = [(one["type"], "image" in one) for one in seen if one.get("uuid") in (hidden, shared)]
        # The change that shared it may be seen only as it is when it is told: withdrawn already.
        assert told[-1] == ("withdrawn", False)
        assert all(one.get("uuid") != hidden for one in seen)
        assert sum(one[0] == "updated" for one in told) <= 1
        assert (await own.about(hidden))["type"] == "created"
        kinds: list[str] = []
        while len(kinds) < 4:
            message = await anext(own)
            if message.get("uuid") == shared:
                kinds.append(message["type"])
        assert kinds == ["created", "updated", "updated", "updated"]


@pytest.mark.parametrize("query", ["from=x", "from=-1", "from=", "from=" + "1" * 20, "heartbeat=0", "heartbeat=x"])
async def test_bad_questions_are_bad_requests(zone: httpx.AsyncClient, query: str) -> None:
    answer = await zone.get(f"/zone/v1/watch?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "bad-query")


async def test_a_head_request_and_a_zone_without_catalogue_get_an_end(
    zone: httpx.AsyncClient, lone: httpx.AsyncClient
) -> None:
    assert (await zone.head("/zone/v1/watch")).status_code == 200
    answer = await lone.get("/zone/v1/watch")
    assert (answer.status_code, answer.json()["code"]) == (503, "unsynced")


async def test_a_position_that_is_still_to_come_is_waited_for(zone: httpx.AsyncClient) -> None:
    now = int((await zone.get("/zone/v1/status")).headers["zone-position"])
    async with watching(zone, f"?from={now + 2}&heartbeat=1") as messages:
        assert (await anext(messages))["position"] == now + 2
        made = [(await zone.post("/zone/v1/images", json={})).json()["uuid"] for _ in range(4)]
        message = await messages.about(made[3])
        assert message["position"] > now + 2


@pytest.fixture
async def own(tmp_path, quiet_logs):
    """A zone of this loop, to look into and to stop."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        running = await nursery.start(daemon.serve, parse(config_text(tmp_path)), stop)
        async with httpx.AsyncClient(base_url=running.url, timeout=WAIT_S, trust_env=False) as client:
            yield client, running.zone, stop
        stop.set()


async def test_a_reader_that_goes_away_is_forgotten(own) -> None:
    client, zone, _ = own
    await until(lambda: bool(zone.is_synced))
    async with watching(client) as messages:
        await anext(messages)
        assert zone.feed.watchers == 1
    await until(lambda: zone.feed.watchers == 0)


async def test_too_many_readers_are_sent_elsewhere(own, monkeypatch: pytest.MonkeyPatch) -> None:
    client, zone, _ = own
    monkeypatch.setattr("zoned.api.watching.WATCHERS_MAX", 0)
    await until(lambda: bool(zone.is_synced))
    answer = await client.get("/zone/v1/watch")
    assert (answer.status_code, answer.json()["code"]) == (503, "too-many-watchers")


async def test_the_stream_ends_when_the_daemon_stops(own) -> None:
    client, zone, stop = own
    await until(lambda: bool(zone.is_synced))
    async with watching(client) as messages:
        await anext(messages)
        stop.set()
        rest = [message async for message in messages]
    assert {one["type"] for one in rest} <= {"heartbeat", "created"}


async def test_the_stream_ends_with_its_token_and_goes_by_the_rights_of_now(own) -> None:
    client, zone, _ = own
    await until(lambda: bool(zone.is_synced))
    now: list[Caller | Problem] = [Caller("p1", frozenset(("member",)))]
    sent: list[dict[str, Any]] = []
    app = SimpleNamespace(state=SimpleNamespace(zone=zone))
    scope: Scope = {"type": "http", "headers": [], "app": app, CALLER: Caller("p2", frozenset(("member",)))}

    async def again() -> Caller:
        if isinstance(now[0], Problem):
            raise now[0]
        return now[0]

    async def send(message: Scope) -> None:
        sent.append(dict(message))

    async def receive() -> Scope:
        await trio.sleep_forever()

    stream = watching_module._Stream(Request({**scope, AGAIN: again}), "x", zone.position, 60.0)
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream, scope, receive, send)
            await until(lambda: len(sent) > 1)
            await client.post("/zone/v1/images", json={"name": "mine", "owner": "p1", "visibility": "private"})
            await until(lambda: any(b"mine" in one.get("body", b"") for one in sent))
            now[0] = Problem(401, "unauthorized", "")
            await client.post("/zone/v1/images", json={"name": "later", "owner": "p1", "visibility": "private"})
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert not any(b"later" in one.get("body", b"") for one in sent)


async def test_what_is_no_longer_in_the_log_is_gone_and_says_what_to_do(own) -> None:
    client, zone, _ = own
    await until(lambda: bool(zone.is_synced))
    for _ in range(5):
        await client.post("/zone/v1/images", json={"uuid": str(uuid.uuid4())})
    await zone._database.write(lambda c: log.compact(c, 4))
    answer = await client.get("/zone/v1/watch?from=2")
    assert (answer.status_code, answer.json()["code"]) == (410, "compacted")
    assert "/zone/v1/images" in answer.json()["detail"]
    async with watching(client, "?from=4") as messages:
        assert (await anext(messages))["position"] == 4


async def test_credentials_in_a_location_that_is_gone_are_not_told_either(zone: httpx.AsyncClient) -> None:
    places: list[dict[str, Any]] = [{"url": one, "metadata": {}} for one in ("https://user:s3cr3t@o/1", "https://o/2")]
    start = int((await zone.get("/zone/v1/status")).headers["zone-position"])
    body = {"visibility": "public", "owner": "p1", "locations": places}
    made = (await zone.post("/zone/v1/images", json=body)).json()["uuid"]
    step = [{"op": "remove", "path": "/locations/0"}]
    assert (await zone.patch(f"/v2/images/{made}", json=step, headers=KIND)).status_code == 200
    for roles, told in (("admin", True), ("auditor", False), ("member", False)):
        headers = {"X-Project-Id": "elsewhere", "X-Roles": roles}
        async with watching(zone, f"?from={start}", headers) as messages:
            seen = [await messages.about(made)]
            while seen[-1]["type"] != "updated":
                seen.append(await messages.about(made))
            assert ("s3cr3t" in str(seen)) is told, roles


async def test_whom_an_image_was_shared_with_is_not_told_when_nobody_is_left(zone: httpx.AsyncClient) -> None:
    start = int((await zone.get("/zone/v1/status")).headers["zone-position"])
    body = {"visibility": "shared", "owner": "p1"}
    made = (await zone.post("/zone/v1/images", json=body)).json()["uuid"]
    members = f"/v2/images/{made}/members"
    assert (await zone.post(members, json={"member": "a-partner"})).status_code == 200
    assert (await zone.delete(f"{members}/a-partner")).status_code == 204
    step = [{"op": "replace", "path": "/visibility", "value": "public"}]
    assert (await zone.patch(f"/v2/images/{made}", json=step, headers=KIND)).status_code == 200
    for roles, told in (("admin", True), ("member", False)):
        headers = {"X-Project-Id": "elsewhere", "X-Roles": roles}
        async with watching(zone, f"?from={start}", headers) as messages:
            seen = [await messages.about(made)]
            while "visibility" not in seen[-1]["changed"]:
                seen.append(await messages.about(made))
            assert ("a-partner" in str(seen)) is told, roles
