"""Drills: what an outage would mean now, and a small one to see whether it is so.

The plan is worked out from the present state. A live drill breaks one thing of this node only, for a bounded time, in a
task of the daemon: it ends by itself whatever becomes of whoever asked for it, and a daemon that starts again has
forgotten it. What was measured is set beside what the plan said.

registry-outage: this node forwards no writes. partition: nothing goes to or comes from other nodes, whether HTTP or
gossip. disk-full: the journal refuses every write as it would with a full disk.
"""

import math
import os
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import structlog
import trio

from conf import Journal
from store.listing import Query
from store.operations import Write
from zoned import clock
from zoned.api.asgi import App, Receive, Scope, Send
from zoned.api.risk import zones_of
from zoned.api.server import Lookup
from zoned.errors import PeerUnreachable
from zoned.posting import Address, Connect, Poster, PostFailed, connect_tcp
from zoned.proxy import Proxy
from zoned.registry import Answer
from zoned.replication import Replication
from zoned.zone import Zone

KINDS = ("registry-outage", "partition", "disk-full")
FOR_MAX_S = 3_600.0
RECOVER_S = 60.0  # so long the end of a drill is watched
LOOK_S = 0.25
LOOKED_AT_MAX = 1_000  # newest images whose locations are looked at
EXAMPLES_MAX = 5
ENTRY_BYTES = 700  # of a write, while the journal is empty and cannot tell
OVERLAY_BYTES = 600  # on the disk of each write that waits, beside itself and its record: columns and indexes
WARN_DAYS, CRITICAL_DAYS = 14.0, 2.0
FAR_S = 0.02  # a voter that far away, there and back, is worth a word
ROUNDS = 10  # there and back, until a node that was cut off has asked the registry again
SLACK_S = 5.0  # a bound of staleness may be this much above the time it has been growing
OK, WARN, CRITICAL = "ok", "warn", "critical"

logger = structlog.get_logger()


class DrillRefused(Exception):
    """The drill was not begun; the text says why."""


# The switches.


class Switch:
    """The way to the registry, which a drill can close. Implements `zoned.proxy.Forwarder`."""

    def __init__(self, inner: Replication) -> None:
        self._inner = inner
        self._closed = False

    @property
    def registry(self) -> str | None:
        return None if self._closed else self._inner.registry

    def changed(self) -> trio.Event:
        return self._inner.changed()

    async def forward(self, registry: str, writes: Sequence[Write]) -> Answer:
        if self._closed:
            raise PeerUnreachable("a drill holds back what this node forwards")
        return await self._inner.forward(registry, writes)

    def close(self, closed: bool) -> None:
        self._closed = closed
        self._inner.note_change()


class Cut:
    """Whether this node is cut off from all others."""

    def __init__(self) -> None:
        self.on = False

    def around(self, app: App, lookup: Lookup) -> tuple[App, Lookup]:
        """Both, deaf and dumb while this node is cut off: long polls from before get no answer either."""

        async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_unless_cut(message: MutableMapping[str, Any]) -> None:
                if self.on and message["type"] == "http.response.start":
                    message = {"type": "http.response.start", "status": 503, "headers": []}
                elif self.on:
                    message = {"type": "http.response.body", "body": b""}
                await send(message)

            if self.on and scope["type"] == "http":
                await send_unless_cut({"type": "http.response.start"})
                await send_unless_cut({"type": "http.response.body"})
            else:
                await app(scope, receive, send_unless_cut)

        return wrapped, lambda *asked: None if self.on else lookup(*asked)


class CutPoster(Poster):
    """Requests to other nodes, which a drill can cut: none goes out, and no answer to what went out before comes in."""

    def __init__(self, cut: Cut, connect: Connect = connect_tcp, generation: Callable[[], int] = lambda: 0) -> None:
        super().__init__(connect, generation)
        self._cut = cut

    async def post(
        self,
        address: Address,
        path: str,
        headers: bytes,
        body: bytes,
        bytes_max: int,
        *,
        name: str = "",
        connect_s: float = math.inf,
    ) -> tuple[int, bytes]:
        answer = (0, b"")
        if not self._cut.on:
            answer = await super().post(address, path, headers, body, bytes_max, name=name, connect_s=connect_s)
        if self._cut.on:
            raise PostFailed("a drill cuts this node off")
        return answer


# What is said.


@dataclass(frozen=True, slots=True)
class Line:
    """One finding of a plan."""

    what: str
    state: str
    says: str


@dataclass(frozen=True, slots=True)
class Compared:
    """One finding of a live drill beside its plan."""

    what: str
    state: str
    plan: str
    live: str


def worst(states: Sequence[str]) -> str:
    return max(states, key=(OK, WARN, CRITICAL).index, default=OK)


def lasting(days: float | None) -> str:
    """How bad it is that something lasts so many days; None: for ever."""
    return OK if days is None or days >= WARN_DAYS else WARN if days >= CRITICAL_DAYS else CRITICAL


def shown_days(days: float | None) -> str:
    return "nothing is used" if days is None else f"{days:,.1f} days" if days < 100_000 else "more than 270 years"


@dataclass(frozen=True, slots=True)
class Present:
    """What a plan is made of. Bytes, seconds, days; `per_day` is integers (registrations) a day."""

    zone: str
    ids_left: int
    per_day: float
    entries: int
    entries_max: int
    entry_bytes: float
    bytes_free: int
    staleness_s: float | None
    is_registry: bool
    has_registry: bool
    voters: int
    voters_up: int
    is_voter: bool
    looked_at: int
    only_here: Sequence[str]
    only_elsewhere: int
    sample: str | None  # an image to look up meanwhile
    rtt_s: float = 0.0  # there and back to the furthest voter that is up
    certificates_s: float | None = None  # until the first one of this node ends; None without TLS


def on_disk(operation_bytes: float) -> float:
    """What a waiting write takes: it stands in the journal, and packed as the record that readers see meanwhile."""
    return 1.5 * operation_bytes + OVERLAY_BYTES


def plan(kind: str, for_s: float, now: Present) -> list[Line]:
    """What the drill, and the outage that it plays, would mean now. Sans-IO."""
    if kind == "disk-full":
        room = Line("writes", WARN, "refused with 507 from the first on; nothing that was accepted is lost")
        return [room, Line("lookups", OK, "answered as ever, from this node's own copy"), _disk(now), _journal(now)]
    lines = [
        Line("lookups", OK, "answered as ever, from this node's own copy"),
        Line("writes", OK, "accepted, numbered and journaled here; sent when it is over"),
        _integers(now),
        _disk(now),
        _journal(now),
        _staleness(for_s, now),
        *_certificates(for_s, now),
    ]
    return lines + ([_voters(now), _locations(now)] if kind == "partition" else [_known(now)])


def _integers(now: Present) -> Line:
    days = now.ids_left / now.per_day if now.per_day else None
    state = CRITICAL if not now.ids_left else lasting(days)
    return Line("integers", state, f"{now.ids_left} left at {now.per_day:g} a day: {shown_days(days)}")


def _disk(now: Present) -> Line:
    writes = now.bytes_free / now.entry_bytes
    days = writes / now.per_day if now.per_day else None
    return Line(
        "disk", lasting(days), f"room for {writes:.0f} writes of {now.entry_bytes:.0f} bytes: {shown_days(days)}"
    )


def _journal(now: Present) -> Line:
    left = now.entries_max - now.entries
    days = left / now.per_day if now.per_day else None
    return Line("journal", lasting(days), f"{now.entries} writes wait, {left} more fit: {shown_days(days)}")


def _staleness(for_s: float, now: Present) -> Line:
    if now.staleness_s is None:
        return Line("staleness", CRITICAL, "not known even now: this node has not reached a registry yet")
    link = f", the furthest voter is {now.rtt_s * 1_000:.0f} ms away" if now.rtt_s >= FAR_S else ""
    return Line("staleness", OK, f"{now.staleness_s:.1f} s now, at most {_stalest(for_s, now):.0f} s at the end{link}")


def _stalest(for_s: float, now: Present) -> float:
    """A node that asks again when it is over needs some ways there and back: connections, greetings, the question."""
    return (now.staleness_s or 0.0) + for_s + SLACK_S + ROUNDS * now.rtt_s


def _certificates(for_s: float, now: Present) -> list[Line]:
    """They end in an outage as at any time, and then no node lets this one in when it is over."""
    if now.certificates_s is None:
        return []
    days = now.certificates_s / 86_400
    state = CRITICAL if now.certificates_s <= for_s else lasting(days)
    return [Line("certificates", state, f"the first of this node ends in {shown_days(max(0.0, days))}")]


def _known(now: Present) -> Line:
    said = "known" if now.has_registry else "none known: this is no drill any more"
    return Line("registry", OK if now.has_registry else CRITICAL, said)


def _voters(now: Present) -> Line:
    others = now.voters_up - now.is_voter
    needed = now.voters // 2 + 1
    whose = "this node is the registry; " if now.is_registry else ""
    if now.voters <= 1:
        return Line("voters", WARN, f"{whose}no other voter: other zones have no registry meanwhile")
    state = OK if others >= needed else CRITICAL
    said = "they have a registry without this node" if state == OK else "they have NO registry without this node"
    return Line(
        "voters", state, f"{whose}{others} of {now.voters} voters are up elsewhere, {needed} are needed: {said}"
    )


def _locations(now: Present) -> Line:
    here, elsewhere = len(now.only_here), now.only_elsewhere
    said = (
        f"of the newest {now.looked_at} images {here} have their bytes in {now.zone} only, {elsewhere} only elsewhere"
    )
    examples = ", ".join(now.only_here[:EXAMPLES_MAX])
    return Line("single zone", WARN if here or elsewhere else OK, said + (f"; here: {examples}" if examples else ""))


@dataclass(slots=True)
class Measured:
    """What was seen of a live drill."""

    journaled: int = 0
    refused: int = 0
    entries: int = 0
    staleness_s: float = 0.0
    lookups: int = 0
    lookups_failed: int = 0
    recovered_s: float | None = None


def compare(kind: str, for_s: float, now: Present, seen: Measured) -> list[Compared]:
    """Plan and reality side by side. Sans-IO."""
    answered = seen.lookups - seen.lookups_failed
    state = CRITICAL if seen.lookups_failed else OK
    lines = [Compared("lookups", state, "all answered", f"{answered} of {seen.lookups} answered")]
    if kind == "disk-full":
        state = OK if not seen.journaled else CRITICAL
        lines.append(Compared("writes", state, "all refused", f"{seen.refused} refused, {seen.journaled} accepted"))
    else:
        expected = now.per_day * for_s / 86_400
        fits = seen.entries <= now.entries_max
        said = f"{seen.journaled} accepted, {seen.refused} refused, at most {seen.entries} waiting"
        about = f"accepted, about {expected:.0f} at the usual rate"
        lines.append(Compared("writes", OK if fits and not seen.refused else CRITICAL, about, said))
    if kind == "partition" and now.staleness_s is not None:
        most = _stalest(for_s, now)
        state = OK if seen.staleness_s <= most else WARN
        lines.append(Compared("staleness", state, f"at most {most:.0f} s", f"{seen.staleness_s:.1f} s"))
    late = seen.recovered_s is None
    live = f"not within {RECOVER_S:.0f} s" if late else f"after {seen.recovered_s:.1f} s"
    lines.append(Compared("recovered", WARN if late else OK, f"within {RECOVER_S:.0f} s", live))
    return lines


class Drills:
    """The drills of one node; at most one is live."""

    def __init__(
        self,
        zone: Zone,
        proxy: Proxy,
        switch: Switch,
        cut: Cut,
        settings: Journal,
        directory: str,
    ) -> None:
        self._zone = zone
        self._proxy = proxy
        self._switch = switch
        self._cut = cut
        self._settings = settings
        self._directory = directory
        self._asked = trio.Event()
        self._wanted: tuple[int, str, float, Present] | None = None
        self._number = 0  # of the last one that was asked for
        self._stop = trio.Event()
        self._live: dict[str, Any] | None = None
        self._last: dict[str, Any] | None = None

    async def plan(self, kind: str, for_s: float) -> dict[str, Any]:
        """The plan as a document."""
        return self._document(kind, for_s, await self._present())

    def _document(self, kind: str, for_s: float, now: Present) -> dict[str, Any]:
        lines = plan(kind, for_s, now)
        return {
            "id": self._number,
            "drill": kind,
            "for_s": for_s,
            "state": worst([line.state for line in lines]),
            "plan": [asdict(line) for line in lines],
            "present": asdict(now),
        }

    def state(self) -> dict[str, Any]:
        """The live drill, and the last one that ended."""
        return {"live": self._live, "last": self._last}

    async def start(self, kind: str, for_s: float, force: bool) -> dict[str, Any]:
        """Begins a live drill; its plan. Raises DrillRefused."""
        now = await self._present()
        if self._live is not None or self._wanted is not None:
            raise DrillRefused("a drill is live already; zonectl drill --stop ends it")
        alone = kind == "partition" and _voters(now).state == CRITICAL
        if alone and not force:
            raise DrillRefused(f"{_voters(now).says}; add --force to drill all the same")
        self._number += 1
        self._wanted = (self._number, kind, for_s, now)
        self._stop = trio.Event()
        self._asked.set()
        return self._document(kind, for_s, now)

    def stop(self) -> None:
        self._stop.set()

    async def serve(self) -> None:
        """Runs what is asked for, one drill at a time, for ever."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            if self._wanted is not None:
                await self._run(*self._wanted)

    async def _run(self, number: int, kind: str, for_s: float, now: Present) -> None:
        began = clock.text(clock.wall())
        self._live = {"id": number, "drill": kind, "began_at": began, "for_s": for_s, "recovering": False}
        self._wanted = None
        seen = Measured()
        first, refused = self._zone.journal_last(), self._proxy.refused
        logger.warning("drill begins", drill=kind, for_s=for_s)
        try:
            try:
                self._turn(kind, on=True)
                with trio.move_on_after(for_s):
                    await self._watch(seen, now.sample, self._stop.is_set)
            finally:
                self._turn(kind, on=False)
            seen.journaled, seen.refused = self._zone.journal_last() - first, self._proxy.refused - refused
            self._live["recovering"] = True
            ended = trio.current_time()
            with trio.move_on_after(RECOVER_S):
                await self._watch(Measured(), None, lambda: self._is_well(now))
                seen.recovered_s = trio.current_time() - ended
        finally:
            self._live = None
        lines = compare(kind, for_s, now, seen)
        state = worst([line.state for line in lines])
        self._last = {
            "id": number,
            "drill": kind,
            "began_at": began,
            "for_s": for_s,
            "state": state,
            "stopped": self._stop.is_set(),
            "compared": [asdict(line) for line in lines],
            "measured": asdict(seen),
        }
        logger.warning("drill ended", drill=kind, state=state)

    def _turn(self, kind: str, on: bool) -> None:
        self._zone.drill = kind if on else None
        match kind:
            case "registry-outage":
                self._switch.close(on)
            case "partition":
                self._cut.on = on
                self._zone.gossip.mute(on)
            case _:
                self._proxy.refuses = (
                    "a disk-full drill is on: writes are refused as if the disk were full" if on else ""
                )

    async def _watch(self, seen: Measured, sample: str | None, until: Callable[[], bool]) -> None:
        while not until():
            seen.entries = max(seen.entries, self._zone.journal_status()["entries"])
            seen.staleness_s = max(seen.staleness_s, self._zone.staleness.bound_s or 0.0)
            if sample is not None:
                seen.lookups += 1
                seen.lookups_failed += self._zone.find(sample) is None
            await trio.sleep(LOOK_S)

    def _is_well(self, before: Present) -> bool:
        """Whether all is as it was: nothing waits that did not wait before, and staleness is small again."""
        bound_s = self._zone.staleness.bound_s
        fresh = before.staleness_s is None or (bound_s is not None and bound_s <= max(before.staleness_s, SLACK_S))
        return fresh and self._zone.journal_status()["entries"] <= before.entries

    async def _present(self) -> Present:
        zone, replication = self._zone, self._zone.replication
        journal, runway = zone.journal_status(), zone.runway()
        disk = os.statvfs(self._directory)
        free = disk.f_bavail * disk.f_frsize - self._settings.free_disk_min_bytes
        membership = replication.membership()
        voters = membership.voters if membership is not None else ()
        members = zone.gossip.members
        images = [found.image for found in (await zone.page(Query(LOOKED_AT_MAX))).found]
        zones = [(image.uuid, zones_of(image)) for image in images]
        up = [members[one] for one in voters if one in members and members[one].is_up]
        return Present(
            zone=zone.name,
            ids_left=runway.left,
            per_day=runway.rate,
            entries=journal["entries"],
            entries_max=self._settings.entries_max,
            entry_bytes=on_disk(journal["bytes"] / journal["entries"] if journal["entries"] else ENTRY_BYTES),
            bytes_free=max(0, min(free, self._settings.bytes_max - journal["bytes"])),
            staleness_s=zone.staleness.bound_s,
            is_registry=replication.registry_term is not None,
            has_registry=replication.registry is not None,
            voters=len(voters),
            voters_up=len(up),
            is_voter=replication.me in voters,
            looked_at=len(images),
            only_here=[uuid for uuid, found in zones if found == {zone.name}],
            sample=images[-1].uuid if images else None,
            only_elsewhere=sum(len(found) == 1 and found != {zone.name} for _, found in zones),
            rtt_s=max((view.rtt_s or 0.0 for view in up), default=0.0),
            certificates_s=min(zone.certificates_left_s().values(), default=None),
        )
