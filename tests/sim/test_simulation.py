"""A hundred seeds of the default swarm, a few of each harsher profile; and a run is a function of its seed."""

import pytest

from tests.sim.__main__ import run_seed
from tests.sim.swarm import draw
from tests.sim.world import World

CHUNK = 10


@pytest.mark.parametrize(
    ("profile", "first"),
    [("swarm", first) for first in range(0, 100, CHUNK)]
    + [(profile, first) for profile in ("churn", "ballots") for first in range(0, 20, CHUNK)]
    + [("moves", 0), ("pilot", 0), ("calm", 0)],
)
def test_seeds(profile: str, first: int) -> None:
    for seed in range(first, first + (CHUNK if profile not in ("moves", "pilot", "calm") else 4)):
        wrong = run_seed(seed, profile, None)[3]
        assert wrong is None, f"{wrong}\nagain: python -m tests.sim --profile {profile} --seed {seed}"


def test_a_run_is_a_function_of_its_seed() -> None:
    stories = []
    for _ in range(2):
        story: list[str] = []
        world = World(draw(7), 7)
        world.log = story.append
        events = world.run()
        stories.append((events, world.checkers.history, story))
    assert stories[0] == stories[1]
