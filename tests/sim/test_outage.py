"""The outage simulation: seeds that must pass, planted faults that must not."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import apsw
import pytest

from store import catalogue, journal, shared, urgent
from store.errors import Impossible
from store.images import uuid_bytes
from store.operations import Write, decode, rides_ahead
from tests.sim.outage import OutageFault, run_outage
from tests.sim.writes import Node

SEEDS = 3
MUTANT_SEEDS = 30


@pytest.mark.parametrize("seed", range(SEEDS))
def test_seeds(seed: int) -> None:
    wrong = run_outage(seed)
    assert wrong is None, f"{wrong}\nagain: python -m tests.sim --outage --first {seed} --seeds 1"


def loses_what_it_keeps(node: Node) -> None:
    """Says that it holds what is not synced."""
    node.reader.execute("DELETE FROM shared")
    node.reader.execute("DELETE FROM overlay WHERE provisional = 1")
    node.reader.execute("UPDATE node SET shared_entries = 0, shared_bytes = 0")


def forgets_its_holders(node: Node) -> None:
    """A receipt says shared, and after a restart journaled."""
    node.reader.execute("DELETE FROM holders")


def forgets_what_zones_saw(node: Node) -> None:
    """A receipt says seen, and after a restart committed."""
    node.reader.execute("DELETE FROM seen")


def counts_what_it_gave(donor: Node, asker: Node, rows: list[shared.Row]) -> None:
    """Takes "sent" for "held": the answer may be lost, or the asker's disk full."""
    for row in rows:
        if row.node == donor.id:
            shared.note_holder(donor.reader, asker.id, row.sequence)


def needs_nothing(
    connection: apsw.Connection, me: str, rows: Iterable[shared.Row], entries_max: int, bytes_max: int
) -> Any:
    """Keeps writes whose causes it does not have, and lets them go to the log before those."""
    return journal.take_in(connection, me, [replace(row, needs=None) for row in rows], entries_max, bytes_max)


def rides_alone(*arguments: Any) -> list[Write]:
    """A switch-off overtakes what its node wrote to the same image before."""
    return [one for one in shared.urgent_run(*arguments) if rides_ahead(one.operation)]


def shows_over_committed(
    connection: apsw.Connection, me: str, rows: Iterable[shared.Row], entries_max: int, bytes_max: int
) -> Any:
    """What others want shows in the place of what is committed."""
    kept = journal.take_in(connection, me, rows, entries_max, bytes_max)
    for uuid in {getattr(decode(row.operation), "uuid", "") for row in kept}:
        found = catalogue.find(connection, uuid)
        if found is not None and found.source is catalogue.Source.LOCAL:
            catalogue.put(connection, "overlay", found.image)
            connection.execute("UPDATE overlay SET provisional = 1 WHERE uuid = ?", (uuid_bytes(uuid),))
    return kept


# Fault -> a seed that is known to kill it.
FAULTS = {
    "loses-what-it-keeps": (OutageFault(crash=loses_what_it_keeps), 0),
    "forgets-its-holders": (OutageFault(crash=forgets_its_holders), 0),
    "forgets-what-zones-saw": (OutageFault(crash=forgets_what_zones_saw), 0),
    "counts-what-it-gave": (OutageFault(given=counts_what_it_gave), 2),
    "never-helps": (OutageFault(helps=False), 0),
    "needs-nothing": (OutageFault(keep=needs_nothing), 0),
    "shows-over-committed": (OutageFault(keep=shows_over_committed), 0),
    "rides-alone": (OutageFault(urgent=rides_alone), 0),
}


def survives(seeds: Iterable[int], fault: OutageFault | None = None) -> bool:
    for seed in seeds:
        try:
            if run_outage(seed, fault):
                return False
        except (apsw.Error, Impossible, AssertionError):
            return False  # the product's own guards noticed first
    return True


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str) -> None:
    fault, known = FAULTS[name]
    assert not survives([known, *range(MUTANT_SEEDS)], fault), f"{name} survived {MUTANT_SEEDS} seeds"


def keeps_nothing(connection: apsw.Connection, node: str, sequence: int) -> bool:
    """What rode ahead is forgotten, and takes effect again in its turn."""
    return True


def never_passes(connection: apsw.Connection, node: str, mark: int) -> int:
    """The mark does not pass over what rode ahead: everything behind that waits for ever."""
    return mark


@pytest.mark.parametrize(("name", "rule"), [("take", keeps_nothing), ("passed", never_passes)])
def test_applying_what_rode_ahead_by_a_looser_rule_is_found(name, rule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urgent, name, rule)
    assert not survives(range(MUTANT_SEEDS)), f"{rule.__name__} survived {MUTANT_SEEDS} seeds"
