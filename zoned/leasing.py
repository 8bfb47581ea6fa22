"""Integers before they are needed: asks for ranges, and numbers what was made while there were none.

Asking is an ordinary write of this node, so it is journaled, forwarded, committed and applied like any other; it simply
waits while the registry is away, which is why a lease is sized for weeks.
"""

import math

import structlog
import trio

from conf import Ids
from store import catalogue, journal, ranges
from store.database import Database
from store.errors import Refused, StorageFull
from store.operations import Assign, Grant
from zoned import clock
from zoned.proxy import Proxy
from zoned.supervise import beat

LOOK_S = 1.0  # how often the runway is looked at; a look costs two small reads
NUMBER_MAX = 200  # records numbered in one look

LOUD_DAYS = 7.0  # a runway shorter than this is told
LOUD_PART = 0.9  # of the ceiling: from here on it is told

logger = structlog.get_logger()


def wanted(settings: Ids, runway: ranges.Runway) -> int:
    """How many integers to ask for now; 0 while more than half of what the runway needs is left."""
    target = max(settings.lease_min, math.ceil(runway.rate * settings.runway_days))
    return target if runway.left <= target // 2 else 0


class Leasing:
    """Keeps this node's runway long enough."""

    def __init__(self, database: Database, proxy: Proxy, settings: Ids) -> None:
        self._database = database
        self._proxy = proxy
        self._settings = settings
        self._exhausted = False
        self._told = (False, False)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Looks and asks, for ever; has looked once when it says that it started."""
        while True:
            try:
                await self._look()
            except StorageFull as error:
                logger.warning("integers not asked for", problem=str(error))
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            await beat(LOOK_S)

    async def _look(self) -> None:
        reader = self._database.reader
        runway, counter = ranges.runway(reader, clock.wall()), catalogue.replica(reader).next_integer
        count = wanted(self._settings, runway)
        exhausted = counter > self._settings.ceiling
        self._tell(runway, counter)
        if exhausted and not self._exhausted:
            logger.error("integers are used up", ceiling=self._settings.ceiling)
        self._exhausted = exhausted
        if count and not exhausted and not journal.has_grant(reader):
            await self._proxy.submit(Grant(count, self._settings.ceiling, self._settings.above), wait=False)
        # Asked for anew: a snapshot may have taken the store's place while the grant was journaled.
        for uuid in catalogue.unnumbered(self._database.reader, self._proxy.me, NUMBER_MAX):
            try:
                await self._proxy.submit(Assign(uuid), wait=False)
            except Refused:
                break  # none left, or the record went away meanwhile; the next look sees which

    def _tell(self, runway: ranges.Runway, counter: int) -> None:
        """Loud long before: once when the runway gets short, and once when the ceiling comes near."""
        short = runway.days is not None and runway.days < min(LOUD_DAYS, self._settings.runway_days / 2)
        near = counter > self._settings.ceiling * LOUD_PART
        if short and not self._told[0]:
            logger.error("integers run short", left=runway.left, days=round(runway.days or 0.0, 2))
        if near and not self._told[1]:
            logger.error("the ceiling of integers is near", counter=counter, ceiling=self._settings.ceiling)
        self._told = (short, near)
