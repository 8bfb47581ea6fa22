"""Patience by value and in time: under a clock that jumps."""

from random import Random

import pytest
import trio

from zoned.supervise import Backoff, Signal, beat, first_of


async def test_pauses_double_up_to_the_longest_and_begin_anew_after_a_success(autojump_clock):
    backoff = Backoff(1.0, 8.0, Random(1))
    for longest in (1, 2, 4, 8, 8):
        begun = trio.current_time()
        await backoff.pause()
        assert longest / 2 <= trio.current_time() - begun <= longest
    backoff.reset()
    begun = trio.current_time()
    await backoff.pause()
    assert trio.current_time() - begun <= 1


async def test_a_pause_ends_early_when_its_event_comes(autojump_clock):
    event = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Backoff(100.0, 100.0, Random(1)).pause, event)
        await trio.sleep(3)
        event.set()
    assert trio.current_time() == pytest.approx(3)


async def test_the_first_of_several_events_ends_the_wait(autojump_clock):
    one, two = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:

        async def later() -> None:
            await trio.sleep(2)
            two.set()

        nursery.start_soon(later)
        assert await first_of(one, two, at_most_s=10)
    assert trio.current_time() == pytest.approx(2)


async def test_no_event_in_time_is_told(autojump_clock):
    assert not await first_of(trio.Event(), at_most_s=5)
    assert trio.current_time() == pytest.approx(5)
    assert not await first_of(trio.Event(), at_most_s=-1)


async def test_an_event_that_came_before_ends_the_wait_at_once(autojump_clock):
    event = trio.Event()
    event.set()
    assert await first_of(event, at_most_s=5)
    assert trio.current_time() == 0


async def test_a_signal_wakes_its_loop_once_for_any_number_of_sets(autojump_clock):
    signal = Signal()
    signal.set()
    signal.set()
    await signal.wait()
    with trio.move_on_after(1) as scope:
        await signal.wait()
    assert scope.cancelled_caught


async def test_loops_with_one_beat_wake_together(autojump_clock):
    woken = []

    async def look(start_s):
        await trio.sleep(start_s)
        await beat(0.5)
        woken.append(trio.current_time())

    await trio.sleep(0.25)
    async with trio.open_nursery() as nursery:
        for start_s in (0.0, 0.125, 0.1875):
            nursery.start_soon(look, start_s)
    assert woken == [0.5] * 3
    await beat(0.5)
    assert trio.current_time() == 1.0, "on the beat it waits for the next"
