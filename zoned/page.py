"""What the daemon tells its workers at every moment: two words of shared memory.

The position and the time of freshness are single aligned words, so a reader sees the old value or the new one. Each is
true by itself whenever it is read: the store holds everything up to the position before the word says so, and both only
ever grow. So no lock is needed, and a worker's answer is as exact as the daemon's own.
"""

import mmap
import os

POSITION, FRESH_AT = range(2)
WORDS = 2


class Page:
    """The shared words. `descriptor` may be inherited by another process, which opens the same page with it."""

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is None:
            descriptor = os.memfd_create("zoned-page")
            os.ftruncate(descriptor, WORDS * 8)
        self.descriptor = descriptor
        self._words = memoryview(mmap.mmap(descriptor, WORDS * 8)).cast("q")

    def close(self) -> None:
        os.close(self.descriptor)

    @property
    def position(self) -> int:
        return self._words[POSITION]

    @position.setter
    def position(self, position: int) -> None:
        self._words[POSITION] = position

    @property
    def fresh_at(self) -> float | None:
        """Seconds by `clock.boot`, the same clock in all processes of a machine."""
        nanoseconds = self._words[FRESH_AT]
        return nanoseconds / 1e9 if nanoseconds else None

    @fresh_at.setter
    def fresh_at(self, seconds: float | None) -> None:
        # A nanosecond less, for the rounding: a bound may be too large, never too small.
        self._words[FRESH_AT] = int(seconds * 1e9) - 1 if seconds is not None else 0
