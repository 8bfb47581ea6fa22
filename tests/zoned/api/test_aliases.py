"""Aliases over real sockets: a name that is promoted zone by zone and rolled back."""

import uuid
from typing import Any

import httpx
import pytest

MEMBER = {"X-Project-Id": "p1", "X-Roles": "member"}


@pytest.fixture
async def path() -> str:
    return f"/zone/v1/aliases/stable-{uuid.uuid4()}"


async def image(zone: httpx.AsyncClient, **body: Any) -> str:
    answer = await zone.post("/zone/v1/images", json=body)
    return str(answer.json()["uuid"])


async def test_a_name_is_promoted_zone_by_zone_and_rolled_back(zone: httpx.AsyncClient, path: str) -> None:
    old, new = await image(zone), await image(zone)
    first = await zone.put(path, json={"image": old})
    assert (first.status_code, first.json()["targets"], first.json()["state"]) == (200, {"*": old}, "committed")
    tried = (await zone.put(path, json={"image": new, "zones": ["alpha"]})).json()
    assert (tried["targets"], tried["image"]) == ({"*": old, "alpha": new}, new)
    assert (await zone.get(f"{path}?zone=beta")).json()["image"] == old
    back = (await zone.post(f"{path}/rollback", json={"zones": ["alpha"]})).json()
    assert back["image"] == old
    everywhere = (await zone.put(path, json={"image": new})).json()
    assert everywhere["targets"] == {"*": new}
    whole = (await zone.post(f"{path}/rollback")).json()
    assert whole["targets"] == back["targets"]
    assert whole["earlier"][0]["targets"] == {"*": new}


async def test_a_name_is_a_reference(zone: httpx.AsyncClient, path: str) -> None:
    target, name = await image(zone, name="n"), path.rpartition("/")[2]
    assert (await zone.get(f"/zone/v1/images/{name}")).status_code == 404
    await zone.put(path, json={"image": target})
    shown = await zone.get(f"/zone/v1/images/{name}")
    assert (shown.status_code, shown.json()["uuid"]) == (200, target)
    assert (await zone.get(f"/zone/v1/ids/{name}")).json()["uuid"] == target
    other = f"/zone/v1/aliases/other-{uuid.uuid4()}"
    assert (await zone.put(other, json={"image": name})).json()["image"] == target
    await zone.delete(f"/zone/v1/images/{target}")
    assert (await zone.get(f"/zone/v1/images/{name}")).status_code == 410
    assert (await zone.get(f"/v2/images/{name}")).status_code == 404  # not on routes that Glance has


async def test_a_name_that_is_unset_is_not_found_and_can_be_rolled_back(zone: httpx.AsyncClient, path: str) -> None:
    target, name = await image(zone), path.rpartition("/")[2]
    await zone.put(path, json={"image": target})
    assert (await zone.delete(path)).json()["targets"] == {}
    assert (await zone.get(path)).status_code == 404
    listed = (await zone.get("/zone/v1/aliases?limit=1000")).json()["aliases"]
    assert name not in {one["name"] for one in listed}
    assert (await zone.post(f"{path}/rollback")).json()["image"] == target


async def test_names_are_listed_in_order_by_marker(zone: httpx.AsyncClient, path: str) -> None:
    target = await image(zone)
    names = [f"{path.rpartition('/')[2]}-{n}" for n in range(3)]
    for name in names:
        await zone.put(f"/zone/v1/aliases/{name}", json={"image": target})
    page = (await zone.get(f"/zone/v1/aliases?limit=2&marker={names[0][:-1]}")).json()
    assert ([one["name"] for one in page["aliases"]], page["next"]) == (names[:2], names[1])


async def test_another_version_is_refused_and_no_change_is_no_write(zone: httpx.AsyncClient, path: str) -> None:
    one, two = await image(zone), await image(zone)
    tag = (await zone.put(path, json={"image": one})).headers["etag"]
    again = await zone.put(path, json={"image": one})
    assert (again.status_code, "zone-write" in again.headers) == (200, False)
    assert (await zone.put(path, json={"image": two}, headers={"If-Match": tag})).status_code == 200
    stale = await zone.put(path, json={"image": one}, headers={"If-Match": tag})
    assert (stale.status_code, stale.json()["code"]) == (412, "changed")


async def test_only_administrators_change_names_and_nobody_learns_of_hidden_images(
    zone: httpx.AsyncClient, path: str
) -> None:
    target = await image(zone, owner="p2", visibility="private")
    await zone.put(path, json={"image": target})
    assert (await zone.put(path, json={"image": target}, headers=MEMBER)).status_code == 403
    assert (await zone.delete(path, headers=MEMBER)).status_code == 403
    assert (await zone.get(path, headers=MEMBER)).status_code == 404
    listed = (await zone.get("/zone/v1/aliases?limit=1000", headers=MEMBER)).json()["aliases"]
    assert path.rpartition("/")[2] not in {one["name"] for one in listed}
    shared = await image(zone, owner="p1", visibility="private")
    await zone.put(path, json={"image": shared})
    assert (await zone.get(path, headers=MEMBER)).json()["image"] == shared


async def test_a_name_shows_of_itself_what_its_reader_may_see(zone: httpx.AsyncClient, path: str) -> None:
    hidden, mine = await image(zone, owner="p2", visibility="private"), await image(zone, owner="p1")
    await zone.put(path, json={"image": hidden})
    await zone.put(path, json={"image": mine})
    await zone.put(path, json={"image": hidden, "zones": ["alpha"]})
    shown = await zone.get(f"{path}?zone=alpha", headers=MEMBER)
    assert hidden not in shown.text
    document = shown.json()
    assert (document["image"], document["targets"], document["by"]) == (None, {"*": mine}, None)
    assert [one["targets"] for one in document["earlier"]] == [{"*": mine}]
    assert len((await zone.get(path)).json()["earlier"]) == 2


async def test_a_list_goes_on_behind_names_that_are_hidden(zone: httpx.AsyncClient, path: str) -> None:
    hidden, mine = await image(zone, owner="p2", visibility="private"), await image(zone, owner="p1")
    names = [f"{path.rpartition('/')[2]}-{n}" for n in range(5)]
    for name, target in zip(names, (mine, hidden, hidden, mine, hidden), strict=True):
        await zone.put(f"/zone/v1/aliases/{name}", json={"image": target})
    marker, seen = names[0][:-1], []
    for _ in range(2):
        page = (await zone.get(f"/zone/v1/aliases?limit=1&marker={marker}", headers=MEMBER)).json()
        seen += [one["name"] for one in page["aliases"]]
        marker = page["next"] or ""
    assert seen == [names[0], names[3]]
    assert marker in ("", names[3])


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "bad-body"),
        ({"image": "x", "more": 1}, 400, "bad-body"),
        ({"image": None}, 400, "bad-body"),
        ({"image": []}, 400, "bad-reference"),
        ({"image": "x" * 129}, 400, "bad-reference"),
        ({"image": "11111111-1111-4111-8111-111111111112"}, 404, "not-found"),
        ({"image": None, "zones": []}, 400, "bad-zone"),
        ({"image": None, "zones": ["a b"]}, 400, "bad-zone"),
        ({"image": None, "zones": [1]}, 400, "bad-zone"),
        ({"image": None, "zones": ["a"]}, 400, "bad-body"),
    ],
)
async def test_bad_pointers_are_refused(zone: httpx.AsyncClient, path: str, body: Any, status: int, code: str) -> None:
    answer = await zone.put(path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert (await zone.get(path)).status_code == 404


@pytest.mark.parametrize(
    "name", ["1", "UPPER", "a%20b", "ami-1", "x" * 129, "-x", "11111111-1111-4111-8111-111111111111"]
)
async def test_bad_names_are_refused(zone: httpx.AsyncClient, name: str) -> None:
    answer = await zone.put(f"/zone/v1/aliases/{name}", json={"image": 1})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad-alias")
    assert (await zone.get(f"/zone/v1/aliases/{name}")).status_code == 404


async def test_rolling_back_what_was_never_anything_else_is_a_conflict(zone: httpx.AsyncClient, path: str) -> None:
    assert (await zone.post(f"{path}/rollback")).status_code == 404
    await zone.put(path, json={"image": await image(zone)})
    for body in ({}, {"zones": ["alpha"]}):
        answer = await zone.post(f"{path}/rollback", json=body)
        assert (answer.status_code, answer.json()["code"]) == (409, "no-earlier")


async def test_a_name_set_without_a_registry_is_buffered_and_seen(lone: httpx.AsyncClient, path: str) -> None:
    target = await image(lone)
    answer = await lone.put(path, json={"image": target})
    assert (answer.status_code, answer.json()["state"], answer.json()["image"]) == (202, "buffered", target)
    assert (await lone.get(path)).json()["image"] == target
