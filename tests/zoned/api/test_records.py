"""History, presence and locations of a record, and many records at once, over real sockets."""

import uuid
from typing import Any

import httpx
import pytest

MINE = {"X-Project-Id": "p1", "X-User-Name": "ann", "X-Roles": "member"}
THEIRS = {"X-Project-Id": "p2", "X-Roles": "member"}
SERVICE = {"X-Project-Id": "s", "X-Roles": "service,member"}
KIND = {"Content-Type": "application/openstack-images-v2.1-json-patch"}


async def made(zone: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await zone.post("/zone/v1/images", json=body)
    assert answer.status_code == 201
    found: dict[str, Any] = answer.json()
    return found


async def test_history_says_who_changed_what_and_when(zone: httpx.AsyncClient) -> None:
    image = (await zone.post("/v2/images", json={"name": "one"}, headers=MINE)).json()
    path = f"/v2/images/{image['id']}"
    step = [{"op": "replace", "path": "/name", "value": "two"}, {"op": "add", "path": "/own", "value": "x"}]
    changed = await zone.patch(path, json=step, headers={**MINE, **KIND})
    await zone.put(f"{path}/tags/new")
    await zone.delete(path, headers=MINE)
    body = (await zone.get(f"/zone/v1/images/{image['zoned_id']}/history", headers=MINE)).json()
    deleted, tagged, updated, created = body["changes"]
    assert [one["kind"] for one in body["changes"]] == ["deleted", "updated", "updated", "created"]
    assert updated["changed"] == {"name": {"from": "one", "to": "two"}, "properties/own": {"from": None, "to": "x"}}
    assert (updated["by"], updated["request_id"]) == ("ann@p1", changed.headers["x-openstack-request-id"])
    assert updated["write"] == changed.headers["zone-write"].partition(";")[0]
    assert (tagged["by"], tagged["changed"]) == ("admin", {"tags/new": {"from": None, "to": True}})
    assert (created["by"], deleted["by"], body["complete"]) == ("ann@p1", "ann@p1", True)
    assert deleted["position"] > tagged["position"] > updated["position"] > created["position"]


async def test_history_is_for_owners_and_an_invisible_image_has_none(zone: httpx.AsyncClient) -> None:
    public = await made(zone, owner="p1", visibility="public")
    answer = await zone.get(f"/zone/v1/images/{public['uuid']}/history", headers=THEIRS)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    private = await made(zone, owner="p1", visibility="private")
    for what in ("", "/history", "/presence", "/locations"):
        answer = await zone.get(f"/zone/v1/images/{private['uuid']}{what}", headers=THEIRS)
        assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
    assert (await zone.get(f"/zone/v1/images/{uuid.uuid4()}/history")).status_code == 404


async def test_an_image_is_bootable_here_by_facts_only(zone: httpx.AsyncClient) -> None:
    image = await made(zone, status="active")
    path = f"/zone/v1/images/{image['uuid']}/presence"

    async def said(state: str, **more: str) -> Any:
        answer = await zone.put(f"{path}/alpha", json={"state": state, **more})
        assert answer.status_code == 200
        body = answer.json()
        assert (await zone.get(path)).json()["zones"] == body["zones"]
        return body["bootable_here"], body["why"].partition(" at ")[0]

    nothing = (await zone.get(path)).json()
    assert (nothing["bootable_here"], nothing["zones"]) == (False, [])
    assert await said("wanted") == (False, "nobody has said that the bytes are here")
    assert await said("claimed") == (False, "claimed here")
    assert await said("verified", note="sha256 by store-agent") == (True, "verified here")
    assert await said("absent") == (False, "nobody has said that the bytes are here")
    # What was seen before it was gone, and is told late, does not bring it back.
    assert (await said("verified", at="2026-01-01T00:00:00Z"))[0] is False
    assert (await said("verified"))[0] is True
    entry = (await zone.get(path)).json()["zones"][0]
    assert (entry["zone"], entry["absent"], bool(entry["wanted"])) == ("alpha", None, True)
    shown = await zone.get(f"/v2/images/{image['uuid']}")
    assert "presence" not in shown.json()


async def test_what_was_verified_long_ago_is_no_fact_any_more(zone: httpx.AsyncClient) -> None:
    image = await made(zone, status="active")
    path = f"/zone/v1/images/{image['uuid']}/presence/alpha"
    body = (await zone.put(path, json={"state": "verified", "at": "2020-01-01T00:00:00Z"})).json()
    assert (body["bootable_here"], "presence.verified_days" in body["why"]) == (False, True)


async def test_an_image_that_is_not_active_is_not_bootable(zone: httpx.AsyncClient) -> None:
    image = await made(zone)
    body = (await zone.put(f"/zone/v1/images/{image['uuid']}/presence/alpha", json={"state": "verified"})).json()
    assert (body["bootable_here"], body["why"]) == (False, "the image is queued")


async def test_who_may_say_what_of_the_bytes(zone: httpx.AsyncClient) -> None:
    image = await made(zone, owner="p1", visibility="public")
    path = f"/zone/v1/images/{image['uuid']}/presence/alpha"
    assert (await zone.put(path, json={"state": "wanted"}, headers=MINE)).status_code == 200
    assert (await zone.put(path, json={"state": "wanted"}, headers=THEIRS)).status_code == 403
    assert (await zone.put(path, json={"state": "verified"}, headers=MINE)).status_code == 403
    assert (await zone.put(path, json={"state": "verified"}, headers=SERVICE)).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        *(
            {},
            {"state": "there"},
            {"state": ["wanted"]},
            {"state": "wanted", "more": 1},
            {"state": "wanted", "note": 1},
        ),
        *({"state": "wanted", "note": "x" * 256}, {"state": "wanted", "at": "soon"}, {"state": "wanted", "at": 1}),
        *({"state": "wanted", "at": "2999-01-01T00:00:00Z"}, {"state": "wanted", "at": "0001-01-01T00:00:00Z"}),
    ],
)
async def test_bad_words_of_presence_are_bad_requests(zone: httpx.AsyncClient, body: dict[str, Any]) -> None:
    image = await made(zone)
    answer = await zone.put(f"/zone/v1/images/{image['uuid']}/presence/alpha", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad-body")


async def test_presence_in_a_zone_that_nobody_knows_is_a_bad_request(zone: httpx.AsyncClient) -> None:
    image = await made(zone)
    answer = await zone.put(f"/zone/v1/images/{image['uuid']}/presence/alhpa", json={"state": "wanted"})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad-zone")


async def test_locations_are_told_best_first_with_the_reason(zone: httpx.AsyncClient) -> None:
    image = await made(
        zone,
        locations=[
            {"url": "http://other/1", "metadata": {"zone": "other"}},
            {"url": "http://alpha/1", "metadata": {"zone": "alpha"}},
            {"url": "http://nowhere/1"},
        ],
    )
    path = f"/zone/v1/images/{image['uuid']}"
    body = (await zone.get(f"{path}/locations")).json()
    assert [one["url"] for one in body["locations"]] == ["http://alpha/1", "http://other/1", "http://nowhere/1"]
    assert body["locations"][0]["why"] == "zone alpha: this zone, never verified"
    await zone.put(f"{path}/presence/alpha", json={"state": "absent"})
    gone = (await zone.get(f"{path}/locations?near=alpha")).json()["locations"]
    assert (gone[-1]["url"], gone[-1]["presence"]) == ("http://alpha/1", ["absent"])
    assert (await zone.get(f"{path}/locations?near=nobody")).status_code == 400
    assert (await zone.get(f"{path}/locations", headers=THEIRS)).status_code in (403, 404)


async def test_many_references_of_any_kind_keep_their_order(zone: httpx.AsyncClient) -> None:
    one, two = await made(zone, name="one"), await made(zone, name="two", properties={"p": "ñ"})
    gone = await made(zone)
    await zone.delete(f"/zone/v1/images/{gone['uuid']}")
    alias = f"batch-{uuid.uuid4()}"
    await zone.put(f"/zone/v1/aliases/{alias}", json={"image": one["uuid"]})
    never = str(uuid.uuid4())
    asked = [two["integer"], never, one["ami"], gone["uuid"], one["uuid"].upper(), alias, str(two["integer"]), "x"]
    answer = await zone.post("/zone/v1/images:batchGet", json={"references": asked})
    items = answer.json()["items"]
    assert answer.status_code == 200
    assert [item["reference"] for item in items] == [str(reference) for reference in asked]
    assert [item["status"] for item in items] == [200, 404, 200, 410, 200, 200, 200, 404]
    assert [item.get("code") for item in items] == [None, "not-found", None, "gone", None, None, None, "not-found"]
    for item in items:
        if item["status"] == 200:
            alone = await zone.get(f"/zone/v1/images/{item['reference']}")
            assert (alone.json(), alone.headers["zone-source"]) == (item["image"], item["source"])


async def test_a_batch_shows_what_the_caller_may_see(zone: httpx.AsyncClient) -> None:
    private = await made(zone, owner="p1", visibility="private")
    for headers, status in ((MINE, 200), (THEIRS, 404)):
        answer = await zone.post("/zone/v1/images:batchGet", json={"references": [private["uuid"]]}, headers=headers)
        assert answer.json()["items"][0]["status"] == status


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ([], 400, "bad-json"),
        ({}, 400, "bad-body"),
        ({"references": "x"}, 400, "bad-body"),
        ({"references": [], "more": 1}, 400, "bad-body"),
        ({"references": [None]}, 400, "bad-reference"),
        ({"references": [True]}, 400, "bad-reference"),
        ({"references": ["x" * 129]}, 400, "bad-reference"),
        ({"references": [1] * 1_001}, 413, "too-many-references"),
    ],
)
async def test_bad_batches_are_refused_whole(zone: httpx.AsyncClient, body: Any, status: int, code: str) -> None:
    answer = await zone.post("/zone/v1/images:batchGet", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_a_zone_without_catalogue_says_so_instead_of_not_found(lone: httpx.AsyncClient) -> None:
    answer = await lone.post("/zone/v1/images:batchGet", json={"references": [str(uuid.uuid4())]})
    assert (answer.status_code, answer.json()["code"]) == (503, "unsynced")
    assert (await zone_empty(lone)) == []


async def zone_empty(lone: httpx.AsyncClient) -> Any:
    return (await lone.post("/zone/v1/images:batchGet", json={"references": []})).json()["items"]
