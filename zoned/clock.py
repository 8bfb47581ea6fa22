"""The one place that reads wall clocks. Durations never come from here: they are differences of `trio.current_time`.

Wall-clock times only stamp records, receipts and logs, for people and other systems to read.
"""

import time
from datetime import UTC, datetime


def wall() -> float:
    """Seconds since 1970."""
    return time.time()


def boot() -> float:
    """Seconds that pass while the machine is suspended, too: for bounds that must never be too small."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def text(seconds: float) -> str:
    """Seconds since 1970 as the Images API writes times: UTC, whole seconds, `2026-11-22T09:00:00Z`."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def precise(seconds: float) -> str:
    """The same with milliseconds, `2026-11-22T09:00:00.000Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse(stamp: str) -> str | None:
    """`stamp` if it is a time as `text` writes it, else None."""
    try:
        parsed = datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None
    return stamp if parsed.strftime("%Y-%m-%dT%H:%M:%SZ") == stamp else None
