"""How fast the journal empties: held to a pace, so that zones that return together leave the registry room; and told.

Sans-IO: `now` is monotonic seconds. The pace is a token bucket with a second's worth of entries, so the few writes of
an ordinary day do not feel it, and every pause is stretched by chance, so that nodes do not march in step.
"""

import math
from collections import deque
from random import Random

WINDOW_S = 10.0  # the rate is over so long
JITTER = 0.2  # a pause is up to so much longer
STAGGER_S = 0.5  # with a backlog, the first batch for another registry waits up to so long


class Drain:
    """The pace of one node's journal. `per_s`: entries a second at most."""

    def __init__(self, per_s: float, rng: Random) -> None:
        self._per_s = per_s
        self._rng = rng
        self._tokens = per_s
        self._filled_at = -math.inf
        self._settled: deque[tuple[float, int]] = deque()
        self._begun_at = -math.inf

    def pause_s(self, entries: int, now: float) -> float:
        """Takes `entries` from the bucket; how long to wait before they are sent, 0 when they fit."""
        self._tokens = min(self._per_s, self._tokens + (now - self._filled_at) * self._per_s)
        self._filled_at = now
        self._tokens -= entries
        return max(0.0, -self._tokens / self._per_s) * self._rng.uniform(1.0, 1.0 + JITTER)

    def stagger_s(self) -> float:
        return self._rng.uniform(0.0, STAGGER_S)

    def settled(self, entries: int, now: float) -> None:
        """So many entries left the journal."""
        if not self._settled or now - self._settled[-1][0] > WINDOW_S:
            self._begun_at = now
        self._settled.append((now, entries))

    def rate(self, now: float) -> float:
        """Entries a second that left lately; 0 when none did."""
        while self._settled and now - self._settled[0][0] > WINDOW_S:
            self._settled.popleft()
        since = max(1.0, min(WINDOW_S, now - self._begun_at))
        return sum(count for _, count in self._settled) / since

    def ends_in_s(self, waiting: int, now: float) -> float | None:
        """When the journal is empty at the present rate; None when nothing leaves it. New writes make it later."""
        rate = self.rate(now)
        return 0.0 if not waiting else waiting / rate if rate else None
