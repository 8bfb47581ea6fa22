"""Vivaldi against the acceptance figures that serf's coordinate tests state, and the ranking of measured peers."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.coordinates import Coordinate, Distances, Vivaldi, next_ring
from tests.gossip.topologies import ACCEPTED, SEED, drift, outcome


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_acceptance_figure_is_met(name: str) -> None:
    mean, worst = outcome(name)
    assert mean <= ACCEPTED[name][0]
    assert worst <= ACCEPTED[name][1]


def test_a_far_centre_stands_high_and_the_others_low() -> None:
    clients, _ = ACCEPTED["circle"][2](SEED)
    heights = [client.coordinate.height_s for client in clients]
    assert heights[0] >= 0.097
    assert max(heights[1:]) <= 0.003


def test_gravity_pulls_a_drifting_cluster_back() -> None:
    before, after = drift()
    assert after <= 0.8 * before


@given(st.floats() | st.sampled_from([-1.0, 11.0, 0.0]), st.lists(st.floats(), min_size=11, max_size=11))
def test_nonsense_never_moves_a_coordinate_to_nowhere(rtt_s: float, numbers: list[float]) -> None:
    vivaldi = Vivaldi(Random(1))
    vivaldi.update("x", Coordinate(tuple(numbers[:8]), *numbers[8:]), rtt_s)
    vivaldi.update("x", Coordinate((1.0,) * 3), 0.1)
    assert vivaldi.coordinate.is_sane


@given(st.binary(max_size=60) | st.binary(min_size=44, max_size=44))
def test_any_bytes_are_a_sane_coordinate_or_none(data: bytes) -> None:
    found = Coordinate.unpack(data)
    assert found is None or (found.is_sane and found.pack() == data)


def test_a_coordinate_travels() -> None:
    there = Coordinate((0.5, -0.25, 0, 0, 0, 0, 0, 1.0), 0.5, -0.125, 0.25)
    assert Coordinate.unpack(there.pack()) == there
    assert Coordinate.unpack(7) is None
    assert Coordinate.unpack(Coordinate((math.inf,) * 8).pack()) is None


def test_the_nearest_are_those_measured_near_then_those_estimated() -> None:
    distances = Distances(Random(1))
    for _ in range(5):
        distances.measured("far", 0.120, None)
        distances.measured("near", 0.001, None)
        distances.measured("near", 0.900, None)  # a queue on the way is no distance
    assert distances.nearest([("nowhere", None), ("far", None), ("near", None)]) == ["near", "far", "nowhere"]
    assert distances.least_s("near") == 0.001
    assert distances.median_s("far") == 0.120
    distances.forget("near")
    assert distances.least_s("near") is None


def test_a_ranking_does_not_flap_at_a_bound() -> None:
    ring = next_ring(None, 0.0059)
    for distance_s in (0.0061, 0.0075, 0.0059):
        ring = next_ring(ring, distance_s)
        assert ring == 0
    assert next_ring(ring, 0.0085) == 1
    assert next_ring(1, 0.0045) == 1
    assert next_ring(1, 0.0035) == 0
    assert next_ring(0, 9.0) == 6
