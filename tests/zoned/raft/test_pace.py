"""Ticks follow the slowness that lasts, and forget a single stall soon."""

import pytest

from zoned.raft.pace import STRETCH_MAX, Pace

BASE_S = 0.1
ELECTION_S = 0.5


def test_a_quick_node_keeps_its_profile():
    pace = Pace(BASE_S, ELECTION_S)
    for second in range(100):
        pace.saw(0.04, float(second))
    assert pace.tick_s(100.0) == BASE_S


def test_slowness_that_lasts_stretches_the_ticks_as_long_as_it_lasts():
    pace = Pace(BASE_S, ELECTION_S)
    for second in range(300):
        pace.saw(0.1, float(second))
        assert pace.tick_s(float(second)) == pytest.approx(2 * BASE_S)
    pace.saw(60.0, 300.0)
    assert pace.tick_s(300.0) == STRETCH_MAX * BASE_S


def test_a_single_stall_is_forgotten_within_half_a_minute():
    pace = Pace(BASE_S, ELECTION_S)
    pace.saw(0.2, 0.0)
    assert pace.tick_s(0.0) == STRETCH_MAX * BASE_S
    assert pace.tick_s(30.0) == BASE_S
