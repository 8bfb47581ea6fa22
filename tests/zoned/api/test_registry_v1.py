"""The registry API: what a Glance API server of the releases that had a registry asks, in its order."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from tests.zoned.api.test_images_v2 import fresh
from tests.zoned.api.test_parts_v2 import as_project
from tests.zoned.conftest import config_text, serve
from zoned.daemon import Running


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, quiet_logs: None) -> Iterator[Running]:
    text = config_text(tmp_path_factory.mktemp("registry"))
    with serve(text.replace("[http]", '[http]\nregistry_listen = "127.0.0.1:0"')) as started:
        yield started


@pytest.fixture(params=["", "/v1"])
async def registry(request: pytest.FixtureRequest, running: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"{running.registry_url}{request.param}", timeout=60, trust_env=False) as c:
        yield c


async def made(registry: httpx.AsyncClient, **meta: Any) -> dict[str, Any]:
    answer = await registry.post("/images", json={"image": meta})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()["image"]
    return body


async def test_an_upload_is_four_writes_of_the_api_server(registry: httpx.AsyncClient, running: Running) -> None:
    image = await made(registry, name="n", status="queued", is_public=False, properties={"os": "linux", "none": None})
    assert (image["status"], image["properties"], image["location"]) == ("queued", {"os": "linux"}, None)
    path = f"/images/{image['id']}"
    for meta in (
        {"status": "saving"},
        {"size": 5, "checksum": "a" * 32},
        {"status": "active", "location": "file:///store/1", "disk_format": "raw", "container_format": "bare"},
    ):
        assert (await registry.put(path, json={"image": meta})).status_code == 200
    shown = (await registry.get(path)).json()["image"]
    assert (shown["status"], shown["size"], shown["location"]) == ("active", 5, "file:///store/1")
    assert shown["location_data"] == [{"url": "file:///store/1", "metadata": {}, "status": "active"}]
    assert shown["properties"] == {"os": "linux"}
    async with httpx.AsyncClient(base_url=running.url, trust_env=False) as public:
        v2 = (await public.get(f"/v2/images/{image['id']}")).json()
    assert (v2["status"], v2["os"], v2["size"], v2["visibility"]) == ("active", "linux", 5, "shared")


async def test_properties_are_kept_unless_they_are_purged(registry: httpx.AsyncClient) -> None:
    path = f"/images/{(await made(registry, name='n', properties={'a': '1', 'b': '2'}))['id']}"
    kept = await registry.put(path, json={"image": {"properties": {"a": "3"}}})
    assert kept.json()["image"]["properties"] == {"a": "3", "b": "2"}
    purge = {"X-Glance-Registry-Purge-Props": "true"}
    purged = await registry.put(path, json={"image": {"properties": {"c": "4"}}}, headers=purge)
    assert purged.json()["image"]["properties"] == {"c": "4"}


async def test_a_change_may_name_the_status_that_it_expects(registry: httpx.AsyncClient) -> None:
    path = f"/images/{(await made(registry, name='n', status='queued'))['id']}"
    assert (await registry.put(path, json={"image": {"status": "saving"}, "from_state": "active"})).status_code == 409
    assert (await registry.put(path, json={"image": {"status": "saving"}, "from_state": "queued"})).status_code == 200


async def test_the_api_server_says_deleted_before_it_deletes(registry: httpx.AsyncClient) -> None:
    path = f"/images/{(await made(registry, name='n'))['id']}"
    assert (await registry.put(path, json={"image": {"status": "deleted"}})).status_code == 200
    answer = await registry.delete(path)
    assert (answer.status_code, answer.json()["image"]["deleted"]) == (200, True)
    assert (await registry.get(path)).status_code == 404
    assert (await registry.delete(path)).status_code == 404


async def test_lists_are_short_or_with_locations(registry: httpx.AsyncClient) -> None:
    mark = fresh()
    for n in range(3):
        await made(registry, name=f"n{n}", location=f"file:///{n}", properties={"mark": mark})
    short = (await registry.get(f"/images?property-mark={mark}&sort_key=name&sort_dir=asc&limit=2")).json()["images"]
    assert [one["name"] for one in short] == ["n0", "n1"]
    full = (
        await registry.get(f"/images/detail?property-mark={mark}&sort_key=name&sort_dir=asc&marker={short[-1]['id']}")
    ).json()["images"]
    assert [(one["name"], one["location"]) for one in full] == [("n2", "file:///2")]


async def test_members_and_who_may_see(registry: httpx.AsyncClient) -> None:
    owner, member = fresh(), fresh()
    answer = await registry.post("/images", json={"image": {"name": "n"}}, headers=as_project(owner))
    image = answer.json()["image"]
    path = f"/images/{image['id']}"
    assert (image["owner"], (await registry.get(path, headers=as_project(member))).status_code) == (owner, 404)
    assert (await registry.put(f"{path}/members/{member}", headers=as_project(owner))).status_code == 204
    assert (await registry.get(path, headers=as_project(member))).status_code == 200
    shared = (await registry.get(f"/shared-images/{member}", headers=as_project(member))).json()
    assert shared == {"shared_images": [{"image_id": image["id"], "can_share": False}]}
    refused = await registry.put(path, json={"image": {"name": "x"}}, headers=as_project(member))
    assert refused.status_code == 403


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"image": 5}', b'{"image": {"status": "odd"}}', b"\xff"])
async def test_a_body_that_is_no_image_is_a_bad_request(registry: httpx.AsyncClient, body: bytes) -> None:
    assert (await registry.post("/images", content=body)).status_code == 400


@pytest.mark.parametrize(
    "meta",
    [
        *({"id": "42"}, {"id": 42}, {"name": 5}, {"size": "5"}, {"is_public": [], "name": []}, {"properties": 5}),
        *({"location_data": [5]}, {"location": 5}, {"disk_format": "ari", "container_format": "aki"}),
    ],
)
async def test_a_record_that_cannot_be_is_a_bad_request(registry: httpx.AsyncClient, meta: Any) -> None:
    assert (await registry.post("/images", json={"image": meta})).status_code == 400
    path = f"/images/{(await made(registry, name='n'))['id']}"
    if "id" not in meta:
        assert (await registry.put(path, json={"image": meta})).status_code == 400


async def test_an_id_is_used_once(registry: httpx.AsyncClient) -> None:
    chosen = fresh()
    await made(registry, id=chosen, name="n")
    assert (await registry.post("/images", json={"image": {"id": chosen, "name": "m"}})).status_code == 409
