"""How the bytes of images stand in this zone, counted now and then: wanted, claimed, verified; in one zone only.

A count looks at the newest active images only (IMAGES_MAX), a page at a time, every few minutes, so
it costs a thousandth of a core or two. Health and metrics show the last one.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

import structlog
import trio

from store import presence
from store.errors import TooBroad
from store.images import Image
from store.listing import NEWEST, Query, place
from zoned import clock
from zoned.api.risk import zones_of
from zoned.health import Counted
from zoned.zone import DAMAGE, Zone

IMAGES_MAX = 10_000
PAGE = 250
PAUSE_S = 0.05  # between two pages
FIRST_S, EVERY_S = 20.0, 300.0
LATE = timedelta(hours=1)  # a wish that is not fulfilled for so long is told

logger = structlog.get_logger()


def count(before: Counted, images: Iterable[Image], zone: str, now: str, verified_days: float) -> Counted:
    """`before` and these images; `now` as `2026-11-22T09:00:00.000Z`. Sans-IO."""
    found = {name: getattr(before, name) for name in Counted.__slots__}
    for image in images:
        said = image.presence.get(zone, {})
        wanted, claimed, verified = (presence.holds(said, kind) for kind in ("wanted", "claimed", "verified"))
        found["looked_at"] += 1
        found["wanted"] += wanted is not None
        found["claimed"] += claimed is not None
        found["verified"] += verified is not None
        found["absent"] += presence.is_absent(said)
        here = claimed is not None or verified is not None
        found["late"] += wanted is not None and not here and _age(wanted, now) >= LATE
        found["old"] += verified is not None and not presence.is_recent(verified, now, verified_days)
        found["single_zone"] += len(zones_of(image)) == 1
    return replace(before, **found)


def _age(when: str, now: str) -> timedelta:
    return datetime.fromisoformat(now) - datetime.fromisoformat(when)


class Survey:
    """Counts for ever; the result stands in `zone.presence_counts`."""

    def __init__(self, zone: Zone) -> None:
        self._zone = zone

    async def serve(self) -> None:
        await trio.sleep(FIRST_S)
        while True:
            try:
                await self.look()
            except (TooBroad, *DAMAGE) as error:  # the zone has noted what is damaged
                logger.warning("presence not counted", problem=str(error))
            await trio.sleep(EVERY_S)

    async def look(self) -> None:
        """One count. Time makes wishes late and sights old as well, so it is made even when nothing was written."""
        zone, counted = self._zone, Counted()
        query = Query(PAGE, hidden=None, visibility="all", tests=(("status", "=", "active"),))
        days, now = zone.settings.config.presence.verified_days, clock.precise(clock.wall())
        while True:
            page = await zone.page(query)
            images = [found.image for found in page.found]
            counted = count(counted, images, zone.name, now, days)
            if not page.more or not images or counted.looked_at >= IMAGES_MAX:
                zone.presence_counts = counted
                return
            query = replace(query, after=place(images[-1], NEWEST))
            await trio.sleep(PAUSE_S)
