"""The write path's simulation: seeds that must pass, planted faults that must not."""

from collections.abc import Callable

import apsw
import pytest

from store import apply
from store.errors import Impossible
from tests.sim.writes import Node, WriteFault, run_writes

SEEDS = 30
CHUNK = 5
MUTANT_SEEDS = 25


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_seeds(first: int) -> None:
    for seed in range(first, first + CHUNK):
        wrong = run_writes(seed)
        assert wrong is None, f"{wrong}\nagain: python -m tests.sim --writes --first {seed} --seeds 1"


def reuses_integers(node: Node) -> None:
    """How far a range is used is not on disk."""
    node.reader.execute("UPDATE leases SET next = start")


def reuses_sequences(node: Node) -> None:
    """The last sequence given is not on disk."""
    node.reader.execute("UPDATE node SET sequence = max(0, sequence - 1)")


def loses_the_last_write(node: Node) -> None:
    """Answered before the journal was synced."""
    node.reader.execute("DELETE FROM journal WHERE sequence = (SELECT max(sequence) FROM journal)")


def forgets_what_was_accepted(node: Node, through: int) -> None:
    """Takes "accepted" for "committed"."""
    node.reader.execute("DELETE FROM journal WHERE sequence <= ?", (through,))


FAULTS = {
    "reuses-integers": WriteFault(crash=reuses_integers),
    "reuses-sequences": WriteFault(crash=reuses_sequences),
    "answers-before-journal": WriteFault(crash=loses_the_last_write),
    "accepted-is-committed": WriteFault(accepted=forgets_what_was_accepted),
    "never-goes-back": WriteFault(never_goes_back=True),
}


KNOWN = {"never-goes-back": 60}  # seeds that are known to find what few do


def dies(fault: WriteFault, known: int = 0) -> bool:
    for seed in (known, *range(MUTANT_SEEDS)):
        try:
            if run_writes(seed, fault):
                return True
        except (apsw.Error, Impossible, AssertionError):
            return True  # the product's own guards noticed first
    return False


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str) -> None:
    assert dies(FAULTS[name], KNOWN.get(name, 0)), f"{name} survived {MUTANT_SEEDS} seeds"


def takes_gaps(real: int, sequence: int) -> bool:
    return sequence > real


def takes_repeats(real: int, sequence: int) -> bool:
    return sequence <= real + 1


BLIND = WriteFault(blind=True, slow_to_doubt=True)


def test_applying_takes_each_write_once_even_from_a_registry_that_checks_nothing() -> None:
    assert [run_writes(seed, BLIND) for seed in range(15)] == [None] * 15


@pytest.mark.parametrize("rule", [takes_gaps, takes_repeats])
def test_applying_by_a_looser_rule_is_found(rule: Callable[[int, int], bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """`apply` takes a write only if it directly follows its node's mark; any looser rule must be noticed."""
    real_apply, real_mark = apply._apply_write, apply.mark

    def loose(connection, running, write, position, me):
        if rule(real_mark(connection, write.node), write.sequence):
            monkeypatch.setattr(apply, "mark", lambda *_: write.sequence - 1)
        try:
            return real_apply(connection, running, write, position, me)
        finally:
            monkeypatch.setattr(apply, "mark", real_mark)

    monkeypatch.setattr(apply, "_apply_write", loose)
    assert dies(BLIND)
