"""What is the matter with this zone: stable codes, each with what it means and what to do.

Sans-IO: `examine` looks at a picture of the daemon and names what it finds; `Mutes` remembers what the operator
does not want to hear of for a while. A muted code speaks again when its time is over, or at once when it has become
worse: a higher severity, or more of what it counts than when it was muted.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any


class Severity(Enum):
    """Also the exit status of `zonectl health`."""

    OK = 0
    WARNING = 1
    CRITICAL = 2


@dataclass(frozen=True, slots=True)
class Code:
    """One thing that can be the matter: what it means for users, and what an operator does first."""

    means: str
    do: str


CODES: Mapping[str, Code] = {
    "UNSYNCED": Code(
        "This zone has not received the catalogue yet; lookups of unknown records are answered 503.",
        "Wait while it is fetched (zonectl wait synced). If it takes long, see zonectl zones: is any peer up?",
    ),
    "NO_REGISTRY": Code(
        "Nobody orders writes. Lookups go on; writes are kept in the journal and answered as buffered.",
        "See zonectl zones. Bring a majority of the voters, or the database, back; the journal drains by itself.",
    ),
    "REGISTRY_DATABASE": Code(
        "The database that keeps the registry cannot be worked with from this node.",
        "The text says why: docs/operations.md, The registry in PostgreSQL. Writes go on through a node that can.",
    ),
    "NO_SPARE_VOTER": Code(
        "One more lost voter stops writes from being committed.",
        "Bring the voters that are down back, or replace them: docs/operations.md, Replace a node.",
    ),
    "TOO_MANY_WITNESSES": Code(
        "A node says that it is a witness and is a full voter all the same: witnesses alone would be a majority.",
        "Let a zone that serves vote (zonectl registry add), or remove a witness. Right after a start, wait.",
    ),
    "NODES_DOWN": Code(
        "Nodes of the cloud do not answer this one.",
        "zonectl zones why ZONE says who suspects them since when; zonectl reachability says who sees whom.",
    ),
    "STALE": Code(
        "Answers here may be older than they should be, although there is a registry.",
        "zonectl status shows the bound and zonectl zones the lag; look at the disk and the link of this node.",
    ),
    "JOURNAL_OLD": Code(
        "A write of this node has been waiting long for being committed.",
        "zonectl writes list --waiting. With a registry known, look at the link to it; without one, see NO_REGISTRY.",
    ),
    "JOURNAL_FULL": Code(
        "The journal is filling; when it is full, writes here are refused with 507.",
        "Bring the registry back, send writers to another zone, or raise journal.entries_max and journal.bytes_max.",
    ),
    "JOURNAL_HELD": Code(
        "Writes of this node are held back by an operator; they wait here, and nobody else has them.",
        "zonectl writes release when the reason is gone; zonectl writes list --waiting shows them.",
    ),
    "CONFLICTS_OPEN": Code(
        "Values that were written during an outage lost against others; both are kept for a person to choose.",
        "zonectl conflicts list, then zonectl conflicts resolve ID --take ours|theirs|value.",
    ),
    "DISK_FULL": Code(
        "The disk of the store is filling; below journal.free_disk_min_bytes writes here are refused with 507.",
        "Make room on the disk of node.data_dir.",
    ),
    "IDS_SHORT": Code(
        "This node's integers will not last; records made then get theirs only when a registry grants a range.",
        "With a registry a range comes by itself within seconds. Without one, create in another zone meanwhile.",
    ),
    "IDS_CEILING": Code(
        "The counter of integers comes near ids.ceiling; records made above it have a UUID only.",
        "Raise ids.ceiling on every node, if old clients allow; zonectl ids says when it is reached.",
    ),
    "PRESENCE_WANTED": Code(
        "Images have been wanted in this zone for over an hour, and nobody has said that their bytes are here.",
        "See why copies are late; zonectl presence IMAGE says what is known of one. A wish is taken back by unwanted.",
    ),
    "PRESENCE_OLD": Code(
        "Images were verified here so long ago that they no longer count as bootable in this zone.",
        "Have their bytes verified again, or raise presence.verified_days.",
    ),
    "REPLICAS_DIFFER": Code(
        "Two nodes had different catalogues at an equal position. One of them is damaged.",
        "zonectl sync verify names the records and who is damaged; replace that node.",
    ),
    "RECORD_DAMAGED": Code(
        "A record on this node's disk is not what was written there; it is answered 500, others are answered.",
        "zonectl sync verify names the record; then look at the disk, and replace this node.",
    ),
    "WAL_GROWS": Code(
        "The store's write-ahead log cannot be folded in: a reader holds an old state.",
        "End backups under way and other programs that have zoned.db open.",
    ),
    "CERTIFICATE_ENDS": Code(
        "A certificate of the peer plane ends; without it this node and the others cannot speak to each other.",
        "zonectl tls status says which. Issue another (zonectl tls request, issue, install); no restart is needed.",
    ),
    "VERSIONS_DIFFER": Code(
        "Nodes run different versions. That is meant to be so only during an upgrade.",
        "Finish the upgrade: docs/operations.md, Upgrade.",
    ),
    "DRAINING": Code(
        "This node sends its users elsewhere because it was told to.",
        "zonectl drain off when the maintenance is over.",
    ),
    "DRILL": Code(
        "A live drill breaks something of this node on purpose; it ends by itself.",
        "zonectl drill --stop ends it now.",
    ),
    "CONFIG_REFUSED": Code(
        "The last reload of the configuration was refused; the daemon goes on with what it had.",
        "zoned check -c FILE names the mistakes. Mend them before the next restart.",
    ),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something is the matter. `weight` counts what is down or wrong, if that can be counted; `muted_s` is how long the
    finding stays muted, if it is."""

    code: str
    severity: Severity
    summary: str
    weight: float = 0.0
    muted_s: float | None = None

    @property
    def muted(self) -> bool:
        return self.muted_s is not None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is the matter, the worst first."""

    findings: tuple[Finding, ...]

    @property
    def status(self) -> Severity:
        return max((one.severity for one in self.findings if not one.muted), key=_rank, default=Severity.OK)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What still counts as well. A caller of `/zone/v1/health` may be stricter or more lenient."""

    staleness_s: float = 30.0
    journal_entries: int | None = None  # None: half of journal.entries_max
    runway_days: float = 7.0


WELL = Bounds()


@dataclass(frozen=True, slots=True)
class Counted:
    """Active images by how their bytes stand in this zone."""

    looked_at: int = 0
    wanted: int = 0
    claimed: int = 0
    verified: int = 0
    absent: int = 0
    late: int = 0  # wanted for an hour or more, and nobody has said that they are here
    old: int = 0  # verified, but longer ago than presence.verified_days
    single_zone: int = 0  # whatever the zone: the bytes are in one only


@dataclass(frozen=True, slots=True)
class Picture:
    """What `examine` looks at. `status` and `zones` as the API gives them; sizes in bytes."""

    status: Mapping[str, Any]
    zones: Sequence[Mapping[str, Any]]
    synced: bool
    entries_max: int
    bytes_max: int
    free_bytes: int
    free_min_bytes: int
    wal_bytes: int
    reload_failed: bool
    certificates_left_s: Mapping[str, float] = field(default_factory=dict)
    presence: Counted = Counted()  # frozen


CRITICAL_FACTOR = 10  # staleness of so many times the bound is critical
NEAR_CEILING = 0.9  # of the integers
CERTIFICATE_S, CERTIFICATE_LAST_S = 30 * 86_400.0, 3 * 86_400.0
OLD_S, VERY_OLD_S = 3_600.0, 86_400.0
WAL_BYTES_MAX = 268_435_456


def _rank(severity: Severity) -> int:
    return severity.value


def examine(picture: Picture, bounds: Bounds) -> list[Finding]:
    """What is the matter, the worst first."""
    looks: tuple[Callable[[Picture, Bounds], Iterator[Finding]], ...] = (
        _registry,
        _freshness,
        _journal,
        _disk,
        _integers,
        _conflicts,
        _presence,
        _others,
        _node,
    )
    found = [finding for look in looks for finding in look(picture, bounds)]
    return sorted(found, key=lambda one: (-one.severity.value, one.code))


def _registry(picture: Picture, _bounds: Bounds) -> Iterator[Finding]:
    registry = picture.status["registry"]
    voters = set(registry["voters"])
    # Where nobody is elected, one that is only suspected counts for nothing: the last to die would seem up for long.
    states = ("alive", "suspect") if registry["known"] else ("alive",)
    away = _away(picture, voters, states)
    up = len(voters) - len(away)
    majority = len(voters) // 2 + 1
    if not picture.synced:
        yield Finding("UNSYNCED", Severity.CRITICAL, "no entry of the log has been applied here")
    problem = registry.get("problem")
    if problem:
        known = registry["known"] and not registry["stands_aside"]
        yield Finding("REGISTRY_DATABASE", Severity.WARNING if known else Severity.CRITICAL, problem)
    if not registry["known"]:
        text = f"{up} of {len(voters)} voters are up, {majority} are needed" if voters else "no cluster was met yet"
        text = f"{text}; not up: {', '.join(away)}" if away else text
        text = "no node has the registry" if registry.get("engine") == "postgresql" else text
        severity = Severity.CRITICAL if voters and up < majority else Severity.WARNING
        yield Finding("NO_REGISTRY", severity, text, len(voters) - up)
    elif len(voters) > 1 and up <= majority:
        text = f"{up} of {len(voters)} voters are up; not up: {', '.join(away)}"
        yield Finding("NO_SPARE_VOTER", Severity.WARNING, text, len(away))
    taken = [
        one for one in picture.zones if one.get("witness") and one["node_id"] in voters - set(registry["witnesses"])
    ]
    if taken and registry["known"]:
        text = f"{', '.join(one['zone'] for one in taken)}: a witness that the log takes for a full voter"
        yield Finding("TOO_MANY_WITNESSES", Severity.WARNING, text, len(taken))


def _away(picture: Picture, voters: Set[str], states: Sequence[str]) -> list[str]:
    """The zones of voters in no such state; the ID of one that gossip does not know: it was down before this start."""
    known = {one["node_id"]: one for one in picture.zones}
    away = [voter for voter in voters if voter not in known or known[voter]["state"] not in states]
    return sorted(str(known[voter]["zone"]) if voter in known else f"node {voter}" for voter in away)


def _freshness(picture: Picture, bounds: Bounds) -> Iterator[Finding]:
    bound_s = picture.status["staleness_s"]
    if picture.status["registry"]["known"] and bound_s is not None and bound_s > bounds.staleness_s:
        severity = Severity.CRITICAL if bound_s > bounds.staleness_s * CRITICAL_FACTOR else Severity.WARNING
        yield Finding("STALE", severity, f"answers may be {bound_s:.0f} s old, more than {bounds.staleness_s:g} s")


def _journal(picture: Picture, bounds: Bounds) -> Iterator[Finding]:
    journal = picture.status["journal"]
    age_s, entries = journal["oldest_age_s"] or 0.0, journal["entries"]
    if age_s > OLD_S:
        severity = Severity.CRITICAL if age_s > VERY_OLD_S else Severity.WARNING
        yield Finding("JOURNAL_OLD", severity, f"the oldest of {entries} waiting writes is {age_s / 3_600:.1f} h old")
    if journal["held_from"] is not None:
        yield Finding("JOURNAL_HELD", Severity.WARNING, f"from sequence {journal['held_from']} on")
    full = max(entries / picture.entries_max, journal["bytes"] / picture.bytes_max)
    too_many = bounds.journal_entries is not None and entries > bounds.journal_entries
    if full > 0.5 or too_many:
        severity = Severity.CRITICAL if full > 0.9 else Severity.WARNING
        yield Finding("JOURNAL_FULL", severity, f"{entries} writes wait, {full:.0%} of the journal")


def _disk(picture: Picture, _bounds: Bounds) -> Iterator[Finding]:
    free, least = picture.free_bytes, picture.free_min_bytes
    if free < 2 * least:
        severity = Severity.CRITICAL if free < least else Severity.WARNING
        text = f"{free >> 20} MiB are free, writes stop below {least >> 20} MiB"
        yield Finding("DISK_FULL", severity, text)
    if picture.wal_bytes >= WAL_BYTES_MAX:
        yield Finding("WAL_GROWS", Severity.WARNING, f"it has {picture.wal_bytes >> 20} MiB")


def _integers(picture: Picture, bounds: Bounds) -> Iterator[Finding]:
    ids = picture.status["ids"]
    days = ids["runway_days"]
    if ids["left"] == 0 and picture.synced:
        yield Finding("IDS_SHORT", Severity.CRITICAL, "no integer is left")
    elif days is not None and days < bounds.runway_days:
        severity = Severity.CRITICAL if days < 1 else Severity.WARNING
        yield Finding("IDS_SHORT", severity, f"{ids['left']} integers last {days:g} days")
    used = ids["counter"] / ids["ceiling"]
    if used > NEAR_CEILING:
        severity = Severity.CRITICAL if used >= 1 else Severity.WARNING
        yield Finding("IDS_CEILING", severity, f"{used:.1%} of {ids['ceiling']} are given out")


def _conflicts(picture: Picture, _bounds: Bounds) -> Iterator[Finding]:
    count = picture.status["conflicts"]["open"]
    if count:
        yield Finding("CONFLICTS_OPEN", Severity.WARNING, f"{count} wait for a person", count)


def _presence(picture: Picture, _bounds: Bounds) -> Iterator[Finding]:
    late, old, among = picture.presence.late, picture.presence.old, f"of the newest {picture.presence.looked_at}"
    if late:
        yield Finding("PRESENCE_WANTED", Severity.WARNING, f"{late} {among} active images", late)
    if old:
        yield Finding("PRESENCE_OLD", Severity.WARNING, f"{old} {among} active images", old)


def _others(picture: Picture, _bounds: Bounds) -> Iterator[Finding]:
    down = sorted(one["zone"] for one in picture.zones if one["state"] == "dead")
    if down:
        yield Finding("NODES_DOWN", Severity.WARNING, ", ".join(down), len(down))
    diverged = [one["node_id"] for one in picture.status["diverged"]]
    if diverged:
        names = [one["zone"] for one in picture.zones if one["node_id"] in diverged]
        yield Finding(
            "REPLICAS_DIFFER", Severity.CRITICAL, "from " + ", ".join(sorted(names) or diverged), len(diverged)
        )
    versions = sorted({str(one["version"]) for one in picture.zones if _is_up(one) and one["version"]})
    if len(versions) > 1:
        yield Finding("VERSIONS_DIFFER", Severity.WARNING, ", ".join(versions), len(versions))


def _node(picture: Picture, _bounds: Bounds) -> Iterator[Finding]:
    if picture.status["node"]["draining"]:
        yield Finding("DRAINING", Severity.WARNING, "as asked")
    if reads := picture.status["node"]["damaged_reads"]:
        yield Finding("RECORD_DAMAGED", Severity.CRITICAL, f"{reads} reads were refused since the start", reads)
    if picture.status["node"]["drill"]:
        yield Finding("DRILL", Severity.WARNING, picture.status["node"]["drill"])
    for role, left_s in sorted(picture.certificates_left_s.items(), key=lambda one: one[1])[:1]:
        if left_s < CERTIFICATE_S:
            severity = Severity.CRITICAL if left_s < CERTIFICATE_LAST_S else Severity.WARNING
            yield Finding("CERTIFICATE_ENDS", severity, f"that of the {role} ends in {left_s / 86_400:.1f} days")
    if picture.reload_failed:
        yield Finding("CONFIG_REFUSED", Severity.WARNING, "the log names the mistakes")


def _is_up(one: Mapping[str, Any]) -> bool:
    return one["state"] in ("alive", "suspect")


class Mutes:
    """Codes that are not to be heard for a while. Not kept over a restart: after one, everything speaks."""

    def __init__(self) -> None:
        self._mutes: dict[str, tuple[float, Finding | None]] = {}  # code -> (until, as it was when muted)

    def mute(self, code: str, until: float, now: Sequence[Finding]) -> None:
        self._mutes[code] = (until, next((one for one in now if one.code == code), None))

    def unmute(self, code: str) -> None:
        self._mutes.pop(code, None)

    def settle(self, findings: Sequence[Finding], now: float) -> None:
        """Forgets, at `now` (monotonic seconds), what is over and what has become worse since it was muted."""
        worse = {one.code for one in findings if one.code in self._mutes and _is_worse(one, self._mutes[one.code][1])}
        self._mutes = {code: mute for code, mute in self._mutes.items() if code not in worse and now < mute[0]}

    def apply(self, findings: Sequence[Finding], now: float) -> Report:
        """The report at `now`."""
        return Report(tuple(replace(one, muted_s=self._left_s(one.code, now)) for one in findings))

    def _left_s(self, code: str, now: float) -> float | None:
        until, _ = self._mutes.get(code, (now, None))
        return until - now if until > now else None


def _is_worse(now: Finding, then: Finding | None) -> bool:
    return then is not None and (now.severity.value, now.weight) > (then.severity.value, then.weight)


def status_line(status: Mapping[str, Any]) -> str:
    """The zone in one line, for the service manager."""
    registry, bound_s, days = status["registry"], status["staleness_s"], status["ids"]["runway_days"]
    parts = [registry["role"]]
    if not registry["known"]:
        parts.append("no registry: writes are buffered")
    elif registry["role"] != "registry":
        parts.append(f"registry in {registry['zone']}")
    if bound_s is not None:
        parts.append(f"at most {bound_s:.0f} s behind")
    if days is not None:
        parts.append(f"runway {days:.0f} d")
    return ", ".join(parts)
