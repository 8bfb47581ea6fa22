"""The simulation's own test: every planted fault is found, within as many seeds as its entry says."""

import pytest

from tests.sim.__main__ import run_seed
from tests.sim.mutants import MUTANTS


@pytest.mark.parametrize("name", MUTANTS)
def test_killed(name: str) -> None:
    """The seed known to kill it goes first; only when the core has changed since is there anything to search."""
    mutant = MUTANTS[name]
    seeds = [mutant.killed_by, *range(mutant.seeds)]
    assert any(run_seed(seed, mutant.profile, name)[3] for seed in seeds), (
        f"{name} survived {mutant.seeds} seeds of {mutant.profile}: a checker or a profile has lost its teeth"
    )


def test_there_are_enough_of_them() -> None:
    assert len(MUTANTS) >= 10
