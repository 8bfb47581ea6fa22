"""What Prometheus reads at `/metrics`.

Counting while serving is adding to plain numbers (`zoned.counts`); everything else is read from the daemon when
somebody scrapes, so a daemon that nobody scrapes pays next to nothing. Labels are few by construction: faces, methods,
statuses, nodes, codes; never an image, a project or a path. Names and units as Prometheus wants them: base units,
`_total` on counters.
"""

import math
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from zoned import __version__
from zoned.counts import Durations
from zoned.zone import Zone

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
DAY_S = 86_400.0


def make_metrics(zone: Zone) -> CollectorRegistry:
    """Everything that this daemon exports; read it with `render`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Daemon(zone))
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def render(registry: CollectorRegistry) -> bytes:
    """The text exposition format, version 0.0.4."""
    return generate_latest(registry)


class _Daemon(Collector):
    """Reads one zone's state at the time of the scrape."""

    def __init__(self, zone: Zone) -> None:
        self._zone = zone

    def describe(self) -> Iterable[Metric]:
        return []  # nothing is to be collected at registration

    def collect(self) -> Iterator[Metric]:
        yield from self._state()
        yield from self._nodes()
        yield from self._counted()
        yield from self._gossip()
        yield from self._presence()
        yield from self._health()

    def _state(self) -> Iterator[Metric]:
        zone, status = self._zone, self._zone.status()
        registry, journal, ids = status["registry"], status["journal"], status["ids"]
        labels = {"version": __version__, "zone": zone.name, "node": zone.identity.node_id}
        yield _gauge("build_info", "What runs here; always 1.", 1, labels)
        yield _gauge(
            "registry_known",
            "Whether this node knows a registry: writes are committed, not buffered.",
            registry["known"],
        )
        yield _gauge("registry_is_here", "Whether this node is the registry.", registry["role"] == "registry")
        yield _gauge("registry_term", "The term that this voter is in; its growth counts elections.", registry["term"])
        yield _gauge("registry_voters", "How many nodes vote.", len(registry["voters"]))
        yield _gauge("catalogue_position", "The last entry of the log applied here.", status["catalogue"]["position"])
        yield _gauge("catalogue_images", "Live records.", status["catalogue"]["images"])
        yield _gauge("log_entries", "Entries of the log kept here.", registry["log_last"] - registry["log_first"] + 1)
        yield _gauge(
            "staleness_bound_seconds",
            "Nothing committed longer ago is missing here; absent while never proved.",
            status["staleness_s"],
        )
        yield _gauge("write_buffer_records", "Own writes that are not applied yet.", journal["entries"])
        yield _gauge("write_buffer_bytes", "Their size.", journal["bytes"])
        yield _gauge(
            "shared_writes", "Other nodes' writes kept here until they are applied.", journal["shared_entries"]
        )
        yield _gauge("write_buffer_oldest_seconds", "The age of the oldest of them.", journal["oldest_age_s"] or 0.0)
        yield _gauge("write_buffer_held", "Whether an operator holds writes back.", journal["held_from"] is not None)
        yield _gauge("write_drain_per_second", "Own writes that are applied a second.", journal["drain_per_s"])
        yield _gauge("conflicts_open", "Conflicts that wait for a person.", status["conflicts"]["open"])
        yield _gauge("ids_given_out", "Integers given out to all zones.", ids["counter"])
        yield _gauge("ids_remaining", "Integers in this node's ranges.", ids["left"])
        days = ids["runway_days"]
        yield _gauge(
            "id_runway_seconds",
            "How long they last; absent while none was ever taken.",
            days * DAY_S if days is not None else None,
        )
        ends = GaugeMetricFamily(
            "zoned_certificate_expiry_seconds", "Until a certificate of the peer plane ends.", labels=["role"]
        )
        for role, left_s in zone.certificates_left_s().items():
            ends.add_metric([role], left_s)
        yield ends
        yield _gauge(
            "ready", "Whether users may come: the store answers and the node is not draining.", not zone.draining
        )
        yield _gauge(
            "backup_timestamp_seconds", "When a backup was last taken here; absent since the start.", zone.backed_up_at
        )
        sizes = zone.sizes()
        yield _gauge("store_bytes", "The store's file and its write-ahead log.", sizes.store_bytes)
        yield _gauge("store_wal_bytes", "The write-ahead log alone.", sizes.wal_bytes)
        yield _gauge("disk_free_bytes", "Free on the disk of the store.", sizes.free_bytes)
        settings = zone.settings
        yield _gauge("config_reload_success", "Whether the last reload was accepted.", not settings.reload_failed)
        yield _gauge(
            "config_reload_success_timestamp_seconds",
            "When a reload was last accepted; absent since the start.",
            settings.reloaded_at,
        )

    def _nodes(self) -> Iterator[Metric]:
        zones = self._zone.zones()
        states = ("alive", "suspect", "dead", "left")
        members = GaugeMetricFamily("zoned_members", "Nodes by what gossip believes of them.", labels=["state"])
        for state in states:
            members.add_metric([state], sum(one["state"] == state for one in zones))
        yield members
        rtt = GaugeMetricFamily("zoned_peer_rtt_seconds", "Round trip, measured or estimated.", labels=["peer", "node"])
        lag = GaugeMetricFamily(
            "zoned_peer_lag_records", "How many entries a node is behind this one.", labels=["peer", "node"]
        )
        up = GaugeMetricFamily("zoned_peer_up", "Whether gossip believes a node to be up.", labels=["peer", "node"])
        agree = GaugeMetricFamily(
            "zoned_catalogue_hash_agree",
            "0: its catalogue was another one at an equal position.",
            labels=["peer", "node"],
        )
        diverged = self._zone.replication.verifier.diverged
        for one in zones:
            if one["me"]:
                continue
            labels = [one["zone"], one["node_id"]]
            up.add_metric(labels, one["state"] in ("alive", "suspect"))
            agree.add_metric(labels, one["node_id"] not in diverged)
            if one["rtt_ms"] is not None:
                rtt.add_metric(labels, one["rtt_ms"] / 1_000)
            if one["lag"] is not None:
                lag.add_metric(labels, one["lag"])
        yield from (rtt, lag, up, agree)

    def _counted(self) -> Iterator[Metric]:
        counts = self._zone.counts
        requests = CounterMetricFamily("zoned_requests", "Requests answered.", labels=["route", "method", "code"])
        for (face, method, status), number in counts.requests.items():
            requests.add_metric([face, method, str(status)], number)
        lookups = CounterMetricFamily("zoned_lookups", "Reads of one record.", labels=["code", "source"])
        for (status, source), number in counts.lookups.items():
            lookups.add_metric([str(status), source], number)
        writes = CounterMetricFamily("zoned_writes", "Writes by what their clients were told.", labels=["state"])
        for state in ("committed", "buffered", "conflict", "refused", "full"):
            writes.add_metric([state], counts.writes[state])
        limited = CounterMetricFamily("zoned_limited", "How often clients met a limit.", labels=["limit"])
        for limit, number in counts.limited.items():
            limited.add_metric([limit], number)
        yield from (requests, lookups, writes, limited)
        yield _histogram("request_seconds", "From a request's head to the end of its answer.", counts.request_s)
        yield _histogram("lookup_seconds", "The same, of lookups alone.", counts.lookup_s)
        yield _histogram(
            "write_commit_seconds", "From the submission of a write to its client's answer.", counts.write_s
        )
        yield _histogram(
            "store_commit_seconds", "Transactions of the store's writer with their sync.", counts.store_commit_s
        )

    def _gossip(self) -> Iterator[Metric]:
        gossip = self._zone.gossip
        counted = CounterMetricFamily(
            "zoned_gossip_messages", "Counters of gossip; see zonectl gossip.", labels=["kind"]
        )
        for kind, number in gossip.counts.items():
            counted.add_metric([kind], number)
        yield counted
        yield _gauge(
            "gossip_health", "Local health of SWIM: 0 is well, more means that this node itself is slow.", gossip.health
        )
        yield _gauge("gossip_queued", "Broadcasts waiting to be sent.", gossip.queued)

    def _presence(self) -> Iterator[Metric]:
        counted = self._zone.presence_counts
        states = GaugeMetricFamily(
            "zoned_presence", "The newest active images by how their bytes stand in this zone.", labels=["state"]
        )
        for state in ("wanted", "claimed", "verified", "absent"):
            states.add_metric([state], getattr(counted, state))
        yield states
        yield _gauge("presence_late", "Wanted here for over an hour, and not here.", counted.late)
        yield _gauge("presence_old", "Verified here too long ago to count.", counted.old)
        yield _gauge("images_single_zone", "Those whose bytes are in one zone only.", counted.single_zone)
        yield _gauge("presence_looked_at", "How many images these counts are of.", counted.looked_at)

    def _health(self) -> Iterator[Metric]:
        codes = GaugeMetricFamily(
            "zoned_health_code", "1: this is the matter now.", labels=["code", "severity", "muted"]
        )
        report = self._zone.health()
        for finding in report.findings:
            codes.add_metric([finding.code, finding.severity.name.lower(), str(finding.muted).lower()], 1)
        yield codes
        yield _gauge("health_status", "0 well, 1 warning, 2 critical; muted codes left out.", report.status.value)


def _gauge(name: str, text: str, value: float | None, labels: dict[str, str] | None = None) -> Metric:
    """One number; without a value the metric is absent, which Prometheus can tell from 0."""
    family = GaugeMetricFamily(f"zoned_{name}", text, labels=list(labels or ()))
    if value is not None and math.isfinite(value):
        family.add_metric(list((labels or {}).values()), float(value))
    return family


def _histogram(name: str, text: str, durations: Durations) -> Metric:
    family = HistogramMetricFamily(f"zoned_{name}", text)
    family.add_metric([], durations.buckets(), durations.total_s)
    return family
