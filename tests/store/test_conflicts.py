"""The ledger: what lost is kept with who and when, and a person settles it by an ordinary write."""

from typing import Any

import pytest

from store import apply, catalogue, conflicts, holding, journal, keys, shared
from store.conflicts import Conflict, resolving
from store.images import Image
from store.operations import (
    Create,
    Delete,
    Drop,
    Grant,
    Operation,
    Origin,
    State,
    Update,
    Write,
    decode,
    encode,
    perform,
)
from tests.store.conftest import AT, ME, NOW, OTHER, entry

U1 = "00000000-0000-4000-8000-000000000001"
LATER = "2026-11-23T09:00:00Z"
LOSER = Origin("a", "alice", 1)
JUDGE = Origin("b", "bob", 2)


@pytest.fixture
def conflict(connection) -> Conflict:
    """A name that was changed on both sides, and a property."""
    apply.apply(
        connection,
        [
            entry(1, 1, Create(U1, None, AT, {"name": "n"}, {"p": "0"}), OTHER),
            entry(2, 2, Update(U1, AT, {"name": ("n", "ours")}, {"p": ("0", "ours")}), OTHER),
            entry(
                3, 3, Update(U1, LATER, {"name": ("n", "theirs")}, {"p": ("0", "theirs")}, origin=LOSER), OTHER, True
            ),
        ],
        ME,
        NOW,
    )
    found = conflicts.get(connection, 1)
    assert found is not None
    return found


def image(connection) -> Image:
    found = catalogue.find(connection, U1)
    assert found is not None
    return found.image


def settle(connection, update: Update, position: int = 4, sequence: int = 4, buffered: bool = False) -> None:
    apply.apply(connection, [entry(position, sequence, update, OTHER, buffered)], ME, NOW)


def by(update: Update) -> Update:
    return Update(**{**{name: getattr(update, name) for name in update.__slots__}, "origin": JUDGE})


def test_an_entry_says_both_values_who_when_and_where(conflict):
    assert (conflict.what, conflict.committed, conflict.wanted) == ("name", "ours", "theirs")
    assert (conflict.zone, conflict.by, conflict.at) == ("a", "alice", LATER)
    assert (conflict.committed_write, conflict.node, conflict.sequence) == (f"{OTHER}.2", OTHER, 3)
    assert conflict.take is None


def test_every_lost_field_has_an_entry(connection, conflict):
    assert [one.what for one in conflicts.newest(connection, 10, True, 100)] == ["properties/p", "name"]
    assert [one.what for one in conflicts.newest(connection, 10, True, before=2)] == ["name"]
    assert conflicts.count_open(connection) == 2


def test_of_what_was_settled_the_latest_are_kept_and_all_that_is_open(connection, conflict, monkeypatch):
    """By when they were settled: an old one that is settled last stays."""
    monkeypatch.setattr(conflicts, "RESOLVED_MAX", 2)
    drops = [entry(n, n, Drop(None, AT, "why", encode(Grant(1, 9)), JUDGE), OTHER) for n in (4, 5, 6)]
    apply.apply(connection, drops, ME, NOW)
    assert [one.number for one in conflicts.newest(connection, 10, False, 100)] == [5, 4, 2, 1]
    settle(connection, by(resolving(conflict, image(connection), LATER, "ours", None)), 7, 7)
    assert [one.number for one in conflicts.newest(connection, 10, False, 100)] == [5, 2, 1]
    assert conflicts.count_open(connection) == 1


@pytest.mark.parametrize(
    ("take", "value", "name"), [("ours", None, "ours"), ("theirs", None, "theirs"), ("value", "third", "third")]
)
def test_it_is_settled_for_one_side_or_by_a_value(connection, conflict, take, value, name):
    before = image(connection)
    settle(connection, by(resolving(conflict, before, LATER, take, value)))
    assert image(connection).fields["name"] == name
    done = conflicts.get(connection, 1)
    assert done is not None
    assert (done.take, done.resolved_by, done.resolved_zone, done.resolved_at) == (take, "bob", "b", LATER)
    assert done.resolved_write == f"{OTHER}.4"
    assert conflicts.count_open(connection) == 1
    assert (image(connection) == before) is (take == "ours"), "to keep what is there changes nothing"


def test_a_property_is_settled_too(connection, conflict):
    found = conflicts.get(connection, 2)
    assert found is not None
    settle(connection, resolving(found, image(connection), LATER, "theirs", None))
    assert image(connection).properties == {"p": "theirs"}


def test_a_member_is_settled_too(connection):
    pending: Any = ("pending", False)
    share = Update(U1, AT, members={"p": (None, pending)})
    answer = Update(U1, AT, members={"p": (pending, ("accepted", False))})
    unshare = Update(U1, AT, members={"p": (pending, None)})
    made = Create(U1, None, AT, {})
    steps: list[tuple[Operation, bool]] = [(made, False), (share, False), (unshare, False), (answer, True)]
    apply.apply(connection, [entry(n, n, step, OTHER, late) for n, (step, late) in enumerate(steps, 1)], ME, NOW)
    found = conflicts.get(connection, 1)
    assert found is not None
    assert (found.what, found.committed, found.wanted) == ("members/p", None, ["accepted", False])
    settle(connection, resolving(found, image(connection), LATER, "theirs", None), 5, 5)
    assert image(connection).members["p"].status == "accepted"


def test_it_is_settled_once(connection, conflict):
    update = resolving(conflict, image(connection), LATER, "theirs", None)
    settle(connection, update)
    settle(connection, Update(U1, LATER, {"name": ("theirs", "again")}, resolves=1, take="value"), 5, 5)
    assert image(connection).fields["name"] == "theirs"


def test_a_settlement_that_waited_can_itself_lose(connection, conflict):
    update = resolving(conflict, image(connection), LATER, "theirs", None)
    settle(connection, Update(U1, LATER, {"name": ("ours", "newer")}))
    settle(connection, update, 5, 5, buffered=True)
    assert image(connection).fields["name"] == "newer"
    assert conflicts.count_open(connection) == 3, "the old entries stay open, and the settlement's has come"


def test_of_a_deleted_image_only_what_is_there_can_be_kept(connection, conflict):
    gone = image(connection)
    settle(connection, Update(U1, LATER, {}))
    apply.apply(connection, [entry(5, 5, Delete(U1, LATER), OTHER)], ME, NOW)
    settle(connection, resolving(conflict, gone, LATER, "theirs", None), 6, 6)
    assert conflicts.count_open(connection) == 2
    settle(connection, resolving(conflict, gone, LATER, "ours", None), 7, 7)
    assert conflicts.count_open(connection) == 1


@pytest.mark.parametrize("number", [2**40, 7])
def test_what_is_no_entry_of_the_image_settles_nothing(connection, conflict, number):
    settle(connection, Update(U1, LATER, {"name": ("ours", "x")}, resolves=number, take="value"))
    assert image(connection).fields["name"] == "ours"


# Writes that an operator took out.


def dropped(connection, limits) -> None:
    journal.append(connection, ME, Create(U1, None, AT, {"name": "n"}), NOW, limits)
    assert holding.drop(connection, ME, 1, "not wanted", LATER, JUDGE)


def test_a_dropped_write_leaves_its_place_and_a_record(connection, limits):
    dropped(connection, limits)
    assert catalogue.find(connection, U1) is None
    (row,) = journal.read(connection, 0, 10, 1_000_000)
    operation = decode(row[1])
    assert isinstance(operation, Drop)
    (own,) = apply.apply(connection, [entry(1, 1, operation)], ME, NOW)
    assert own.outcome.state is State.DROPPED
    receipt = journal.receipt(connection, 1)
    assert receipt is not None
    assert (receipt.state, receipt.detail) == ("dropped", "dropped by bob: not wanted")
    found = conflicts.get(connection, 1)
    assert found is not None
    assert (found.what, found.take, found.resolved_by, found.note) == ("write", "dropped", "bob", "not wanted")
    assert (found.wanted["kind"], found.wanted["fields"]) == ("create", {"name": "n"})
    assert conflicts.count_open(connection) == 0
    assert journal.backlog(connection).bytes == 0


@pytest.mark.parametrize(
    "entry_bytes",
    [
        b"",
        b"\xc1",
        encode(Drop(None, AT, "why", b"x")),
        encode(Create("no uuid", None, AT, {})),
        encode(Delete(U1, AT)),
    ],
)
def test_a_drop_of_what_nobody_could_have_journaled_changes_nothing(connection, entry_bytes):
    apply.apply(connection, [entry(1, 1, Drop(U1, AT, "why", entry_bytes), OTHER)], ME, NOW)
    listed = conflicts.newest(connection, 10, False, 100)
    assert len(listed) == (1 if entry_bytes == encode(Delete(U1, AT)) else 0)


def test_the_key_of_a_dropped_write_is_free_again_everywhere(connection, limits):
    keyed = Origin("a", "alice", 1, key=b"k" * 16, payload=b"p" * 16, keep_s=100)
    made = Create(U1, None, AT, {"name": "n"}, origin=keyed)
    row = shared.Row(OTHER, 1, NOW, None, encode(made))
    journal.take_in(connection, ME, [row], 10, 10_000)
    assert keys.pending(connection, keyed.key) is not None
    apply.apply(connection, [entry(1, 1, Drop(U1, AT, "why", encode(made)), OTHER)], ME, NOW)
    assert keys.pending(connection, keyed.key) is None
    assert keys.applied(connection, keyed) is None


def test_a_write_that_was_in_the_log_already_is_not_dropped(connection, limits):
    dropped(connection, limits)
    (own,) = apply.apply(connection, [entry(1, 1, Create(U1, None, AT, {"name": "n"}))], ME, NOW)
    assert own.outcome.state is State.DONE
    assert image(connection).fields["name"] == "n"
    assert journal.backlog(connection).bytes == 0


def test_what_does_not_wait_cannot_be_dropped(connection, limits):
    dropped(connection, limits)
    assert not holding.drop(connection, ME, 1, "again", LATER, JUDGE)
    assert not holding.drop(connection, ME, 2, "never made", LATER, JUDGE)


def test_dropping_changes_no_record(connection):
    record = Image(U1, 1, ME, f"{ME}.1", 1, {"protected": True}, {}, (), ())
    drop = Drop(U1, AT, "why", b"x")
    for before in (record, None):
        after, outcome = perform(before, Write(ME, 2, drop), 5)
        assert after is before
        assert outcome.state is State.DROPPED
