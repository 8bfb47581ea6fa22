"""The native API over real sockets: a zone in good health, and one without registry and catalogue."""

import uuid
from typing import Any

import httpx
import pytest
import trio

from tests.zoned.conftest import OTHER

PROBLEM = "application/problem+json"


def fresh() -> str:
    return str(uuid.uuid4())


async def test_a_registration_answers_uuid_integer_and_receipt(zone):
    answer = await zone.post("/zone/v1/images", json={"name": "n", "properties": {"own": "1"}})
    body = answer.json()
    assert (answer.status_code, body["state"]) == (201, "committed")
    assert body["ami"] == f"ami-{body['integer']:08x}"
    receipt = (await zone.get(answer.headers["location"])).json()
    assert (receipt["state"], receipt["kind"], receipt["uuid"]) == ("seen", "create", body["uuid"])
    assert (receipt["integer"], receipt["id"]) == (body["integer"], body["write"])
    assert answer.headers["zone-write"] == f"{receipt['id']}; state=committed"
    assert receipt["position"] == body["position"] or body["position"] == 0


async def test_the_same_registration_again_is_the_same_image(zone):
    document = {"uuid": fresh(), "name": "backup", "tags": ["b", "a"], "locations": [{"url": "swift://a/1"}]}
    answers = [await zone.post("/zone/v1/images", json=document) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201] * 3
    assert len({answer.json()["integer"] for answer in answers}) == 1
    assert len({answer.headers["location"] for answer in answers}) == 1


async def test_many_retries_at_once_make_one_image(zone):
    document = {"uuid": fresh(), "name": "backup"}
    answers: list[httpx.Response] = []

    async def register() -> None:
        answers.append(await zone.post("/zone/v1/images", json=document))

    async with trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(register)
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["integer"] for answer in answers}) == 1


async def test_another_content_under_a_taken_uuid_is_a_conflict(zone):
    taken = fresh()
    await zone.post("/zone/v1/images", json={"uuid": taken, "name": "one"})
    answer = await zone.post("/zone/v1/images", json={"uuid": taken, "name": "two"})
    assert (answer.status_code, answer.json()["code"]) == (409, "exists")
    assert (await zone.get(f"/zone/v1/images/{taken}")).json()["name"] == "one"


async def test_every_registration_has_an_integer_of_its_own(zone):
    answers: list[httpx.Response] = []

    async def register() -> None:
        answers.append(await zone.post("/zone/v1/images", json={}))

    async with trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(register)
    assert len({answer.json()["integer"] for answer in answers}) == 30


async def test_an_image_is_found_by_each_of_its_three_names(zone):
    made = (await zone.post("/zone/v1/images", json={"name": "n"})).json()
    for reference in (made["uuid"], made["integer"], made["ami"], f"000{made['integer']}"):
        found = await zone.get(f"/zone/v1/images/{reference}")
        assert (found.status_code, found.json()["uuid"]) == (200, made["uuid"])
        assert found.headers["zone-source"] == "local"
        mapping = (await zone.get(f"/zone/v1/ids/{reference}")).json()
        assert (mapping["uuid"], mapping["integer"], mapping["ami"]) == (made["uuid"], made["integer"], made["ami"])
        assert mapping["granted"]["start"] <= made["integer"] < mapping["granted"]["stop"]


async def test_a_client_that_has_the_version_is_told_so(zone):
    made = (await zone.post("/zone/v1/images", json={})).json()
    path = f"/zone/v1/images/{made['uuid']}"
    tag = (await zone.get(path)).headers["etag"]
    assert tag == f'"{made["write"]}"'
    assert (await zone.get(path, headers={"If-None-Match": tag})).status_code == 304
    assert (await zone.head(path)).headers["etag"] == tag


async def test_a_deleted_image_is_gone_and_keeps_its_names(zone):
    made = (await zone.post("/zone/v1/images", json={})).json()
    deleted = await zone.delete(f"/zone/v1/images/{made['integer']}")
    assert (deleted.status_code, deleted.json()) == (200, {"uuid": made["uuid"], "state": "committed"})
    for method in ("GET", "DELETE"):
        answer = await zone.request(method, f"/zone/v1/images/{made['uuid']}")
        assert (answer.status_code, answer.json()["code"]) == (410, "gone")
    mapping = (await zone.get(f"/zone/v1/ids/{made['uuid']}")).json()
    assert (mapping["integer"], bool(mapping["deleted_at"])) == (made["integer"], True)
    again = await zone.post("/zone/v1/images", json={"uuid": made["uuid"]})
    assert (again.status_code, again.json()["code"]) == (410, "gone")


async def test_a_delete_of_another_version_or_of_a_protected_image_is_refused(zone):
    made = (await zone.post("/zone/v1/images", json={"protected": True})).json()
    path = f"/zone/v1/images/{made['uuid']}"
    stale = await zone.delete(path, headers={"If-Match": f'"{OTHER}.1"'})
    assert (stale.status_code, stale.json()["code"]) == (412, "changed")
    protected = await zone.delete(path)
    assert (protected.status_code, protected.json()["code"]) == (403, "protected")


REFERENCES = [
    *("11111111-1111-4111-8111-111111111112", "0", "9007199254740991", "9223372036854775807", "ami-ffffffff", "x"),
    *("ami-", "ami-0000002A", "ami-zzzzzzzz", "-1", "+1", "1.0", "1e3", "%C2%B2", "%00", "%ff", "'; DROP TABLE images"),
    *("%2e%2e", "{x}", "x" * 3_000, "1" * 5_000, "ami-" + "f" * 17),
]


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("face", ["images", "ids"])
async def test_what_names_no_image_is_not_found_as_of_a_position(zone, face, reference):
    answer = await zone.get(f"/zone/v1/{face}/{reference}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == PROBLEM
    assert (answer.json()["code"], int(answer.headers["zone-position"]) > 0) == ("not-found", True)
    assert "position" in answer.json()["detail"]


@pytest.mark.parametrize("reference", ["9223372036854775808", "9999999999999999999", "ami-ffffffffffffffff"])
async def test_an_integer_beyond_what_can_exist_is_not_found(zone, reference):
    assert (await zone.get(f"/zone/v1/images/{reference}")).status_code == 404


async def test_lists_walk_by_marker_and_say_as_of_which_position(zone):
    made = {(await zone.post("/zone/v1/images", json={})).json()["uuid"] for _ in range(3)}
    seen: set[str] = set()
    query = {"limit": "2"}
    while True:
        body = (await zone.get("/zone/v1/images", params=query)).json()
        assert (body["complete"], body["position"] > 0, len(body["images"]) <= 2) == (True, True, True)
        assert not seen & {image["uuid"] for image in body["images"]}
        seen |= {image["uuid"] for image in body["images"]}
        if body["next"] is None or made <= seen:
            break
        query = {"limit": "2", "marker": body["next"]}
    assert made <= seen


@pytest.mark.parametrize("query", ["limit=0", "limit=-1", "limit=x", "limit=" + "1" * 5_000])
async def test_a_bad_limit_is_a_bad_request(zone, query):
    answer = await zone.get(f"/zone/v1/images?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "bad-query")


async def test_writes_are_listed_newest_first_with_the_state_of_the_journal(zone):
    made = (await zone.post("/zone/v1/images", json={})).json()
    body = (await zone.get("/zone/v1/writes?limit=1000")).json()
    sequences = [one["sequence"] for one in body["writes"]]
    assert sequences == sorted(sequences, reverse=True)
    assert made["write"] in {one["id"] for one in body["writes"]}
    assert {"entries", "bytes", "oldest_age_s", "shared_entries", "shared_bytes"} <= set(body["journal"])


@pytest.mark.parametrize("write_id", ["x", "x.1", f"{OTHER}.1", "1.", "%00.1"])
async def test_a_receipt_that_this_node_never_gave_is_not_found(zone, write_id):
    answer = await zone.get(f"/zone/v1/writes/{write_id}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")


@pytest.mark.parametrize("sequence", ["0", "999999999999", "9" * 30, "-1", "", "x", "%C2%B2"])
async def test_a_sequence_that_this_node_never_reached_is_not_found(zone, served, sequence):
    assert (await zone.get(f"/zone/v1/writes/{served.node_id}.{sequence}")).status_code == 404


async def test_the_state_of_a_healthy_zone_says_who_leads_and_what_is_known(zone, served):
    body = (await zone.get("/zone/v1/status")).json()
    assert (body["node"]["node_id"], body["node"]["zone"]) == (served.node_id, "alpha")
    registry = body["registry"]
    assert (registry["role"], registry["known"], registry["zone"]) == ("registry", True, "alpha")
    assert registry["voters"] == [served.node_id]
    assert body["catalogue"]["position"] > 0
    assert len(body["catalogue"]["hash"]) == 64
    assert body["ids"]["left"] > 0
    assert body["zones"] == {"known": 1, "up": 1}


async def test_zones_describe_every_node(zone, served):
    body = (await zone.get("/zone/v1/zones")).json()
    (me,) = body["zones"]
    assert (me["node_id"], me["zone"], me["me"], me["state"]) == (served.node_id, "alpha", True, "alive")
    assert (me["url"], me["voter"], me["registry"]) == (served.url, True, True)


async def test_the_integers_of_a_node_have_a_runway(zone):
    await zone.post("/zone/v1/images", json={})
    body = (await zone.get("/zone/v1/ids")).json()
    assert body["left"] == sum(one["stop"] - one["next"] for one in body["leases"])
    assert body["runway_days"] == pytest.approx(body["left"] / body["rate_per_day"], rel=0.01, abs=0.01)


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_a_zone_is_alive_and_ready_with_or_without_a_registry(zone, lone, path):
    for client in (zone, lone):
        assert (await client.get(path)).status_code == 200


# Bad input.


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"5", b"\xff", b"[" * 50_000, b'{"name": NaN}'])
async def test_malformed_json_is_a_bad_request(zone, body):
    answer = await zone.post("/zone/v1/images", content=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad-json")


async def test_a_body_beyond_the_bound_is_refused(zone):
    answer = await zone.post("/zone/v1/images", json={"name": "x" * 300_000})
    assert answer.status_code == 413


async def test_headers_beyond_the_bound_are_refused(zone):
    answer = await zone.get("/zone/v1/status", headers={"X-Long": "x" * 20_000})
    assert answer.status_code == 431


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        *(("GET", "/zone/v1/nothing", 404, "no-route"), ("GET", "/zone/v1/images/", 404, "no-route")),
        *(("PUT", "/zone/v1/images", 405, "method"), ("POST", "/zone/v1/status", 405, "method")),
        ("POST", "/livez", 405, "method"),
    ],
)
async def test_no_such_route_or_method_is_a_problem_document(zone, method, path, status, code):
    answer = await zone.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == PROBLEM


# A zone without registry and catalogue.


async def test_a_registration_without_a_registry_is_accepted_as_buffered(lone, cut_off):
    answer = await lone.post("/zone/v1/images", json={"name": "n"})
    body = answer.json()
    assert (answer.status_code, body["state"]) == (202, "buffered")
    receipt = (await lone.get(answer.headers["location"])).json()
    assert (receipt["state"], receipt["id"]) == ("journaled", body["write"])
    shown = await lone.get(f"/zone/v1/images/{body['uuid']}")
    assert (shown.status_code, shown.headers["zone-source"]) == (200, "journal")
    waiting = (await lone.get("/zone/v1/writes?state=journaled")).json()
    assert body["write"] in {one["id"] for one in waiting["writes"]}
    assert waiting["journal"]["entries"] >= 1
    again = await lone.post("/zone/v1/images", json={"uuid": body["uuid"], "name": "n"})
    assert again.json()["write"] == body["write"]


async def test_waiting_for_a_write_ends_when_it_was_asked_to(lone):
    location = (await lone.post("/zone/v1/images", json={})).headers["location"]
    with trio.fail_after(30):
        answer = await lone.get(f"{location}?wait=0s")
    assert (answer.status_code, answer.json()["state"]) == (200, "journaled")


@pytest.mark.parametrize("wait", ["x", "-1", "61", "1.5", "", "s", "%C2%B2", "1m"])
async def test_a_wait_that_is_no_short_time_is_a_bad_request(lone, wait):
    location = (await lone.post("/zone/v1/images", json={})).headers["location"]
    assert (await lone.get(f"{location}?wait={wait}")).status_code == 400


async def test_a_wait_of_absurd_length_is_a_bad_request(lone):
    location = (await lone.post("/zone/v1/images", json={})).headers["location"]
    assert (await lone.get(f"{location}?wait={'9' * 5_000}")).status_code == 400


async def test_a_zone_without_the_catalogue_says_so_instead_of_not_found(lone):
    for reference in (fresh(), "42"):
        answer = await lone.get(f"/zone/v1/images/{reference}")
        assert (answer.status_code, answer.json()["code"]) == (503, "unsynced")
        assert answer.headers["retry-after"].isdigit()


@pytest.mark.parametrize("path", ["/zone/v1/images", "/v2/images", "/v1/images", "/zone/v1/aliases"])
async def test_a_list_that_is_not_whole_says_so(lone, zone, path):
    assert (await lone.get(path)).headers["Zone-Complete"] == "false"
    assert "Zone-Complete" not in (await zone.get(path)).headers


async def test_a_deleted_image_names_its_successor_to_whoever_may_see_that(zone):
    old, new = [(await zone.post("/zone/v1/images", json={"owner": "p1"})).json() for _ in range(2)]
    path = f"/zone/v1/images/{old['uuid']}"
    itself = await zone.delete(f"{path}?successor={old['uuid']}")
    assert (itself.status_code, itself.json()["code"]) == (400, "bad-query")
    assert (await zone.delete(f"{path}?successor={fresh()}")).status_code == 404
    assert (await zone.delete(f"{path}?successor={new['integer']}")).status_code == 200
    answer = await zone.get(path)
    assert (answer.status_code, answer.json()["successor"]) == (410, new["uuid"])
    assert answer.json()["deleted_at"] in answer.json()["detail"]
    assert (await zone.get(f"/v2/images/{old['uuid']}")).status_code == 404
    assert (await zone.get(f"/zone/v1/ids/{old['integer']}")).json()["successor"] == new["uuid"]
    await zone.delete(f"/zone/v1/images/{new['uuid']}?successor={(await hidden(zone))['uuid']}")
    stranger = {"X-Project-Id": "p1", "X-Roles": "member"}
    answer = await zone.get(f"/zone/v1/images/{new['uuid']}", headers=stranger)
    assert (answer.status_code, answer.json()["successor"]) == (410, None)


async def hidden(zone) -> dict[str, Any]:
    """An image that other projects do not see."""
    made: dict[str, Any] = (await zone.post("/zone/v1/images", json={"owner": "p2", "visibility": "private"})).json()
    return made


async def test_the_state_of_a_zone_without_registry_says_that_there_is_none(lone):
    body = (await lone.get("/zone/v1/status")).json()
    assert (body["registry"]["role"], body["registry"]["known"], body["registry"]["zone"]) == ("founding", False, None)
    assert (await lone.get("/zone/v1/images")).json()["complete"] is False
