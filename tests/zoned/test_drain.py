"""The pace of a draining journal, by value."""

from random import Random

import pytest

from zoned.drain import JITTER, STAGGER_S, Drain


def test_a_few_writes_feel_nothing():
    drain = Drain(1_000.0, Random(1))
    assert [drain.pause_s(10, now) for now in range(20)] == [0.0] * 20


@pytest.mark.parametrize("batch", [50, 500])
def test_a_long_journal_is_held_to_the_pace(batch):
    drain, now, sent = Drain(1_000.0, Random(1)), 0.0, 0
    while sent < 20_000:
        now += drain.pause_s(batch, now)
        sent += batch
    # A second's worth goes at once; pauses are stretched by chance, never cut short.
    assert 19.0 <= now <= 19.0 * (1 + JITTER)


def test_nodes_do_not_march_in_step():
    assert len({Drain(10.0, Random(seed)).stagger_s() for seed in range(5)}) == 5
    assert all(0 <= Drain(10.0, Random(seed)).stagger_s() <= STAGGER_S for seed in range(50))


def test_the_rate_and_the_end_are_told():
    drain = Drain(1e9, Random(1))
    assert drain.ends_in_s(100, 0.0) is None
    assert drain.ends_in_s(0, 0.0) == 0.0
    for tick in range(100):
        drain.settled(50, tick / 10)
    assert drain.rate(10.0) == pytest.approx(500.0, rel=0.05)
    assert drain.ends_in_s(2_000, 10.0) == pytest.approx(4.0, rel=0.05)
    assert drain.rate(25.0) == 0.0
    drain.settled(30, 100.0)
    assert drain.rate(100.5) == 30.0, "what was long ago does not count"
