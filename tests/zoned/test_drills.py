"""Plans and comparisons of drills, by value."""

from dataclasses import replace

import pytest

from store.images import Image, Location
from tests.zoned.api.conftest import image
from zoned.api.risk import zones_of
from zoned.drills import KINDS, Measured, Present, compare, plan, worst

NOW = Present(
    zone="alpha",
    ids_left=3_000,
    per_day=100.0,
    entries=5,
    entries_max=2_000_000,
    entry_bytes=1_000.0,
    bytes_free=10_000_000,
    staleness_s=0.5,
    is_registry=False,
    has_registry=True,
    voters=3,
    voters_up=3,
    is_voter=True,
    looked_at=10,
    only_here=[],
    only_elsewhere=0,
    sample=None,
)


def states(kind: str, now: Present) -> dict[str, str]:
    return {line.what: line.state for line in plan(kind, 60.0, now)}


def test_in_good_health_all_is_ok():
    for kind in ("registry-outage", "partition"):
        assert worst(list(states(kind, NOW).values())) == "ok"
    assert worst(list(states("disk-full", NOW).values())) == "warn", "writes are refused, and that is worth a word"


def test_a_slow_link_is_told_and_has_its_time():
    """A bound that a fast link would not need is no surprise."""
    far = replace(NOW, rtt_s=0.3)
    said = {line.what: line.says for line in plan("partition", 60.0, far)}
    assert said["staleness"] == "0.5 s now, at most 68 s at the end, the furthest voter is 300 ms away"
    seen = Measured(lookups=1, staleness_s=68.0, recovered_s=1.0)
    near, away = ({one.what: one.state for one in compare("partition", 60.0, where, seen)} for where in (NOW, far))
    assert (near["staleness"], away["staleness"]) == ("warn", "ok")


def test_without_tls_there_is_nothing_to_say_of_certificates():
    assert "certificates" not in states("partition", NOW)


@pytest.mark.parametrize(
    ("change", "what", "state"),
    [
        ({"ids_left": 1_000}, "integers", "warn"),
        ({"ids_left": 100}, "integers", "critical"),
        ({"ids_left": 0, "per_day": 0.0}, "integers", "critical"),
        ({"per_day": 0.0}, "integers", "ok"),
        ({"bytes_free": 1_000_000}, "disk", "warn"),
        ({"bytes_free": 0}, "disk", "critical"),
        ({"entries": 1_999_900}, "journal", "critical"),
        ({"staleness_s": None}, "staleness", "critical"),
        ({"voters_up": 2}, "voters", "critical"),
        ({"voters_up": 2, "is_voter": False}, "voters", "ok"),
        ({"voters": 1, "voters_up": 1, "is_registry": True}, "voters", "warn"),
        ({"only_here": ["a"]}, "single zone", "warn"),
        ({"only_elsewhere": 1}, "single zone", "warn"),
        ({"certificates_s": 30 * 86_400.0}, "certificates", "ok"),
        ({"certificates_s": 5 * 86_400.0}, "certificates", "warn"),
        ({"certificates_s": 30.0}, "certificates", "critical"),
    ],
)
def test_what_would_not_last_is_told(change, what, state):
    assert states("partition", replace(NOW, **change))[what] == state


def test_without_a_registry_an_outage_is_no_drill_any_more():
    assert states("registry-outage", replace(NOW, has_registry=False))["registry"] == "critical"


def test_the_figures_are_said():
    said = {line.what: line.says for line in plan("partition", 60.0, replace(NOW, only_here=["u1"], is_registry=True))}
    assert said["integers"] == "3000 left at 100 a day: 30.0 days"
    assert said["disk"] == "room for 10000 writes of 1000 bytes: 100.0 days"
    assert said["staleness"] == "0.5 s now, at most 66 s at the end"
    assert said["voters"].startswith("this node is the registry; 2 of 3 voters are up elsewhere, 2 are needed")
    assert said["single zone"].endswith("1 have their bytes in alpha only, 0 only elsewhere; here: u1")


FINE = Measured(journaled=3, entries=8, staleness_s=60.0, lookups=40, recovered_s=1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_what_went_as_planned_is_ok(kind):
    seen = replace(FINE, journaled=0, refused=2) if kind == "disk-full" else FINE
    assert worst([line.state for line in compare(kind, 60.0, NOW, seen)]) == "ok"


@pytest.mark.parametrize(
    ("kind", "change", "what", "state"),
    [
        ("partition", {"lookups_failed": 1}, "lookups", "critical"),
        ("partition", {"refused": 1}, "writes", "critical"),
        ("partition", {"staleness_s": 70.0}, "staleness", "warn"),
        ("registry-outage", {"recovered_s": None}, "recovered", "warn"),
        ("disk-full", {"journaled": 1}, "writes", "critical"),
    ],
)
def test_what_went_otherwise_is_told(kind, change, what, state):
    found = {line.what: line for line in compare(kind, 60.0, NOW, replace(FINE, **change))}
    assert found[what].state == state
    assert found[what].plan != found[what].live


@pytest.mark.parametrize(
    ("locations", "zones"),
    [
        ((), set()),
        ((Location("swift://a/1", {}),), set()),
        ((Location("swift://a/1", {"zone": "a"}), Location("swift://b/1", {"store": "b"})), {"a", "b"}),
    ],
)
def test_where_the_bytes_are_is_what_locations_say(locations, zones):
    made: Image = image(locations=locations)
    assert zones_of(made) == zones
