"""What keeps the store from growing for ever: old entries of the log, lines of the audit and receipts go, a little at
a time.
"""

from collections.abc import Callable

import apsw
import structlog

from conf import Audit, Registry
from store import audit, journal, log
from store.database import Database
from store.errors import StorageFull
from zoned import clock
from zoned.follow import Positions
from zoned.supervise import beat

LOOK_S = 1.0
ENTRIES_MAX = 5_000  # removed in one transaction, so that nobody waits for long
RECEIPTS_S = 30 * 86_400.0  # receipts are kept as long as the longest outage promised
RECEIPTS_MAX = 5_000
WAL_LOUD_BYTES = 268_435_456  # a write-ahead log of this size means a reader that does not finish


def cut(first: int, applied: int, keep: int) -> int | None:
    """Up to where to compact a log that begins at `first`; None to leave it. Begins late, so that it is worth it."""
    if applied - first < keep + keep // 4:
        return None
    return min(applied - keep, first + ENTRIES_MAX)


class Housekeeping:
    """Runs for ever beside everything else."""

    def __init__(
        self,
        database: Database,
        positions: Positions,
        settings: Registry,
        kept: Audit = Audit(),  # noqa: B008  # frozen
        hold: Callable[[], int | None] = lambda: None,
    ) -> None:
        """`hold` names a position whose successors somebody still needs, while a snapshot is being fetched."""
        self._hold = hold
        self._database = database
        self._positions = positions
        self._settings = settings
        self._audit = kept
        self._wal_told = False

    async def serve(self) -> None:
        while True:
            self._watch_wal()
            try:
                again = await self._compact() or await self._forget() or await self._forget_lines()
            except StorageFull as error:
                structlog.get_logger().warning("housekeeping waits", problem=str(error))
                again = False
            await beat(LOOK_S / 10 if again else LOOK_S)

    def _watch_wal(self) -> None:
        """Tells once when the write-ahead log grows beyond reason; the disk's bound stops it in the end."""
        size = self._database.wal_bytes()
        if size >= WAL_LOUD_BYTES and not self._wal_told:
            why = "a reader holds an old state: a backup under way, or another program that has zoned.db open"
            structlog.get_logger().warning("write-ahead log grows", bytes=size, why=why)
        self._wal_told = size >= WAL_LOUD_BYTES

    async def _compact(self) -> bool:
        first = log.first_position(self._database.reader)
        position = cut(first, self._positions.position, self._settings.log_entries_keep)
        held = self._hold()
        if position is None or (held is not None and position > held):
            return False
        await self._database.write(lambda c: log.compact(c, position))
        return True

    async def _forget(self) -> bool:
        before = clock.wall() - RECEIPTS_S
        if not journal.has_receipts_before(self._database.reader, before):
            return False

        def forget(connection: apsw.Connection) -> int:
            return journal.forget_receipts(connection, before, RECEIPTS_MAX)

        return await self._database.write(forget) == RECEIPTS_MAX

    async def _forget_lines(self) -> bool:
        before = self._positions.position - self._audit.entries_keep
        if not audit.has_before(self._database.reader, before):
            return False
        return await self._database.write(lambda c: audit.forget(c, before, ENTRIES_MAX)) == ENTRIES_MAX
