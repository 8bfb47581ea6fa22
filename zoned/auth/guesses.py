"""A bound on guessing: how often one address may show a token that is refused. Sans-IO."""

from collections import OrderedDict
from collections.abc import Callable

from zoned.api.problems import Problem

MINUTE_S = 60.0
ADDRESSES_MAX = 10_000
LIMIT = "auth.failures_max"


class Guesses:
    """How often each address was refused in the minute under way; the one refused longest ago is forgotten first."""

    def __init__(
        self, most: int, now: Callable[[], float], on_limit: Callable[[str], None] = lambda limit: None
    ) -> None:
        """`most` refusals a minute; `now` in monotonic seconds; `on_limit` hears LIMIT for each that was too much."""
        self._on_limit = on_limit
        self._most = most
        self._now = now
        self._refused: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def check(self, address: str) -> None:
        """Raises Problem for an address that was refused too often."""
        began, count = self._refused.get(address, (0.0, 0))
        left_s = began + MINUTE_S - self._now()
        if count >= self._most and left_s > 0:
            self._on_limit(LIMIT)
            after = {"Retry-After": str(int(left_s) + 1)}
            raise Problem(429, "too-many-refusals", "too many refused tokens from this address; wait", after)

    def refused(self, address: str) -> None:
        began, count = self._refused.pop(address, (0.0, 0))
        if count == 0 or began + MINUTE_S <= self._now():
            began, count = self._now(), 0
        self._refused[address] = (began, count + 1)
        while len(self._refused) > ADDRESSES_MAX:
            self._refused.popitem(last=False)
