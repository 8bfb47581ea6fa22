"""Public images as Simplestreams clients read them: index, product files, digests, a path that leads to the bytes."""

from typing import Any

import httpx

from store.images import DEFAULTS, Image, Location
from zoned.api import streams

AT = "2026-11-22T09:00:00Z"
U = "00000000-0000-4000-8000-00000000000"
SHA = "ab" * 64


def image(n: int, at: str = AT, name: str | None = "n", url: str = "http://a/1", **properties: str) -> Image:
    fields: dict[str, Any] = {
        **DEFAULTS,
        "name": name,
        "created_at": at,
        "updated_at": at,
        "status": "active",
        "size": 5,
    }
    fields |= {"disk_format": "qcow2", "os_hash_algo": "sha512", "os_hash_value": SHA, "checksum": "c" * 32}
    return Image(f"{U}{n}", n, U, f"{U}.{n}", n, fields, properties, (), (Location(url),))


def test_products_are_named_as_tools_look_for_them():
    ubuntu = {"os_distro": "ubuntu", "os_version": "22.04", "architecture": "x86_64"}
    own = {"product_name": "com.example:thing", "version_name": "20260101"}
    made = [
        image(1, **ubuntu),
        image(2, "2026-11-23T09:00:00Z", **ubuntu),
        image(3, **own),
        image(4),
        image(5, name=None),
    ]
    found = streams.products(made, "image-ids", "zone-a", "http://keystone/v3")
    assert list(found) == [
        *("com.example:thing", "com.ubuntu.cloud:server:22.04:amd64", f"image:{U}5:unknown", "image:n:unknown"),
    ]
    versions = found["com.ubuntu.cloud:server:22.04:amd64"]["versions"]
    assert list(versions) == ["20261122.090000", "20261123.090000"]
    (item,) = versions["20261122.090000"]["items"].values()
    assert (item["id"], item["region"], item["endpoint"]) == (f"{U}1", "zone-a", "http://keystone/v3")
    assert list(found["com.example:thing"]["versions"]) == ["20260101"]


def test_only_what_can_be_fetched_and_checked_is_a_download():
    plain = image(3)
    unchecked = Image(**{**{name: getattr(plain, name) for name in plain.__slots__}, "fields": {**DEFAULTS, "size": 5}})
    found = streams.products([image(1), image(2, url="rbd://x"), unchecked], "image-downloads", "a", "b")
    (version,) = found["image:n:unknown"]["versions"].values()
    assert version["items"] == {
        f"{U}1": {
            "path": f"v2/images/{U}1/file",
            "ftype": "disk1.img",
            "size": 5,
            "md5": "c" * 32,
            "sha512": SHA,
        }
    }


async def test_a_client_finds_public_images_from_the_index(zone: httpx.AsyncClient) -> None:
    body = {
        "name": "streamed",
        "visibility": "public",
        "size": 3,
        "disk_format": "raw",
        "container_format": "bare",
        "os_hash_algo": "sha512",
        "os_hash_value": SHA,
        "locations": [{"url": "http://store/1"}],
    }
    shown, hidden, private = [
        (await zone.post("/zone/v1/images", json={**body, **more})).json()["uuid"]
        for more in ({}, {"os_hidden": True}, {"visibility": "private"})
    ]
    index = (await zone.get("/streams/v1/index.json")).json()
    assert index["format"] == "index:1.0"
    by_type = {entry["datatype"]: entry for entry in index["index"].values()}
    (cloud,) = by_type["image-ids"]["clouds"]
    for datatype, entry in by_type.items():
        assert "image:streamed:unknown" in entry["products"]
        file = (await zone.get(f"/{entry['path']}")).json()
        assert (file["format"], file["datatype"]) == ("products:1.0", datatype)
        assert file["content_id"] in index["index"]
        items = [
            item
            for version in file["products"]["image:streamed:unknown"]["versions"].values()
            for item in version["items"].values()
        ]
        told = str(items)
        assert (shown in told, hidden in told, private in told) == (True, False, False)
        if datatype == "image-ids":
            assert {item["region"] for item in items} == {cloud["region"]}
        else:
            (item,) = [item for item in items if shown in item["path"]]
            answer = await zone.get(f"/{item['path']}", follow_redirects=False)
            assert (answer.status_code, answer.headers["location"]) == (302, "http://store/1")
    # What is withdrawn is gone from the files at once.
    assert (await zone.post(f"/v2/images/{shown}/actions/deactivate")).status_code == 204
    assert shown not in (await zone.get("/streams/v1/image-ids.json")).text
