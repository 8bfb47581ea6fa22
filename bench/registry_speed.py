"""The same questions to a large and a small catalogue: processor time of a lookup, time of an owner's newest records.

Questions go over one connection each, in turns of some hundreds, so that whatever else the machine does meets both.
"""

import random
import socket
import statistics
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.registry_records import owner, projects
from zoned.fleet import Daemon

TURNS = 10
LOOKUPS = 2_000  # of a turn
LISTS = 100
WARM = 3_000
TICKS = 100  # of /proc/PID/stat in a second

Side = tuple[Daemon, int, Path]  # a zone, how many records it has, UUIDs of some of them


class Asker:
    """One connection that is kept, and as little work as possible for each answer."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, target: str) -> bytes:
        self._socket.sendall(f"GET {target} HTTP/1.1\r\nHost: zone\r\n\r\n".encode())
        data = self._socket.recv(65_536)
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._socket.recv(65_536)
        head, body = data[:end].lower(), data[end + 4 :]
        if not head.startswith(b"http/1.1 200"):
            raise RuntimeError(f"{target} was answered {data[:40]!r}")
        at = head.index(b"content-length:") + 15
        length = int(head[at:].split(b"\r\n", 1)[0])
        parts, got = [body], len(body)
        while got < length:
            parts.append(self._socket.recv(1 << 20))
            got += len(parts[-1])
        return b"".join(parts)


def busy_s(daemon: Daemon) -> float:
    """Processor time that the daemon has used, user and system."""
    assert daemon.process is not None
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def compare(sides: Mapping[str, Side]) -> dict[str, dict[str, float]]:
    """Of each side: microseconds of processor time a lookup (median of turns), median and p99 ms of a list."""
    rng = random.Random(7)
    askers = {name: Asker(daemon.http_port) for name, (daemon, _, _) in sides.items()}
    uuids = {name: path.read_text().split() for name, (_, _, path) in sides.items()}
    for name, asker in askers.items():
        _look_up(asker, rng.choices(uuids[name], k=WARM))
    spent: dict[str, list[float]] = {name: [] for name in sides}
    lists: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(TURNS):
        for name, (daemon, count, _) in sides.items():
            chosen = rng.choices(uuids[name], k=LOOKUPS)
            before = busy_s(daemon)
            _look_up(askers[name], chosen)
            spent[name].append((busy_s(daemon) - before) / LOOKUPS)
            for _ in range(LISTS):
                project = owner(rng.randrange(projects(count)))
                began = time.perf_counter()
                askers[name].ask(f"/v2/images?owner={project}&limit=25")
                lists[name].append(time.perf_counter() - began)
    return {name: _figures(spent[name], lists[name]) for name in sides}


def _look_up(asker: Asker, uuids: Iterable[str]) -> None:
    for uuid in uuids:
        asker.ask(f"/v2/images/{uuid}")


def _figures(spent: list[float], lists: list[float]) -> dict[str, Any]:
    return {
        "cpu_us": round(statistics.median(spent) * 1e6, 1),
        "cpu_us_turns": [round(one * 1e6, 1) for one in spent],
        "newest_25_p50_ms": round(statistics.median(lists) * 1e3, 2),
        "newest_25_p99_ms": round(statistics.quantiles(lists, n=100)[98] * 1e3, 2),
    }
