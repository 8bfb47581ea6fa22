"""What rides ahead of its node's queue: the chain of its image, once, and the mark that passes over it."""

from dataclasses import replace

import pytest

from store import apply, catalogue, holding, journal, shared, urgent
from store.holding import Hold
from store.operations import Create, Delete, Operation, Origin, Update, Write, decode, encode, encode_write, rides_ahead
from tests.store.conftest import AT, ME, NOW, OTHER, entry

UUIDS = [f"00000000-0000-4000-8000-00000000000{n}" for n in range(1, 5)]
OFF = {"status": ("queued", "deactivated")}


@pytest.fixture
def waiting(connection, limits):
    """Four creates, a change of the third, its deactivation, another create's: 1 to 7."""
    operations: list[Operation] = [Create(uuid, None, AT, {}) for uuid in UUIDS]
    operations += [Update(UUIDS[2], AT, {"name": (None, "n")}), Update(UUIDS[2], AT, OFF), Delete(UUIDS[0], AT)]
    for operation in operations:
        journal.append(connection, ME, operation, NOW, limits)
    return connection


def run(connection, node: str = ME, beyond: int = 0, most: int = 10) -> list[int]:
    return [one.sequence for one in shared.urgent_run(connection, ME, node, beyond, most, 1_000_000)]


def ahead(position: int, sequence: int, operation, node: str = ME):
    write = Write(node, sequence, operation, True, ahead=True)
    return replace(entry(position, sequence, operation, node), data=encode_write(write))


def rows(connection) -> list[Write]:
    return [Write(ME, sequence, decode(data), True) for sequence, data in journal.read(connection, 0, 10, 10**6)]


def test_an_image_is_switched_off_with_what_its_node_wrote_to_it_before(waiting):
    assert run(waiting) == [3, 5, 6]
    assert run(waiting, most=2) == [3, 5], "a part is the beginning"
    assert run(waiting, beyond=6) == []


def test_deleting_waits_for_its_turn():
    assert not rides_ahead(Delete(UUIDS[0], AT))
    assert not rides_ahead(Update(UUIDS[0], AT, {"status": ("deactivated", "active")}))
    assert rides_ahead(Update(UUIDS[0], AT, OFF))


def test_a_hold_holds_it_too_and_a_drop_takes_it_out(waiting):
    holding.hold(waiting, Hold(5, "why", "bob", AT))
    assert run(waiting) == [3]
    holding.release(waiting)
    assert holding.drop(waiting, ME, 6, "a mistake", AT, Origin("a", "bob", 1))
    assert run(waiting) == []


def test_it_takes_effect_once_and_the_mark_passes_over_it(waiting):
    """In any order of the log, with repeats."""
    first, second, third, fourth, change, off, gone = rows(waiting)
    log = [ahead(1, 3, third.operation), ahead(2, 5, change.operation), ahead(3, 6, off.operation)]
    own = apply.apply(waiting, log, ME, NOW)
    assert [one.sequence for one in own] == [3, 5, 6]
    assert apply.mark(waiting, ME) == 0
    assert urgent.applied(waiting, ME) == {3, 5, 6}
    assert urgent.nodes(waiting) == []
    found = catalogue.committed(waiting, UUIDS[2])
    assert found is not None
    assert b"deactivated" in found
    again = [
        ahead(4, 6, off.operation), entry(5, 1, first.operation), entry(6, 2, second.operation),
        entry(7, 3, third.operation), entry(8, 4, fourth.operation), entry(9, 7, gone.operation),
    ]  # fmt: skip
    assert [one.sequence for one in apply.apply(waiting, again, ME, NOW)] == [1, 2, 4, 7]
    assert apply.mark(waiting, ME) == 7
    assert urgent.applied(waiting, ME) == set()
    assert journal.backlog(waiting).entries == 0


def test_what_is_next_anyway_takes_its_turn(waiting):
    first = rows(waiting)[0]
    apply.apply(waiting, [ahead(1, 1, first.operation)], ME, NOW)
    assert apply.mark(waiting, ME) == 1
    assert urgent.applied(waiting, ME) == set()


def test_others_switch_offs_are_known_and_what_rode_ahead_is_not_kept_again(waiting, connection):
    given = [shared.Row(OTHER, n, NOW, None, data) for n, data in enumerate(_encoded(), 1)]
    journal.take_in(connection, ME, given, 100, 10**6)
    assert run(connection, OTHER) == [2, 3]
    create, off = (decode(data) for data in _encoded()[1:])
    apply.apply(connection, [ahead(1, 2, create, OTHER), ahead(2, 3, off, OTHER)], ME, NOW)
    assert run(connection, OTHER) == []
    assert shared.stock(connection).entries == 1
    assert journal.take_in(connection, ME, given, 100, 10**6) == [], "a donor that lags gives it again"
    assert [one.sequence for one in shared.run(connection, OTHER, 0, 10, 10**6)] == [1]


def test_what_was_based_on_it_may_go(connection, limits):
    """A change in this zone of what another node made and switched off: only that has to be in the log before it."""
    given = [shared.Row(OTHER, n, NOW, None, data) for n, data in enumerate(_encoded(), 1)]
    journal.take_in(connection, ME, given, 100, 10**6)
    journal.append(connection, ME, Update(UUIDS[1], AT, {"name": (None, "n")}), NOW, limits)
    assert rows(connection) == []
    create, off = (decode(data) for data in _encoded()[1:])
    apply.apply(connection, [ahead(1, 2, create, OTHER), ahead(2, 3, off, OTHER)], ME, NOW)
    assert [one.sequence for one in rows(connection)] == [1]


def _encoded() -> list[bytes]:
    operations: list[Operation] = [
        Create(UUIDS[0], None, AT, {}),
        Create(UUIDS[1], None, AT, {}),
        Update(UUIDS[1], AT, OFF),
    ]
    return [encode(one) for one in operations]
