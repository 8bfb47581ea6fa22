"""Keystone's authenticator against one in memory that can be taken away; the real one is in tests/clients."""

from datetime import UTC, datetime

import httpx
import pytest
import trio
import trio.lowlevel

from conf import Auth
from zoned import policy
from zoned.api.problems import Problem
from zoned.auth.keystone import AWAY_S, BAD_S, Keystone

START = 1_800_000_000.0


def asking(token: str) -> list[tuple[bytes, bytes]]:
    return [(b"x-auth-token", token.encode())]


class Fake:
    """A Keystone: tokens by text, and what was asked."""

    def __init__(self) -> None:
        self.good: dict[str, tuple[str | None, list[str], float]] = {"good": ("p", ["member", "reader"], START + 3_600)}
        self.asked: list[str] = []
        self.logins = 0
        self.ours = ""
        self.down = False
        self.refusal = 404
        self.wall = START
        self.now = 10.0

    async def handle(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("down")
        if request.method == "POST":
            self.logins += 1
            self.ours = f"ours-{self.logins}"
            return httpx.Response(201, headers={"X-Subject-Token": self.ours}, json={})
        if request.headers["X-Auth-Token"] != self.ours:
            return httpx.Response(401)
        token = request.headers["X-Subject-Token"]
        self.asked.append(token)
        await trio.lowlevel.checkpoint()
        if token not in self.good:
            return httpx.Response(self.refusal)
        project, roles, expires = self.good[token]
        stamp = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
        body = {"expires_at": stamp, "user": {"id": "u", "name": "bob"}, "roles": [{"name": one} for one in roles]}
        return httpx.Response(200, json={"token": body | ({"project": {"id": project}} if project else {})})


@pytest.fixture
def fake():
    return Fake()


@pytest.fixture
async def door(fake):
    settings = Auth(keystone_url="http://k:5000/v3/", recheck_s=300.0)
    async with httpx.AsyncClient(transport=httpx.MockTransport(fake.handle)) as client:
        yield Keystone(client, settings, lambda: "pw", policy.DEFAULT, lambda: fake.wall, lambda: fake.now)


async def status_of(door: Keystone, token: str) -> int:
    try:
        await door.identify(asking(token), None)
    except Problem as problem:
        return problem.status
    return 200


async def test_a_token_is_asked_about_once(door, fake):
    assert door.known(asking("good")) is None
    caller = await door.identify(asking("good"), None)
    assert (caller.project, caller.roles, caller.user) == ("p", {"member", "reader"}, "bob")
    assert door.known(asking("good")) == caller
    assert fake.asked == ["good"]


async def test_many_at_once_ask_once(door, fake):
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(door.identify, asking("good"), None)
    assert fake.asked == ["good"]


async def test_an_unknown_token_is_401_and_not_asked_about_at_each_try(door, fake):
    assert [await status_of(door, "bad") for _ in range(3)] == [401] * 3
    assert fake.asked == ["bad"]
    fake.now += BAD_S + 1
    fake.good["bad"] = fake.good["good"]
    assert await status_of(door, "bad") == 200


async def test_a_token_taken_back_stops_at_the_next_check(door, fake):
    assert await status_of(door, "good") == 200
    del fake.good["good"]
    assert door.known(asking("good")) is not None
    fake.now += 301
    assert door.known(asking("good")) is None
    assert await status_of(door, "good") == 401


async def test_roles_are_those_of_the_last_check(door, fake):
    await door.identify(asking("good"), None)
    fake.good["good"] = ("p", ["reader"], START + 3_600)
    fake.now += 301
    assert (await door.identify(asking("good"), None)).roles == {"reader"}


async def test_while_it_is_away_known_tokens_go_on_until_their_end_and_unknown_ones_wait(door, fake):
    await door.identify(asking("good"), None)
    fake.down = True
    fake.now += 301
    assert await status_of(door, "good") == 200
    assert await status_of(door, "new") == 503
    fake.wall = START + 3_600
    assert await status_of(door, "good") == 503, "it has ended; whether there is a longer one nobody can say"
    fake.down = False
    fake.now += AWAY_S + 1
    fake.good["new"] = ("q", ["member"], START + 9_000)
    assert await status_of(door, "new") == 200


async def test_nobody_waits_for_it_again_and_again(door, fake):
    fake.down = True
    assert await status_of(door, "a") == 503
    fake.down = False
    assert await status_of(door, "good") == 503
    fake.now += AWAY_S
    assert await status_of(door, "good") == 200


async def test_our_own_token_is_renewed(door, fake):
    assert await status_of(door, "good") == 200
    fake.ours = "another"  # ours is not valid any more
    fake.good["second"] = fake.good["good"]
    assert await status_of(door, "second") == 200
    assert fake.logins == 2


async def test_an_ended_token_is_refused_whatever_it_says(door, fake):
    fake.good["old"] = ("p", ["admin"], START - 1)
    assert await status_of(door, "old") == 401
    assert door.known(asking("old")) is None


async def test_a_token_without_a_project_has_none(door, fake):
    fake.good["unscoped"] = (None, [], START + 60)
    caller = await door.identify(asking("unscoped"), None)
    assert (caller.project, caller.roles) == (None, frozenset())


@pytest.mark.parametrize("token", ["", "x" * 20_000, "x" * 4_001, "ünïcode", "a\x01b"])
async def test_odd_tokens_are_not_asked_about(door, fake, token):
    assert await status_of(door, token) == 401
    assert fake.asked == []


@pytest.mark.parametrize("status", [400, 413, 414, 431])
async def test_a_token_that_it_cannot_read_takes_it_away_from_nobody(door, fake, status):
    fake.refusal = status
    assert await status_of(door, "x" * 4_000) == 401
    assert await status_of(door, "good") == 200


async def test_a_token_is_remembered_until_its_end(door, fake):
    assert not door.remembers(asking("good"))
    assert not door.remembers([])
    assert await status_of(door, "good") == 200
    fake.now += 301
    assert door.known(asking("good")) is None
    assert door.remembers(asking("good"))
    fake.wall = START + 3_600
    assert not door.remembers(asking("good"))
