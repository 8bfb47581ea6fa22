"""What is counted while the daemon serves: plain numbers, so that only a scrape costs anything. See `zoned.metrics`."""

from bisect import bisect_left
from collections import Counter
from itertools import accumulate
from typing import Any

from zoned.api.http1 import RequestRecord

FACES = ("v2", "v1", "zone", "admin", "livez", "readyz", "metrics", "ui", "healthcheck", "versions", "openapi.json")
READS = frozenset(("GET", "HEAD"))
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"))
# Seconds. A lookup takes tens of microseconds, a commit a disk sync or two, an outage `registry.wait_s`.
BOUNDS_S = (0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LOOKUPS = ("/v2/images/", "/zone/v1/images/")


def is_lookup(path: str) -> bool:
    """Whether a read of this path asks for one record."""
    # Counted, not split: this runs for every request.
    return path.startswith(LOOKUPS) and path.count("/") == (3 if path.startswith(LOOKUPS[0]) else 4)


def face_of(path: str) -> str:
    """The API that a path belongs to, as a label: one of few words."""
    first = path[1:].partition("/")[0]
    if first[:2] in ("v1", "v2"):  # v2.17 is v2
        return first[:2]
    return first if first in FACES else "other"


class Durations:
    """A histogram of seconds: plain numbers."""

    def __init__(self) -> None:
        self.total_s = 0.0
        self._counts = [0] * (len(BOUNDS_S) + 1)

    def add(self, seconds: float) -> None:
        self.total_s += seconds
        self._counts[bisect_left(BOUNDS_S, seconds)] += 1

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, how many up to it), as Prometheus wants them."""
        return list(zip([*map(str, BOUNDS_S), "+Inf"], accumulate(self._counts, initial=None), strict=True))


class Counts:
    """What is counted while the daemon serves."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()  # (face, method, status)
        self.lookups: Counter[tuple[int, str]] = Counter()  # (status, source)
        self.writes: Counter[str] = Counter()  # by what the client was told
        self.limited: Counter[str] = Counter()  # by the limit that was met
        self.request_s = Durations()
        self.lookup_s = Durations()
        self.write_s = Durations()
        self.store_commit_s = Durations()

    def request(self, record: RequestRecord) -> None:
        path = record.path
        method = record.method if record.method in METHODS else "other"
        self.requests[face_of(path), method, record.status] += 1
        self.request_s.add(record.duration_s)
        if method in READS and is_lookup(path):
            source = "none"
            for name, value in record.headers:
                if name == b"zone-source":
                    source = value.decode("latin-1")
                    break
            self.lookups[record.status, source] += 1
            self.lookup_s.add(record.duration_s)

    def told(self, *counted: Any) -> None:
        """By a worker: lookups that it answered, or a limit that was met there, and how often."""
        (self.limit if len(counted) == 2 else self.looked_up)(*counted)

    def looked_up(self, is_native: bool, method: str, status: int, source: str, number: int) -> None:
        """Reads that a worker answered; it does not time each one. Only a lookup has a `source`."""
        self.requests["zone" if is_native else "v2", method, status] += number
        if source:
            self.lookups[status, source] += number

    def limit(self, name: str, number: int = 1) -> None:
        """A client met a limit, which is named as the configuration does."""
        self.limited[name] += number

    def write(self, state: str, duration_s: float) -> None:
        self.writes[state] += 1
        self.write_s.add(duration_s)
