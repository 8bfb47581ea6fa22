"""Waiting writes in an operator's hands: held from one on, carried elsewhere, never out of order."""

import json
from dataclasses import replace

import pytest

from store import apply, catalogue, conflicts, holding, journal, shared
from store.catalogue import Source
from store.holding import Hold
from store.operations import Create, Origin, Update, decode, encode, origin_of
from tests.store.conftest import AT, ME, NOW, OTHER, entry

UUIDS = [f"00000000-0000-4000-8000-00000000000{n}" for n in range(1, 5)]


@pytest.fixture
def waiting(connection, limits):
    """Four writes that wait."""
    for uuid in UUIDS:
        journal.append(connection, ME, Create(uuid, None, AT, {}), NOW, limits)
    return connection


def sendable(connection) -> list[int]:
    return [sequence for sequence, _ in journal.read(connection, 0, 10, 1_000_000)]


def test_a_hold_is_from_one_write_on_and_outlasts_whatever_comes(waiting, limits):
    holding.hold(waiting, Hold(3, "why", "bob", AT))
    journal.append(waiting, ME, Update(UUIDS[0], AT, {"name": (None, "n")}), NOW, limits)
    assert sendable(waiting) == [1, 2]
    assert holding.waiting_from(waiting, 3) == 3
    given = shared.give(waiting, ME, 100, {}, set(), 10, 1_000_000)
    assert [row.sequence for row in given] == [1, 2], "other nodes would forward what is held"
    assert holding.held(waiting) == Hold(3, "why", "bob", AT)
    assert holding.release(waiting)
    assert not holding.release(waiting)
    assert sendable(waiting) == [1, 2, 3, 4, 5]


def test_those_behind_that_need_it_are_counted(waiting, limits):
    journal.append(waiting, ME, Update(UUIDS[1], AT, {"name": (None, "n")}), NOW, limits)
    assert [holding.same_image_behind(waiting, sequence) for sequence in (1, 2, 5)] == [0, 1, 0]


def test_a_drop_waits_for_nobody(connection, limits):
    """It is how an operator gets out of a write that is based on what another node has lost."""
    lost = shared.Row(OTHER, 7, NOW, None, encode(Create(UUIDS[0], None, AT, {})))
    journal.take_in(connection, ME, [lost], 10, 1_000_000)
    journal.append(connection, ME, Update(UUIDS[0], AT, {"name": (None, "n")}), NOW, limits)
    journal.append(connection, ME, Create(UUIDS[1], None, AT, {}), NOW, limits)
    assert sendable(connection) == []
    assert holding.drop(connection, ME, 1, "stuck", AT, Origin("a", "bob", 1))
    assert sendable(connection) == [1, 2]
    assert shared.waits_for(connection, ME) == set()


def test_a_create_after_a_drop_is_a_write_of_its_own(connection, limits):
    """Its repeats get its receipt, and not that of the one that was dropped."""
    create = Create(UUIDS[0], None, AT, {"name": "n"})
    made = journal.append(connection, ME, create, NOW, limits)
    assert holding.drop(connection, ME, 1, "wrong", AT, Origin("a", "bob", 1))
    again, repeat = (journal.append(connection, ME, create, NOW, limits) for _ in range(2))
    assert [one.sequence for one in (made, again, repeat)] == [1, 2, 2]


@pytest.mark.parametrize("before", ["drop", "update"])
def test_a_create_of_what_only_another_node_made_is_journaled(connection, limits, before):
    """Whatever else of this node waits for the record: the other create may come to nothing."""
    create = Create(UUIDS[0], 7, AT, {"name": "n"})
    if before == "drop":
        journal.append(connection, ME, replace(create, integer=None), NOW, limits)
        assert holding.drop(connection, ME, 1, "wrong", AT, Origin("a", "bob", 1))
    journal.take_in(connection, ME, [shared.Row(OTHER, 1, NOW, None, encode(create))], 10, 1_000_000)
    if before == "update":
        seen = {"z": {"verified": (AT, "")}}
        journal.append(connection, ME, Update(UUIDS[0], AT, presence=seen), NOW, limits)
    found = catalogue.find(connection, UUIDS[0])
    assert found is not None
    assert found.source is (Source.PROVISIONAL if before == "drop" else Source.JOURNAL)
    made = journal.append(connection, ME, replace(create, integer=None), NOW, limits)
    assert made.sequence == 2
    assert made.image is not None
    assert made.image.integer == 7, "one image has one integer"


def test_an_operators_own_key_is_not_that_of_the_drop(waiting):
    """Used twice, the second drop would count as a repeat of the first, and the ledger would not have it."""
    by = Origin("a", "bob", 1, "r", b"k" * 16, b"p" * 16, 60)
    for sequence in (1, 2):
        assert holding.drop(waiting, ME, sequence, "wrong", AT, by)
    rows = [decode(data) for _, data in journal.read(waiting, 0, 2, 1_000_000)]
    assert [origin_of(one) for one in rows] == [Origin("a", "bob", 1, "r")] * 2
    apply.apply(waiting, [entry(n, n, one) for n, one in enumerate(rows, 1)], ME, NOW)
    assert [one.uuid for one in conflicts.newest(waiting, 10, False, 99)] == [UUIDS[1], UUIDS[0]]


def test_what_is_exported_is_what_waits_and_can_be_read_again(waiting):
    apply.apply(waiting, [entry(1, 1, Create(UUIDS[0], None, AT, {}))], ME, NOW)
    lines = [json.loads(json.dumps(line)) for line in holding.export(waiting, 0)]
    assert [line["sequence"] for line in lines] == [2, 3, 4]
    assert [line["kind"] for line in lines] == ["create"] * 3
    rows = [holding.imported(line) for line in lines]
    assert [(row.node, row.sequence) for row in rows] == [(ME, 2), (ME, 3), (ME, 4)]
    assert decode(rows[0].operation) == Create(UUIDS[1], None, AT, {})
    assert [line["sequence"] for line in holding.export(waiting, 3)] == [4]


@pytest.mark.parametrize("line", [None, [], {}, {"node": OTHER, "sequence": "1", "operation": "", "at": 1.0}])
def test_what_is_no_export_is_told_so(line):
    with pytest.raises(ValueError, match="an exported write has"):
        holding.imported(line)
