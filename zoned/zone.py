"""What the faces may ask of this daemon: look up, list, write, tell its state. The HTTP and admin sides know only this.

Lookups are point reads in the calling task, and so are short lists; others run in a thread. Nothing here waits for
another node, except `submit`, which waits for the outcome of a write for a bounded time.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import apsw
import trio

from conf import Idempotency
from gossip import Entry, Gossip, MemberView
from store import (
    aliases,
    audit,
    catalogue,
    conflicts,
    history,
    holding,
    journal,
    keys,
    listing,
    log,
    presence,
    ranges,
    shared,
)
from store.aliases import Alias
from store.catalogue import Found
from store.conflicts import Conflict
from store.database import Database
from store.errors import Damaged, Refused
from store.history import Change
from store.identity import Identity
from store.images import Image
from store.journal import Receipt
from store.keys import Answer, Known
from store.listing import Page, Query
from store.operations import Operation, Origin
from zoned import __version__, clock
from zoned.chronicle import SAMPLE_S, Sample, Trend
from zoned.counts import Counts
from zoned.health import WELL, Bounds, Counted, Finding, Mutes, Picture, Report, examine
from zoned.origin import stamped
from zoned.proxy import Proxy, Submitted
from zoned.receipts import Receipts
from zoned.replication import Replication
from zoned.settings import Settings
from zoned.staleness import Staleness
from zoned.watch import Feed

HISTORY_CHARS = 8  # of the cluster ID: there are few histories to tell apart


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of the store on its disk."""

    store_bytes: int  # with the write-ahead log
    wal_bytes: int
    free_bytes: int


Survey = Mapping[str, Mapping[str, Entry] | None]  # what each node believes of each, by their IDs

DAMAGE = (apsw.CorruptError, apsw.NotADBError, apsw.IOError, Damaged)


class Zone:
    """One running daemon, seen from its faces."""

    def __init__(
        self,
        identity: Identity,
        database: Database,
        proxy: Proxy,
        replication: Replication,
        gossip: Gossip,
        staleness: Staleness,
        receipts: Receipts,
        url: str | None,
        settings: Settings,
    ) -> None:
        self.url = url  # where users are served; None for a witness
        self.counts = Counts()
        self.trend = Trend()
        self.mutes = Mutes()
        self.certificates: Callable[[], Mapping[str, float]] = dict  # role -> when it ends, seconds since 1970
        self.settings = settings
        self.identity = identity
        self.keys_running: set[bytes] = set()  # of requests under way, on whichever face
        self.gossip = gossip
        self.staleness = staleness
        self.receipts = receipts
        self.positions = replication.positions
        self.replication = replication
        self.draining = False
        self.backed_up_at: float | None = None  # wall clock; None: not since the start
        self.presence_counts = Counted()  # by `zoned.survey`
        self.drill: str | None = None  # the one that is live
        self.damaged = trio.Event()
        self.damage = ""
        self._damaged_reads = 0
        self.feed = Feed(database, replication.positions)
        replication.listen(self.feed.on_applied)
        self._database = database
        self._proxy = proxy
        self._members = gossip.members
        self._history_as_of: tuple[int, trio.Event] | None = None
        self._history = ""
        self._runway_days: float | None = None
        self._runway_due = -math.inf
        self._started = trio.current_time()
        self._surveying = trio.Lock()
        self._survey: tuple[float, Survey] | None = None

    @property
    def name(self) -> str:
        return self.identity.zone

    @property
    def position(self) -> int:
        return self.replication.positions.position

    @property
    def fresh_at(self) -> float | None:
        """The time, by `clock.boot`, up to which everything committed is here now; None: unknown."""
        return self.staleness.fresh_at

    @property
    def history(self) -> str:
        """Which history the positions are of: another one after `recover` or `restore`; "" before the first entry."""
        now = (self.position, self.replication.changed())
        if now != self._history_as_of:  # it stands in the log, which is too far for every answer
            self._history_as_of, self._history = now, self.replication.cluster_id[:HISTORY_CHARS]
        return self._history

    @property
    def is_witness(self) -> bool:
        return self.url is None

    @property
    def is_synced(self) -> bool:
        """Whether an absent record means anything: false until the first entry of the log is applied."""
        return self.position > 0

    def find(self, reference: str | int) -> Found | None:
        """The record by UUID or integer, tombstones included."""
        try:  # the block of _noticing_damage costs a fifth of such a read
            return catalogue.find(self._database.reader, reference)
        except DAMAGE as error:
            self._note(error)
            raise

    def find_many(self, references: Sequence[str | int | None]) -> list[Found | None]:
        """As `find` for each, all as of one moment; texts must be UUIDs."""
        with self._noticing_damage():
            return self._database.look(lambda c: catalogue.find_many(c, references))

    def quick_page(self, query: Query) -> Page | None:
        """A page that is little work; None of another, which `page` has."""
        with self._noticing_damage():
            return self._database.look(lambda c: listing.quick_page(c, query))

    async def page(self, query: Query) -> Page:
        quick = self.quick_page(query)
        if quick is not None:
            return quick
        with self._noticing_damage():
            return await self._database.read(lambda c: listing.page(c, query))

    def changes_of(self, image: Image) -> list[Change]:
        """What is kept of the changes of a record, the newest first."""
        with self._noticing_damage():
            return history.read(self._database.reader, image)

    async def audit_lines(self, after: int | None, limit: int) -> list[audit.Line]:
        """Lines of the audit behind a position, or the newest, in order."""
        job = (lambda c: audit.read(c, after, limit)) if after is not None else (lambda c: audit.newest(c, limit))
        return await self._database.read(job)

    def alias(self, name: str) -> Alias | None:
        """What a name points to, this node's own unapplied writes included."""
        with self._noticing_damage():
            return aliases.find(self._database.reader, name, self.identity.node_id)

    async def aliases(self, after: str, limit: int) -> list[Alias]:
        """Aliases that are set, by name, behind the name `after`."""
        with self._noticing_damage():
            return await self._database.read(lambda c: aliases.page(c, self.identity.node_id, after, limit))

    def bootable(self, image: Image) -> tuple[bool, str]:
        """Whether a host of this zone may be told to boot the image, and why: by facts, never by wishes."""
        said = image.presence.get(self.name, {})
        verified, claimed = presence.holds(said, "verified"), presence.holds(said, "claimed")
        if image.fields["status"] != "active":
            return False, f"the image is {image.fields['status']}"
        if verified is not None:
            days = self.settings.config.presence.verified_days
            if presence.is_recent(verified, clock.precise(clock.wall()), days):
                return True, f"verified here at {verified}"
            return False, f"verified here at {verified}, more than {days:g} days ago (presence.verified_days)"
        if claimed is not None:
            trusted = self.settings.config.presence.trust_claims
            return trusted, f"claimed here at {claimed}, {'which is trusted' if trusted else 'never verified'}"
        return False, "nobody has said that the bytes are here"

    def round_trips_ms(self, near: str) -> dict[str, float]:
        """Milliseconds from a zone to the others: measured from this one where they can be, else as
        coordinates predict."""
        origins = [view.node_id for view in self._members.values() if view.zone == near]
        found = {near: 0.0}
        for view in self._members.values():
            apart = (
                [self.gossip.distance_s(view.node_id)]
                if near == self.name
                else [self.gossip.estimate_s(origin, view.node_id) for origin in origins]
            )
            for rtt_s in apart:
                if rtt_s is not None:
                    found[view.zone] = min(round(rtt_s * 1_000, 2), found.get(view.zone, math.inf))
        return found

    @contextmanager
    def _noticing_damage(self) -> Iterator[None]:
        """A store that cannot be read must not go on answering "not found": the daemon ends."""
        try:
            yield
        except DAMAGE as error:
            self._note(error)
            raise

    def _note(self, error: Exception) -> None:
        if isinstance(error, Damaged):  # one record: all others can be answered, and `sync verify` can name it
            self._damaged_reads += 1
            return
        self.damage = f"{type(error).__name__}: {error}"
        self.damaged.set()

    async def submit(self, operation: Operation) -> Submitted:
        """Journals the write and waits for its outcome for a bounded time; see `Proxy.submit`."""
        began, state = trio.current_time(), "full"
        try:
            submitted = await self._proxy.submit(stamped(operation))
            state = submitted.state
            return submitted
        except Refused:
            state = "refused"
            raise
        finally:
            self.counts.write(state, trio.current_time() - began)

    # Requests that are known by their Idempotency-Key.

    @property
    def idempotency(self) -> Idempotency:
        return self.settings.config.idempotency

    def known_write(self, origin: Origin) -> Known | None:
        """The write of the request with this key, applied or waiting, whichever node took it."""
        reader = self._database.reader
        return keys.applied(reader, origin) or keys.pending(reader, origin.key)

    async def settled(self, write: Known, origin: Origin) -> Known:
        """The write once its outcome is known; a waiting one of this node is waited for as its first client did."""
        if write.state == "journaled" and write.node == self.identity.node_id:
            await self._proxy.outcome(write.sequence)
            return self.known_write(origin) or write
        return write

    def answer_to(self, origin: Origin) -> Answer | None:
        return keys.answer(self._database.reader, origin.key, origin.at)

    async def keep_answer(self, origin: Origin, given: Answer) -> None:
        most = self.idempotency.answers_max
        await self._database.write(lambda c: keys.keep_answer(c, origin, given, most))

    def keys_full(self) -> bool:
        return keys.count(self._database.reader) >= self.idempotency.keys_max

    async def last_receipts(self, limit: int, only_waiting: bool) -> list[Receipt]:
        """The newest receipts, newest first."""
        return await self._database.read(lambda c: journal.receipts(c, limit, only_waiting))

    def runway(self) -> ranges.Runway:
        return ranges.runway(self._database.reader, clock.wall())

    def runway_days(self) -> float | None:
        """How long the integers last, as of a second ago at most: it stands on every create."""
        if self._runway_days is None or trio.current_time() >= self._runway_due:
            self._runway_days, self._runway_due = self.runway().days, trio.current_time() + 1.0
        return self._runway_days

    async def conflicts(self, limit: int, only_open: bool, before: int) -> list[Conflict]:
        """Entries of the ledger, newest first."""
        return await self._database.read(lambda c: conflicts.newest(c, limit, only_open, before))

    def conflict(self, number: int) -> Conflict | None:
        return conflicts.get(self._database.reader, number)

    def conflicts_open(self) -> int:
        return conflicts.count_open(self._database.reader)

    def journal_last(self) -> int:
        """The sequence of the last write that was journaled here."""
        return journal.backlog(self._database.reader).last_sequence

    def write_id(self, sequence: int) -> str:
        return f"{self.identity.node_id}.{sequence}"

    def granted(self, integer: int) -> dict[str, Any] | None:
        """The range that an integer was granted in."""
        row = ranges.granted(self._database.reader, integer)
        return dict(zip(("node_id", "start", "stop", "position", "retired"), row, strict=True)) if row else None

    def why_not_kept(self, integer: int) -> str | None:
        """Why an image from elsewhere could not keep its integer, once the counter is above it; None: it can."""
        found = self.find(integer)
        if found is not None:
            return f"integer {integer} belongs to image {found.image.uuid}"
        if integer >= catalogue.replica(self._database.reader).next_integer:
            return None
        return ranges.why_not_kept(self._database.reader, integer)

    async def held_by(self, node: str) -> tuple[int, int]:
        """(ranges, integers in them) of a node that were not retired."""
        return await self._database.read(lambda c: ranges.held_by(c, node))

    async def ids_outlook(self) -> dict[str, Any]:
        """This node's ranges and runway, and when each ceiling is reached at the rate of all nodes that are up."""
        others = (view for view in self._members.values() if view.node_id != self.identity.node_id and view.is_up)
        rates = [view.vitals.get("ids_per_day") for view in others]
        per_day = self.runway().rate + sum(rate for rate in rates if isinstance(rate, int | float))
        status = self.ids_status()
        used = status["counter"]
        granted, integers = await self.held_by(self.identity.node_id)
        return {
            **status,
            "ranges": granted,
            "granted": integers,
            "all_zones_per_day": per_day,
            "ceilings": [ranges.outlook(ceiling, used, per_day, clock.wall()) for ceiling in ranges.CEILINGS],
        }

    def check_store(self) -> None:
        """Reads the store; raises what the store raises when it cannot be read."""
        catalogue.replica(self._database.reader)

    # The state of things.

    def sizes(self) -> Sizes:
        path = self._database.path
        disk = os.statvfs(path.parent)
        wal_bytes = self._database.wal_bytes()
        return Sizes(path.stat().st_size + wal_bytes, wal_bytes, disk.f_bavail * disk.f_frsize)

    def health(self, bounds: Bounds = WELL) -> Report:
        """What is the matter now; see `zoned.health`."""
        found, now = self.findings(bounds), trio.current_time()
        if bounds is WELL:
            self.mutes.settle(found, now)
        return self.mutes.apply(found, now)

    def certificates_left_s(self) -> dict[str, float]:
        """How long the certificates of this node still hold, seconds, by role; empty without TLS."""
        return {role: end - clock.wall() for role, end in self.certificates().items()}

    def findings(self, bounds: Bounds = WELL) -> list[Finding]:
        """The same with nothing muted."""
        journal, sizes = self.settings.config.journal, self.sizes()
        picture = Picture(
            self.status(),
            self.zones(),
            self.is_synced,
            journal.entries_max,
            journal.bytes_max,
            sizes.free_bytes,
            journal.free_disk_min_bytes,
            sizes.wal_bytes,
            self.settings.reload_failed,
            self.certificates_left_s(),
            self.presence_counts,
        )
        return examine(picture, bounds)

    def status(self) -> dict[str, Any]:
        replica = catalogue.replica(self._database.reader)
        fetching = self.replication.fetcher.state
        return {
            "node": {
                "node_id": self.identity.node_id,
                "zone": self.name,
                "generation": self.identity.generation,
                "version": __version__,
                "url": self.url,
                "uptime_s": round(trio.current_time() - self._started, 1),
                "draining": self.draining,
                "damaged_reads": self._damaged_reads,
                "drill": self.drill,
            },
            "registry": self._registry_status(),
            "catalogue": {"position": replica.position, "images": replica.images, "hash": replica.digest},
            "diverged": [
                {"node_id": node_id, "position": position}
                for node_id, position in self.replication.verifier.diverged.items()
            ],
            "snapshot": asdict(fetching) if fetching is not None else None,
            "staleness_s": round(bound_s, 3) if (bound_s := self.staleness.bound_s) is not None else None,
            "journal": self.journal_status(),
            "conflicts": {"open": self.conflicts_open()},
            "ids": self.ids_status(),
            "zones": self._count_zones(),
        }

    async def keep_trend(self) -> None:
        """Takes a sample every SAMPLE_S."""
        while True:
            self.trend.note(self.sample())
            await trio.sleep(SAMPLE_S)

    def sample(self) -> Sample:
        """The figures of this moment."""
        bound_s, counts = self.staleness.bound_s, self.counts
        return Sample(
            at=clock.wall(),
            staleness_s=round(bound_s, 3) if bound_s is not None else None,
            waiting=journal.backlog(self._database.reader).entries,
            ids_left=self.runway().left,
            nodes_up=sum(view.is_up for view in self._members.values()),
            registry=self.replication.registry is not None,
            lookups=sum(counts.lookups.values()),
            committed=counts.writes["committed"],
            buffered=counts.writes["buffered"],
            refused=counts.writes["refused"] + counts.writes["conflict"] + counts.writes["full"],
        )

    def room(self) -> dict[str, int]:
        """What the journal and the disk hold at most, for what they hold by now."""
        sizes, journal = self.sizes(), self.settings.config.journal
        return {
            "journal_entries_max": journal.entries_max,
            "journal_bytes_max": journal.bytes_max,
            "store_bytes": sizes.store_bytes,
            "free_bytes": sizes.free_bytes,
            "free_min_bytes": journal.free_disk_min_bytes,
        }

    def _registry_status(self) -> dict[str, Any]:
        replication = self.replication
        registry, membership = replication.registry, replication.membership()
        view = self._members.get(registry) if registry else None
        return {
            **replication.database_status,
            "role": replication.role,
            "known": registry is not None,
            "node_id": registry,
            "zone": view.zone if view else None,
            "term": replication.term,
            "cluster_id": replication.cluster_id or None,
            "voters": list(membership.voters) if membership else [],
            "learners": list(membership.learners) if membership else [],
            "witnesses": list(membership.witnesses) if membership else [],
            "log_first": log.first_position(self._database.reader),
            "log_last": log.last_position(self._database.reader),
        }

    def journal_status(self) -> dict[str, Any]:
        backlog = journal.backlog(self._database.reader)
        age_s = max(0.0, clock.wall() - backlog.oldest_at) if backlog.oldest_at is not None else None
        now, drain, held = trio.current_time(), self._proxy.drain, holding.held(self._database.reader)
        ends_in_s = drain.ends_in_s(backlog.entries, now)
        kept = shared.stock(self._database.reader)
        return {
            "entries": backlog.entries,
            "bytes": backlog.bytes,
            "oldest_age_s": age_s,
            "drain_per_s": round(drain.rate(now), 1),
            "drain_ends_in_s": round(ends_in_s, 1) if ends_in_s is not None else None,
            "held_from": held.sequence if held is not None else None,
            "shared_entries": kept.entries,
            "shared_bytes": kept.bytes,
        }

    def ids_status(self) -> dict[str, Any]:
        runway = self.runway()
        return {
            "left": runway.left,
            "rate_per_day": runway.rate,
            "runway_days": round(runway.days, 2) if runway.days is not None else None,
            "counter": catalogue.replica(self._database.reader).next_integer - 1,
            "ceiling": self.settings.config.ids.ceiling,
            "leases": [asdict(lease) for lease in ranges.leases(self._database.reader)],
        }

    async def survey(self, timeout_s: float, age_s: float) -> tuple[float, Survey]:
        """What every node that is up believes of everybody, and when it was asked; one at most `age_s` old will do."""
        oldest = trio.current_time() - age_s
        async with self._surveying:
            if self._survey is None or self._survey[0] < oldest:
                self._survey = (trio.current_time(), await self.gossip.survey(timeout_s))
            return self._survey

    def _count_zones(self) -> dict[str, int]:
        zones = self.zones()
        up = sum(one["state"] in ("alive", "suspect") for one in zones)
        return {"known": len(zones), "up": up}

    def zones(self) -> list[dict[str, Any]]:
        """Every node that gossip knows, this one included, by zone name."""
        now = trio.current_time()
        return sorted(
            (self._describe(view, now) for view in self._members.values()),
            key=lambda one: (one["zone"], one["node_id"]),
        )

    def _describe(self, view: MemberView, now: float) -> dict[str, Any]:
        facts = view.facts
        return {
            "zone": view.zone,
            "node_id": view.node_id,
            "me": view.node_id == self.identity.node_id,
            "state": view.state.name.lower(),
            "since_s": round(now - view.since, 1),
            "acked_s": round(now - view.acked, 1) if view.acked is not None else None,
            "rtt_ms": round(view.rtt_s * 1_000, 2) if view.rtt_s is not None else None,
            "url": facts.get("api"),
            "peer": "{}:{}".format(*view.address),
            "voter": bool(facts.get("voter")),
            "witness": bool(facts.get("witness")),
            "registry": facts.get("registry") is not None,
            **self._vitals(view),
            "version": facts.get("version"),
        }

    def _vitals(self, view: MemberView) -> dict[str, Any]:
        """What a node last reported of itself; of this one, as it is now."""
        position = self.position if view.node_id == self.identity.node_id else view.vitals.get("position")
        return {
            "position": position,
            "lag": max(0, self.position - position) if isinstance(position, int) else None,
            "runway_days": view.vitals.get("runway_days"),
            "staleness_s": view.vitals.get("staleness_s"),
            "load": view.vitals.get("load"),
            "draining": bool(view.facts.get("draining")),
        }
