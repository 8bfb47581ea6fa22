"""The Raft core's view of the log on disk: `LogStorage` over a reading connection."""

from collections.abc import Sequence

import apsw

from store import log
from store.database import Database
from store.entries import Entry
from zoned.raft.log import Compacted


class StoredLog:
    """Point reads of a few microseconds each, inline in the trio thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def _reader(self) -> apsw.Connection:
        """Asked for each time: installing a snapshot replaces it."""
        return self._database.reader

    def first_index(self) -> int:
        return log.first_position(self._reader)

    def last_index(self) -> int:
        return log.last_position(self._reader)

    def term(self, index: int) -> int:
        term = log.term_at(self._reader, index)
        if term is None:
            raise Compacted(f"log entry {index} is not held")
        return term

    def entries(self, lo: int, hi: int, max_bytes: int) -> Sequence[Entry]:
        found = log.read(self._reader, lo, hi, max_bytes)
        # Asked after reading: compaction goes on in the writer's thread.
        if (not found or found[0].index != lo) and lo < self.first_index():
            raise Compacted(f"log entry {lo} is not held")
        return found

    def membership(self, at_most: int) -> Entry | None:
        return log.membership(self._reader, at_most)
