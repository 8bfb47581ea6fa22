"""How long a tick lasts: the profile's time, stretched when this node, its disk or its links are slow. Sans-IO.

An election time-out must be well above the time that a healthy heartbeat can be late: ten times the worst sync, round
trip or stall of late. Ticks are stretched rather than time-outs, so heartbeat and election keep their proportion and a
slow leader does not fall out of its followers' patience. The worst is remembered and fades by half in `HALF_LIFE_S`.
"""

SAFETY = 10.0
STRETCH_MAX = 4.0
HALF_LIFE_S = 10.0  # slowness that lasts is seen again and again; one stall must not delay the next election for long


class Pace:
    """`base_s` and `election_s` are the profile's heartbeat and shortest election time-out, seconds."""

    def __init__(self, base_s: float, election_s: float) -> None:
        self._base_s = base_s
        self._election_s = election_s
        self._worst_s = 0.0
        self._seen_at = 0.0

    def saw(self, late_s: float, now: float) -> None:
        """A sync, a round trip or a stall took `late_s`."""
        # Worse than what stretches to the most would only be remembered for longer.
        self._worst_s = min(max(late_s, self.worst_s(now)), STRETCH_MAX * self._election_s / SAFETY)
        self._seen_at = now

    def worst_s(self, now: float) -> float:
        """The worst of late, faded."""
        return float(self._worst_s * 0.5 ** ((now - self._seen_at) / HALF_LIFE_S))

    def tick_s(self, now: float) -> float:
        """How long the next tick lasts."""
        stretch = self.worst_s(now) * SAFETY / self._election_s
        return self._base_s * min(STRETCH_MAX, max(1.0, stretch))
