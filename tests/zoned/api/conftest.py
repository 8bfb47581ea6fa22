"""Clients of the session's daemons, and records by value."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from store.images import DEFAULTS, Image, Location
from tests.zoned.conftest import LABEL, Served
from zoned.peers import LABEL_HEADER

UUID = "11111111-1111-4111-8111-111111111111"
AT = "2026-11-22T09:00:00Z"


@pytest.fixture
async def zone(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a zone in good health."""
    async with httpx.AsyncClient(base_url=served.url, timeout=60, trust_env=False, verify=False) as client:
        yield client


@pytest.fixture
async def lone(cut_off: Served) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a zone without registry and catalogue."""
    async with httpx.AsyncClient(base_url=cut_off.url, timeout=60, trust_env=False, verify=False) as client:
        yield client


@pytest.fixture
async def peer(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    """Another node of the same cloud, talking to the zone's peer plane."""
    headers = {LABEL_HEADER: LABEL}
    async with httpx.AsyncClient(
        base_url=served.peer_url, timeout=60, trust_env=False, verify=False, headers=headers
    ) as client:
        yield client


def image(
    properties: dict[str, str] | None = None,
    tags: tuple[str, ...] = (),
    locations: tuple[Location, ...] = (),
    integer: int | None = 42,
    **fields: Any,
) -> Image:
    """A record as the catalogue holds it."""
    known = {**DEFAULTS, "created_at": AT, "updated_at": AT, **fields}
    return Image(UUID, integer, "node", "node.1", 7, known, properties or {}, tags, locations)
