"""How long a silent member has before it is called dead, and how far we trust our own ears. Sans-IO.

Both halves are Lifeguard's. A suspicion starts with plenty of time, because a lone accuser may itself be the sick one;
every *distinct* member that found the same by a probe of its own shortens it, down to the shortest time. Local health
counts signs that we ourselves are slow (answers missing that should have come, accusations that we had to refute) and
slows our probing, so that a starved process accuses fewer innocents.

Small clusters: with N members up, only N - 2 can confirm (all but the accused and the first accuser). With none (N = 2)
the time is the shortest at once; with fewer than wanted the longest time shrinks in proportion, so three members never
wait as long as thirty.
"""

import math
from dataclasses import dataclass

from gossip.options import GossipOptions


@dataclass(frozen=True, slots=True)
class Suspicion:
    """One accused member: when it began, who said so first, who confirmed it since."""

    started: float
    accuser: str
    confirmers: frozenset[str] = frozenset()

    def confirmed_by(self, accuser: str, wanted: int) -> "Suspicion | None":
        """With one more distinct confirmer; None when this one adds nothing. A suspicion by hearsay has no accuser: the
        first who accuses by name becomes that, not a confirmer.
        """
        if not self.accuser:
            return Suspicion(self.started, accuser, self.confirmers)
        if accuser == self.accuser or accuser in self.confirmers or len(self.confirmers) >= wanted:
            return None
        return Suspicion(self.started, self.accuser, self.confirmers | {accuser})


def wanted_confirmations(options: GossipOptions, up_count: int) -> int:
    """How many could confirm, at most as many as are asked for."""
    return max(0, min(options.confirmations, up_count - 2))


def timeout_s(options: GossipOptions, up_count: int, confirmed: int) -> float:
    """Suspicion time in seconds with `up_count` members up (the accused among them) and so many confirmers."""
    shortest = options.suspicion_mult * max(1.0, math.log10(max(1, up_count))) * options.probe_interval_s
    wanted = wanted_confirmations(options, up_count)
    if wanted == 0:
        return shortest
    longest = shortest * (1 + (options.suspicion_max_mult - 1) * wanted / options.confirmations)
    share = math.log(min(confirmed, wanted) + 1) / math.log(wanted + 1)
    return longest - (longest - shortest) * share


class Suspicions(dict[str, Suspicion]):
    """Those under suspicion, by node ID. Times depend on how many members are up."""

    def __init__(self, options: GossipOptions) -> None:
        super().__init__()
        self._options = options
        self._timeouts: dict[tuple[int, int], float] = {}  # by members up and confirmers: asked at every step

    def expires(self, suspicion: Suspicion, up_count: int) -> float:
        """When it becomes a conviction."""
        key = up_count, len(suspicion.confirmers)
        if key not in self._timeouts:
            self._timeouts[key] = timeout_s(self._options, *key)
        return suspicion.started + self._timeouts[key]

    def due(self, up_count: int) -> float:
        """When the first of them does; infinite without any."""
        return min((self.expires(one, up_count) for one in self.values()), default=math.inf)

    def begin_again(self, now: float) -> None:
        """All get the whole time once more, and confirmations count anew."""
        for node_id, suspicion in self.items():
            self[node_id] = Suspicion(now, suspicion.accuser)


class Health:
    """Local health: 0 is well, `worst` is as good as deaf."""

    def __init__(self, worst: int) -> None:
        self.score = 0
        self._worst = worst

    def add(self, delta: int) -> None:
        self.score = max(0, min(self._worst, self.score + delta))

    @property
    def scale(self) -> int:
        """What the probe interval is multiplied by."""
        return self.score + 1
