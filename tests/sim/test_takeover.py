"""The takeover protocol keeps its promises over many seeds, and the simulation finds every planted fault."""

import pytest

from tests.sim.takeover import MUTANTS, Violation, World

SEEDS = 60
MUTANT_SEEDS = 60


@pytest.mark.parametrize("seed", range(SEEDS))
def test_takeover_keeps_its_promises(seed: int):
    World(seed).play()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_planted_fault_is_found(mutant: type[World]):
    for seed in range(MUTANT_SEEDS):
        try:
            mutant(seed).play()
        except Violation as found:
            print(seed, found)
            return
    pytest.fail(f"not found in {MUTANT_SEEDS} seeds")


def test_a_run_is_told_by_its_seed():
    first, second = World(7), World(7)
    first.play()
    second.play()
    assert (first.db.log, first.now, first.count) == (second.db.log, second.now, second.count)
    assert len(first.db.log) > 20
