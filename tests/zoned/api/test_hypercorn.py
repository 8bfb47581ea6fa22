"""The application under another ASGI server that runs on trio: the tests of the APIs, once more."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import httpx
import pytest
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_serve
from hypercorn.typing import ASGIFramework

from tests.zoned.api.test_native import *  # noqa: F403  # collected here, they meet the fixture below
from tests.zoned.api.test_parts_v2 import *  # noqa: F403  # the same
from tests.zoned.conftest import START_S, Served, config_text, described, open_app, serve
from zoned.daemon import Running
from zoned.fleet import free_ports

# Of our own server's bounds and address.
for _name in (
    "test_zones_describe_every_node",
    "test_a_body_beyond_the_bound_is_refused",
    "test_headers_beyond_the_bound_are_refused",
):
    del globals()[_name]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, quiet_logs: None) -> Iterator[Served]:
    """A zone whose users come in through Hypercorn."""
    (port,) = free_ports(1)
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.errorlog = None

    async def beside(running: Running) -> None:
        app = cast(ASGIFramework, open_app(running.zone))
        await hypercorn_serve(app, config, mode="asgi")

    with serve(config_text(tmp_path_factory.mktemp("hypercorn")), beside=beside) as running:
        found = replace(described(running), url=f"http://127.0.0.1:{port}")
        deadline = time.monotonic() + START_S
        while not _has_integers(found.url):
            assert time.monotonic() < deadline, "not ready under Hypercorn"
            time.sleep(0.05)
        yield found


def _has_integers(url: str) -> bool:
    try:
        left: int = httpx.get(f"{url}/zone/v1/ids", trust_env=False).json()["left"]
    except httpx.TransportError:
        return False
    return left > 0


async def test_it_is_hypercorn(zone: httpx.AsyncClient):
    assert "hypercorn" in (await zone.get("/livez")).headers["server"]
