"""Images API v1 and the oldest API over real sockets, and that all faces show one record."""

from typing import Any

import httpx
import pytest

from tests.zoned.api.test_images_v2 import add, fresh, made, patch
from tests.zoned.api.test_parts_v2 import FORMATS, as_project

LOCATION = {"x-image-meta-location": "http://objects.example/1", **{f"x-image-meta-{k}": v for k, v in FORMATS.items()}}


async def created(zone: httpx.AsyncClient, **headers: str) -> dict[str, Any]:
    sent = {f"x-image-meta-{name}": value for name, value in headers.items()}
    answer = await zone.post("/v1/images", headers=sent)
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()["image"]
    return body


async def test_metadata_travels_in_headers_both_ways(zone: httpx.AsyncClient) -> None:
    sent = {"name": "n", "min_ram": "5", "is_public": "True", "property-os-distro": "debian", "Disk-Format": "raw"}
    image = await created(zone, **sent)
    assert (image["name"], image["min_ram"], image["is_public"], image["status"]) == ("n", 5, True, "queued")
    assert (image["disk_format"], image["properties"]) == ("raw", {"os_distro": "debian"})
    head = await zone.head(f"/v1/images/{image['id']}")
    assert (head.status_code, head.content) == (200, b"")
    raw = {name for name, _ in head.headers.raw}
    assert {b"x-image-meta-disk_format", b"x-image-meta-property-os_distro"} <= raw
    assert (head.headers["x-image-meta-name"], head.headers["x-image-meta-checksum"]) == ("n", "")
    assert (head.headers["x-image-meta-is_public"], head.headers["x-image-meta-min_ram"]) == ("True", "5")
    shown = (await zone.get(f"/v2/images/{image['id']}")).json()
    assert (shown["visibility"], shown["os_distro"], shown["min_ram"]) == ("public", "debian", 5)
    assert head.headers["x-image-meta-zoned_id"] == str(shown["zoned_id"])


async def test_an_image_is_named_by_uuid_integer_or_ec2_name(zone: httpx.AsyncClient) -> None:
    image = await made(zone, name="n")
    integer = image["zoned_id"]
    for reference in (image["id"], image["id"].upper(), str(integer), f"ami-{integer:08x}"):
        head = await zone.head(f"/v1/images/{reference}")
        assert head.headers["x-image-meta-id"] == image["id"]
    assert (await zone.head("/v1/images/999999999")).status_code == 404
    assert (await zone.get("/v1/images/nothing")).headers["content-type"].startswith("text/html")


async def test_a_location_makes_the_image_active_and_leads_to_the_bytes(zone: httpx.AsyncClient) -> None:
    answer = await zone.post("/v1/images", headers={**LOCATION, "x-image-meta-checksum": "a" * 32})
    image = answer.json()["image"]
    assert (image["status"], "location" in image, answer.headers["etag"]) == ("active", False, "a" * 32)
    assert answer.headers["location"] == f"{zone.base_url}/v1/images/{image['id']}"
    file = await zone.get(f"/v1/images/{image['id']}")
    assert (file.status_code, file.headers["location"]) == (302, "http://objects.example/1")
    again = await zone.put(f"/v1/images/{image['id']}", headers=LOCATION)
    assert again.status_code == 400
    queued = (await created(zone))["id"]
    assert (await zone.get(f"/v1/images/{queued}")).status_code == 404
    assert (await zone.put(f"/v1/images/{queued}", headers=LOCATION)).json()["image"]["status"] == "active"


async def test_a_put_removes_properties_unless_told_not_to(zone: httpx.AsyncClient) -> None:
    image = await created(zone, **{"property-a": "1", "property-b": "2"})
    path = f"/v1/images/{image['id']}"
    keep = {"x-glance-registry-purge-props": "false", "x-image-meta-property-a": "3"}
    assert (await zone.put(path, headers=keep)).json()["image"]["properties"] == {"a": "3", "b": "2"}
    changed = (await zone.put(path, headers={"x-image-meta-name": "n"})).json()["image"]
    assert (changed["properties"], changed["name"]) == ({}, "n")


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"id": "42"}, b"", 400),
        ({"size": "x"}, b"", 400),
        ({"min_ram": "-1"}, b"", 400),
        ({"disk_format": "floppy"}, b"", 400),
        ({"disk_format": "ami", "container_format": "bare"}, b"", 400),
        ({"location": "http://objects.example/1"}, b"", 400),
        ({"location": "no url", "disk_format": "raw", "container_format": "bare"}, b"", 400),
        ({"name": "x" * 256}, b"", 400),
        ({}, b"bytes", 403),
    ],
)
async def test_a_create_that_cannot_be_is_refused(
    zone: httpx.AsyncClient, headers: Any, content: bytes, status: int
) -> None:
    sent = {f"x-image-meta-{name}": value for name, value in headers.items()}
    assert (await zone.post("/v1/images", headers=sent, content=content)).status_code == status


async def test_odd_header_values_are_kept_or_refused_never_an_error_of_the_server(zone: httpx.AsyncClient) -> None:
    head = {b"x-image-meta-name": "caf\u00e9 \u4e2d".encode(), b"x-image-meta-property-": b"1"}
    answer = await zone.post("/v1/images", headers=list(head.items()))
    assert answer.status_code in (201, 400)
    answer = await zone.post("/v1/images", headers=[(b"x-image-meta-name", "caf\u00e9".encode())])
    image_id = answer.json()["image"]["id"]
    assert answer.json()["image"]["name"] == "caf\u00e9"
    raw = dict((await zone.head(f"/v1/images/{image_id}")).headers.raw)
    assert raw[b"x-image-meta-name"] == "caf\u00e9".encode()
    assert (await zone.post("/v1/images", headers=[(b"x-image-meta-name", b"\xff")])).status_code == 400
    await patch(zone, image_id, add("a b:c", "x\r\ny"), add("d", "x\r\ny"))
    shown = await zone.head(f"/v1/images/{image_id}")
    assert shown.status_code == 200
    assert shown.headers["x-image-meta-property-d"] == "x  y"
    listed = (await zone.get("/v1/images/detail", params={"name": "caf\u00e9"})).json()["images"]
    assert {"a b:c": "x\r\ny", "d": "x\r\ny"} in [one["properties"] for one in listed]


async def test_what_never_changes_is_refused(zone: httpx.AsyncClient) -> None:
    image = (await zone.post("/v1/images", headers={**LOCATION, "x-image-meta-checksum": "a" * 32})).json()["image"]
    path = f"/v1/images/{image['id']}"
    for name, value in (("id", fresh()), ("status", "queued")):
        assert (await zone.put(path, headers={f"x-image-meta-{name}": value})).status_code == 403
    protected = await zone.put(path, headers={"x-image-meta-protected": "true"})
    assert protected.json()["image"]["protected"] is True
    assert (await zone.delete(path)).status_code == 403
    assert (await zone.put(path, headers={"x-image-meta-protected": "false"})).status_code == 200
    gone = await zone.delete(path)
    assert (gone.status_code, gone.content) == (200, b"")
    assert (await zone.head(path)).status_code == 404


async def test_lists_filter_sort_and_page_by_integer_or_uuid(zone: httpx.AsyncClient) -> None:
    mark = fresh()
    images = [await created(zone, name=name, **{"property-mark": mark}) for name in ("b", "c", "a")]

    async def listed(query: str, kind: str = "/detail") -> list[str]:
        answer = await zone.get(f"/v1/images{kind}?property-mark={mark}&{query}")
        assert answer.status_code == 200, answer.text
        return [one["name"] for one in answer.json()["images"]]

    assert await listed("sort_key=name&sort_dir=asc") == ["a", "b", "c"]
    assert await listed("sort_key=name&sort_dir=asc&limit=1", "") == ["a"]
    integer = (await zone.get(f"/v2/images/{images[0]['id']}")).json()["zoned_id"]
    for marker in (integer, images[0]["id"]):
        assert await listed(f"sort_key=name&sort_dir=asc&marker={marker}") == ["c"]
    assert await listed("name=b") == ["b"]
    assert await listed("size_min=1") == []
    assert await listed("is_public=true") == []
    assert sorted(await listed("is_public=false")) == ["a", "b", "c"]
    await zone.delete(f"/v1/images/{images[1]['id']}")
    assert sorted(await listed("")) == ["a", "b"]
    assert sorted(await listed("changes-since=2020-01-01T00:00:00Z")) == ["a", "b", "c"]
    assert await listed("deleted=true") == ["c"]
    assert set((await zone.get("/v1/images?limit=1")).json()["images"][0]) == {
        *("id", "name", "size", "disk_format", "container_format", "checksum")
    }


@pytest.mark.parametrize(
    "query",
    ["limit=x", "marker=nothing", f"marker={fresh()}", "sort_key=x", "sort_dir=x", "size_min=x", "changes-since=x"],
)
async def test_a_query_that_cannot_be_answered_is_a_bad_request(zone: httpx.AsyncClient, query: str) -> None:
    assert (await zone.get(f"/v1/images?{query}")).status_code == 400


async def test_members_are_put_replaced_and_seen_by_their_project(zone: httpx.AsyncClient) -> None:
    owner, project = fresh(), fresh()
    answer = await zone.post("/v1/images", headers=as_project(owner))
    image = answer.json()["image"]
    path = f"/v1/images/{image['id']}"
    assert image["owner"] == owner
    assert (await zone.head(path, headers=as_project(project))).status_code == 404
    share = {"member": {"can_share": True}}
    assert (await zone.put(f"{path}/members/{project}", json=share, headers=as_project(owner))).status_code == 204
    members = (await zone.get(f"{path}/members")).json()
    assert members == {"members": [{"member_id": project, "can_share": True}]}
    shared = (await zone.get(f"/v1/shared-images/{project}")).json()
    assert shared == {"shared_images": [{"image_id": image["id"], "can_share": True}]}
    listed = (await zone.get("/v1/images", headers=as_project(project))).json()["images"]
    assert image["id"] in [one["id"] for one in listed]
    assert (await zone.put(f"{path}/members", json={}, headers=as_project(owner))).status_code == 400
    wanted = {"memberships": [{"member_id": "q"}]}
    assert (await zone.put(f"{path}/members", json=wanted)).status_code == 204
    assert (await zone.get(f"{path}/members")).json() == {"members": [{"member_id": "q", "can_share": False}]}
    for _ in range(2):
        assert (await zone.delete(f"{path}/members/q")).status_code == 204
    assert (await zone.get(f"{path}/members/q")).status_code == 405
    assert (await zone.get(f"/v1/shared-images/{project}", headers=as_project(owner))).status_code == 404


async def test_one_who_shares_an_image_does_not_see_the_others(zone: httpx.AsyncClient) -> None:
    owner, one, other = fresh(), fresh(), fresh()
    path = f"/v1/images/{(await zone.post('/v1/images', headers=as_project(owner))).json()['image']['id']}/members"
    for project in (one, other):
        assert (await zone.put(f"{path}/{project}", headers=as_project(owner))).status_code == 204
    for who, expected in ((owner, {one, other}), (one, {one})):
        seen = (await zone.get(path, headers=as_project(who))).json()["members"]
        assert {member["member_id"] for member in seen} == expected


@pytest.mark.parametrize("version", ["v1.0", "v1.1"])
async def test_the_oldest_clients_list_by_integer(zone: httpx.AsyncClient, version: str) -> None:
    image = await made(zone, name="old")
    integer = image["zoned_id"]
    base = f"/{version}/project/images"
    assert {"id": integer, "name": "old"} in (await zone.get(f"{base}?limit=1000")).json()["images"]
    shown = (await zone.get(f"{base}/{integer}")).json()["image"]
    assert (shown["id"], shown["name"], shown["status"]) == (integer, "old", "QUEUED")
    assert shown in (await zone.get(f"{base}/detail?limit=1000")).json()["images"]
    assert (await zone.delete(f"{base}/{integer}")).status_code == 405
    assert (await zone.get(f"/{version}/images/{integer}", follow_redirects=False)).status_code == 404  # no bytes


async def test_a_record_reads_the_same_through_every_face(zone: httpx.AsyncClient) -> None:
    image = await made(zone, name="n", own="1", min_disk=3, protected=False, **FORMATS)
    integer = image["zoned_id"]
    native = (await zone.get(f"/zone/v1/images/{integer}")).json()
    old = next(
        one for one in (await zone.get("/v1/images/detail?limit=1000")).json()["images"] if one["id"] == image["id"]
    )
    for name in ("name", "min_disk", "min_ram", "disk_format", "container_format", "protected", "owner", "status"):
        assert image[name] == native[name] == old[name]
    assert image["own"] == native["properties"]["own"] == old["properties"]["own"]
    assert (native["uuid"], native["integer"]) == (image["id"], integer)
