"""Journal, ranges and applying, on a real file."""

from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store import catalogue, identity, journal, listing, ranges
from store.apply import apply, mark
from store.catalogue import Source
from store.database import open_writer
from store.entries import Entry, EntryKind
from store.errors import Impossible, JournalFull, Refused
from store.images import Location
from store.listing import Query
from store.operations import Assign, Create, Delete, Grant, Operation, Origin, State, Update
from store.soundness import JSON_DEPTH_MAX
from tests.store.conftest import AT, ME, NOW, OTHER, dump, entry

THIRD, FOURTH = (f"00000000-0000-4000-8000-00000000000{letter}" for letter in "cd")
U1, U2, U3 = (f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2, 3))
CEILING = 2**53 - 1


def new(uuid: str = U1, integer: int | None = None, **fields) -> Create:
    return Create(uuid, integer, AT, fields)


def write(connection: apsw.Connection, operation: Operation, limits: journal.Limits) -> journal.Journaled:
    connection.execute("SAVEPOINT write")
    try:
        return journal.append(connection, ME, operation, NOW, limits)
    finally:
        connection.execute("RELEASE write")


def granted(connection: apsw.Connection, limits: journal.Limits, count: int = 3) -> None:
    """Position 1, by another node's hand: gives ME nothing; then ME's own grant at position 2."""
    write(connection, Grant(count, CEILING), limits)
    apply(connection, [entry(1, 1, Grant(10, CEILING), OTHER), entry(2, 1, Grant(count, CEILING))], ME, NOW)


def test_an_integer_and_its_record_are_one_transaction(connection, limits):
    granted(connection, limits)
    made = write(connection, new(name="n"), limits)
    assert made.image is not None
    assert made.image.integer == 11
    with pytest.raises(Refused), connection:
        journal.append(connection, ME, new(name="other"), NOW, limits)
    assert [lease.next for lease in ranges.leases(connection)] == [12]
    with pytest.raises(RuntimeError), connection:
        journal.append(connection, ME, new(U2), NOW, limits)
        raise RuntimeError("killed here")
    assert [lease.next for lease in ranges.leases(connection)] == [12]
    assert journal.backlog(connection).entries == 1


def test_own_writes_are_read_at_once_and_leave_the_journal_when_applied(connection, limits):
    granted(connection, limits)
    made = write(connection, new(name="n"), limits)
    found = catalogue.find(connection, U1)
    assert found is not None
    assert (found.source, found.image.write) == (Source.JOURNAL, made.write_id)
    assert catalogue.find(connection, 11) == found
    waiting = journal.receipt(connection, 2)
    assert waiting is not None
    assert (waiting.state, waiting.uuid, waiting.integer) == ("journaled", U1, 11)

    own = apply(connection, [entry(3, 2, new(integer=11, name="n"))], ME, NOW)
    assert [(a.sequence, a.position, a.outcome.state) for a in own] == [(2, 3, State.DONE)]
    found = catalogue.find(connection, U1)
    assert found is not None
    assert (found.source, found.image.write) == (Source.LOCAL, made.write_id)
    assert journal.backlog(connection) == journal.Backlog(0, 0, None, 2)
    finished = journal.receipt(connection, 2)
    assert finished is not None
    assert (finished.state, finished.position) == ("committed", 3)
    assert journal.receipt(connection, 99) is None


def test_repeats_and_gaps_change_nothing(connection):
    once = [entry(1, 1, new(U1), OTHER), entry(2, 2, new(U2), OTHER)]
    apply(connection, once, ME, NOW)
    before = dump(connection)[:4]
    again = [entry(3, 1, new(U1), OTHER), entry(4, 2, Delete(U1, AT), OTHER), entry(5, 4, Delete(U2, AT), OTHER)]
    assert apply(connection, again, ME, NOW) == []
    assert dump(connection)[:4] == before
    assert mark(connection, OTHER) == 2
    apply(connection, [entry(6, 3, Delete(U2, AT), OTHER), entry(7, 4, new(U3), OTHER)], ME, NOW)
    assert mark(connection, OTHER) == 4
    assert catalogue.replica(connection).images == 2


def test_an_entry_out_of_order_is_impossible(connection):
    with pytest.raises(Impossible, match="1 comes next"):
        apply(connection, [entry(2, 1, new(), OTHER)], ME, NOW)
    apply(connection, [Entry(1, 1, EntryKind.NOOP)], ME, NOW)
    assert catalogue.replica(connection).position == 1


def test_the_overlay_follows_what_others_commit(connection, limits):
    apply(connection, [entry(1, 1, new(name="n"), OTHER)], ME, NOW)
    write(connection, Update(U1, AT, {"name": ("n", "mine")}), limits)
    apply(connection, [entry(2, 2, Update(U1, AT, {"min_ram": (0, 9)}), OTHER)], ME, NOW)
    found = catalogue.find(connection, U1)
    assert found is not None
    assert (found.image.fields["name"], found.image.fields["min_ram"], found.source) == ("mine", 9, Source.JOURNAL)
    apply(connection, [entry(3, 1, Update(U1, AT, {"name": ("n", "mine")}))], ME, NOW)
    found = catalogue.find(connection, U1)
    assert found is not None
    assert (found.image.fields["name"], found.source) == ("mine", Source.LOCAL)
    assert connection.execute("SELECT count(*) FROM overlay").get == 0


def test_a_conflict_is_kept_in_the_ledger(connection, limits):
    apply(connection, [entry(1, 1, new(name="n"), OTHER)], ME, NOW)
    write(connection, Update(U1, AT, {"name": ("n", "mine")}), limits)
    theirs = entry(2, 2, Update(U1, AT, {"name": ("n", "theirs")}), OTHER)
    own = apply(connection, [theirs, entry(3, 1, Update(U1, AT, {"name": ("n", "mine")}), buffered=True)], ME, NOW)
    assert own[0].outcome.state is State.CONFLICT
    assert list(connection.execute("SELECT position, what, committed, wanted FROM conflicts")) == [
        (3, "name", '"theirs"', '"mine"')
    ]
    receipt = journal.receipt(connection, 1)
    assert receipt is not None
    assert receipt.state == "conflict"


def test_without_integers_a_record_is_made_and_numbered_later(connection, limits):
    made = write(connection, new(), limits)
    assert made.image is not None
    assert made.image.integer is None
    with pytest.raises(Refused, match="no integer is left"):
        write(connection, Assign(U1), limits)
    apply(connection, [entry(1, 1, new())], ME, NOW)
    assert catalogue.unnumbered(connection, ME, 10) == [U1]
    assert catalogue.unnumbered(connection, OTHER, 10) == []
    with connection:
        journal.append(connection, ME, Grant(5, CEILING), NOW, limits)
        apply(connection, [entry(2, 2, Grant(5, CEILING))], ME, NOW)
    write(connection, Assign(U1), limits)
    assert catalogue.unnumbered(connection, ME, 10) == []
    found = catalogue.find(connection, 1)
    assert found is not None
    assert found.image.uuid == U1
    apply(connection, [entry(3, 3, Assign(U1, 1))], ME, NOW)
    assert catalogue.holder(connection, 1) == U1


def test_a_wrong_node_cannot_use_an_integer_twice(connection):
    apply(connection, [entry(1, 1, new(U1, 5), OTHER), entry(2, 1, new(U2, 5), THIRD)], ME, NOW)
    assert mark(connection, THIRD) == 1
    assert catalogue.holder(connection, 5) == U1
    assert catalogue.find(connection, U2) is None


def test_ranges_never_overlap_and_end_at_the_ceiling(connection):
    entries = [entry(n, n, Grant(4, 10), OTHER) for n in (1, 2, 3, 4)]
    apply(connection, entries, ME, NOW)
    assert list(connection.execute("SELECT start, stop FROM ranges")) == [(1, 5), (5, 9), (9, 11)]
    assert ranges.granted(connection, 6) == (OTHER, 5, 9, 2, 0)
    assert ranges.granted(connection, 11) is None


def test_runway_is_counted_in_days_of_the_busiest_day(connection, limits):
    granted(connection, limits, 100)
    assert ranges.runway(connection, NOW).days is None
    for n in range(10):
        write(connection, new(f"00000000-0000-4000-8000-0000000001{n:02}"), limits)
    runway = ranges.runway(connection, NOW)
    assert (runway.left, runway.rate, runway.days) == (90, 10.0, 9.0)


def test_the_journal_refuses_when_full(connection, tmp_path):
    with pytest.raises(JournalFull, match=r"journal\.free_disk_min_bytes"):
        write(connection, new(), journal.Limits(10, 10_000, 2**62, str(tmp_path)))
    write(connection, new(), journal.Limits(1, 10_000, 0, str(tmp_path)))
    with pytest.raises(JournalFull, match=r"journal\.entries_max is 1"):
        write(connection, new(U2), journal.Limits(1, 10_000, 0, str(tmp_path)))
    with pytest.raises(JournalFull, match=r"journal\.bytes_max"):
        write(connection, new(U2), journal.Limits(10, 10, 0, str(tmp_path)))


def test_a_create_that_is_repeated_has_the_receipt_of_the_first(connection, limits):
    first = write(connection, new(name="n"), limits)
    again = write(connection, new(name="n"), limits)
    assert (again.write_id, again.sequence) == (first.write_id, first.sequence)
    apply(connection, [entry(1, 1, new(name="n"))], ME, NOW)
    later = write(connection, new(name="n"), limits)
    assert (later.write_id, later.sequence) == (first.write_id, None)


def test_an_old_copy_of_the_data_directory_is_noticed(connection, limits):
    with pytest.raises(Impossible, match="older copy"), connection:
        apply(connection, [entry(1, 1, new())], ME, NOW)
    write(connection, new(U2), limits)
    with pytest.raises(Impossible, match="older copy"), connection:
        apply(connection, [entry(1, 1, new(U1))], ME, NOW)
    assert journal.backlog(connection).entries == 1


def test_an_unsound_operation_in_the_log_is_refused_and_stops_nobody(connection):
    unsound: list[Any] = [
        Create(U1, None, AT, {"created_at": None}),
        Create(U1, 2**60, AT, {}),
        Create(5, None, AT, {}),  # type: ignore[arg-type]  # that is the point
        Create(U1, None, AT, 5),  # type: ignore[arg-type]  # that is the point
        Create(U1, None, AT, {"odd": 1}),
        Create(U1, None, AT, {}, {"p": 5}),  # type: ignore[dict-item]  # that is the point
        Update(U1, AT, members={"p": (None, ("odd", False))}),
        Update(U1, AT, members={"p": (5, None)}),  # type: ignore[dict-item]  # that is the point
        Update(U1, AT, members={"p": (None,)}),  # type: ignore[dict-item]  # that is the point
        Update(U1, AT, {"name": ("a",)}),  # type: ignore[dict-item]  # that is the point
        Update(U1, AT, {"status": ("a",)}),  # type: ignore[dict-item]  # that is the point
        Delete(U1, AT, origin=Origin("a", "bob", 1, key={"no": "digest"})),  # type: ignore[arg-type]  # as above
        Assign(U1, -1),
        Grant(-5, 10),
        Delete("x", AT),
    ]
    deep: Any = []
    for _ in range(JSON_DEPTH_MAX):
        deep = [deep]
    for said in (b"x", {"a": [b"x"]}, {b"a": "a"}, float("nan"), deep):
        unsound.append(Create(U1, None, AT, {}, locations=(Location("s3://x", {"m": said}),)))
        unsound.append(Update(U1, AT, locations_added=(Location("s3://x", {"m": said}),)))
    apply(connection, [entry(n, n, operation, OTHER) for n, operation in enumerate(unsound, 1)], ME, NOW)
    assert mark(connection, OTHER) == len(unsound)
    assert catalogue.replica(connection).images == 0


def test_writes_and_records_are_bounded_in_size(connection, limits):
    big = {f"p{n}": "x" * 60_000 for n in range(5)}
    with pytest.raises(Refused, match="a record has at most"), connection:
        journal.append(connection, ME, Create(U1, None, AT, {}, big), NOW, limits)
    bigger = {f"p{n}": "x" * 60_000 for n in range(20)}
    with pytest.raises(Refused, match="a write has at most"), connection:
        journal.append(connection, ME, Create(U1, None, AT, {}, bigger), NOW, limits)
    assert journal.backlog(connection) == journal.Backlog(0, 0, None, 0)


def test_pages_are_newest_first_with_own_writes_and_without_tombstones(connection, limits):
    stamps = {U1: "2026-01-01T00:00:00Z", U2: "2026-01-02T00:00:00Z", U3: "2026-01-02T00:00:00Z"}
    entries = [entry(n, n, new(u, created_at=t, owner=u), OTHER) for n, (u, t) in enumerate(stamps.items(), 1)]
    apply(connection, entries, ME, NOW)
    mine = write(
        connection, new("f0000000-0000-4000-8000-000000000000", created_at="2026-01-02T00:00:00Z"), limits
    ).image
    assert mine is not None

    def page(**asked) -> list[str]:
        return [found.image.uuid for found in listing.page(connection, Query(**asked)).found]

    assert page(limit=10) == [mine.uuid, U3, U2, U1]
    assert page(limit=2) == [mine.uuid, U3]
    assert page(limit=2, after=("2026-01-02T00:00:00Z", U3)) == [U2, U1]
    assert page(limit=5, tests=(("owner", "=", U2),)) == [U2]
    write(connection, Delete(U3, AT), limits)
    write(connection, Update(U2, AT, {"os_hidden": (False, True)}), limits)
    assert page(limit=10) == [mine.uuid, U1]
    assert page(limit=10, hidden=True) == [U2]


operations = st.lists(
    st.tuples(
        st.sampled_from([ME, OTHER]),
        st.one_of(
            st.builds(
                lambda uuid, name, integer: new(uuid, integer, name=name),
                st.sampled_from([U1, U2, U3]),
                st.sampled_from(["x", "y"]),
                st.integers(1, 6),
            ),
            st.builds(
                lambda uuid, a, b, tag: Update(uuid, AT, {"name": (a, b)}, tags_added=(tag,)),
                st.sampled_from([U1, U2, U3]),
                st.sampled_from(["x", "y"]),
                st.sampled_from(["x", "y", "z"]),
                st.sampled_from(["t", "u"]),
            ),
            st.builds(
                lambda uuid, project, seen, wanted: Update(uuid, AT, members={project: (seen, wanted)}),
                st.sampled_from([U1, U2, U3]),
                st.sampled_from(["p", "q"]),
                st.sampled_from([None, ("pending", False), ("accepted", True)]),
                st.sampled_from([None, ("pending", False), ("accepted", True)]),
            ),
            st.builds(Delete, st.sampled_from([U1, U2, U3]), st.just(AT)),
            st.builds(Grant, st.integers(1, 3), st.just(CEILING)),
        ),
        st.booleans(),
        st.integers(0, 2),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations, st.data())
def test_equal_logs_give_equal_replicas_however_they_are_cut(tmp_path_factory, steps, data):
    """Two nodes apply the same entries, in other batches, one with its own journal: equal rows, true digest."""
    sequences = {ME: 0, OTHER: 0}
    entries = []
    for position, (node, operation, buffered, skew) in enumerate(steps, 1):
        sequences[node] += 1 if skew else 0  # sometimes a repeat
        entries.append(entry(position, max(1, sequences[node]), operation, node, buffered))
    dumps = []
    for who in (THIRD, FOURTH):
        opened = open_writer(Path(tmp_path_factory.mktemp("replica")) / "zoned.db")
        with opened:
            identity.start(opened, who, "a", "zoned")
            opened.execute("UPDATE node SET sequence = 1000")
            rest = entries
            while rest:
                cut = data.draw(st.integers(1, len(rest)))
                apply(opened, rest[:cut], who, NOW)
                rest = rest[cut:]
        assert catalogue.recount(opened) == catalogue.replica(opened)
        dumps.append(dump(opened))
        opened.close()
    assert dumps[0] == dumps[1]
