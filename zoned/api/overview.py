"""`GET /zone/v1/overview`: this node and what it knows of the others in one document, once or as it changes; and the
parts of the past that go with it, `/zone/v1/registry` and `/zone/v1/trend`. Made for the page `/ui/`.

The stream is the whole document again and again, as server-sent events: a reader that missed some has missed nothing.
It comes every so often, and at once when the registry changes. However many look, the document is made once.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import orjson
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from zoned import clock
from zoned.api.answers import JSON, by_method, query_integer, reply
from zoned.api.endless import Endless
from zoned.api.operating import health_document
from zoned.api.problems import RETRY_AFTER_S, Problem
from zoned.chronicle import SAMPLE_S, Election
from zoned.supervise import first_of
from zoned.zone import Zone

EVENTS = "text/event-stream"
EVERY_S, EVERY_S_MAX = 2, 60
AGE_S_MAX = 0.4  # a document younger than this is given to the next reader as well
PAUSE_S = 0.5  # between two documents to one reader, at least
VIEWERS_MAX = 100


class Overview:
    """The document, made when somebody asks, and who is looking."""

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.viewers = 0
        self._made_at = -AGE_S_MAX
        self._text = b""

    def text(self) -> bytes:
        """The document as JSON, at most AGE_S_MAX old."""
        now = trio.current_time()
        if now - self._made_at >= AGE_S_MAX:
            self._made_at, self._text = now, orjson.dumps(document(self.zone))
        return self._text

    async def show(self, request: Request) -> Response:
        """This node, its health, every other node, what was served; as server-sent events, `every` so many seconds."""
        every_s = query_integer(request, "every", EVERY_S, 1, EVERY_S_MAX)
        if EVENTS not in request.headers.get("accept", ""):
            return Response(self.text(), media_type=JSON)
        if request.method == "HEAD":
            return Response(None, media_type=EVENTS)
        if self.viewers >= VIEWERS_MAX:
            detail = f"{VIEWERS_MAX} readers look at this node already; ask without a stream, or another node"
            raise Problem(503, "too-many-watchers", detail, {"Retry-After": str(RETRY_AFTER_S)})
        return _Stream(request, self, every_s)

    async def registry(self, request: Request) -> Response:
        """Who is the registry, who takes part, and every change of it that this node saw since it started."""
        elections = self.zone.replication.elections
        return reply({**self.zone.status()["registry"], "elections": [_election(one) for one in elections]})

    async def trend(self, request: Request) -> Response:
        """Figures of the last hour, the oldest first; `lookups` and what follows count from the start of the daemon."""
        samples = [{**asdict(one), "at": clock.precise(one.at)} for one in self.zone.trend]
        return reply({"every_s": SAMPLE_S, "samples": samples})


class _Stream(Endless):
    def __init__(self, request: Request, overview: Overview, every_s: int) -> None:
        super().__init__(request, EVENTS)
        self._overview = overview
        self._every_s = every_s

    async def follow(self) -> None:
        zone, overview = self._overview.zone, self._overview
        overview.viewers += 1
        try:
            while not zone.feed.ending and await self.is_let_in() and self.caller.may("zone.look"):
                changed = zone.replication.changed()
                await self.write(b"event: overview\ndata: %b\n\n" % overview.text())
                await first_of(zone.feed.ended, at_most_s=PAUSE_S)
                await first_of(zone.feed.ended, changed, at_most_s=self._every_s - PAUSE_S)
        finally:
            overview.viewers -= 1


def document(zone: Zone) -> dict[str, Any]:
    """Everything of this moment."""
    elections = zone.replication.elections
    sample = zone.sample()
    return {
        "at": clock.precise(sample.at),
        "status": zone.status(),
        "room": zone.room(),
        "health": health_document(zone.health()),
        "zones": zone.zones(),
        "served": {name: getattr(sample, name) for name in ("lookups", "committed", "buffered", "refused")},
        "elections": elections.count,
        "registry": _election(elections.newest) if elections.newest is not None else None,
    }


def _election(one: Election) -> dict[str, Any]:
    return {**asdict(one), "at": clock.precise(one.at)}


def overview_routes(zone: Zone) -> Sequence[BaseRoute]:
    """The routes of one listener; each has its own readers."""
    overview = Overview(zone)
    return [
        by_method("/overview", GET=overview.show),
        by_method("/registry", GET=overview.registry),
        by_method("/trend", GET=overview.trend),
    ]
