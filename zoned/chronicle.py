"""What this node remembers of the last while, for whoever comes to look: who was the registry, and how figures went.

Sans-IO, and bounded: an outage that flaps for a week takes no more memory than a quiet one. Nothing of it survives a
restart; what must is in the log and in metrics.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

ELECTIONS_MAX = 200
SAMPLE_S = 10.0
SAMPLES_MAX = 360  # an hour


@dataclass(frozen=True, slots=True)
class Election:
    """From `at` (seconds since 1970) on this node took `node_id` of `zone` for the registry; None: nobody."""

    at: float
    term: int | None
    node_id: str | None
    zone: str | None
    why: str


class Elections:
    """Who was the registry, as this node saw it: the newest ELECTIONS_MAX changes."""

    def __init__(self) -> None:
        self.count = 0  # of all changes, those forgotten too: grows when there is something new
        self._kept: deque[Election] = deque(maxlen=ELECTIONS_MAX)

    def __iter__(self) -> Iterator[Election]:
        return iter(self._kept)

    @property
    def newest(self) -> Election | None:
        return self._kept[-1] if self._kept else None

    def note(self, now: Election) -> None:
        """Keeps `now` if it says something else than the newest: a term without a registry does not."""
        before = self.newest
        known = before.node_id if before is not None else None
        if known == now.node_id and (before is None or known is None or before.term == now.term):
            return
        self._kept.append(now)
        self.count += 1


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment. Counters grow from the start of the daemon; `at` is seconds since 1970."""

    at: float
    staleness_s: float | None
    waiting: int  # writes in the journal
    ids_left: int
    nodes_up: int
    registry: bool
    lookups: int  # counters from here on
    committed: int
    buffered: int
    refused: int


class Trend:
    """A sample every SAMPLE_S, the newest SAMPLES_MAX."""

    def __init__(self) -> None:
        self._kept: deque[Sample] = deque(maxlen=SAMPLES_MAX)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._kept)

    def note(self, sample: Sample) -> None:
        self._kept.append(sample)
