"""Patience: growing, jittered pauses for loops that meet expected failures."""

import random

import trio


class Backoff:
    """Pauses of `low_s`, doubling to `high_s`, each drawn from the upper half so that nodes do not march in step."""

    def __init__(self, low_s: float, high_s: float, rng: random.Random) -> None:
        self._low_s = low_s
        self._high_s = high_s
        self._rng = rng
        self._next_s = low_s

    def reset(self) -> None:
        """The thing works again: the next failure waits the shortest pause."""
        self._next_s = self._low_s

    async def pause(self, until: trio.Event | None = None) -> None:
        """Waits the next pause, or until the event if that comes first."""
        pause_s = self._next_s * self._rng.uniform(0.5, 1.0)
        self._next_s = min(self._high_s, self._next_s * 2)
        with trio.move_on_after(pause_s):
            if until is None:
                await trio.sleep_forever()
            else:
                await until.wait()


def next_beat(every_s: float) -> float:
    """The time, by `trio.current_time`, of the next multiple of `every_s`."""
    return (trio.current_time() // every_s + 1) * every_s


async def beat(every_s: float) -> None:
    """Waits for the next multiple of `every_s`: loops that only look around now and then wake an idle node together,
    as it is the waking that costs."""
    await trio.sleep_until(next_beat(every_s))


async def first_of(*events: trio.Event, at_most_s: float = float("inf")) -> bool:
    """Waits until one of the events is set; False when `at_most_s` passed before that."""
    async with trio.open_nursery() as nursery:

        async def watch(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        nursery.cancel_scope.deadline = trio.current_time() + at_most_s
        for event in events:
            nursery.start_soon(watch, event)
    return any(event.is_set() for event in events)


class Signal:
    """A wake-up for one loop: `set` any number of times, `wait` takes them all."""

    def __init__(self) -> None:
        self.event = trio.Event()

    def set(self) -> None:
        self.event.set()

    def clear(self) -> None:
        """Takes every `set` so far."""
        if self.event.is_set():
            self.event = trio.Event()

    async def wait(self) -> None:
        """Waits for the next `set` and takes it."""
        await self.event.wait()
        self.clear()
