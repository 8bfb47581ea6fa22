"""Three zones to look at: real daemons on loopback with records of a real Glance, some of them in some zones."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from zoned.demo import registration, source_records
from zoned.fleet import Daemon, ended, make, zone_names

PATIENCE_S = 60.0
RECORDS = 12


@contextmanager
def zones(root: Path, count: int = 3, extra: str = "") -> Iterator[list[Daemon]]:
    """Running, with a registry; ended after the block."""
    with ended(make(root, zone_names(count), count, extra)) as daemons:
        start(daemons)
        yield daemons


def start(daemons: list[Daemon]) -> None:
    """Starts those that do not run, and waits until all are up in each other's eyes and one is the registry."""
    for daemon in daemons:
        if not daemon.is_running:
            daemon.start()

    def well() -> bool:
        said = [overview(daemon) for daemon in daemons]
        return all(one["status"]["registry"]["known"] and one["status"]["zones"]["up"] == len(daemons) for one in said)

    until("all zones are up and have a registry", well)


def until(what: str, condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"not within {patience_s:.0f} s: {what}")


def ask(method: str, daemon: Daemon, path: str, body: Any = None) -> Any:
    with httpx.Client(timeout=20.0, trust_env=False) as client:
        answer = client.request(method, daemon.url + path, json=body)
        assert answer.is_success, f"{path}: {answer.status_code} {answer.text[:300]}"
        return answer.json()


def overview(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = ask("GET", daemon, "/zone/v1/overview")
    return found


def registry_of(daemons: list[Daemon]) -> Daemon:
    """The zone that is the registry, as the first that runs says."""
    name = next(overview(daemon) for daemon in daemons if daemon.is_running)["status"]["registry"]["zone"]
    return next(daemon for daemon in daemons if daemon.zone == name)


def fill(daemons: list[Daemon]) -> list[str]:
    """Registers records, and says of some where their bytes are; the integers' order of making, as UUIDs."""
    first, records = daemons[0], source_records()[:RECORDS]
    uuids = [str(ask("POST", first, "/zone/v1/images", registration(record))["uuid"]) for record in records]
    states = ("verified", "verified", "claimed", "wanted", "absent")
    for n, uuid in enumerate(uuids):
        for m, daemon in enumerate(daemons):
            if (n + m) % 4:
                path = f"/zone/v1/images/{uuid}/presence/{daemon.zone}"
                ask("PUT", first, path, {"state": states[(n + 2 * m) % len(states)], "note": "sha256"})
    return uuids
