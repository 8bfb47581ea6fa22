"""One probe in flight, and the pings that we do for others. Sans-IO.

A probe has two halves within one interval: a direct ping, then, if it stays unanswered, the same question through a few
helpers, in case only our own path is bad. A helper that gets no answer says so (a nack) while the prober still listens:
the request carries the remaining budget and the helper uses four fifths of it. Were the nack late, as in systems where
both wait a full time-out, every death would look to the healthy like an illness of their own.
"""

from collections import deque
from dataclasses import dataclass, field

from gossip.messages import Address, PingReq

HELPER_SHARE = 0.8
RELAYS_MAX = 256
SILENT_MAX = 1024  # members whose silences are remembered
SILENCES_MAX = 5  # of each, the last


@dataclass(slots=True)
class Probe:
    """Times in monotonic seconds. `indirect_at` is infinite once the helpers were asked."""

    seq: int
    target: str
    sent: float
    indirect_at: float
    ends: float
    helpers: set[str] = field(default_factory=set)
    nacked: set[str] = field(default_factory=set)
    acked: bool = False

    @property
    def health_delta(self) -> int:
        """What the outcome says of ourselves: every nack that should have come and did not counts against us; without
        helpers the failure itself is all we have.
        """
        if self.acked:
            return -1
        return len(self.helpers - self.nacked) if self.helpers else 1


@dataclass(slots=True)
class Relay:
    """A ping that we sent for someone else. `nack_at` is infinite once the nack was sent."""

    origin: str
    origin_address: Address
    origin_seq: int
    target: str
    nack_at: float
    expires: float


class Silences:
    """When the last probes of each member stayed unanswered: for people who ask why somebody is suspected."""

    def __init__(self) -> None:
        self._silences: dict[str, deque[float]] = {}

    def add(self, node_id: str, now: float) -> None:
        if node_id not in self._silences and len(self._silences) >= SILENT_MAX:
            del self._silences[next(iter(self._silences))]
        self._silences.setdefault(node_id, deque(maxlen=SILENCES_MAX)).append(now)

    def of(self, node_id: str) -> tuple[float, ...]:
        return tuple(self._silences.get(node_id, ()))


class Relays:
    """Pings done for others, by our own sequence number."""

    def __init__(self) -> None:
        self._relays: dict[int, Relay] = {}

    @property
    def due(self) -> float:
        return min((min(relay.nack_at, relay.expires) for relay in self._relays.values()), default=float("inf"))

    def add(self, seq: int, request: PingReq, origin: str, origin_address: Address, now: float) -> bool:
        """False when too many are under way: a prober that hears nothing will blame itself, which is what we want of it
        if it is one of those who flood us.
        """
        if len(self._relays) >= RELAYS_MAX:
            return False
        budget_s = request.budget_ms / 1000
        nack_at = now + budget_s * HELPER_SHARE
        self._relays[seq] = Relay(origin, origin_address, request.seq, request.target, nack_at, now + budget_s)
        return True

    def acked(self, seq: int, source: str) -> Relay | None:
        """The relay that this ack answers, done with."""
        relay = self._relays.get(seq)
        if relay is None or relay.target != source:
            return None
        return self._relays.pop(seq)

    def take_nacks(self, now: float) -> list[Relay]:
        """Relays to be nacked now; those whose prober no longer listens are dropped."""
        silent = [relay for relay in self._relays.values() if relay.nack_at <= now]
        for relay in silent:
            relay.nack_at = float("inf")
        self._relays = {seq: relay for seq, relay in self._relays.items() if relay.expires > now}
        return silent

    def clear(self) -> None:
        self._relays.clear()
