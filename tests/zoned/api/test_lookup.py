"""The hot lookup and the application give the same answer, and only what is exactly a lookup is answered hot."""

from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import orjson
import pytest
import trio

from conf import parse
from tests.zoned.conftest import config_text, open_app, until
from zoned import daemon, policy
from zoned.api.http1 import Prepared
from zoned.api.lookup import HotReads
from zoned.auth.identity import Open
from zoned.daemon import Running

BODY = {
    "name": "ñandú",
    "size": 5,
    "owner": "somebody else",
    "tags": ["b", "a"],
    "properties": {"os_distro": "x", "quoted": '"'},
    "locations": [{"url": "http://o/1", "metadata": {"store": "s", "deep": [1, {"a": None}]}}],
}
VOLATILE = {"x-openstack-request-id", "date", "zone-staleness", "server", "content-length", "zone-position"}


@pytest.fixture
async def served(tmp_path):
    """A daemon in this loop, so that its zone can be asked directly."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        running = await nursery.start(daemon.serve, parse(config_text(tmp_path)), stop)
        yield running
        stop.set()


@pytest.fixture
async def record(served):
    await until(lambda: served.zone.runway().left > 0)  # or the record would have no integer
    async with httpx.AsyncClient(base_url=served.url, trust_env=False) as client:
        made = (await client.post("/zone/v1/images", json=BODY)).json()
        deleted = (await client.post("/zone/v1/images", json={"name": "gone"})).json()
        assert (await client.delete(f"/v2/images/{deleted['uuid']}")).status_code == 204
    return {**made, "deleted": deleted["uuid"]}


def hot(
    served: Running, target: str, headers: Sequence[tuple[bytes, bytes]] = (), method: bytes = b"GET"
) -> Prepared | None:
    return ask(served)(method, target.encode(), list(headers), "127.0.0.1", b"")


def ask(served: Running) -> HotReads:
    return HotReads(served.zone, Open(policy.DEFAULT, trusted=True).known)


async def by_application(served: Running, target: str, headers: Sequence[tuple[bytes, bytes]] = ()) -> Any:
    """The application's own answer, without the server and its lookup."""
    messages = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        messages.append(message)

    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"h"), *headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    await open_app(served.zone)(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in messages[1:])
    return messages[0]["status"], messages[0]["headers"], body


def told(headers: Any) -> set[tuple[bytes, bytes]]:
    return {(name, value) for name, value in headers if name.decode() not in VOLATILE}


def references(record: dict[str, Any]) -> Iterator[str]:
    yield f"/v2/images/{record['uuid']}"
    yield f"/v2/images/{record['uuid'].upper()}"
    yield f"/zone/v1/images/{record['uuid']}"
    yield f"/zone/v1/images/{record['integer']}"
    yield f"/zone/v1/images/{record['ami']}"


async def test_both_give_the_same_answer(served, record):
    for target in references(record):
        for headers in (
            (),
            [(b"accept", b"*/*"), (b"x-auth-token", b"t")],
            [(b"if-none-match", f'"{record["write"]}"'.encode())],
        ):
            answer = hot(served, target, headers)
            assert answer is not None, target
            status, sent, body = await by_application(served, target, headers)
            assert (answer.status, answer.body) == (status, body), target
            assert told(answer.headers()) == told(sent), target


@pytest.mark.parametrize("header", [b"zone-on-stale", b"zone-max-staleness", b"zone-after-position", b"zone-history"])
async def test_headers_that_change_the_answer_are_not_for_the_hot_path(served, record, header):
    assert hot(served, f"/v2/images/{record['uuid']}", [(header, b"1")]) is None


async def test_tenants_see_what_the_application_shows_them(served, record):
    target = f"/v2/images/{record['uuid']}"
    stranger = [(b"x-project-id", b"somebody"), (b"x-roles", b"member")]
    assert hot(served, target, stranger) is None, "the application says 404"
    assert (await by_application(served, target, stranger))[0] == 404
    auditor = [(b"x-roles", b"auditor")]
    answer = hot(served, target, auditor)
    assert answer is not None
    assert answer.body == (await by_application(served, target, auditor))[2]


async def test_whatever_is_not_exactly_a_lookup_is_left_to_the_application(served, record):
    uuid = record["uuid"]
    for target in (
        "/v2/images?marker=nothing",
        "/v2/images?min_ram=abc",
        "/v2/images?consistent=1",
        "/v2/images?limit=1000",
        "/v2/images/",
        f"/v2/images/{uuid}/",
        f"/v2/images/{uuid}?x=1",
        f"/v2/images/{uuid}/file",
        f"/v2/images/{record['integer']}",
        f"/v2/images/{uuid[:-1]}",
        f"/v2/images/{uuid[:-1]}g",
        f"/v2/images/{record['deleted']}",
        f"/zone/v1/images/{record['deleted']}",
        "/zone/v1/images/99999999999999999999999999",
        "/zone/v1/images/%31",
        "/zone/v1/images/\u00e9",
        "/",
    ):
        assert hot(served, target) is None, target


async def test_short_lists_are_the_same_from_both(served, record):
    for target in (
        "/v2/images",
        "/v2/images?",
        "/v2/images?name=%C3%B1and%C3%BA&limit=1",
        "/v2/images?name=nobody&os_distro=x",
        "/v2/images?os_distro=x&sort=name:asc,size",
        f"/v2/images?marker={record['uuid']}",
        "/v2/images?limit=0",
    ):
        for headers in ([], [(b"x-project-id", b"somebody else"), (b"x-roles", b"member")], [(b"x-roles", b"auditor")]):
            answer = hot(served, target, headers)
            assert answer is not None, target
            status, sent, body = await by_application(served, target, headers)
            assert (answer.status, answer.body) == (status, body), target
            assert told(answer.headers()) == told(sent), target


async def test_many_records_at_once_are_the_same_from_both(served, record):
    async with httpx.AsyncClient(base_url=served.url, trust_env=False) as client:
        for known, is_hot in (
            ([record["uuid"], record["uuid"].upper(), record["integer"], record["ami"]], True),
            ([record["uuid"]] * 101, False),
            ([record["uuid"], record["deleted"]], False),
            (["no-such-alias"], False),
            ([], True),
        ):
            body = orjson.dumps({"references": known})
            answer = ask(served)(b"POST", b"/zone/v1/images:batchGet", [], "127.0.0.1", body)
            assert (answer is not None) is is_hot
            sent = await client.post("/zone/v1/images:batchGet", content=body, headers={"Zone-Durability": "local"})
            assert sent.status_code == 200
            assert [item["status"] for item in sent.json()["items"]].count(200) >= is_hot * len(known)
            if answer is not None:
                items = orjson.loads(answer.body)["items"]
                assert items == sent.json()["items"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"references": 1}', b'{"references": [null]}'])
async def test_a_body_that_is_no_question_is_left_to_the_application(served, body):
    assert ask(served)(b"POST", b"/zone/v1/images:batchGet", [], "127.0.0.1", body) is None


async def test_the_server_answers_hot_and_head_has_no_body(served, record):
    async with httpx.AsyncClient(base_url=served.url, trust_env=False) as client:
        with trio.fail_after(30):
            shown = await client.get(f"/zone/v1/images/{record['integer']}")
            head = await client.head(f"/zone/v1/images/{record['integer']}")
    assert shown.json()["uuid"] == record["uuid"]
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", shown.headers["etag"])
