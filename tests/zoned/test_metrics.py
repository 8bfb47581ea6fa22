"""What /metrics says, against a running zone; that rules and board name nothing that is not exported."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.zoned.conftest import Served
from zoned.api.http1 import RequestRecord
from zoned.counts import BOUNDS_S, Counts, Durations, face_of, is_lookup

DEPLOY = Path(__file__).parents[2] / "deploy"
NAME = re.compile(r"\b(?:zoned|process|python)_[a-z0-9_]+")


def scrape(served: Served) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Every sample, by name and labels."""
    answer = httpx.get(f"{served.url}/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def value(samples: dict[str, dict[tuple[tuple[str, str], ...], float]], name: str, **labels: str) -> float:
    wanted = set(labels.items())
    return sum(number for key, number in samples[name].items() if wanted <= set(key))


def test_requests_lookups_and_writes_are_counted(served: Served):
    before = scrape(served)
    made = httpx.post(f"{served.url}/zone/v1/images", json={"name": "n"}).json()
    for _ in range(3):
        assert httpx.get(f"{served.url}/zone/v1/images/{made['uuid']}").status_code == 200
    assert httpx.get(f"{served.url}/v2/images/00000000-0000-4000-8000-000000000000").status_code == 404
    assert httpx.get(f"{served.url}/nothing/here").status_code == 300
    after = scrape(served)

    def grown(name: str, **labels: str) -> float:
        known = name in before
        return value(after, name, **labels) - (value(before, name, **labels) if known else 0.0)

    assert grown("zoned_lookups_total", code="200") >= 3
    assert grown("zoned_lookups_total", code="404", source="none") >= 1
    assert grown("zoned_lookup_seconds_count") >= 4
    assert grown("zoned_writes_total", state="committed") >= 1
    assert grown("zoned_write_commit_seconds_count") >= 1
    assert grown("zoned_store_commit_seconds_count") >= 1
    assert grown("zoned_requests_total", route="zone", method="POST", code="201") >= 1
    assert grown("zoned_requests_total", route="other", method="GET", code="300") >= 1
    assert grown("zoned_requests_total", route="metrics") >= 1


def test_the_state_of_a_healthy_zone(served: Served):
    samples = scrape(served)
    assert value(samples, "zoned_build_info", zone="alpha", node=served.node_id) == 1
    assert value(samples, "zoned_registry_known") == 1
    assert value(samples, "zoned_registry_is_here") == 1
    assert value(samples, "zoned_catalogue_position") > 0
    assert 0 <= value(samples, "zoned_staleness_bound_seconds") < 3_600
    assert value(samples, "zoned_members", state="alive") == 1
    assert value(samples, "zoned_ids_remaining") > 0
    assert value(samples, "zoned_store_bytes") > 4_096
    assert value(samples, "zoned_disk_free_bytes") > 0
    assert value(samples, "zoned_ready") == 1
    assert value(samples, "process_resident_memory_bytes") > 1_000_000


def test_a_zone_without_registry_says_so_and_leaves_out_what_it_cannot_know(cut_off: Served):
    samples = scrape(cut_off)
    assert value(samples, "zoned_registry_known") == 0
    assert value(samples, "zoned_health_code", code="NO_REGISTRY") == 1
    assert value(samples, "zoned_health_status") == 2  # UNSYNCED
    assert "zoned_staleness_bound_seconds" not in samples
    assert "zoned_id_runway_seconds" not in samples


def test_labels_stay_few_whatever_clients_ask_for(served: Served):
    with httpx.Client(base_url=served.url) as client:
        for number in range(50):
            client.get(f"/v2/images/{number:08x}-0000-4000-8000-000000000000")
            client.get(f"/made-up-{number}/x")
            client.request(f"METHOD{number}", "/v2/images")
    samples = scrape(served)
    assert sum(map(len, samples.values())) < 700
    assert "made-up" not in str(samples)
    assert "00000001-" not in str(samples)


def exported(served: Served) -> set[str]:
    """Names of samples, also of families that have no sample in a healthy zone alone."""
    text = httpx.get(f"{served.url}/metrics").text
    families = {line.split()[2]: line.split()[3] for line in text.splitlines() if line.startswith("# TYPE")}
    names = {name for line in text.splitlines() if line and line[0] != "#" for name in [re.split(r"[{ ]", line)[0]]}
    return names | set(families)


def expressions() -> Iterator[tuple[str, str]]:
    """(where, expression) of every rule and panel."""
    for line in (DEPLOY / "alerts.yml").read_text().splitlines():
        if line.strip().startswith("expr:"):
            yield "alerts.yml", line.partition("expr:")[2]
    board = json.loads((DEPLOY / "grafana.json").read_text())
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]


def test_rules_and_board_name_only_what_is_exported(served: Served):
    known, used = exported(served), set()
    for where, expression in expressions():
        names = set(NAME.findall(re.sub(r'"[^"]*"', '""', expression)))
        assert names or expression.strip().startswith("up{"), f"{where}: no metric in {expression}"
        assert names <= known, f"{where}: {names - known}"
        used |= names
    assert len(used) > 20


def test_rules_name_only_health_codes_that_exist():
    from zoned.health import CODES

    named = set(re.findall(r'code(?:: |=")([A-Z_]+)', (DEPLOY / "alerts.yml").read_text()))
    assert named
    assert named <= set(CODES)


@pytest.mark.parametrize(
    ("path", "face", "lookup"),
    [
        ("/v2/images/x", "v2", True),
        ("/v2.17/images", "v2", False),
        ("/v2/images/x/file", "v2", False),
        ("/zone/v1/images/42", "zone", True),
        ("/v1.1/p/images", "v1", False),
        ("/", "other", False),
        ("-", "other", False),
        ("/metrics", "metrics", False),
        ("/ui/app.js", "ui", False),
    ],
)
def test_faces(path, face, lookup):
    assert (face_of(path), is_lookup(path)) == (face, lookup)


def test_buckets_are_cumulative():
    durations = Durations()
    for seconds in (0.000_05, 0.000_1, 0.3, 100.0):
        durations.add(seconds)
    buckets = dict(durations.buckets())
    assert (buckets["0.0001"], buckets["0.25"], buckets["0.5"], buckets["10.0"], buckets["+Inf"]) == (2, 2, 3, 3, 4)
    assert len(buckets) == len(BOUNDS_S) + 1
    assert durations.total_s == pytest.approx(100.300_15)


def test_a_request_that_was_not_understood_is_counted_too():
    counts = Counts()
    counts.request(RequestRecord("-", "-", 400, 0, 0.1, "127.0.0.1"))
    assert counts.requests == {("other", "other", 400): 1}
    assert not counts.lookups
