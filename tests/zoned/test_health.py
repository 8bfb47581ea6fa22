"""Health by value: one picture in which all is well, then one thing wrong at a time; mutes that end or are outgrown."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zoned.health import CODES, WELL, Bounds, Counted, Mutes, Picture, Report, Severity, examine, status_line


def zone(name: str, **other: Any) -> dict[str, Any]:
    return {"zone": name, "node_id": f"id-{name}", "state": "alive", "version": "1", **other}


REGISTRY = {"known": True, "role": "voter", "zone": "b", "voters": ["id-a", "id-b", "id-c"], "witnesses": []}


def journal(entries: int = 0, bytes: int = 0, oldest_age_s: float | None = None, held_from: Any = None) -> Any:
    return {"entries": entries, "bytes": bytes, "oldest_age_s": oldest_age_s, "held_from": held_from}


def ids(left: int = 1_000, runway_days: float | None = 143.2, counter: int = 5_000) -> dict[str, Any]:
    return {"left": left, "runway_days": runway_days, "counter": counter, "ceiling": 10_000}


def status(**other: Any) -> dict[str, Any]:
    return {
        "node": {"draining": False, "drill": None, "damaged_reads": 0},
        "registry": REGISTRY,
        "staleness_s": 0.4,
        "journal": journal(),
        "ids": ids(),
        "conflicts": {"open": 0},
        "diverged": [],
        **other,
    }


GOOD = Picture(status(), [zone("a"), zone("b"), zone("c")], True, 100, 1_000, 1 << 40, 1 << 30, 0, False)
AWAY = {**REGISTRY, "known": False, "role": "candidate", "zone": None}
DATABASE = {**REGISTRY, "engine": "postgresql", "problem": "connection refused", "stands_aside": False}
WITNESS = [zone("a"), zone("b"), zone("c", witness=True)]
TWO_DOWN = [zone("a"), zone("b", state="dead"), zone("c", state="dead")]
ONE_DOWN = [zone("a"), zone("b"), zone("c", state="dead")]


def found(picture: Picture, bounds: Bounds = WELL) -> list[tuple[str, str]]:
    return [(one.code, one.severity.name) for one in examine(picture, bounds)]


def test_nothing_is_the_matter_when_all_is_well():
    assert examine(GOOD, WELL) == []
    assert Report(()).status is Severity.OK
    assert found(replace(GOOD, zones=[zone("a", state="suspect"), zone("b"), zone("c"), zone("d", state="left")])) == []


@pytest.mark.parametrize(
    ("changed", "codes"),
    [
        ({"synced": False}, [("UNSYNCED", "CRITICAL")]),
        ({"status": status(registry=AWAY)}, [("NO_REGISTRY", "WARNING")]),
        ({"status": status(registry={**AWAY, "voters": []})}, [("NO_REGISTRY", "WARNING")]),
        ({"status": status(registry=DATABASE)}, [("REGISTRY_DATABASE", "WARNING")]),
        ({"status": status(registry={**DATABASE, "stands_aside": True})}, [("REGISTRY_DATABASE", "CRITICAL")]),
        (
            {"status": status(registry={**DATABASE, "known": False, "voters": []})},
            [("REGISTRY_DATABASE", "CRITICAL"), ("NO_REGISTRY", "WARNING")],
        ),
        (
            {"status": status(registry=AWAY), "zones": TWO_DOWN},
            [("NO_REGISTRY", "CRITICAL"), ("NODES_DOWN", "WARNING")],
        ),
        ({"zones": ONE_DOWN}, [("NODES_DOWN", "WARNING"), ("NO_SPARE_VOTER", "WARNING")]),
        ({"zones": WITNESS}, [("TOO_MANY_WITNESSES", "WARNING")]),
        ({"zones": WITNESS, "status": status(registry={**REGISTRY, "witnesses": ["id-c"]})}, []),
        ({"status": status(staleness_s=31.0)}, [("STALE", "WARNING")]),
        ({"status": status(staleness_s=301.0)}, [("STALE", "CRITICAL")]),
        ({"status": status(staleness_s=None)}, []),
        (
            {"status": status(journal=journal(2, 9, 4_000.0))},
            [("JOURNAL_OLD", "WARNING")],
        ),
        (
            {"status": status(journal=journal(2, 9, 90_000.0))},
            [("JOURNAL_OLD", "CRITICAL")],
        ),
        ({"status": status(journal=journal(51, 9, 1.0))}, [("JOURNAL_FULL", "WARNING")]),
        ({"status": status(journal=journal(1, 950, 1.0))}, [("JOURNAL_FULL", "CRITICAL")]),
        ({"free_bytes": (1 << 30) + 5}, [("DISK_FULL", "WARNING")]),
        ({"free_bytes": (1 << 30) - 5}, [("DISK_FULL", "CRITICAL")]),
        ({"wal_bytes": 1 << 29}, [("WAL_GROWS", "WARNING")]),
        ({"status": status(ids=ids(9, 6.9))}, [("IDS_SHORT", "WARNING")]),
        ({"status": status(ids=ids(9, 0.9))}, [("IDS_SHORT", "CRITICAL")]),
        ({"status": status(ids=ids(0, 0.0))}, [("IDS_SHORT", "CRITICAL")]),
        ({"status": status(ids=ids(9, None))}, []),
        (
            {"status": status(diverged=[{"node_id": "id-b", "position": 7}])},
            [("REPLICAS_DIFFER", "CRITICAL")],
        ),
        ({"zones": [zone("a"), zone("b"), zone("c", version="2")]}, [("VERSIONS_DIFFER", "WARNING")]),
        ({"status": status(node={"draining": True, "drill": None, "damaged_reads": 0})}, [("DRAINING", "WARNING")]),
        ({"presence": Counted(9, late=2)}, [("PRESENCE_WANTED", "WARNING")]),
        ({"presence": Counted(9, old=2)}, [("PRESENCE_OLD", "WARNING")]),
        ({"presence": Counted(9, wanted=9, verified=3, single_zone=4)}, []),
        ({"status": status(journal=journal(held_from=7))}, [("JOURNAL_HELD", "WARNING")]),
        ({"status": status(conflicts={"open": 2})}, [("CONFLICTS_OPEN", "WARNING")]),
        ({"status": status(ids=ids(counter=9_001))}, [("IDS_CEILING", "WARNING")]),
        ({"status": status(ids=ids(counter=10_000))}, [("IDS_CEILING", "CRITICAL")]),
        (
            {"status": status(node={"draining": False, "drill": None, "damaged_reads": 2})},
            [("RECORD_DAMAGED", "CRITICAL")],
        ),
        (
            {"status": status(node={"draining": False, "drill": "partition", "damaged_reads": 0})},
            [("DRILL", "WARNING")],
        ),
        ({"reload_failed": True}, [("CONFIG_REFUSED", "WARNING")]),
        ({"certificates_left_s": {"node": 29 * 86_400.0, "authority": 9e9}}, [("CERTIFICATE_ENDS", "WARNING")]),
        ({"certificates_left_s": {"node": 9e9, "authority": -5.0}}, [("CERTIFICATE_ENDS", "CRITICAL")]),
        ({"certificates_left_s": {"node": 31 * 86_400.0}}, []),
    ],
)
def test_one_thing_wrong_is_one_code(changed, codes):
    assert found(replace(GOOD, **changed)) == codes


def test_every_code_that_is_found_is_explained_and_every_explained_code_can_be_found():
    seen = {
        code for mark in test_one_thing_wrong_is_one_code.pytestmark for _, codes in mark.args[1] for code, _ in codes
    }
    assert seen == set(CODES)
    assert all(code.means.endswith(".") and code.do for code in CODES.values())


def test_the_page_for_operators_lists_the_codes_as_they_are():
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    for name, code in CODES.items():
        assert f"| `{name}` | {code.means} | {code.do} |\n" in page


def test_a_caller_may_be_stricter():
    waiting = replace(GOOD, status=status(journal=journal(3, 9, 1.0)))
    assert found(waiting) == []
    assert found(waiting, Bounds(journal_entries=2)) == [("JOURNAL_FULL", "WARNING")]
    assert found(GOOD, Bounds(staleness_s=0.1)) == [("STALE", "WARNING")]
    assert found(GOOD, Bounds(runway_days=200)) == [("IDS_SHORT", "WARNING")]


def test_a_muted_code_is_told_but_does_not_count_until_its_time_is_over():
    mutes, findings = Mutes(), examine(replace(GOOD, zones=[*GOOD.zones, zone("d", state="dead")]), WELL)
    assert mutes.apply(findings, 0.0).status is Severity.WARNING
    mutes.mute("NODES_DOWN", 100.0, findings)
    report = mutes.apply(findings, 40.0)
    assert (report.status, report.findings[0].muted_s) == (Severity.OK, 60.0)
    assert mutes.apply(findings, 100.0).status is Severity.WARNING
    mutes.unmute("NODES_DOWN")
    assert mutes.apply(findings, 40.0).status is Severity.WARNING


def test_what_becomes_worse_speaks_again_and_stays_heard():
    one = examine(replace(GOOD, zones=[*GOOD.zones, zone("d", state="dead")]), WELL)
    two = examine(replace(GOOD, zones=[*GOOD.zones, zone("d", state="dead"), zone("e", state="dead")]), WELL)
    mutes = Mutes()
    mutes.mute("NODES_DOWN", 100.0, one)
    mutes.settle(one, 1.0)
    assert mutes.apply(one, 1.0).status is Severity.OK
    mutes.settle(two, 2.0)
    assert mutes.apply(two, 2.0).status is Severity.WARNING
    mutes.settle(one, 3.0)
    assert mutes.apply(one, 3.0).status is Severity.WARNING


def test_a_higher_severity_is_worse():
    warning = examine(replace(GOOD, status=status(staleness_s=31.0)), WELL)
    critical = examine(replace(GOOD, status=status(staleness_s=400.0)), WELL)
    mutes = Mutes()
    mutes.mute("STALE", 100.0, warning)
    mutes.settle(critical, 1.0)
    assert mutes.apply(critical, 1.0).status is Severity.CRITICAL


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({}, "voter, registry in b, at most 0 s behind, runway 143 d"),
        ({"registry": {**AWAY}}, "candidate, no registry: writes are buffered, at most 0 s behind, runway 143 d"),
        (
            {
                "registry": {"known": True, "role": "registry", "zone": "a"},
                "staleness_s": None,
                "ids": {"runway_days": None},
            },
            "registry",
        ),
    ],
)
def test_the_zone_in_one_line(changed, line):
    assert status_line(status(**changed)) == line
