"""Policy: the file's mistakes, and every cell of role x route x visibility against a running zone."""

import itertools
import re
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from conf import parse
from store.catalogue import Found, Source
from store.images import ImageMember, Location
from tests.zoned.api.conftest import AT, UUID, image
from tests.zoned.conftest import config_text
from zoned import daemon, policy
from zoned.api import batch, oldstyle, patches
from zoned.api.caller import Caller
from zoned.api.prepared import Sight
from zoned.api.problems import Problem
from zoned.policy import DEFAULT, PolicyWrong

OWNER = "project-of-the-owner"
# Who: project, roles.
CALLERS = {
    "admin": ("elsewhere", "admin"),
    "auditor": ("elsewhere", "auditor"),
    "service": ("elsewhere", "service"),
    "owner": (OWNER, "member"),
    "owner-reader": (OWNER, "reader"),
    "sharee": ("sharee", "member"),
    "sharee-reader": ("sharee", "reader"),
    "stranger": ("elsewhere", "member"),
    "nobody": ("elsewhere", ""),
}
READS_ALL = {"admin", "auditor"}
WRITES = {"admin", "owner"}
# Written down by hand, beside the policy's own table: who sees an image of each visibility by its ID.
SEES = {
    "private": {*READS_ALL, "owner", "owner-reader"},
    "shared": {*READS_ALL, "owner", "owner-reader", "sharee", "sharee-reader"},
    "public": set(CALLERS),
    "community": set(CALLERS),
}
JSON = {"Content-Type": "application/json"}
PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
RENAME = b'[{"op": "replace", "path": "/name", "value": "other"}]'
# Route: method, path behind the image, body, headers, who may, status for them.
ROUTES: dict[str, tuple[str, str, bytes | None, dict[str, str], set[str], int]] = {
    "show": ("GET", "", None, {}, set(CALLERS), 200),
    "show natively": ("GET", "native", None, {}, set(CALLERS), 200),
    "integer": ("GET", "ids", None, {}, set(CALLERS), 200),
    "bytes": ("GET", "/file", None, {}, set(CALLERS), 302),
    "locations": ("GET", "/locations", None, {}, {"admin", "auditor", "service"}, 200),
    "change": ("PATCH", "", RENAME, PATCH, WRITES, 200),
    "tag": ("PUT", "/tags/x", None, {}, WRITES, 204),
    "add location": ("POST", "/locations", b'{"url": "http://o/2"}', JSON, WRITES, 202),
    "deactivate": ("POST", "/actions/deactivate", None, {}, WRITES, 204),
    "reactivate": ("POST", "/actions/reactivate", None, {}, WRITES, 204),
    "delete natively": ("DELETE", "native", None, {}, WRITES, 200),
}


def headers_of(name: str) -> dict[str, str]:
    project, roles = CALLERS[name]
    return {"X-Project-Id": project, "X-Roles": roles}


async def make(zone: httpx.AsyncClient, visibility: str) -> dict[str, Any]:
    document: dict[str, Any] = {
        "owner": OWNER,
        "visibility": visibility,
        "disk_format": "raw",
        "container_format": "bare",
    }
    document["locations"] = [{"url": "http://o/1", "metadata": {}}]
    made = (await zone.post("/zone/v1/images", json=document)).json()
    if visibility == "shared":
        answer = await zone.post(f"/v2/images/{made['uuid']}/members", json={"member": "sharee"})
        assert answer.status_code == 200
    return dict(made)


async def ask(zone: httpx.AsyncClient, made: dict[str, Any], route: str, who: str) -> httpx.Response:
    method, path, body, headers, _, _ = ROUTES[route]
    base = {"native": "/zone/v1/images", "ids": "/zone/v1/ids"}.get(path, "/v2/images")
    target = f"{base}/{made['uuid']}" + ("" if path in ("native", "ids") else path)
    return await zone.request(method, target, content=body, headers={**headers, **headers_of(who)})


@pytest.mark.parametrize(("route", "visibility"), list(itertools.product(ROUTES, SEES)))
async def test_every_cell(zone, route, visibility):
    _, _, _, _, allowed, good = ROUTES[route]
    made = await make(zone, visibility)
    for who in sorted(CALLERS, key=lambda one: one in allowed):  # those who may come last: they may end it
        if route in ("delete natively", "add location") and who == "owner":
            made = await make(zone, visibility)
        answer = await ask(zone, made, route, who)
        expected = 404 if who not in SEES[visibility] else good if who in allowed else 403
        assert answer.status_code == expected, (who, answer.text)
        if expected == 404:
            assert OWNER not in answer.text
            assert answer.json()["detail"].startswith("no image") if route.endswith("natively") else True


@pytest.mark.parametrize("who", CALLERS)
async def test_registering(zone, who):
    answer = await zone.post("/v2/images", json={"name": "x"}, headers=headers_of(who))
    assert answer.status_code == (201 if CALLERS[who][1] in ("admin", "member") else 403)
    native = await zone.post("/zone/v1/images", json={"name": "x"}, headers=headers_of(who))
    assert native.status_code == answer.status_code
    if answer.status_code == 201:
        assert answer.json()["owner"] == native.json()["owner"] == CALLERS[who][0]
    foreign = await zone.post("/zone/v1/images", json={"owner": "other"}, headers=headers_of(who))
    assert foreign.status_code == (201 if who == "admin" else 403)
    public = await zone.post("/zone/v1/images", json={"visibility": "public"}, headers=headers_of(who))
    assert public.status_code == (201 if who == "admin" else 403)


@pytest.mark.parametrize("who", CALLERS)
async def test_the_zone_itself(zone, who):
    for path in ("status", "zones", "writes", "ids"):
        answer = await zone.get(f"/zone/v1/{path}", headers=headers_of(who))
        assert answer.status_code == (200 if who in ("admin", "auditor", "service") else 403), path


async def test_native_lists_show_what_images_lists_show(zone):
    made = [await make(zone, visibility) for visibility in SEES]
    for who in ("stranger", "owner", "sharee", "auditor"):
        answer = await zone.get("/zone/v1/images?limit=1000", headers=headers_of(who))
        seen = {one["uuid"] for one in answer.json()["images"]} & {one["uuid"] for one in made}
        names = {"stranger": {"public"}, "owner": set(SEES), "sharee": {"public", "shared"}, "auditor": set(SEES)}[who]
        assert seen == {one["uuid"] for one, name in zip(made, SEES, strict=True) if name in names}, who


def test_an_operators_file_changes_only_what_it_names():
    changed = policy.parse('[images]\npublicize = ["admin", "member"]\n', DEFAULT)
    assert changed.rules["images.publicize"] == ("admin", "member")
    assert {**changed.rules, "images.publicize": None} == {**DEFAULT.rules, "images.publicize": None}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\n", "x: no such action"),
        ("[images]\nfly = []\n", "images.fly: no such action"),
        ('[images]\nshow = ["king"]\n', "images.show: must be a list of admin"),
        ("[images]\nshow = 5\n", "images.show: must be a list"),
        ("[images\n", "no TOML"),
    ],
)
def test_mistakes_are_named(text, told):
    with pytest.raises(PolicyWrong, match=told):
        policy.parse(text, DEFAULT)


def test_every_action_is_asked_for_somewhere():
    """A rule that nothing asks about would be a promise without an effect."""
    code = "".join(path.read_text() for path in Path(policy.__file__).parent.rglob("*.py"))
    for action in DEFAULT.rules:
        moves = action in ("images.deactivate", "images.reactivate") and 'f"images.{what}"' in code
        assert f'"{action}"' in code or moves, action


LOCATED = {"admin", "auditor", "service", "owner", "owner-reader"}


@pytest.mark.parametrize(
    "path", ["v2/images", "zone/v1/images", "v2/images?limit=1000", "zone/v1/images?limit=1000", "batch"]
)
async def test_where_the_bytes_are_is_not_for_everybody(zone, path):
    made = await make(zone, "public")
    for who in CALLERS:
        if path == "batch":
            body = {"references": [made["uuid"]]}
            answer = await zone.post("/zone/v1/images:batchGet", json=body, headers=headers_of(who))
            shown = answer.json()["items"][0]["image"]
        elif "?" in path:
            answer = await zone.get(f"/{path}", headers=headers_of(who))
            (shown,) = (one for one in answer.json()["images"] if made["uuid"] in (one.get("id"), one.get("uuid")))
        else:
            shown = (await zone.get(f"/{path}/{made['uuid']}", headers=headers_of(who))).json()
        assert bool(shown["locations"]) == (who in LOCATED), who
        assert ("http://o/1" in str(shown)) == (who in LOCATED), who


async def test_whom_an_image_is_shared_with_is_not_for_everybody(zone):
    made = await make(zone, "shared")
    for who, expected in (("owner", {"sharee", "third"}), ("auditor", {"sharee", "third"}), ("sharee", {"sharee"})):
        await zone.post(f"/v2/images/{made['uuid']}/members", json={"member": "third"})
        shown = (await zone.get(f"/zone/v1/images/{made['uuid']}", headers=headers_of(who))).json()
        assert set(shown["members"]) == expected, who


@pytest.mark.parametrize("path", ["v1/images/{}", "v2/images/{}", "zone/v1/images/{}", "zone/v1/images?marker={}"])
async def test_a_deleted_image_of_others_was_never_there(zone, path):
    made, never = await make(zone, "private"), str(uuid.uuid4())
    await zone.delete(f"/zone/v1/images/{made['uuid']}")
    assert "deleted" in (await zone.get(f"/{path.format(made['uuid'])}", headers=headers_of("owner"))).text
    told = []
    for one in (made["uuid"], never):
        answer = await zone.get(f"/{path.format(one)}", headers=headers_of("stranger"))
        told.append((answer.status_code, re.sub(r"position \d+|\"position\":\d+", "", answer.text).replace(one, "")))
    assert told[0] == told[1]
    assert told[0][0] == 404


KEPT_BACK = policy.parse(
    "[images]\n" + "".join(f'{one} = ["service"]\n' for one in ("add_location", "deactivate", "reactivate")), DEFAULT
)
TENANT = Caller(OWNER, frozenset(("member",)), policy=KEPT_BACK)
PLACE = {"url": "http://o/1", "metadata": {}}


def test_a_patch_adds_no_location_that_the_policy_keeps_back():
    empty = image(owner=OWNER, status="queued", disk_format="raw", container_format="bare")
    full = image(owner=OWNER, status="active", locations=(Location("http://o/1", {}),))
    other = {**PLACE, "metadata": {"zone": "b"}}
    for record, verb, path, value in (
        (empty, "add", "/locations/-", PLACE),
        (empty, "replace", "/locations", [PLACE]),
        (full, "replace", "/locations", [other]),
    ):
        steps = patches.parse([{"op": verb, "path": path, "value": value}], patches.V21)
        with pytest.raises(Problem, match="add image locations"):
            patches.changes(record, steps, AT, None, TENANT)
        assert patches.changes(record, steps, AT, None, Caller(OWNER, frozenset(("member",)))) is not None


@pytest.mark.parametrize(
    ("before", "fields", "locations", "told"),
    [
        ("queued", {"status": "active"}, [PLACE], "add image locations"),
        ("active", {"status": "deactivated"}, [], "deactivate this image"),
        ("deactivated", {"status": "active"}, [], "reactivate this image"),
        ("deactivated", {"status": "saving"}, [], "reactivate this image"),
    ],
)
def test_a_put_does_nothing_that_the_policy_keeps_back(before, fields, locations, told):
    record = image(owner=OWNER, status=before)
    with pytest.raises(Problem, match=told):
        oldstyle.update(record, fields, {}, False, locations, TENANT)
    assert oldstyle.update(record, fields, {}, False, locations, Caller(OWNER, frozenset(("member",)))) is not None


@pytest.mark.parametrize("action", ["see_locations", "see_location_secrets", "see_members"])
def test_a_batch_is_as_narrow_as_the_policy(action):
    member = ImageMember("accepted", False, AT, AT)
    record = replace(image(owner=OWNER, locations=(Location("http://user:word@o/1", {}),)), members={"other": member})
    found = Found(record.encode(), Source.LOCAL)
    shown = [
        batch.items(lambda _: [found], Sight(Caller(policy=rules)), [UUID])[0] is not None
        for rules in (DEFAULT, policy.parse(f'[images]\n{action} = ["owner"]\n', DEFAULT))
    ]
    assert shown == [True, False]


async def test_an_answer_to_a_write_shows_no_more_than_one_to_a_read(tmp_path):
    """Where an operator keeps credentials from owners, asking for no change at all tells none either."""
    rules = tmp_path / "policy.toml"
    rules.write_text('[images]\nsee_location_secrets = ["admin"]\n')
    text = config_text(tmp_path, f'[auth]\npolicy_file = "{rules}"\n')
    document = {"owner": OWNER, "locations": [{"url": "https://user:s3cr3t@o/1", "metadata": {}}]}
    owner = headers_of("owner")
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        running = await nursery.start(daemon.serve, parse(text), stop)
        async with httpx.AsyncClient(base_url=running.url, trust_env=False) as zone:
            made = (await zone.post("/zone/v1/images", json=document)).json()["uuid"]
            answers = [await zone.get(f"/v2/images/{made}", headers=owner)]
            patching = {**PATCH, **owner}
            answers += [
                await zone.patch(f"/v2/images/{made}", content=one, headers=patching) for one in (b"[]", RENAME)
            ]
            answers.append(await zone.post("/zone/v1/images", json=document, headers=owner))
        stop.set()
    assert [one.status_code for one in answers] == [200, 200, 200, 201]
    for one in answers:
        assert "s3cr3t" not in one.text
        assert one.json()["locations"][0]["url"] == "https://***@o/1"
