"""At most one per key and interval. Sans-IO.

Every answer to a stranger and every repeated warning goes through one of these, or two members that each believe the
other dead would tell each other so for ever, at line rate.
"""

from collections.abc import Hashable


class Throttle:
    """Remembers when each key was last let through, for at most `keys_max` keys (the oldest is forgotten first)."""

    def __init__(self, interval_s: float, keys_max: int = 1024) -> None:
        self._interval_s = interval_s
        self._keys_max = keys_max
        self._last: dict[Hashable, float] = {}

    def allows(self, key: Hashable, now: float) -> bool:
        last = self._last.pop(key, None)
        if last is not None and now - last < self._interval_s:
            self._last[key] = last
            return False
        if len(self._last) >= self._keys_max:
            del self._last[next(iter(self._last))]
        self._last[key] = now
        return True
