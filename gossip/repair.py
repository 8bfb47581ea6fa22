"""When two members that should agree do not. Sans-IO.

Rumours reach everybody with high probability, not with certainty. So every ack carries the digest of all that its
sender believes, and the prober compares. While news travels the digests differ for good reason; between two members
with nothing left to tell they must not, and the prober asks for the full state. A member that missed something finds
out by its next probe. Should news never end, a row of differences counts as well.
"""

from gossip.messages import Digest
from gossip.throttle import Throttle

DIFFERENCES_MAX = 8  # acks in a row; in a cluster that always has news


class Repair:
    """Decides when a difference is worth a full exchange: at most one per `interval_s`, and the same two digests only
    once in `forget_s`, since some differences last (a full table).
    """

    def __init__(self, interval_s: float, forget_s: float) -> None:
        self._pace = Throttle(interval_s)
        self._tried = Throttle(forget_s)
        self._differences = 0

    def wants_exchange(self, mine: int, theirs: Digest, is_quiet: bool, now: float) -> bool:
        if mine == theirs.value:
            self._differences = 0
            return False
        self._differences += 1
        if not (is_quiet and theirs.is_quiet) and self._differences < DIFFERENCES_MAX:
            return False
        if not self._tried.allows((mine, theirs.value), now) or not self._pace.allows("", now):
            return False
        self._differences = 0
        return True
