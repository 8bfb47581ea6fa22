"""Idempotency-Key over real sockets, on every face that writes: done once, answered the same again."""

from typing import Any
from uuid import uuid4

import httpx
import pytest
import trio

from tests.zoned.conftest import config_text, serve

JSON = {"Content-Type": "application/json"}


def keyed(**more: str) -> dict[str, str]:
    return {"Idempotency-Key": str(uuid4()), **more}


async def twice(client: httpx.AsyncClient, method: str, path: str, **request: Any) -> httpx.Response:
    """The same request twice; the answer, which was the same both times."""
    headers = keyed(**request.pop("headers", {}))
    first, again = [await client.request(method, path, headers=headers, **request) for _ in range(2)]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert (again.status_code, again.content) == (first.status_code, first.content)
    told = ("zone-write", "location", "etag", "content-type")
    assert [again.headers.get(name) for name in told] == [first.headers.get(name) for name in told]
    return first


async def writes_made(client: httpx.AsyncClient) -> int:
    newest = (await client.get("/zone/v1/writes?limit=1")).json()["writes"]
    return int(newest[0]["sequence"]) if newest else 0


async def image(client: httpx.AsyncClient) -> str:
    made = await client.post("/v2/images", json={"disk_format": "raw", "container_format": "bare"})
    return str(made.json()["id"])


async def test_every_write_of_v2_is_done_once(zone):
    made = await twice(zone, "POST", "/v2/images", json={"name": "n", "visibility": "shared"})
    assert made.status_code == 201
    path = f"/v2/images/{made.json()['id']}"
    patch = [{"op": "replace", "path": "/name", "value": "m"}]
    media = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
    before = await writes_made(zone)
    assert (await twice(zone, "PATCH", path, json=patch, headers=media)).status_code == 200
    assert (await twice(zone, "PUT", f"{path}/tags/t")).status_code == 204
    assert (await twice(zone, "POST", f"{path}/members", json={"member": "p"})).status_code == 200
    assert (await twice(zone, "PUT", f"{path}/members/p", json={"status": "accepted"})).status_code == 200
    assert (await twice(zone, "DELETE", f"{path}/members/p")).status_code == 204
    assert (await twice(zone, "DELETE", f"{path}/tags/t")).status_code == 204
    assert (await twice(zone, "DELETE", path)).status_code == 204
    assert await writes_made(zone) == before + 7


async def test_v1_and_the_native_api_know_keys_too(zone):
    old = await twice(zone, "POST", "/v1/images", headers={"x-image-meta-name": "n"})
    assert old.status_code == 201
    assert (
        await twice(zone, "PUT", f"/v1/images/{old.json()['image']['id']}", headers={"x-image-meta-name": "m"})
    ).is_success
    native = await twice(zone, "POST", "/zone/v1/images", json={"name": "n"})
    assert native.status_code == 201
    assert (await twice(zone, "DELETE", f"/zone/v1/images/{native.json()['integer']}")).status_code == 200


async def test_without_a_registry_a_repeat_is_answered_as_buffered_again(lone):
    made = await twice(lone, "POST", "/zone/v1/images", json={"name": "n"})
    assert (made.status_code, made.json()["state"]) == (202, "buffered")


async def test_many_at_once_make_one_image(zone):
    headers, answers = keyed(), list[httpx.Response]()

    async def register() -> None:
        answers.append(await zone.post("/zone/v1/images", json={"name": "n"}, headers=headers))

    before = await writes_made(zone)
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(register)
    told = {(one.status_code, one.json().get("code")) for one in answers}
    assert told <= {(201, None), (409, "in-progress")}
    assert (201, None) in told
    assert len({one.json()["uuid"] for one in answers if one.status_code == 201}) == 1
    assert await writes_made(zone) == before + 1


@pytest.mark.parametrize(
    "other",
    [
        {"json": {"name": "other"}},
        {"url": "/zone/v1/images?x=1", "json": {"name": "n"}},
        {"url": "/v2/images", "json": {"name": "n"}},
    ],
)
async def test_a_key_of_another_request_is_422(zone, other):
    headers = keyed()
    await zone.post("/zone/v1/images", json={"name": "n"}, headers=headers)
    answer = await zone.post(**{"url": "/zone/v1/images", **other}, headers=headers)
    assert answer.status_code == 422
    assert "use a new key" in answer.text


async def test_a_key_counts_in_its_project_only(zone):
    headers = keyed()
    one = await zone.post("/v2/images", json={}, headers={**headers, "X-Project-Id": "one"})
    two = await zone.post("/v2/images", json={}, headers={**headers, "X-Project-Id": "two"})
    assert one.json()["id"] != two.json()["id"]


async def test_quotes_around_a_key_are_not_part_of_it(zone):
    key = str(uuid4())
    one = await zone.post("/zone/v1/images", json={}, headers={"Idempotency-Key": key})
    two = await zone.post("/zone/v1/images", json={}, headers={"Idempotency-Key": f'"{key}"'})
    assert one.json()["uuid"] == two.json()["uuid"]


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "a\tb", "caf\u00e9".encode()])
@pytest.mark.parametrize("path", ["/zone/v1/images", "/v2/images"])
async def test_a_key_that_is_none_is_told_so(zone, key, path):
    answer = await zone.post(path, json={}, headers=[("Idempotency-Key", key)])
    assert answer.status_code == 400
    assert "Idempotency-Key must be" in answer.text


async def test_two_keys_are_none(zone):
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    assert (await zone.post("/zone/v1/images", json={}, headers=headers)).status_code == 400


async def test_what_never_became_a_write_may_succeed_later(zone):
    """A request that was refused at the door is asked anew: its key belongs to nothing that happened."""
    uuid = await image(zone)
    headers = keyed()
    patch = [{"op": "replace", "path": "/protected", "value": "no boolean"}]
    media = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
    for _ in range(2):
        answer = await zone.patch(f"/v2/images/{uuid}", json=patch, headers={**headers, **media})
        assert answer.status_code in (400, 403)
        assert "idempotency-replayed" not in answer.headers
    good = await zone.post("/zone/v1/images", json={}, headers=headers)
    assert good.status_code == 201


async def test_reading_knows_no_keys(zone):
    uuid, headers = await image(zone), keyed()
    for _ in range(2):
        answer = await zone.get(f"/v2/images/{uuid}", headers=headers)
        assert answer.status_code == 200
        assert "idempotency-replayed" not in answer.headers


async def test_a_repeat_after_the_record_changed_is_answered_as_it_was(zone):
    headers = keyed()
    made = await zone.post("/zone/v1/images", json={"name": "n"}, headers=headers)
    media = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
    patch = [{"op": "replace", "path": "/name", "value": "later"}]
    await zone.patch(f"/v2/images/{made.json()['uuid']}", json=patch, headers=media)
    again = await zone.post("/zone/v1/images", json={"name": "n"}, headers=headers)
    assert again.content == made.content


# Answers made anew, where the first one is not kept, and across a restart.


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory) -> Any:
    """The text of a zone that keeps no answers, and only few keys."""
    more = "[idempotency]\nanswers_max = 0\nkeys_max = 12\n"
    return config_text(tmp_path_factory.mktemp("forgetful"), more)


def test_an_answer_made_anew_says_the_same(forgetful):
    media = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
    patch = [{"op": "replace", "path": "/name", "value": "m"}]
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/zone/v1/images", {"json": {"name": "n"}}),
        ("POST", "/v2/images", {"json": {"name": "n"}}),
        ("POST", "/v1/images", {"headers": {"x-image-meta-name": "n"}}),
    ]
    with serve(forgetful) as running, httpx.Client(base_url=running.url, timeout=60, trust_env=False) as client:
        uuid = client.post("/v2/images", json={}).json()["id"]
        path = f"/v2/images/{uuid}"
        asked += [
            ("PATCH", path, {"json": patch, "headers": media}),
            ("POST", f"{path}/members", {"json": {"member": "p"}}),
            ("PUT", f"{path}/tags/t", {}),
            ("PUT", f"/v1/images/{uuid}", {"headers": {"x-image-meta-min_ram": "7"}}),
        ]
        keys, first = [keyed() for _ in asked], []
        for key, (method, where, more) in zip(keys, asked, strict=True):
            request = {**more, "headers": {**key, **more.get("headers", {})}}
            made, again = (client.request(method, where, **request) for _ in range(2))
            assert made.is_success, (where, made.text)
            assert again.headers["idempotency-replayed"] == "true", where
            assert again.status_code == made.status_code, where
            if where != f"/v1/images/{uuid}":
                assert again.json() == made.json() if made.content else not again.content, where
            first.append(made)
    with serve(forgetful) as running, httpx.Client(base_url=running.url, timeout=60, trust_env=False) as client:
        for key, made, (method, where, more) in zip(keys, first, asked, strict=True):
            request = {**more, "headers": {**key, **more.get("headers", {})}}
            again = client.request(method, where, **request)
            assert (again.status_code, again.headers.get("idempotency-replayed")) == (made.status_code, "true"), where
        refused = [client.post("/v2/images", json={}, headers=keyed()).status_code for _ in range(7)]
        assert refused == [201] * 5 + [507] * 2


def test_the_registry_api_knows_keys_too(tmp_path):
    text = config_text(tmp_path).replace("[http]", '[http]\nregistry_listen = "127.0.0.1:0"')
    with serve(text) as running:
        body = {"image": {"name": "n", "status": "queued"}}
        headers = keyed()
        made = [httpx.post(f"{running.registry_url}/images", json=body, headers=headers) for _ in range(2)]
        assert [one.status_code for one in made] == [200, 200]
        assert made[0].json() == made[1].json()


def test_a_repeat_of_what_still_waits_is_known_after_a_restart(tmp_path):
    more = "[idempotency]\nanswers_max = 0\n"
    text = config_text(tmp_path, f'seeds = ["127.0.0.1:9"]\n{more}', "expect = 3\nwait_s = 0.05")
    headers = keyed()
    answers = []
    for _ in range(2):
        with serve(text) as running:
            answers.append(httpx.post(f"{running.url}/zone/v1/images", json={"name": "n"}, headers=headers))
    assert [one.status_code for one in answers] == [202, 202]
    assert answers[0].json() == answers[1].json()
    assert answers[0].headers["zone-write"] == answers[1].headers["zone-write"]
