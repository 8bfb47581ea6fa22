"""Idempotency-Keys in the store: whatever node took a repeat, applying recognises it, the same everywhere."""

from dataclasses import replace

import apsw
import pytest

from store import apply, catalogue, journal, keys, shared
from store.entries import Entry
from store.operations import Create, Grant, Origin, Outcome, Update, encode
from tests.store.conftest import AT, ME, NOW, OTHER, dump, entry

U1, U2, U3 = (f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2, 3))
THIRD = "00000000-0000-4000-8000-00000000000c"
DAY_S = 86_400
SINCE = 1_795_338_000


def origin(key: int = 1, payload: int = 1, at: int = SINCE, days: int = 30) -> Origin:
    return Origin("a", "someone", at, "", bytes([key]) * 16, bytes([payload]) * 16, days * DAY_S)


def new(uuid: str = U1, integer: int | None = None, **asked) -> Create:
    return Create(uuid, integer, AT, {"name": "n"}, origin=origin(**asked))


def outcomes(connection: apsw.Connection, *entries: Entry) -> list[Outcome]:
    return [one.outcome for one in apply.apply(connection, list(entries), ME, NOW)]


def test_a_repeat_through_another_node_ends_as_the_first_did(connection, limits):
    apply.apply(connection, [entry(1, 1, Grant(10, 1_000), OTHER), entry(2, 2, new(integer=1), OTHER)], ME, NOW)
    journal.append(connection, ME, Grant(10, 1_000), NOW, limits)
    apply.apply(connection, [entry(3, 1, Grant(10, 1_000))], ME, NOW)
    # This node had not heard of the first when its client came again: other integer, same UUID.
    before = dump(connection)
    connection.execute("INSERT INTO journal VALUES (2, ?, ?, ?, NULL)", (U1, encode(new(integer=11)), NOW))
    (outcome,) = outcomes(connection, entry(4, 2, new(integer=11), buffered=True))
    assert (outcome.state.value, outcome.code, outcome.uuid, outcome.integer) == ("done", "repeat", U1, 1)
    receipt = journal.receipt(connection, 2)
    assert receipt is not None
    assert (receipt.state, receipt.integer, receipt.detail) == ("committed", 1, f"a repeat of write {OTHER}.2")
    assert dump(connection)[0] == before[0], "the record changed"
    found = catalogue.find(connection, 11)
    assert found is not None, "its client was told this integer"
    assert (found.image.uuid, found.image.integer) == (U1, 1)


def test_the_same_key_for_another_request_is_refused(connection):
    apply.apply(connection, [entry(1, 1, new(), OTHER), entry(2, 2, new(U2, payload=2), OTHER)], ME, NOW)
    assert catalogue.find(connection, U2) is None
    assert keys.count(connection) == 1


def test_a_record_whose_key_was_taken_elsewhere_is_shown_no_more(connection, limits):
    journal.append(connection, ME, new(U2, payload=2), NOW, limits)
    row = shared.Row(THIRD, 1, NOW, None, encode(new(U3, payload=3)))
    journal.take_in(connection, ME, [row], 10, 1_000_000)
    assert [catalogue.find(connection, uuid) is None for uuid in (U2, U3)] == [False, False]
    (outcome,) = outcomes(
        connection,
        entry(1, 1, new(), OTHER),
        entry(2, 1, new(U2, payload=2), buffered=True),
        entry(3, 1, new(U3, payload=3), THIRD, buffered=True),
    )
    assert (outcome.state.value, outcome.code, outcome.uuid) == ("refused", "key-reused", U2)
    assert [catalogue.find(connection, uuid) for uuid in (U2, U3)] == [None, None]
    receipt = journal.receipt(connection, 1)
    assert receipt is not None
    assert (receipt.state, receipt.uuid) == ("refused", U2)


def test_a_refusal_is_repeated_too(connection):
    gone = Update(U1, AT, {"name": ("n", "m")}, origin=origin())
    apply.apply(
        connection, [entry(1, 1, gone, OTHER), entry(2, 2, Create(U1, None, AT, {"name": "n"}), OTHER)], ME, NOW
    )
    known = keys.applied(connection, origin())
    assert known is not None
    assert (known.state, known.code) == ("refused", "not-found")
    apply.apply(connection, [entry(3, 3, gone, OTHER)], ME, NOW)
    found = catalogue.find(connection, U1)
    assert found is not None
    assert found.image.fields["name"] == "n", "the repeat was done although the first was refused"


@pytest.mark.parametrize(("later_days", "still"), [(29, True), (31, False)])
def test_a_key_counts_as_long_as_its_request_said(connection, later_days, still):
    apply.apply(connection, [entry(1, 1, new(), OTHER)], ME, NOW)
    assert (keys.applied(connection, origin(at=SINCE + later_days * DAY_S)) is not None) is still


def test_what_counts_no_more_goes_as_others_come(connection):
    entries = [entry(n, n, new(f"00000000-0000-4000-8000-0000000001{n:02}", key=n), OTHER) for n in range(1, 6)]
    apply.apply(connection, entries, ME, NOW)
    assert keys.count(connection) == 5
    later = [
        entry(n, n, new(f"00000000-0000-4000-8000-0000000001{n:02}", key=n, at=SINCE + 40 * DAY_S), OTHER)
        for n in range(6, 12)
    ]
    apply.apply(connection, later, ME, NOW)
    assert keys.count(connection) == 6


def test_a_waiting_write_is_known_by_its_key_until_it_is_applied(connection, limits):
    journal.append(connection, ME, new(), NOW, limits)
    waiting = keys.pending(connection, origin().key)
    assert waiting is not None
    assert (waiting.node, waiting.sequence, waiting.uuid, waiting.state) == (ME, 1, U1, "journaled")
    apply.apply(connection, [entry(1, 1, new())], ME, NOW)
    assert keys.pending(connection, origin().key) is None
    known = keys.applied(connection, origin())
    assert known is not None
    assert (known.node, known.sequence, known.state) == (ME, 1, "done")


def test_the_first_of_each_key_is_kept(connection):
    written = [entry(1, 1, new(), OTHER), entry(2, 2, new(key=1), OTHER), entry(3, 3, new(U2, key=2), OTHER)]
    apply.apply(connection, written, ME, NOW)
    assert [
        row[1:3] for row in connection.execute("SELECT number, key, sequence FROM idempotency ORDER BY number")
    ] == [
        (b"\x01" * 16, 1),
        (b"\x02" * 16, 3),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"key": b"k" * 17},
        {"payload": b"p"},
        {"key": "k" * 16},
        {"keep_s": -1},
        {"keep_s": 2**40},
        {"keep_s": 1.5},
        {"at": -1},
        {"by": "b" * 10_000},
    ],
)
def test_an_origin_that_no_node_could_have_made_is_refused_by_all(connection, wrong):
    made = Create(U1, None, AT, {}, origin=replace(origin(), **wrong))
    apply.apply(connection, [entry(1, 1, made, OTHER)], ME, NOW)
    assert catalogue.find(connection, U1) is None
    assert keys.count(connection) == 0


def test_answers_are_kept_up_to_a_number(connection):
    for key in range(1, 9):
        keys.keep_answer(connection, origin(key=key), keys.Answer(b"p" * 16, 201, b"", b"body"), most=3)
    kept = [key for key in range(1, 9) if keys.answer(connection, bytes([key]) * 16, SINCE)]
    assert kept == [6, 7, 8]
    assert keys.answer(connection, bytes([8]) * 16, SINCE + 31 * DAY_S) is None
    again = keys.Answer(b"p" * 16, 200, b"", b"other")
    keys.keep_answer(connection, replace(origin(key=8)), again, most=3)
    assert keys.answer(connection, bytes([8]) * 16, SINCE) == again
