"""Bad input to the Images API v2, kind by kind: the status that Glance gives, its shape of errors, nothing changed."""

import json
import uuid
from typing import Any

import httpx
import pytest

JSON = {"Accept": "application/json"}
V21 = "application/openstack-images-v2.1-json-patch"
MEMBER = {"X-Project-Id": "bad-input", "X-Roles": "member"}
DEEP = b"[" * 100 + b"]" * 100
NOT_UTF8 = b'{"name": "\xff\xfe"}'
LONE = b'{"name": "\\ud800"}'


def checked(answer: httpx.Response, status: int) -> None:
    """An error in Glance's JSON spelling."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"message", "code", "title"}
    assert body["code"] == f"{status} {body['title']}"
    assert body["message"].endswith("<br /><br />\n\n\n")


async def create(zone: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    made: dict[str, Any] = (await zone.post("/v2/images", json=body)).json()
    return made


CREATES: list[tuple[str, Any, int]] = [
    ("reserved attribute", {"deleted": True}, 403),
    ("reserved prefix", {"os_glance_x": "y"}, 403),
    ("read-only attribute", {"status": "active"}, 403),
    ("read-only attribute", {"zoned_id": 5}, 403),
    ("property of a wrong type", {"own": 5}, 400),
    ("property null", {"own": None}, 400),
    ("property too long a name", {"x" * 256: "y"}, 400),
    ("name of a wrong type", {"name": 5}, 400),
    ("name too long", {"name": "x" * 256}, 400),
    ("tag too long", {"tags": ["x" * 256]}, 400),
    ("tags of a wrong type", {"tags": "x"}, 400),
    ("number as text", {"min_ram": "1"}, 400),
    ("number negative", {"min_disk": -1}, 400),
    ("number too large", {"min_ram": 2**31}, 400),
    ("truth as text", {"protected": "yes"}, 400),
    ("unknown format", {"disk_format": "floppy"}, 400),
    ("unknown visibility", {"visibility": "mine"}, 400),
    ("bad uuid", {"id": "42"}, 400),
    ("bad uuid", {"id": "{" + str(uuid.UUID(int=5)) + "}"}, 400),
    ("too many tags", {"tags": [str(n) for n in range(129)]}, 413),
    ("too many properties", {f"p{n}": "x" for n in range(129)}, 413),
    ("NUL in a text", {"name": "a\0b"}, 400),
    ("a list", [], 400),
    ("a text", "x", 400),
    ("null", None, 400),
]


@pytest.mark.parametrize(("what", "body", "status"), CREATES, ids=[f"{n}-{one[0]}" for n, one in enumerate(CREATES)])
async def test_creates(zone: httpx.AsyncClient, what: str, body: Any, status: int) -> None:
    if isinstance(body, dict):
        body = {"name": "bad-input", **body}
    checked(await zone.post("/v2/images", json=body, headers=JSON), status)
    assert (await zone.get("/v2/images?name=bad-input")).json()["images"] == []


@pytest.mark.parametrize("body", [DEEP, NOT_UTF8, LONE, b"", b"{", b'{"a":1}x', b"\x00", b"NaN", b'{"min_ram": 1e400}'])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_bodies_that_are_no_json_of_ours(zone: httpx.AsyncClient, method: str, body: bytes) -> None:
    image = await create(zone)
    path = "/v2/images" if method == "POST" else image["self"]
    checked(await zone.request(method, path, content=body, headers={**JSON, "Content-Type": V21}), 400)
    assert (await zone.get(image["self"])).json() == image


async def test_an_id_that_is_taken_or_was(zone: httpx.AsyncClient) -> None:
    image = await create(zone)
    checked(await zone.post("/v2/images", json={"id": image["id"]}, headers=JSON), 409)
    await zone.delete(image["self"])
    checked(await zone.post("/v2/images", json={"id": image["id"]}, headers=JSON), 409)


PATCHES: list[tuple[str, Any, int]] = [
    ("missing path", [{"op": "replace", "path": "/nothing", "value": "x"}], 409),
    ("missing path", [{"op": "remove", "path": "/nothing"}], 409),
    ("missing location", [{"op": "remove", "path": "/locations/7"}], 400),
    ("path too deep", [{"op": "add", "path": "/a/b", "value": "x"}], 400),
    ("no pointer", [{"op": "add", "path": "name", "value": "x"}], 400),
    ("reserved", [{"op": "add", "path": "/deleted", "value": "x"}], 403),
    ("read-only", [{"op": "replace", "path": "/id", "value": str(uuid.UUID(int=5))}], 403),
    ("base attribute removed", [{"op": "remove", "path": "/name"}], 403),
    ("bad operator", [{"op": "move", "path": "/name", "from": "/own"}], 400),
    ("wrong type", [{"op": "replace", "path": "/min_ram", "value": "x"}], 400),
    ("name too long", [{"op": "replace", "path": "/name", "value": "x" * 256}], 400),
    ("good, then bad", [{"op": "add", "path": "/own", "value": "x"}, {"op": "remove", "path": "/nothing"}], 409),
    ("an object", {"op": "add"}, 400),
    ("no objects", [1], 400),
]


@pytest.mark.parametrize(("what", "body", "status"), PATCHES, ids=[f"{n}-{one[0]}" for n, one in enumerate(PATCHES)])
async def test_patches(zone: httpx.AsyncClient, what: str, body: Any, status: int) -> None:
    image = await create(zone, name="n")
    content = json.dumps(body).encode()
    checked(await zone.patch(image["self"], content=content, headers={**JSON, "Content-Type": V21}), status)
    assert (await zone.get(image["self"])).json() == image


async def test_if_match_of_another_version(zone: httpx.AsyncClient) -> None:
    image = await create(zone)
    old = (await zone.get(image["self"])).headers["etag"]
    await zone.put(f"{image['self']}/tags/t")
    now = (await zone.get(image["self"])).json()
    step = json.dumps([{"op": "add", "path": "/own", "value": "x"}]).encode()
    headers = {**JSON, "If-Match": old}
    checked(await zone.patch(image["self"], content=step, headers={**headers, "Content-Type": V21}), 412)
    checked(await zone.delete(image["self"], headers=headers), 412)
    assert (await zone.get(image["self"])).json() == now


@pytest.mark.parametrize(
    "image_id", ["x", "42", "ami-00000001", "%00", "%ff%fe", "..%2f..%2fetc", str(uuid.UUID(int=7)), "x" * 5_000]
)
@pytest.mark.parametrize("method", ["GET", "DELETE", "PATCH"])
async def test_ids_that_name_nothing(zone: httpx.AsyncClient, method: str, image_id: str) -> None:
    content = b"[]" if method == "PATCH" else None
    headers = {**JSON, "Content-Type": V21} if method == "PATCH" else JSON
    checked(await zone.request(method, f"/v2/images/{image_id}", content=content, headers=headers), 404)


@pytest.mark.parametrize(
    "query",
    [
        *("limit=-1", "limit=x", "limit=1.5", "limit=" + "9" * 30, "marker=x", "marker=" + str(uuid.UUID(int=7))),
        *("name=like:x", "status=ne:active", 'id=in:"a', "created_at=soon", "created_at=in:x", "updated_at=gt:"),
        *("size_min=x", "size_max=-1", "min_ram=abc", "created_at_min=1", "zoned_id=x", "protected=True"),
        *("os_hidden=maybe", "visibility=mine", "member_status=maybe", "sort=nothing", "sort=name:up"),
        *("sort_key=nothing", "sort_dir=up", "sort=name&sort_key=name", "sort_key=name&sort_dir=asc&sort_dir=desc"),
        *("changes-since=2026-01-01", "locations=x", "&".join(f"p{n}=1" for n in range(129))),
        "name=in:" + ",".join(map(str, range(251))),
    ],
)
async def test_questions(zone: httpx.AsyncClient, query: str) -> None:
    checked(await zone.get(f"/v2/images?{query}", headers=JSON), 400)


async def test_a_huge_limit_is_cut_as_glance_cuts_it(zone: httpx.AsyncClient) -> None:
    assert len((await zone.get("/v2/images?limit=999999999")).json()["images"]) <= 1_000


async def test_a_marker_of_a_deleted_or_invisible_image(zone: httpx.AsyncClient) -> None:
    gone, hidden = await create(zone), await create(zone, owner="someone-else", visibility="private")
    await zone.delete(gone["self"])
    for image in (gone, hidden):
        checked(await zone.get(f"/v2/images?marker={image['id']}", headers={**JSON, **MEMBER}), 400)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "members", {}, 400),
        ("POST", "members", {"member": ""}, 400),
        ("POST", "members", {"member": 5}, 400),
        ("POST", "members", {"member": "x" * 256}, 400),
        ("PUT", "members/nobody", {"status": "accepted"}, 404),
        ("PUT", "members/nobody", {"status": "maybe"}, 400),
        ("POST", "locations", {}, 400),
        ("POST", "locations", {"url": 5}, 400),
        ("POST", "locations", {"url": "no-scheme"}, 400),
        ("POST", "locations", {"url": "http://o/1", "metadata": []}, 400),
        ("POST", "locations", {"url": "http://o/1", "validation_data": {"os_hash_algo": "md5"}}, 400),
        ("PUT", "tags/" + "x" * 256, None, 400),
        ("DELETE", "tags/nothing", None, 404),
        ("POST", "actions/explode", None, 404),
    ],
)
async def test_parts(zone: httpx.AsyncClient, method: str, path: str, body: Any, status: int) -> None:
    image = await create(zone, disk_format="raw", container_format="bare")
    checked(await zone.request(method, f"{image['self']}/{path}", json=body, headers=JSON), status)
    assert (await zone.get(image["self"])).json() == image
