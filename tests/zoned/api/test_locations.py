"""Locations: which may be given to an image, by whom, and who sees the credentials in them."""

import uuid

import pytest

from store.images import Location
from tests.zoned.api.conftest import image
from zoned import policy
from zoned.api import documents, oldstyle
from zoned.api.caller import Asked, Caller
from zoned.api.problems import Problem
from zoned.policy import DEFAULT, Policy

OWNER = "located-owner"
AS = {
    who: {"X-Project-Id": project, "X-Roles": role}
    for who, project, role in (
        ("owner", OWNER, "member"),
        ("owner-reader", OWNER, "reader"),
        ("auditor", "elsewhere", "auditor"),
        ("service", "elsewhere", "service"),
        ("stranger", "elsewhere", "member"),
    )
}
SECRET = "swift+https://account:s3cr3t@store/v1/c/o?temp_url_sig=5ea1ed"
MASKED = "swift+https://***@store/v1/c/o?***"
PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
FORMATS = {"disk_format": "raw", "container_format": "bare"}


async def made(zone, **more) -> str:
    body = {**FORMATS, "owner": OWNER, "visibility": "public", **more}
    answer = await zone.post("/zone/v1/images", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["uuid"])


@pytest.mark.parametrize("url", ["file:///etc/passwd", "FILE:///etc/shadow", "swift+config://x/y", "gopher://a/b"])
async def test_only_the_schemes_of_the_list_may_be_registered(zone, url):
    queued = await made(zone)
    place = {"url": url, "metadata": {}}
    patch = [{"op": "add", "path": "/locations/-", "value": place}]
    old = {"x-image-meta-location": url, "x-image-meta-disk_format": "raw", "x-image-meta-container_format": "bare"}
    answers = [
        await zone.post("/zone/v1/images", json={**FORMATS, "locations": [place]}),
        await zone.patch(f"/v2/images/{queued}", json=patch, headers=PATCH),
        await zone.post(f"/v2/images/{queued}/locations", json=place),
        await zone.post("/v1/images", headers=old),
        await zone.put(f"/v1/images/{queued}", headers=old),
    ]
    assert [one.status_code for one in answers] == [400] * 5
    assert all("not allowed here" in one.text for one in answers)
    assert (await zone.get(f"/v2/images/{queued}")).json()["locations"] == []


def test_a_new_image_with_locations_asks_what_adding_them_asks():
    kept_back = policy.parse('[images]\nadd_location = ["service"]\n', DEFAULT)
    tenant, usual = (Caller(OWNER, frozenset(("member",)), policy=rules) for rules in (kept_back, DEFAULT))
    native = documents.native_create({"owner": OWNER, "locations": [{"url": "http://o/1"}]}, str(uuid.uuid4()))
    for caller, allowed in ((tenant, False), (usual, True), (Caller("other", frozenset(("member",))), False)):
        if allowed:
            caller.check_locations(Asked(native.fields), native.locations)
            continue
        with pytest.raises(Problem, match="add image locations"):
            caller.check_locations(Asked(native.fields), native.locations)
    meta = {**FORMATS, "name": "x"}
    with pytest.raises(Problem, match="add image locations"):
        oldstyle.create(meta, {}, [{"url": "http://o/1"}], "active", tenant, str(uuid.uuid4()))
    assert oldstyle.create(meta, {}, [{"url": "http://o/1"}], "active", usual, str(uuid.uuid4())).locations
    tenant.check_locations(Asked({}), ())  # without any nothing is asked


def test_any_scheme_where_no_list_is_given():
    anything = Caller(policy=DEFAULT)
    anything.check_locations(image(), (Location("file:///x", {}),))
    few = Caller(policy=Policy(DEFAULT.rules, frozenset(("https",))))
    with pytest.raises(Problem, match="'file' are not allowed"):
        few.check_locations(image(), (Location("file:///x", {}),))


SEES = {"owner": SECRET, "service": SECRET, "owner-reader": MASKED, "auditor": MASKED, "stranger": None}


@pytest.mark.parametrize("who", SEES)
async def test_credentials_in_locations_are_for_few(zone, who):
    name = str(uuid.uuid4())
    found = await made(zone, name=name, locations=[{"url": SECRET, "metadata": {}}])
    patch = [{"op": "add", "path": "/locations/-", "value": {"url": f"{SECRET}2", "metadata": {}}}]
    assert (await zone.patch(f"/v2/images/{found}", json=patch, headers=PATCH)).status_code == 200
    for path in (
        f"/v2/images/{found}",
        f"/v2/images/{found}?x=not-the-hot-way",
        f"/zone/v1/images/{found}",
        f"/v2/images?name={name}",
        f"/v2/images/detail?name={name}",
        f"/zone/v1/images?marker={found}",
        f"/zone/v1/images/{found}/locations",
        f"/zone/v1/images/{found}/history",
        f"/v2/images/{found}/locations",
    ):
        answer = await zone.get(path, headers=AS[who])
        if answer.status_code != 200:
            assert answer.status_code in (403, 404), path
        elif SEES[who] != SECRET:
            assert "s3cr3t" not in answer.text, path
            assert "5ea1ed" not in answer.text, path
            assert (MASKED in answer.text) <= (SEES[who] is not None), path
    batch = await zone.post("/zone/v1/images:batchGet", json={"references": [found]}, headers=AS[who])
    assert batch.json()["items"][0]["status"] == 200
    assert ("s3cr3t" in batch.text) == (SEES[who] == SECRET)
    shown = (await zone.get(f"/v2/images/{found}", headers=AS[who])).json()
    assert [one["url"] for one in shown["locations"]][:1] == ([SEES[who]] if SEES[who] else [])
    for path in (f"/v2/images/{found}/file", f"/v1/images/{found}"):
        answer = await zone.get(path, headers=AS[who])
        assert answer.headers.get("Location") == (SECRET if SEES[who] == SECRET else None), path


async def test_who_is_sent_to_the_bytes_gets_no_credentials(zone):
    places: list[dict[str, object]] = [
        {"url": url, "metadata": {}} for url in ("https://user:s3cr3t@near/1", "https://far/1")
    ]
    found = await made(zone, locations=places)
    for who, url in (("stranger", "https://far/1"), ("owner", "https://user:s3cr3t@near/1")):
        answer = await zone.get(f"/v2/images/{found}/file", headers=AS[who])
        assert (answer.status_code, answer.headers["Location"]) == (302, url)
