"""Writes that name how safe they must be before they are answered, and receipts that are waited for."""

from typing import cast

import pytest
import trio

from store.keys import Known
from store.operations import Origin
from zoned.api import durability
from zoned.api.problems import Problem
from zoned.zone import Zone

OTHER, UUID = (f"00000000-0000-4000-8000-00000000000{letter}" for letter in "ab")

IMAGES = "/zone/v1/images"
OLD = {"disk_format": "raw", "container_format": "bare"}


@pytest.mark.parametrize(
    ("asked", "meant"),
    [("local", ("journaled", 0)), ("Committed", ("committed", 0)), (" peers=3 ", ("shared", 3))],
)
def test_what_is_asked(asked, meant):
    assert durability.parse(asked) == meant


@pytest.mark.parametrize("asked", ["", "peers", "peers=0", "peers=x", "peers=100", "peers=", "local=1", "global", "²"])
def test_what_is_no_durability(asked):
    with pytest.raises(Problem) as caught:
        durability.parse(asked)
    assert caught.value.status == 400


@pytest.mark.parametrize("asked", ["local", "peers=2", "committed"])
async def test_with_a_registry_the_log_is_safer_than_any_peer(zone, asked):
    answer = await zone.post(IMAGES, json={"name": "n"}, headers={"Zone-Durability": asked})
    assert (answer.status_code, answer.json()["state"]) == (201, "committed")


async def test_a_bad_header_journals_nothing(lone):
    before = (await lone.get("/zone/v1/writes")).json()["journal"]["entries"]
    answer = await lone.post(IMAGES, json={}, headers={"Zone-Durability": "everywhere"})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad-header")
    assert (await lone.get("/zone/v1/writes")).json()["journal"]["entries"] == before


async def test_local_is_true_at_once(lone):
    answer = await lone.post(IMAGES, json={}, headers={"Zone-Durability": "local"})
    assert answer.status_code == 202


@pytest.mark.parametrize("asked", ["peers=1", "committed"])
@pytest.mark.parametrize("path", [IMAGES, "/v2/images"])
async def test_what_does_not_come_true_is_a_time_out_with_the_receipt_and_nothing_is_undone(
    lone, asked, path, monkeypatch
):
    monkeypatch.setattr(durability, "WAIT_MAX_S", 0.05)
    answer = await lone.post(path, json={"name": "n"}, headers={"Zone-Durability": asked})
    assert (answer.status_code, answer.json()["code"]) == (504, "not-durable")
    receipt = (await lone.get(answer.headers["Location"])).json()
    assert (receipt["state"], receipt["shared"]) == ("journaled", [])
    assert answer.headers["Zone-Write"] == f"{receipt['id']}; state=buffered"
    assert (await lone.get(f"{IMAGES}/{receipt['uuid']}")).status_code == 200


class Elsewhere:
    """What is known of a write of another node, look by look; the position moves between two of them."""

    def __init__(self, *states: str | None) -> None:
        self._states = list(states)
        self.positions = self
        self.moved = trio.Event()

    def known_write(self, origin: Origin) -> Known | None:
        if len(self._states) > 1:
            self.moved.set()
            self.moved = trio.Event()
        state = self._states.pop(0) if self._states else "journaled"
        return Known(b"", OTHER, 5, UUID, state, "conflict" if state == "conflict" else "") if state else None


@pytest.mark.parametrize(
    ("asked", "states", "status"),
    [
        ("local", [], None),
        ("peers=1", [], None),
        ("peers=2", ["journaled", "done"], None),
        ("committed", ["journaled", "journaled", "done"], None),
        ("committed", ["journaled", "conflict"], 409),
        ("committed", ["journaled", None], 409),
        ("committed", ["journaled"], 504),
        ("peers=2", ["journaled"], 504),
    ],
)
async def test_a_repeat_that_another_node_took_first_is_as_durable_as_it_asks(asked, states, status, monkeypatch):
    monkeypatch.setattr(durability, "WAIT_MAX_S", 0.05)
    zone = cast(Zone, Elsewhere(*states))
    problem = await durability._meet_elsewhere(zone, Origin("a", "b", 1), f"{OTHER}.5", *durability.parse(asked))
    assert (problem.status if problem else None) == status
    assert problem is None or problem.headers["Zone-Write"].startswith(f"{OTHER}.5; state=")


async def test_reads_have_no_durability(zone):
    assert (await zone.get(IMAGES, headers={"Zone-Durability": "everywhere"})).status_code == 200


@pytest.mark.parametrize("until", ["", "sent", "Seen"])
async def test_a_receipt_is_waited_for_until_a_step_it_knows(zone, until):
    location = (await zone.post(IMAGES, json={})).headers["Location"]
    answer = await zone.get(f"{location}?until={until}")
    assert (answer.status_code, answer.json()["code"]) == (400, "bad-query")


@pytest.mark.parametrize("until", ["shared", "committed", "seen"])
async def test_a_finished_receipt_is_not_waited_for(zone, until):
    location = (await zone.post(IMAGES, json={})).headers["Location"]
    with trio.fail_after(30):
        receipt = (await zone.get(f"{location}?wait=60s&until={until}")).json()
    assert receipt["state"] == "seen"
    assert (set(receipt["seen"]), receipt["unseen"]) == ({"alpha"}, [])


# The rule of an image for zones that are cut off.

RULE = "zoned_stale_max_s"


@pytest.mark.parametrize("path", ["/zone/v1/images/{uuid}", "/v2/images/{uuid}", "/v1/images/{integer}"])
@pytest.mark.parametrize(("most", "is_served"), [("3600", True), ("0", False), ("soon", False)])
async def test_an_image_says_how_far_behind_a_zone_may_be_that_serves_it(zone, path, most, is_served):
    made = (await zone.post(IMAGES, json={"name": "n", "properties": {RULE: most}})).json()
    answer = await zone.request(
        "HEAD" if "/v1/images/" in path and path.startswith("/v1") else "GET", path.format(**made)
    )
    if is_served:
        assert answer.status_code == 200
    else:
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")


async def test_a_zone_that_cannot_say_how_old_it_is_refuses_what_has_the_rule_and_serves_the_rest(lone):
    ruled = (await lone.post(IMAGES, json={"properties": {RULE: "86400"}})).json()
    free = (await lone.post(IMAGES, json={})).json()
    answer = await lone.get(f"{IMAGES}/{ruled['uuid']}")
    assert (answer.status_code, answer.json()["code"]) == (503, "stale")
    assert RULE in answer.json()["detail"]
    assert (await lone.get(f"{IMAGES}/{free['uuid']}")).status_code == 200
    both = (await lone.post(f"{IMAGES}:batchGet", json={"references": [ruled["uuid"], free["uuid"]]})).json()
    assert [one["status"] for one in both["items"]] == [503, 200]
