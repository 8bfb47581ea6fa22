"""What the daemon tells its workers at every moment: three words of shared memory.

Each is a single aligned word, so a reader sees the old value or the new one, and each is true by itself whenever it is
read: the store holds everything up to the position before the word says so, and what was fresh at some time stays so.
No lock is needed, and a worker's answer is as exact as the daemon's own.
"""

import mmap
import os

POSITION, FRESH_AT, HISTORY = range(3)
WORDS = 3


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
    def history(self) -> str:
        """At most 8 ASCII characters."""
        return self._words[HISTORY].to_bytes(8, "little").rstrip(b"\0").decode()

    @history.setter
    def history(self, history: str) -> None:
        self._words[HISTORY] = int.from_bytes(history.encode().ljust(8, b"\0"), "little")

    @property
    def fresh_at(self) -> float | None:
        """Seconds by `clock.boot`, the same clock in all processes of a machine."""
        nanoseconds = self._words[FRESH_AT]
        return nanoseconds / 1e9 if nanoseconds else None

    @fresh_at.setter
    def fresh_at(self, seconds: float | None) -> None:
        # A nanosecond less, for the rounding: a bound may be too large, never too small.
        self._words[FRESH_AT] = int(seconds * 1e9) - 1 if seconds is not None else 0
