"""What the native API keeps besides records is the same in every zone: aliases, presence, history, the stream."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.clients.conftest import Cloud

pytestmark = pytest.mark.system


class Zones:
    """Both zones; whatever is asked of one comes after what was written in the other."""

    def __init__(self, cloud: Cloud) -> None:
        self.urls = (cloud.registry, cloud.follower)
        self.client = httpx.Client(timeout=60, trust_env=False)
        self.position = 0

    def ask(self, zone: int, method: str, path: str, body: Any = None) -> Any:
        answer = self.send(zone, method, f"/zone/v1{path}", body)
        answer.raise_for_status()
        return answer.json()

    def send(self, zone: int, method: str, path: str, body: Any = None) -> httpx.Response:
        url, after = self.urls[zone], {"Zone-After-Position": str(self.position)}
        self.client.get(f"{url}/zone/v1/status", headers=after).raise_for_status()  # of writes that header asks nothing
        answer = self.client.request(method, url + path, json=body)
        self.position = max(self.position, int(answer.headers["zone-position"]))
        return answer


@pytest.fixture
def zones(cloud: Cloud) -> Iterator[Zones]:
    opened = Zones(cloud)
    with opened.client:
        yield opened


def test_a_name_set_in_one_zone_is_a_reference_in_the_other(zones: Zones) -> None:
    name = f"stable-{uuid.uuid4()}"
    old, new = (zones.ask(0, "POST", "/images", {"name": name})["uuid"] for _ in range(2))
    there = zones.ask(1, "GET", "/status")["node"]["zone"]
    zones.ask(1, "PUT", f"/aliases/{name}", {"image": old})
    assert zones.ask(0, "GET", f"/images/{name}")["uuid"] == old
    zones.ask(0, "PUT", f"/aliases/{name}", {"image": new, "zones": [there]})
    assert zones.ask(1, "GET", f"/images/{name}")["uuid"] == new
    assert zones.ask(0, "GET", f"/images/{name}")["uuid"] == old
    zones.ask(1, "POST", f"/aliases/{name}/rollback", {})
    assert zones.ask(1, "GET", f"/images/{name}")["uuid"] == old


def test_an_image_is_bootable_where_its_bytes_were_verified(zones: Zones) -> None:
    image = zones.ask(1, "POST", "/images", {"status": "active"})["uuid"]
    there = zones.ask(1, "GET", "/status")["node"]["zone"]
    zones.ask(0, "PUT", f"/images/{image}/presence/{there}", {"state": "verified", "note": "sha256"})
    said = [zones.ask(n, "GET", f"/images/{image}/presence") for n in (0, 1)]
    assert [one["bootable_here"] for one in said] == [False, True]
    assert said[0]["zones"] == said[1]["zones"]


def test_every_zone_tells_the_same_history(zones: Zones) -> None:
    image = zones.ask(0, "POST", "/images", {"name": "n"})["uuid"]
    for n in (0, 1):
        zones.send(n, "PUT", f"/v2/images/{image}/tags/t{n}").raise_for_status()
    told = [zones.ask(n, "GET", f"/images/{image}/history")["changes"] for n in (0, 1)]
    assert told[0] == told[1]
    assert [list(one["changed"]) for one in told[0]] == [["tags/t1"], ["tags/t0"], []]


def test_the_stream_goes_on_in_another_zone_without_a_gap(zones: Zones) -> None:
    start = zones.ask(0, "GET", "/status")["catalogue"]["position"]
    made = [zones.ask(n % 2, "POST", "/images", {})["uuid"] for n in range(6)]

    def read(zone: int, after: int, until: str) -> tuple[list[str], int]:
        seen: list[str] = []
        url = f"{zones.urls[zone]}/zone/v1/watch?from={after}&heartbeat=1"
        with zones.client.stream("GET", url) as answer:
            for line in answer.iter_lines():
                message = json.loads(line)
                seen += [message["uuid"]] if message["type"] == "created" else []
                if message.get("uuid") == until:
                    return seen, message["position"]
        raise AssertionError("the stream ended")

    first, position = read(1, start, made[2])
    second, _ = read(0, position, made[5])
    assert [one for one in (*first, *second) if one in made] == made
