"""A bound on how often one client may ask: a token bucket for each, kept as one number. Sans-IO.

A client is a user in a project; where nobody is told apart, an address. The number is the time at which its bucket is
full again (GCRA, the generic cell rate algorithm: ITU-T I.371): each request moves it by `1 / rate` seconds, and one
that would move it more than the burst ahead of now is too many.
"""

from collections.abc import Callable

from zoned.api.caller import Caller
from zoned.api.problems import Problem
from zoned.auth.identity import ANONYMOUS

CLIENTS_MAX = 10_000  # whose buckets are not full; beyond, full ones and then the oldest are forgotten
LIMIT = "http.client_requests_per_s"


class Rates:
    """The buckets of all clients of one process."""

    def __init__(
        self, per_s: float, burst: int, now: Callable[[], float], on_limit: Callable[[str], None] = lambda limit: None
    ) -> None:
        """`per_s` requests a second, above 0, and up to `burst` at once; `now` in monotonic seconds.

        `on_limit` hears LIMIT for each request that is refused.
        """
        self._on_limit = on_limit
        self._each_s = 1 / per_s
        self._ahead_s = (burst - 1) / per_s
        self._now = now
        self._full_at: dict[object, float] = {}

    def take(self, caller: Caller, address: str) -> float:
        """0 when one more request is within bounds, else how long the client should wait, seconds."""
        client, now, table = _client(caller, address), self._now(), self._full_at
        full_at = table.get(client, now)
        if full_at < now:
            full_at = now
        if full_at - now > self._ahead_s:
            self._on_limit(LIMIT)
            return full_at - now - self._ahead_s
        table[client] = full_at + self._each_s
        if len(table) > CLIENTS_MAX:
            self._forget(now)
        return 0.0

    def is_over(self, caller: Caller, address: str) -> bool:
        """Whether `take` would refuse now. Nothing is counted."""
        now = self._now()
        return self._full_at.get(_client(caller, address), now) - now > self._ahead_s

    def check(self, caller: Caller, address: str) -> None:
        """Raises Problem for a client that asks too often."""
        wait_s = self.take(caller, address)
        if wait_s > 0:
            raise too_often(wait_s)

    def _forget(self, now: float) -> None:
        kept = [(client, full_at) for client, full_at in self._full_at.items() if full_at > now]
        self._full_at = dict(kept[len(kept) // 2 :] if len(kept) > CLIENTS_MAX // 2 else kept)


def _client(caller: Caller, address: str) -> object:
    user = caller.user
    return (user, caller.project) if user and user is not ANONYMOUS else address


def too_often(wait_s: float) -> Problem:
    detail = f"too many requests from one client ({LIMIT}); wait"
    return Problem(429, "too-many-requests", detail, {"Retry-After": str(int(wait_s) + 1)})
