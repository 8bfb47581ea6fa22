"""The membership table: what is believed of every node, and which claim beats which. Sans-IO.

The table is a join of claims: each row only ever moves up the order (generation, incarnation, rank of state), so
members that heard the same claims hold the same rows, in whatever order and however often they heard them. Facts move
up their own order (generation, revision) beside it.

The *ring* is the shuffled order in which the living are probed. Every member is visited once per round, which bounds
the time until a dead one is found (random choice would not); newcomers enter at a random place, and somebody just
accused elsewhere may be moved to the front, so that an independent second opinion comes soon.

The *digest* is the exclusive or of a hash of each row, kept as rows change: two members with the same digest believe
the same. Suspicions do not count (they end by themselves), nor do tombstones (they are forgotten at different times).
"""

import hashlib
from collections import deque
from dataclasses import dataclass, field, replace
from enum import Enum
from random import Random

from gossip.messages import Address, Facts, Left, Member, State, Verdict, Vitals


class Event(Enum):
    """What a claim changed in the table."""

    JOINED = "joined"  # unknown, dead or gone before; alive now
    CHANGED = "changed"  # alive as before, with other facts, another address or a newer start
    SUSPECTED = "suspected"
    RECOVERED = "recovered"  # the suspicion was refuted
    DIED = "died"
    LEFT = "left"
    RENEWED = "renewed"  # a higher incarnation and nothing that anyone can see


@dataclass(frozen=True, slots=True)
class MemberView:
    """A member and what is believed of it. `since` is when the state began and `acked` when it last answered a probe of
    ours, both in monotonic seconds of this process; `relayed` when it answered the last one only through others;
    `rtt_s` is a smoothed round trip; `vitals` are its newest, counted by `beat`.
    """

    member: Member
    state: State
    since: float
    rtt_s: float | None = None
    acked: float | None = None
    relayed: bool = False
    beat: int = 0
    vitals: Facts = field(default_factory=dict)

    @property
    def node_id(self) -> str:
        return self.member.node_id

    @property
    def zone(self) -> str:
        return self.member.zone

    @property
    def generation(self) -> int:
        return self.member.generation

    @property
    def facts(self) -> Facts:
        return self.member.facts

    @property
    def address(self) -> Address:
        return self.member.address

    @property
    def is_up(self) -> bool:
        """Alive, or accused and not yet convicted."""
        return self.state in (State.ALIVE, State.SUSPECT)


class Members:
    """Rows by node ID, our own included. `address_version` grows whenever the set of addresses may have changed."""

    def __init__(self, me: Member, rng: Random, now: float, members_max: int) -> None:
        self.me = me.node_id
        self.views: dict[str, MemberView] = {me.node_id: MemberView(me, State.ALIVE, now)}
        self.address_version = 0
        self.digest = row_digest(self.views[me.node_id])
        self._rng = rng
        self._max = members_max
        self._ring: list[str] = []  # the others that are up
        self._next = 0
        self._urgent: deque[str] = deque(maxlen=64)

    @property
    def up_count(self) -> int:
        """Members that are up, ourselves included."""
        return len(self._ring) + 1

    def put_me(self, member: Member, state: State, now: float) -> None:
        known = self.views[self.me]
        since = known.since if state is known.state else now
        self.views[self.me] = replace(known, member=member, state=state, since=since)
        self.digest ^= row_digest(known) ^ row_digest(self.views[self.me])

    def hear_alive(self, member: Member, now: float) -> Event | None:
        """Take one node's description of itself. None when it is old news or the table is full."""
        known = self.views.get(member.node_id)
        if known is None:
            return self._insert(MemberView(member, State.ALIVE, now), now)
        if member.generation < known.generation:
            return None
        if member.generation > known.generation:
            self._put(MemberView(member, State.ALIVE, now))
            return Event.CHANGED if known.is_up else Event.JOINED
        fresher = member.revision > known.member.revision
        refuted = member.incarnation > known.member.incarnation
        if not fresher and not refuted:
            return None
        # What a node says grows in both or neither, but others may have accused it at an incarnation of their own.
        description = member if fresher or member.revision == known.member.revision else known.member
        incarnation = max(member.incarnation, known.member.incarnation)
        state = State.ALIVE if refuted else known.state
        since = known.since if state is known.state else now
        merged = replace(known, member=replace(description, incarnation=incarnation), state=state, since=since)
        self._put(merged)
        return _alive_event(known, merged)

    def hear_verdict(self, verdict: Verdict, state: State, now: float) -> Event | None:
        """Take an accusation, a conviction or a good-bye. None when it is old news or about someone unknown."""
        known = self.views.get(verdict.node_id)
        if known is None or not _beats(verdict, state, known):
            return None
        member = replace(known.member, generation=verdict.generation, incarnation=verdict.incarnation)
        if isinstance(verdict, Left):
            member = replace(member, signature=verdict.signature)
        since = known.since if state is known.state else now
        self._put(replace(known, member=member, state=state, since=since))
        if known.state is state:
            return Event.RENEWED
        return {State.SUSPECT: Event.SUSPECTED, State.DEAD: Event.DIED, State.LEFT: Event.LEFT}[state]

    def learn_gone(self, member: Member, state: State, now: float) -> None:
        """Remember someone unknown who is said to be dead or to have left: an address to dial, or a tombstone."""
        self._insert(MemberView(member, state, now), now)

    def answered(self, node_id: str, rtt_s: float | None, now: float, *, relayed: bool) -> None:
        """An ack came; `rtt_s` when it answers the direct ping. Smoothed as TCP does (RFC 6298, gain 1/8)."""
        known = self.views[node_id]
        smooth = known.rtt_s
        if rtt_s is not None:
            smooth = rtt_s if smooth is None else smooth + (rtt_s - smooth) / 8
        self.views[node_id] = replace(known, rtt_s=smooth, acked=now, relayed=relayed)

    def hear_vitals(self, vitals: Vitals) -> bool:
        """False when they are old news, or of a start of the node that we do not know."""
        known = self.views.get(vitals.node_id)
        if known is None or vitals.generation != known.generation or vitals.beat <= known.beat:
            return False
        self.views[vitals.node_id] = replace(known, beat=vitals.beat, vitals=vitals.values)
        return True

    def next_target(self) -> str | None:
        """Whom to probe now; None when nobody else is up."""
        while self._urgent:
            node_id = self._urgent.popleft()
            if self.views[node_id].is_up:
                return node_id
        if not self._ring:
            return None
        if self._next >= len(self._ring):
            self._rng.shuffle(self._ring)
            self._next = 0
        self._next += 1
        return self._ring[self._next - 1]

    def hasten(self, node_id: str) -> None:
        """Probe this one next."""
        if node_id not in self._urgent:
            self._urgent.append(node_id)

    def sample(self, count: int, exclude: str = "") -> list[MemberView]:
        """Distinct random members that are up, without ourselves and `exclude`."""
        chosen = self._rng.sample(self._ring, min(count + 1, len(self._ring)))
        return [self.views[node_id] for node_id in chosen if node_id != exclude][:count]

    def others(self) -> list[MemberView]:
        return [view for view in self.views.values() if view.node_id != self.me]

    def forget_left(self, before: float) -> None:
        """Drop tombstones older than `before`."""
        for view in self.others():
            if view.state is State.LEFT and view.since < before:
                self._forget(view.node_id)

    def _insert(self, view: MemberView, now: float) -> Event | None:
        if len(self.views) >= self._max and not self._make_room():
            return None
        self._put(view)
        return Event.JOINED

    def _make_room(self) -> bool:
        gone = [view for view in self.others() if not view.is_up]
        if not gone:
            return False
        # Who left will not be missed; of the dead, whoever is dead for longest.
        self._forget(min(gone, key=lambda view: (view.state is State.DEAD, view.since)).node_id)
        return True

    def _forget(self, node_id: str) -> None:
        self.digest ^= row_digest(self.views.pop(node_id))
        self.address_version += 1
        if node_id in self._urgent:
            self._urgent.remove(node_id)

    def _put(self, view: MemberView) -> None:
        known = self.views.get(view.node_id)
        self.views[view.node_id] = view
        self.digest ^= row_digest(view) ^ (row_digest(known) if known is not None else 0)
        if known is None or known.address != view.address or State.LEFT in (known.state, view.state):
            self.address_version += 1
        was_up = known is not None and known.is_up
        if view.is_up and not was_up:
            # Before the cursor it waits for the next round, behind it its turn is still to come: both are fair.
            place = self._rng.randint(0, len(self._ring))
            self._ring.insert(place, view.node_id)
            self._next += place < self._next
        elif was_up and not view.is_up:
            place = self._ring.index(view.node_id)
            del self._ring[place]
            self._next -= place < self._next


def row_digest(view: MemberView) -> int:
    """63 bits of one row, 0 for a tombstone."""
    if view.state is State.LEFT:
        return 0
    member = view.member
    row = f"{member.node_id} {member.generation} {member.incarnation} {member.revision} {view.state is State.DEAD}"
    return int.from_bytes(hashlib.blake2b(row.encode(), digest_size=8).digest()) >> 1


def _alive_event(known: MemberView, merged: MemberView) -> Event:
    if merged.state is not known.state:
        return Event.RECOVERED if known.state is State.SUSPECT else Event.JOINED
    before, after = known.member, merged.member
    if (before.facts, before.address, before.zone) != (after.facts, after.address, after.zone):
        return Event.CHANGED
    return Event.RENEWED


def _beats(verdict: Verdict, state: State, known: MemberView) -> bool:
    if verdict.generation > known.generation:
        # Of a start that we have not met only its end is of use; its own description is still to come.
        return isinstance(verdict, Left)
    mine = known.member
    return (verdict.generation, verdict.incarnation, state) > (mine.generation, mine.incarnation, known.state)
