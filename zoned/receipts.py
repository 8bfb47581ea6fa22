"""What became of a write, for its client: journaled, shared, committed, seen; or conflict, refused. Never backwards.

*shared* counts the nodes that said that they have the write on their disk, *committed* names its position in the log,
and *seen* counts the zones all of whose nodes have applied that, by what nodes report of themselves over gossip.
Whatever was told is on disk before it is told, so that neither a restart nor a zone that falls silent takes it back.
"""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass

import trio

from gossip import MemberView, State
from store import journal, shared
from store.database import Database
from store.errors import StorageFull
from store.journal import Receipt
from zoned import clock
from zoned.follow import Positions
from zoned.proxy import Proxy
from zoned.sharing import Sharing
from zoned.supervise import beat, first_of

WATCH_S = 1.0  # how often it is looked who has seen what was switched off
WATCHED_MAX = 1_000  # writes; the newest of them; others are looked at when somebody asks
LOOK_S = 0.1  # how often positions of others are looked at while somebody waits for them
STEPS = ("journaled", "shared", "committed", "seen")
FINAL = ("conflict", "refused", "dropped")


@dataclass(frozen=True, slots=True)
class Told:
    """A receipt with what others know. `seen`: zone -> when this node knew; `unseen`: the other zones known now."""

    receipt: Receipt
    state: str
    shared: tuple[str, ...]
    seen: Mapping[str, float]
    unseen: tuple[str, ...]

    def is_at(self, until: str, peers: int = 1) -> bool:
        """Whether the write came as far as `until`; `peers` says with how many nodes "shared" means."""
        if until == "shared":
            return len(self.shared) >= peers or self.receipt.is_finished
        return self.state in FINAL or self.state in STEPS[STEPS.index(until) :] or self.receipt.state == "applied"


EVERYWHERE = ""  # stands in the place of a zone's name once every zone has seen a write


def sightings(receipt: Receipt, seen: Collection[str], zones: Mapping[str, int]) -> list[str]:
    """The zones that are found to have applied the write, by the positions of `zones`, and were not in `seen`."""
    if receipt.position is None or EVERYWHERE in seen:
        return []
    news = [zone for zone, position in zones.items() if position >= receipt.position and zone not in seen]
    return [*news, EVERYWHERE] if news and set(zones) <= {*seen, *news} else news


def told(receipt: Receipt, holders: Collection[str], seen: Mapping[str, float], zones: Collection[str]) -> Told:
    """A receipt with what is on disk of others: `holders` of the write, zones that have `seen` it."""
    state = receipt.state
    if state == "journaled" and holders:
        state = "shared"
    elif state == "committed" and EVERYWHERE in seen:
        state = "seen"
    shown = {zone: at for zone, at in seen.items() if zone != EVERYWHERE}
    return Told(receipt, state, tuple(holders), shown, tuple(sorted(set(zones) - set(shown))))


class Receipts:
    """The receipts of this node's own writes."""

    def __init__(
        self,
        me: str,
        database: Database,
        proxy: Proxy,
        sharing: Sharing,
        members: Mapping[str, MemberView],
        positions: Positions,
    ) -> None:
        self._me = me
        self._database = database
        self._proxy = proxy
        self._sharing = sharing
        self._members = members
        self._positions = positions

    async def serve(self) -> None:
        """Notes for ever, without being asked, when each zone has seen what was switched off."""
        while True:
            with suppress(StorageFull):  # there is a later
                await self._look()
            await beat(WATCH_S)

    async def _look(self) -> None:
        reader, done = self._database.reader, list[int]()
        for sequence in journal.watched(reader, WATCHED_MAX):
            receipt = journal.receipt(reader, sequence)
            told = await self.tell(receipt) if receipt is not None else None
            if told is None or told.state in ("seen", *FINAL, "applied"):
                done.append(sequence)
        if done:
            await self._database.write(lambda c: journal.unwatch(c, done))

    def find(self, write_id: str) -> Receipt | None:
        """The receipt of a write of this node; None if it has none (any more)."""
        node, _, sequence = write_id.rpartition(".")
        if node != self._me or not sequence.isascii() or not sequence.isdigit() or len(sequence) > 18:
            return None
        return journal.receipt(self._database.reader, int(sequence))

    async def tell(self, receipt: Receipt, look: bool = True) -> Told:
        """All that is known of it; without `look`, which may cost a write, what zones have seen it was known before."""
        reader, sequence = self._database.reader, receipt.sequence
        seen, zones = journal.seen(reader, sequence), self._zones()
        news = sightings(receipt, seen, zones) if look else []
        if news:
            now = clock.wall()
            await self._database.write(lambda c: journal.note_seen(c, sequence, news, now))
            seen = journal.seen(reader, sequence)
        return told(receipt, shared.holders(reader, sequence), seen, zones)

    async def wait(self, sequence: int, until: str, timeout_s: float, peers: int = 1) -> Told | None:
        """The receipt once it came as far as `until`, or as it is after `timeout_s`; None if there is none."""
        deadline = trio.current_time() + timeout_s
        while True:
            settled, held = self._proxy.settled, self._sharing.held
            receipt = journal.receipt(self._database.reader, sequence)
            if receipt is None:
                return None
            now = await self.tell(receipt)
            left_s = deadline - trio.current_time()
            if now.is_at(until, peers) or left_s <= 0:
                return now
            await first_of(settled, held, at_most_s=min(left_s, LOOK_S) if until == "seen" else left_s)

    def zone_of(self, node_id: str) -> str | None:
        view = self._members.get(node_id)
        return view.zone if view is not None else None

    def _zones(self) -> dict[str, int]:
        """Per zone how far its nodes are that have not left, by the one that is least far.

        A node of another cluster, such as one that was given up, counts positions of another log: it has seen nothing.
        """
        found: dict[str, int] = {}
        me = self._members.get(self._me)
        ours = me.facts.get("cluster") if me is not None else None
        for view in self._members.values():
            if view.state is State.LEFT:
                continue
            own = view.node_id == self._me
            position = self._positions.position if own else view.vitals.get("position")
            is_ours = own or not ours or view.facts.get("cluster") == ours
            position = position if is_ours and isinstance(position, int) else 0
            found[view.zone] = min(position, found.get(view.zone, position))
        return found
