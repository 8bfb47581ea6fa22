"""Images API v2: tags, image members, status, locations, bytes; and what other projects may do."""

import uuid
from typing import Any

import httpx
import pytest
import trio

from store.images import Image, Location
from tests.zoned.api.conftest import image
from tests.zoned.api.test_images_v2 import add, fresh, made, patch
from zoned.api.caller import Caller, from_headers
from zoned.api.nearest import nearest

FORMATS = {"disk_format": "raw", "container_format": "bare"}
ABSENT = "11111111-1111-4111-8111-111111111112"


def as_project(project: str, roles: str = "member") -> dict[str, str]:
    return {"X-Project-Id": project, "X-Roles": roles}


async def image_of(zone: httpx.AsyncClient, project: str, **document: Any) -> str:
    answer = await zone.post("/v2/images", json=document, headers=as_project(project))
    assert answer.status_code == 201, answer.text
    assert answer.json()["owner"] == project
    return str(answer.json()["id"])


# Tags.


async def test_a_tag_is_put_once_and_deleted_once(zone: httpx.AsyncClient) -> None:
    path = f"/v2/images/{(await made(zone))['id']}"
    for _ in range(2):
        assert (await zone.put(f"{path}/tags/a%20b")).status_code == 204
    assert (await zone.get(path)).json()["tags"] == ["a b"]
    assert (await zone.delete(f"{path}/tags/a%20b")).status_code == 204
    assert (await zone.delete(f"{path}/tags/a%20b")).status_code == 404


@pytest.mark.parametrize(
    ("tag", "status"), [("x" * 256, 400), ("%00", 400), ("a%2Fb", 404), ("caf%C3%A9", 204), ("x" * 255, 204)]
)
async def test_a_tag_has_bounds(zone: httpx.AsyncClient, tag: str, status: int) -> None:
    assert (await zone.put(f"/v2/images/{(await made(zone))['id']}/tags/{tag}")).status_code == status


async def test_tags_are_bounded_in_number_and_take_no_body(zone: httpx.AsyncClient) -> None:
    path = f"/v2/images/{(await made(zone, tags=[str(n) for n in range(128)]))['id']}/tags"
    assert (await zone.put(f"{path}/more")).status_code == 413
    assert (await zone.put(f"{path}/1")).status_code == 204
    assert (await zone.request("PUT", f"{path}/1", content=b"{}")).status_code == 400


async def test_tags_put_concurrently_all_survive(zone: httpx.AsyncClient) -> None:
    """Where Glance loses some of them."""
    path = f"/v2/images/{(await made(zone))['id']}"
    async with trio.open_nursery() as nursery:
        for n in range(16):
            nursery.start_soon(zone.put, f"{path}/tags/t{n}")
    assert set((await zone.get(path)).json()["tags"]) == {f"t{n}" for n in range(16)}


# Image members.


async def test_an_image_member_is_added_answers_and_is_removed(zone: httpx.AsyncClient) -> None:
    image_id = (await made(zone))["id"]
    path = f"/v2/images/{image_id}/members"
    answer = await zone.post(path, json={"member": "p"})
    member = answer.json()
    assert answer.status_code == 200
    assert set(member) == {"member_id", "image_id", "status", "created_at", "updated_at", "schema"}
    assert (member["member_id"], member["image_id"], member["status"]) == ("p", image_id, "pending")
    assert (await zone.get(f"{path}/p")).json() == member
    assert (await zone.get(path)).json() == {"members": [member], "schema": "/v2/schemas/members"}
    assert (await zone.post(path, json={"member": "p"})).status_code == 409
    assert (await zone.put(f"{path}/p", json={"status": "accepted"})).json()["status"] == "accepted"
    assert (await zone.delete(f"{path}/p")).status_code == 204
    assert (await zone.delete(f"{path}/p")).status_code == 404
    assert (await zone.get(f"{path}/p")).status_code == 404


@pytest.mark.parametrize("body", [{}, {"member": ""}, {"member": None}, {"member": 5}, {"member": "x" * 256}, []])
async def test_a_member_that_is_no_project_is_a_bad_request(zone: httpx.AsyncClient, body: Any) -> None:
    path = f"/v2/images/{(await made(zone))['id']}/members"
    assert (await zone.post(path, json=body)).status_code == 400


@pytest.mark.parametrize("status", ["odd", None, 5, "", ["accepted"]])
async def test_an_answer_that_is_none_is_a_bad_request(zone: httpx.AsyncClient, status: Any) -> None:
    path = f"/v2/images/{(await made(zone))['id']}/members"
    await zone.post(path, json={"member": "p"})
    assert (await zone.put(f"{path}/p", json={"status": status})).status_code == 400


@pytest.mark.parametrize("visibility", ["private", "public", "community"])
async def test_only_shared_images_have_members(zone: httpx.AsyncClient, visibility: str) -> None:
    path = f"/v2/images/{(await made(zone, visibility=visibility))['id']}/members"
    assert (await zone.get(path)).status_code == 403
    assert (await zone.post(path, json={"member": "p"})).status_code == 403


async def test_image_members_added_concurrently_all_survive_up_to_the_bound(zone: httpx.AsyncClient) -> None:
    path = f"/v2/images/{(await made(zone))['id']}/members"

    async def share(n: int) -> None:
        assert (await zone.post(path, json={"member": f"p{n}"})).status_code == 200

    async with trio.open_nursery() as nursery:
        for n in range(16):
            nursery.start_soon(share, n)
    for n in range(16, 128):
        await share(n)
    assert len((await zone.get(path)).json()["members"]) == 128
    assert (await zone.post(path, json={"member": "more"})).status_code == 413


# Who may see and do what.


async def test_an_image_of_another_project_is_not_there(zone: httpx.AsyncClient) -> None:
    owner, other = as_project(fresh()), as_project(fresh())
    image_id = await image_of(zone, owner["X-Project-Id"], visibility="private")
    path = f"/v2/images/{image_id}"
    for method in ("GET", "DELETE"):
        assert (await zone.request(method, path, headers=other)).status_code == 404
    assert (await patch(zone, image_id, add("name", "x"), **other)).status_code == 404
    for part in ("members", "members/p", "locations", "file", "tasks"):
        assert (await zone.get(f"{path}/{part}", headers=other)).status_code == 404
    assert (await zone.put(f"{path}/tags/t", headers=other)).status_code == 404
    assert (await zone.get("/v2/images", params={"marker": image_id}, headers=other)).status_code == 400
    assert (await zone.get(path, headers=owner)).status_code == 200


async def test_a_public_image_is_seen_by_all_and_changed_by_its_owner(zone: httpx.AsyncClient) -> None:
    image_id = (await made(zone, visibility="public", owner=fresh(), **FORMATS))["id"]
    path, other = f"/v2/images/{image_id}", as_project(fresh())
    assert (await zone.get(path, headers=other)).status_code == 200
    for refused in (
        await zone.delete(path, headers=other),
        await patch(zone, image_id, add("name", "x"), **other),
        await zone.put(f"{path}/tags/t", headers=other),
        await zone.post(f"{path}/actions/deactivate", headers=other),
        await zone.get(f"{path}/locations", headers=other),
        await zone.post(f"{path}/locations", json={"url": "http://o/1"}, headers=other),
    ):
        assert refused.status_code == 403


async def test_what_only_an_administrator_may_say(zone: httpx.AsyncClient) -> None:
    project = fresh()
    mine = as_project(project)
    for document in ({"visibility": "public"}, {"owner": fresh()}, {"owner": None}):
        assert (await zone.post("/v2/images", json=document, headers=mine)).status_code == 403
    image_id = await image_of(zone, project, visibility="community")
    for name, value in (("visibility", "public"), ("owner", fresh())):
        assert (await patch(zone, image_id, add(name, value), **mine)).status_code == 403
    assert (await patch(zone, image_id, add("owner", project), **mine)).status_code == 200
    reader = as_project(project, "reader")
    assert (await zone.post("/v2/images", json={}, headers=reader)).status_code == 403
    assert (await patch(zone, image_id, add("name", "x"), **reader)).status_code == 403
    assert (await zone.get(f"/v2/images/{image_id}", headers=reader)).status_code == 200


async def test_lists_show_what_a_project_sees(zone: httpx.AsyncClient) -> None:
    mark, owner, member = fresh(), fresh(), fresh()
    kinds = ("private", "shared", "community")
    ids = {kind: await image_of(zone, owner, visibility=kind, mark=mark) for kind in kinds}
    ids["public"] = (await made(zone, visibility="public", mark=mark, owner=owner))["id"]
    await zone.post(f"/v2/images/{ids['shared']}/members", json={"member": member})

    async def seen(project: str, query: str = "", roles: str = "member") -> set[str]:
        answer = await zone.get(f"/v2/images?mark={mark}{query}", headers=as_project(project, roles))
        found = {one["id"] for one in answer.json()["images"]}
        return {kind for kind, image_id in ids.items() if image_id in found}

    assert await seen(owner) == set(ids)
    assert await seen(member) == {"public"}
    assert await seen(member, "&member_status=pending") == {"public", "shared"}
    assert await seen(member, "&member_status=all") == {"public", "shared"}
    assert await seen(member, "&visibility=community") == {"community"}
    assert await seen(member, "&visibility=all") == {"community", "public"}
    assert await seen(member, "&visibility=shared&member_status=all") == {"shared"}
    assert await seen(member, roles="admin") == set(ids)


def test_headers_take_rights_away_and_never_give_any() -> None:
    assert from_headers({}) == Caller()
    assert from_headers({"x-project-id": "p"}) == Caller("p", frozenset(("member",)))
    assert from_headers({"x-tenant-id": "p", "x-roles": "Reader, Member"}) == Caller(
        "p", frozenset(("reader", "member"))
    )
    assert from_headers({"x-project-id": "p", "x-roles": ""}).roles == frozenset()
    assert not Caller(None, frozenset(("member",))).may("images.change", image(owner=None))


# Status, locations, bytes.


async def test_an_image_is_deactivated_and_reactivated(zone: httpx.AsyncClient) -> None:
    image_id = (await made(zone, **FORMATS))["id"]
    path = f"/v2/images/{image_id}"
    assert (await zone.post(f"{path}/actions/deactivate")).status_code == 403  # queued
    await zone.post(f"{path}/locations", json={"url": "http://o/1"})
    for action, status in (("deactivate", "deactivated"), ("reactivate", "active")):
        for _ in range(2):
            assert (await zone.post(f"{path}/actions/{action}")).status_code == 204
        assert (await zone.get(path)).json()["status"] == status


async def test_an_owner_too_deactivates_and_nobody_else_then_gets_the_bytes(zone: httpx.AsyncClient) -> None:
    project = fresh()
    image_id = await image_of(zone, project, visibility="community", **FORMATS)
    path = f"/v2/images/{image_id}"
    assert (await zone.post(f"{path}/locations", json={"url": "http://o/1"}, headers=as_project(project))).is_success
    assert (await zone.get(f"{path}/file", headers=as_project("other"))).status_code == 302
    assert (await zone.post(f"{path}/actions/deactivate", headers=as_project("other"))).status_code == 403
    assert (await zone.post(f"{path}/actions/deactivate", headers=as_project(project))).status_code == 204
    assert (await zone.get(f"{path}/file", headers=as_project("other"))).status_code == 403


async def test_a_location_makes_the_image_active_and_file_leads_there(zone: httpx.AsyncClient) -> None:
    path = f"/v2/images/{(await made(zone, **FORMATS))['id']}"
    assert (await zone.get(f"{path}/file")).status_code == 204
    digest = {"os_hash_algo": "sha256", "os_hash_value": "a" * 64}
    answer = await zone.post(f"{path}/locations", json={"url": "http://o/1", "validation_data": digest})
    assert answer.status_code == 202
    body = (await zone.get(path)).json()
    assert (body["status"], body["os_hash_value"], body["direct_url"]) == ("active", "a" * 64, "http://o/1")
    assert (await zone.get(f"{path}/locations")).json() == [{"url": "http://o/1", "metadata": {}}]
    file = await zone.get(f"{path}/file")
    assert (file.status_code, file.headers["location"]) == (302, "http://o/1")
    await zone.post(f"{path}/actions/deactivate")
    assert (await zone.get(f"{path}/file")).status_code == 302
    assert (await zone.get(f"{path}/file", headers=as_project("p"))).status_code == 403


@pytest.mark.parametrize(
    ("body", "status"),
    [
        *(({}, 400), ({"url": 5}, 400), ({"url": "no url"}, 400), ({"url": "http://o/1", "more": 1}, 400)),
        ({"url": "http://o/1", "validation_data": {"os_hash_algo": "sha256"}}, 400),
        ({"url": "http://o/1", "validation_data": {"os_hash_algo": "sha256", "os_hash_value": "a"}}, 400),
        ({"url": "http://o/1", "validation_data": []}, 202),
        ({"url": "http://o/1", "validation_data": 5}, 400),
    ],
)
async def test_a_location_that_is_none_is_a_bad_request(zone: httpx.AsyncClient, body: Any, status: int) -> None:
    path = f"/v2/images/{(await made(zone, **FORMATS))['id']}/locations"
    assert (await zone.post(path, json=body)).status_code == status


async def test_a_location_needs_both_formats_and_agrees_with_what_is_known(zone: httpx.AsyncClient) -> None:
    assert (
        await zone.post(f"/v2/images/{(await made(zone))['id']}/locations", json={"url": "http://o/1"})
    ).status_code == 400
    path = f"/v2/images/{(await made(zone, **FORMATS))['id']}/locations"
    digest = {"os_hash_algo": "sha256", "os_hash_value": "a" * 64}
    assert (await zone.post(path, json={"url": "http://o/1", "validation_data": digest})).status_code == 202
    other = {**digest, "os_hash_value": "b" * 64}
    assert (await zone.post(path, json={"url": "http://o/2", "validation_data": other})).status_code == 409
    assert (await zone.post(path, json={"url": "http://o/2", "validation_data": digest})).status_code == 202


def test_the_nearest_location_is_this_zones_then_by_round_trip_then_in_order() -> None:
    def located(*locations: Location) -> Image:
        return image(locations=locations)

    near, far, here = (Location(f"http://{zone}/1", {"zone": zone}) for zone in ("near", "far", "here"))
    zones = {"far": 80.0, "near": 5.0, "here": 0.0}
    unknown, block = Location("http://nowhere/1"), Location("rbd://here/1", {"store": "here"})
    assert nearest(located(unknown, far, near, here), zones) == here.url
    assert nearest(located(unknown, far, near), zones) == near.url
    assert nearest(located(unknown, far), zones) == far.url
    assert nearest(located(block, unknown), zones) == unknown.url
    assert nearest(located(block), zones) == block.url
    assert nearest(located(), zones) is None


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        *(("PUT", "/v2/images/{}/file", 403), ("PUT", "/v2/images/{}/stage", 403)),
        *(("POST", "/v2/images/{}/import", 403), ("GET", "/v2/images/{}/tasks", 200)),
        *(("DELETE", "/v2/stores/alpha/{}", 403), ("GET", "/v2/tasks", 403), ("POST", "/v2/tasks", 403)),
        *(("GET", "/v2/metadefs/namespaces", 403), ("POST", "/v2/metadefs/namespaces", 403)),
        *(("GET", "/v2/cache", 404), ("PUT", "/v2/cache/{}", 404), ("PUT", "/v2/images/{}", 405)),
    ],
)
async def test_what_zoned_does_not_have_is_refused_as_glance_does(
    zone: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    image_id = (await made(zone))["id"]
    assert (await zone.request(method, path.format(image_id))).status_code == status
    assert (await zone.get(f"/v2/images/{image_id}")).json()["status"] == "queued"


async def test_openstacksdk_may_remove_the_integer_and_it_stays(zone: httpx.AsyncClient) -> None:
    """It removes what it takes for free properties when it replaces them."""
    body = await made(zone)
    removed = await patch(zone, body["id"], {"op": "remove", "path": "/zoned_id"}, add("own", "1"))
    assert (removed.status_code, removed.json()["zoned_id"]) == (200, body["zoned_id"])
    assert (await patch(zone, body["id"], add("zoned_id", body["zoned_id"] + 1))).status_code == 403


# Lists.


async def test_operators_choose_by_value_time_and_size(zone: httpx.AsyncClient) -> None:
    mark = fresh()
    await made(zone, name="a,b", mark=mark)
    await made(zone, name='say "hi"', mark=mark, min_ram=5)
    await made(zone, name="eq:x", mark=mark, protected=True)

    async def names(query: str) -> list[str]:
        answer = await zone.get(f"/v2/images?mark={mark}&sort=name:asc&{query}")
        assert answer.status_code == 200, answer.text
        return [one["name"] for one in answer.json()["images"]]

    assert await names('name=in:"a,b",nothing') == ["a,b"]
    assert await names('name=in:"say \\"hi\\"","a,b"') == ["a,b", 'say "hi"']
    assert await names("name=eq:eq:x") == ["eq:x"]
    assert await names("min_ram_min=1") == ['say "hi"']
    assert await names("min_ram_max=4") == ["a,b", "eq:x"]
    assert await names("min_ram=5") == ['say "hi"']
    assert await names("protected=true") == ["eq:x"]
    assert await names("created_at=gt:2020-01-01") == ["a,b", "eq:x", 'say "hi"']
    assert await names("created_at=lt:2020-01-01T00:00:00%2B02:00") == []
    assert await names("updated_at=neq:2020-01-01T00:00:00Z&status=in:queued,active&deleted=true") != []
    assert await names("other=1") == []


async def test_next_keeps_repeated_parameters_and_walks_nulls_once(zone: httpx.AsyncClient) -> None:
    """Where Glance drops all but the last of them, and loses or repeats records without a name."""
    a, b = (f"t{uuid.uuid4()}" for _ in range(2))
    ids = {(await made(zone, tags=[a, b], **({"name": n} if n else {})))["id"] for n in ("x", "", "y", "", "z", "")}
    await made(zone, tags=[b])
    link, seen = f"/v2/images?tag={a}&tag={b}&limit=2&sort_key=name&sort_key=size&sort_dir=asc&sort_dir=desc", []
    while link:
        body = (await zone.get(link)).json()
        seen += [one["id"] for one in body["images"]]
        link = body.get("next", "")
    assert (len(seen), set(seen)) == (6, ids)


async def test_asking_the_registry_first_is_no_property(zone: httpx.AsyncClient) -> None:
    image_id = (await made(zone))["id"]
    listed = (await zone.get(f"/v2/images?consistent=1&id={image_id}")).json()["images"]
    assert [one["id"] for one in listed] == [image_id]
