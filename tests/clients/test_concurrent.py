"""Many clients in two zones change one image at once: all changes of different things survive (Glance loses some)."""

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.clients.conftest import Cloud

pytestmark = pytest.mark.system
KIND = {"Content-Type": "application/openstack-images-v2.1-json-patch"}


def test_tags_properties_and_members_of_eight_clients_all_survive(cloud: Cloud) -> None:
    path = f"/v2/images/{uuid.uuid4()}"
    zones = (cloud.registry, cloud.follower)
    with httpx.Client(timeout=60, trust_env=False) as client:
        made = client.post(f"{cloud.registry}/v2/images", json={"id": path.rpartition("/")[2]})
        position = int(made.headers["zone-position"])
        client.get(f"{cloud.follower}{path}", headers={"Zone-After-Position": str(position)}).raise_for_status()

        def change(n: int) -> list[int]:
            url = zones[n % 2] + path
            step = [{"op": "add", "path": f"/p{n}", "value": str(n)}]
            return [
                client.put(f"{url}/tags/t{n}").status_code,
                client.patch(url, json=step, headers=KIND).status_code,
                client.post(f"{url}/members", json={"member": f"m{n}"}).status_code,
            ]

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(change, range(16))) == [[204, 200, 200]] * 16
        for url in zones:
            deadline = time.monotonic() + 10
            while len(client.get(f"{url}{path}/members").json()["members"]) < 16 and time.monotonic() < deadline:
                time.sleep(0.05)
            shown = client.get(f"{url}{path}").json()
            assert set(shown["tags"]) == {f"t{n}" for n in range(16)}
            assert {f"p{n}": str(n) for n in range(16)}.items() <= shown.items()
            members = client.get(f"{url}{path}/members").json()["members"]
            assert {one["member_id"] for one in members} == {f"m{n}" for n in range(16)}
