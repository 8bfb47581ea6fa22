"""Aliases: outcomes by value, and what applying and journalling make of them."""

from dataclasses import replace

import pytest

from store import aliases, apply, catalogue, conflicts, journal
from store.aliases import EARLIER_MAX, Alias, point
from store.errors import Refused
from store.operations import Create, Delete, Operation, Origin, Point, State, Write, decode_write, encode, encode_write
from tests.store.conftest import AT, ME, NOW, OTHER, entry

ONE, TWO, THREE = (f"c9ec9bad-8ab1-4555-b70e-7590c2b0730{n}" for n in "123")


def run(*steps: tuple[Point, bool]) -> tuple[Alias | None, list[State]]:
    """Applies (operation, buffered) one after the other."""
    alias, states = None, []
    for position, (operation, buffered) in enumerate(steps, 1):
        alias, outcome = point(alias, Write(ME, position, operation, buffered), operation, position)
        states.append(outcome.state)
    return alias, states


def to(targets, **more) -> Point:
    return Point("stable", AT, targets, **more)


def test_an_alias_is_promoted_zone_by_zone_and_keeps_what_it_was():
    alias, states = run((to({"": (None, ONE)}), False), (to({"b": (None, TWO)}), False))
    assert alias is not None
    assert states == [State.DONE] * 2
    assert (alias.target("a"), alias.target("b")) == (ONE, TWO)
    assert [one.targets for one in alias.earlier] == [{"": ONE}]
    assert Alias.decode(alias.encode()) == alias


def test_pointers_of_different_zones_never_conflict_and_one_of_the_same_does():
    first = to({"": (None, ONE)})
    alias, states = run((first, False), (to({"a": (None, TWO)}), True), (to({"b": (None, THREE)}), True))
    assert (alias and alias.targets, states) == ({"": ONE, "a": TWO, "b": THREE}, [State.DONE] * 3)
    alias, states = run((first, False), (to({"": (ONE, TWO)}), False), (to({"": (ONE, THREE)}), True))
    assert (alias and alias.targets, states[-1]) == ({"": TWO}, State.CONFLICT)


def test_what_is_asked_for_again_changes_nothing_and_what_was_is_bounded():
    steps = [(to({"": (None, uuid)}), False) for uuid in (ONE, TWO) * EARLIER_MAX]
    alias, _ = run(*steps)
    assert alias is not None
    assert len(alias.earlier) == EARLIER_MAX
    again, states = run(*steps, steps[-1])
    assert (again, states[-1]) == (alias, State.DONE)


def test_another_version_is_refused():
    alias, states = run((to({"": (None, ONE)}), False), (to({"": (ONE, TWO)}, if_match=f"{OTHER}.9"), False))
    assert (alias and alias.targets, states[-1]) == ({"": ONE}, State.REFUSED)


def test_points_survive_the_wire():
    write = Write(ME, 3, to({"": (None, ONE), "b": (ONE, None)}, origin=Origin("b", "project", 5, "req-1")))
    assert decode_write(encode_write(write)) == write


def applied(connection, *operations: Operation, start: int = 1, node: str = OTHER) -> None:
    entries = [entry(n, n, operation, node) for n, operation in enumerate(operations, start)]
    apply.apply(connection, entries, ME, NOW)


def created(uuid: str, integer: int) -> Create:
    return Create(uuid, integer, AT, {})


def test_applying_keeps_the_running_hash_that_of_the_records(connection):
    applied(connection, created(ONE, 1), created(TWO, 2), to({"": (None, ONE)}), to({"a": (None, TWO)}))
    found = aliases.find(connection, "stable", ME)
    assert found is not None
    assert (found.target("a"), found.target("b"), found.position) == (TWO, ONE, 4)
    assert catalogue.recount(connection) == catalogue.replica(connection)


def test_an_alias_to_no_live_image_is_refused_when_it_is_applied(connection):
    applied(connection, created(ONE, 1), Delete(ONE, AT), to({"": (None, ONE)}), to({"": (None, TWO)}))
    assert aliases.find(connection, "stable", ME) is None


def test_a_conflict_is_kept_with_both_values(connection):
    applied(connection, created(ONE, 1), created(TWO, 2), created(THREE, 3), to({"": (None, ONE)}))
    apply.apply(connection, [entry(5, 5, to({"": (ONE, TWO)}), OTHER)], ME, NOW)
    apply.apply(
        connection, [entry(6, 1, to({"": (ONE, THREE)}), "00000000-0000-4000-8000-00000000000c", True)], ME, NOW
    )
    kept = connection.execute("SELECT what, uuid, committed, wanted FROM conflicts").fetchall()
    assert kept == [("aliases/stable/", ONE, f'"{TWO}"', f'"{THREE}"')]


def in_conflict(connection) -> None:
    """Whether TWO, which it points to, or THREE; up to position 6."""
    applied(connection, created(ONE, 1), created(TWO, 2), created(THREE, 3), to({"": (None, ONE)}))
    changes = [entry(5, 5, to({"": (ONE, TWO)}), OTHER), entry(6, 6, to({"": (ONE, THREE)}), OTHER, True)]
    apply.apply(connection, changes, ME, NOW)


@pytest.mark.parametrize(
    ("take", "value", "now"), [("ours", None, TWO), ("theirs", None, THREE), ("value", ONE, ONE), ("value", None, None)]
)
def test_a_conflict_is_settled_by_pointing_the_alias(connection, take, value, now):
    in_conflict(connection)
    (found,) = conflicts.newest(connection, 10, True, 100)
    point = conflicts.resolving_alias(found, aliases.committed(connection, "stable"), AT, take, value)
    applied(connection, point, start=7)
    alias = aliases.committed(connection, "stable")
    assert alias is not None
    assert alias.targets.get("") == now
    done = conflicts.get(connection, found.number)
    assert done is not None
    assert (done.take, done.resolved_position) == (take, 7)
    applied(connection, replace(point, take="theirs"), start=8)
    assert conflicts.get(connection, found.number) == done, "a second time it is refused"


def test_a_conflict_of_one_alias_is_not_settled_by_another(connection):
    in_conflict(connection)
    other = Point("stab", AT, {"": (None, ONE)}, resolves=1, take="value")
    applied(connection, other, start=7)
    assert aliases.committed(connection, "stab") is None
    assert conflicts.count_open(connection) == 1


def test_a_conflict_of_an_alias_that_never_came_to_be_is_kept(connection):
    """The image that it first pointed at was deleted meanwhile, so its second write meets nothing."""
    applied(connection, created(ONE, 1), created(TWO, 2), Delete(ONE, AT))
    lost = [entry(4, 1, to({"": (None, ONE)}), ME, True), entry(5, 2, to({"": (ONE, TWO)}), ME, True)]
    for sequence, write in enumerate((to({"": (None, ONE)}), to({"": (ONE, TWO)})), 1):
        connection.execute(
            "INSERT INTO journal VALUES (?, ?, ?, ?, NULL)", (sequence, "alias:stable", encode(write), NOW)
        )
    states = [one.outcome.state for one in apply.apply(connection, lost, ME, NOW)]
    assert states == [State.REFUSED, State.CONFLICT]
    kept = connection.execute("SELECT what, uuid, committed, committed_write, wanted FROM conflicts").fetchall()
    assert kept == [("aliases/stable/", ONE, "null", "", f'"{TWO}"')]


def test_own_unapplied_writes_are_seen_at_once_and_fold_when_they_are_applied(connection, limits):
    applied(connection, created(ONE, 1), created(TWO, 2))
    with connection:
        journal.append(connection, ME, to({"": (None, ONE)}), NOW, limits)
        journal.append(connection, ME, to({"b": (None, TWO)}), NOW, limits)
    seen = aliases.find(connection, "stable", ME)
    assert seen is not None
    assert (seen.target("a"), seen.target("b")) == (ONE, TWO)
    assert [one.name for one in aliases.page(connection, ME, "", 10)] == ["stable"]
    assert aliases.page(connection, ME, "stable", 10) == []
    apply.apply(connection, [entry(3, 1, to({"": (None, ONE)})), entry(4, 2, to({"b": (None, TWO)}))], ME, NOW)
    done = aliases.find(connection, "stable", ME)
    assert done is not None
    assert (done.targets, done.position) == (seen.targets, 4)
    assert journal.backlog(connection).entries == 0


def test_the_journal_refuses_an_alias_to_what_is_not_there(connection, limits):
    with pytest.raises(Refused, match="no image"), connection:
        journal.append(connection, ME, to({"": (None, ONE)}), NOW, limits)
