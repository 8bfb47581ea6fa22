"""How far apart members are: measured where they probe each other, estimated where they never did. Sans-IO.

Measured: the last direct round trips to each member; their minimum is the distance (all else is queueing), and a *ring*
with hysteresis keeps the ranking of peers calm. Estimated: Vivaldi network coordinates (Dabek, Cox, Kaashoek, Morris,
2004) with a height, a median filter per peer, an adjustment term and a gentle pull to
the origin against drift (Ledlie, Gardner, Seltzer, 2007), with the constants that serf made known. A coordinate is a
point in 8 dimensions plus the height of the last mile; the distance of two is the predicted round trip in seconds.
"""

import math
import struct
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import median

DIMENSIONS = 8
ERROR_MAX = 1.5
CE = CC = 0.25  # how much one sample may change the error and the place
ADJUSTMENT_WINDOW = 20
HEIGHT_MIN_S = 10e-6
FILTER_SAMPLES = 3
GRAVITY_RHO = 150.0
RTT_MAX_S = 10.0
ZERO = 1e-6

SAMPLES_MAX = 16
RING_BOUNDS_S = (0.006, 0.015, 0.05, 0.1, 0.2, 0.3)
RING_SLACK_S = 0.002
PEERS_MAX = 4096

AT = "at"  # the name under which a member's coordinate travels among its vitals


@dataclass(frozen=True, slots=True)
class Coordinate:
    """A point, in seconds; `error` is a relative one, 1.5 when nothing is known."""

    vector: tuple[float, ...]
    error: float = ERROR_MAX
    adjustment_s: float = 0.0
    height_s: float = HEIGHT_MIN_S

    @classmethod
    def origin(cls, dimensions: int = DIMENSIONS) -> "Coordinate":
        return cls((0.0,) * dimensions)

    def raw_distance_s(self, other: "Coordinate") -> float:
        return math.dist(self.vector, other.vector) + self.height_s + other.height_s

    def distance_s(self, other: "Coordinate") -> float:
        """The predicted round trip."""
        raw = self.raw_distance_s(other)
        adjusted = raw + self.adjustment_s + other.adjustment_s
        return adjusted if adjusted > 0 else raw

    @property
    def is_sane(self) -> bool:
        """Finite, and nowhere that a round trip of ten seconds does not reach."""
        within = all(abs(x) <= RTT_MAX_S for x in (*self.vector, self.adjustment_s, self.height_s))
        return within and 0 <= self.error <= ERROR_MAX and self.height_s >= 0

    def pack(self) -> bytes:
        """Four bytes a number: a part in ten million is more than any clock gives."""
        numbers = (*self.vector, self.error, self.adjustment_s, self.height_s)
        return struct.pack(f">{len(numbers)}f", *numbers)

    @classmethod
    def unpack(cls, data: object) -> "Coordinate | None":
        """None for anything but a sane coordinate of ours."""
        if type(data) is not bytes or len(data) != 4 * (DIMENSIONS + 3):
            return None
        *vector, error, adjustment_s, height_s = struct.unpack(f">{DIMENSIONS + 3}f", data)
        found = cls(tuple(vector), error, adjustment_s, height_s)
        return found if found.is_sane else None


class Vivaldi:
    """Our own coordinate, improved by each measured round trip."""

    def __init__(self, rng: Random, dimensions: int = DIMENSIONS) -> None:
        self.coordinate = Coordinate.origin(dimensions)
        self.resets = 0
        self._rng = rng
        self._origin = Coordinate.origin(dimensions)
        self._samples: dict[str, deque[float]] = {}
        self._adjustments: deque[float] = deque([0.0] * ADJUSTMENT_WINDOW, maxlen=ADJUSTMENT_WINDOW)

    def update(self, node_id: str, other: Coordinate, rtt_s: float) -> None:
        """Take one round trip to a member that says it is at `other`; nonsense changes nothing."""
        if not 0 <= rtt_s <= RTT_MAX_S or not other.is_sane or len(other.vector) != len(self.coordinate.vector):
            return
        rtt_s = self._filtered(node_id, rtt_s)
        self._attract(other, max(rtt_s, ZERO))
        self._adjustments.append(rtt_s - self.coordinate.raw_distance_s(other))
        adjustment_s = sum(self._adjustments) / (2 * ADJUSTMENT_WINDOW)
        self.coordinate = replace(self.coordinate, adjustment_s=adjustment_s)
        away = self._origin.distance_s(self.coordinate)
        self._push(-((away / GRAVITY_RHO) ** 2), self._origin)
        if not self.coordinate.is_sane:
            self.coordinate = self._origin
            self.resets += 1

    def forget(self, node_id: str) -> None:
        self._samples.pop(node_id, None)

    def _filtered(self, node_id: str, rtt_s: float) -> float:
        if node_id not in self._samples and len(self._samples) >= PEERS_MAX:
            del self._samples[next(iter(self._samples))]
        samples = self._samples.setdefault(node_id, deque(maxlen=FILTER_SAMPLES))
        samples.append(rtt_s)
        return sorted(samples)[len(samples) // 2]

    def _attract(self, other: Coordinate, rtt_s: float) -> None:
        mine = self.coordinate
        distance_s = mine.distance_s(other)
        wrongness = abs(distance_s - rtt_s) / rtt_s
        weight = mine.error / max(mine.error + other.error, ZERO)
        error = min(ERROR_MAX, CE * weight * wrongness + mine.error * (1 - CE * weight))
        self.coordinate = replace(mine, error=error)
        self._push(CC * weight * (rtt_s - distance_s), other)

    def _push(self, force: float, other: Coordinate) -> None:
        """Move away from `other` by so many seconds; towards it when negative."""
        mine = self.coordinate
        unit, apart = self._direction(mine.vector, other.vector)
        vector = tuple(x + force * u for x, u in zip(mine.vector, unit, strict=True))
        height_s = mine.height_s
        if apart > ZERO:
            height_s = max(HEIGHT_MIN_S, (mine.height_s + other.height_s) * force / apart + mine.height_s)
        self.coordinate = replace(mine, vector=vector, height_s=height_s)

    def _direction(self, mine: Sequence[float], other: Sequence[float]) -> tuple[list[float], float]:
        apart = [x - y for x, y in zip(mine, other, strict=True)]
        size = math.hypot(*apart)
        if size > ZERO:
            return [x / size for x in apart], size
        anywhere = [self._rng.random() - 0.5 for _ in mine]  # two on one spot part in a random direction
        return [x / (math.hypot(*anywhere) or 1.0) for x in anywhere], 0.0


class Distances:
    """Round trips to all peers, measured and estimated."""

    def __init__(self, rng: Random) -> None:
        self._vivaldi = Vivaldi(rng)
        self._samples: dict[str, deque[float]] = {}
        self._rings: dict[str, int] = {}
        self.is_placed = False

    @property
    def mine(self) -> Coordinate:
        return self._vivaldi.coordinate

    def measured(self, node_id: str, rtt_s: float, at: object) -> None:
        """A direct round trip to a member whose vitals say where it is."""
        if node_id not in self._samples and len(self._samples) >= PEERS_MAX:
            self.forget(next(iter(self._samples)))
        samples = self._samples.setdefault(node_id, deque(maxlen=SAMPLES_MAX))
        samples.append(rtt_s)
        self._rings[node_id] = next_ring(self._rings.get(node_id), min(samples))
        other = Coordinate.unpack(at)
        # The first to be placed has nobody to go by; the origin is as good a place as any.
        self._vivaldi.update(node_id, other or Coordinate.origin(), rtt_s)
        self.is_placed = True

    def forget(self, node_id: str) -> None:
        self._samples.pop(node_id, None)
        self._rings.pop(node_id, None)
        self._vivaldi.forget(node_id)

    def least_s(self, node_id: str) -> float | None:
        """The shortest of the last round trips."""
        samples = self._samples.get(node_id)
        return min(samples) if samples else None

    def median_s(self, node_id: str) -> float | None:
        samples = self._samples.get(node_id)
        return median(samples) if samples else None

    def nearest(self, peers: Iterable[tuple[str, object]]) -> list[str]:
        """These members (with their coordinates as they travel), nearest first; who was never measured by estimate,
        who is nowhere last.
        """

        def key(peer: tuple[str, object]) -> tuple[int, float]:
            node_id, at = peer
            least_s = self.least_s(node_id)
            if least_s is not None:
                return self._rings[node_id], least_s
            other = Coordinate.unpack(at)
            if other is None:
                return len(RING_BOUNDS_S) + 1, 0.0
            estimate_s = self.mine.distance_s(other)
            return next_ring(None, estimate_s), estimate_s

        return [node_id for node_id, _ in sorted(peers, key=key)]


def next_ring(ring: int | None, distance_s: float) -> int:
    """The ring of this distance; one that is in a ring stays there until it is clearly out of it."""
    fresh = sum(distance_s > bound for bound in RING_BOUNDS_S)
    if ring is None or fresh == ring:
        return fresh
    low = RING_BOUNDS_S[ring - 1] if ring > 0 else 0.0
    high = RING_BOUNDS_S[ring] if ring < len(RING_BOUNDS_S) else math.inf
    return ring if low - RING_SLACK_S < distance_s < high + RING_SLACK_S else fresh
