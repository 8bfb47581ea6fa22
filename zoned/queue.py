"""What an operator does to the writes that wait here: hold, release, drop, carry elsewhere, wait for the end.

Each is said plainly in its answer, with what it cannot do: a write that has left this node may be in the log already.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import structlog
import trio

from store import holding, journal, shared, urgent
from store.database import Database
from store.errors import StorageFull
from store.holding import Hold
from store.operations import Origin
from store.shared import Row
from zoned import clock
from zoned.errors import ZonedError
from zoned.proxy import Proxy
from zoned.sharing import Sharing, pack, unpack

IMPORT_MAX = 1_000  # writes in one call

logger = structlog.get_logger()


class Blocked(ZonedError):
    """Imported writes are based on those of other nodes, which are not here; what came before them was kept."""


class Queue:
    """This node's journal in an operator's hands."""

    def __init__(self, database: Database, proxy: Proxy, sharing: Sharing) -> None:
        self._database = database
        self._proxy = proxy
        self._sharing = sharing

    async def hold(self, sequence: int | None, reason: str, by: str) -> dict[str, Any]:
        """Holds everything from `sequence` on (None: all that waits, and all that comes)."""
        at = clock.text(clock.wall())

        def job(connection: Any) -> Hold:
            first = holding.first_waiting(connection)
            begin = first if first is not None else journal.backlog(connection).last_sequence + 1
            wanted = Hold(sequence if sequence is not None else begin, reason, by, at)
            holding.hold(connection, wanted)
            return wanted

        held = await self._database.write(job)
        logger.warning("journal held", **asdict(held))
        return self.state()

    async def release(self) -> dict[str, Any]:
        was = await self._database.write(holding.release)
        if was:
            logger.warning("journal released")
        self._proxy.wake()
        return {**self.state(), "was_held": was}

    def state(self) -> dict[str, Any]:
        """What is held: from which sequence, how many, and up to which one writes may have left before."""
        reader = self._database.reader
        held = holding.held(reader)
        waiting = holding.waiting_from(reader, held.sequence) if held is not None else 0
        left = self._proxy.left_through
        return {"hold": asdict(held) if held is not None else None, "held": waiting, "left_through": left}

    async def drop(self, sequence: int, reason: str, origin: Origin) -> dict[str, Any] | None:
        """Takes one waiting write out; None when it does not wait."""
        reader, me, at = self._database.reader, self._proxy.me, clock.text(clock.wall())
        receipt = journal.receipt(reader, sequence)
        behind = holding.same_image_behind(reader, sequence)
        if receipt is None or not await self._database.write(
            lambda c: holding.drop(c, me, sequence, reason, at, origin)
        ):
            return None
        logger.warning("write dropped", sequence=sequence, kind=receipt.kind, image=receipt.uuid, reason=reason)
        self._proxy.wake()
        return {
            "sequence": sequence,
            "kind": receipt.kind,
            "uuid": receipt.uuid,
            "integer_burnt": receipt.integer,
            "reason": reason,
            "by": origin.by,
            "same_image_behind": behind,
            "may_have_left": sequence <= self._proxy.left_through,
        }

    def retry(self) -> dict[str, Any]:
        """Sends what waits now, again if it was sent already: the log takes each write once."""
        self._proxy.wake()
        return {"waiting": journal.backlog(self._database.reader).entries, **self.state()}

    async def flush(self, timeout_s: float) -> dict[str, Any]:
        """Sends at once and waits until what waits now is applied, at most so long."""
        reader = self._database.reader
        last = journal.backlog(reader).last_sequence
        self._proxy.wake()
        with trio.move_on_after(timeout_s):
            while (waits := journal.last_waiting(reader, last)) is not None:
                await self._proxy.wait_for(waits, timeout_s)
        left = journal.backlog(reader).entries - holding.waiting_from(reader, last + 1)
        return {"through": last, "left": left, **self.state()}

    async def take_in(self, documents: Sequence[Any]) -> dict[str, int]:
        """Keeps another node's exported writes as if they had been shared: shown here, and forwarded under its ID.

        Raises ValueError or PeerRefused for what is no export, Blocked when other nodes' writes have to be imported
        first, StorageFull when there is no room.
        """
        rows = unpack(pack([holding.imported(one) for one in documents]))
        reader, taken, left_out = self._database.reader, list[Row](), 0
        known = shared.have(reader)
        for row in rows:
            next_sequence = known.get(row.node, 0) + 1
            while urgent.was_applied(reader, row.node, next_sequence):
                next_sequence += 1
            if row.node == self._proxy.me or row.sequence < next_sequence:
                continue
            if row.sequence > next_sequence:
                left_out += 1  # what is missing before it can only be with the node that made it
                continue
            known[row.node] = row.sequence
            taken.append(row)
        kept = await self._sharing.keep(taken) if taken else 0
        if kept < len(taken):
            first = await self._database.read(lambda c: _needed(c, self._proxy.me, taken))
            if first:
                named = ", ".join(f"{node} up to {sequence}" for node, sequence in sorted(first.items()))
                raise Blocked(f"{kept} of {len(taken)} writes were kept, the next needs those of node {named}")
            raise StorageFull(f"{kept} of {len(taken)} writes were kept, for more there is no room (journal.*_max)")
        logger.warning("writes imported", taken=kept, left_out=left_out)
        return {"taken": kept, "known_already": len(rows) - kept - left_out, "left_out": left_out}

    async def export(self, after: int) -> dict[str, Any]:
        found = await self._database.read(lambda c: list(holding.export(c, after)))
        return {"writes": found, "next": found[-1]["sequence"] if len(found) == holding.EXPORT_MAX else None}


def _needed(connection: Any, me: str, rows: Sequence[Row]) -> dict[str, int]:
    """What is missing here for some of `rows` that could be next: node -> sequence."""
    known, found = shared.have(connection), dict[str, int]()
    for row in rows:
        if row.sequence == known.get(row.node, 0) + 1:
            for node, sequence in shared.unpack_needs(row.needs).items():
                if node != me and known.get(node, 0) < sequence:
                    found[node] = max(sequence, found.get(node, 0))
    return found
