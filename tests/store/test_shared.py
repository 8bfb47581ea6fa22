"""Other nodes' unapplied writes: kept, shown, passed on, forwarded in order, forgotten when applied."""

from pathlib import Path

import apsw
import pytest

from store import apply, catalogue, conflicts, identity, journal, listing, ranges, shared, snapshot
from store.catalogue import Source
from store.database import open_writer
from store.listing import Query
from store.operations import Create, Delete, Grant, Operation, Update, encode
from store.shared import Row
from tests.store.conftest import AT, ME, NOW, OTHER, entry

THIRD = "00000000-0000-4000-8000-00000000000c"
U1, U2 = (f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2))
CEILING = 2**53 - 1
ALL = 1_000, 1_000_000


def row(sequence: int, operation: Operation, node: str = OTHER, needs: bytes | None = None, at: float = NOW) -> Row:
    return Row(node, sequence, at + sequence, needs, encode(operation))


def new(uuid: str = U1, integer: int | None = 7, name: str = "n") -> Create:
    return Create(uuid, integer, AT, {"name": name})


def renamed(seen: str, wanted: str, uuid: str = U1) -> Update:
    return Update(uuid, AT, fields={"name": (seen, wanted)})


def name_of(connection: apsw.Connection, reference: str | int = U1) -> tuple[str, object] | None:
    found = catalogue.find(connection, reference)
    return (found.source.value, found.image.fields["name"]) if found is not None else None


def leave_room(connection: apsw.Connection) -> None:
    """Integers up to 20 are nobody's, so images may bring them along."""
    apply.apply(connection, [entry(1, 1, Grant(1, CEILING, 20), "00000000-0000-4000-8000-00000000000c")], ME, NOW)


def take_in(connection: apsw.Connection, *rows: Row) -> list[int]:
    return [one.sequence for one in journal.take_in(connection, ME, rows, *ALL)]


def test_what_another_zone_registered_is_found_by_uuid_integer_and_list(connection):
    take_in(connection, row(1, Grant(5, CEILING)), row(2, new()))
    assert name_of(connection) == name_of(connection, 7) == ("provisional", "n")
    page = listing.page(connection, Query(10))
    assert [(one.image.uuid, one.source) for one in page.found] == [(U1, Source.PROVISIONAL)]
    assert shared.stock(connection).entries == 2


def test_it_becomes_an_ordinary_record_when_it_is_applied(connection):
    take_in(connection, row(1, new()), row(2, renamed("n", "m")))
    apply.apply(connection, [entry(1, 1, new(), OTHER)], ME, NOW)
    assert name_of(connection) == ("local", "n")  # what is committed is never overridden
    assert [write.sequence for write in shared.run(connection, OTHER, 0, *ALL)] == [2]
    apply.apply(connection, [entry(2, 2, renamed("n", "m"), OTHER)], ME, NOW)
    assert name_of(connection) == ("local", "m")
    assert shared.stock(connection) == shared.Stock(0, 0)


def test_changes_of_committed_records_are_kept_and_not_shown(connection):
    apply.apply(connection, [entry(1, 1, new(), THIRD)], ME, NOW)
    take_in(connection, row(1, renamed("n", "m")), row(2, Delete(U1, AT)))
    assert name_of(connection) == ("local", "n")
    assert len(shared.run(connection, OTHER, 0, *ALL)) == 2


def test_own_changes_win_over_those_of_others(connection, limits):
    take_in(connection, row(1, new()))
    journal.append(connection, ME, renamed("n", "mine"), NOW, limits)
    assert name_of(connection) == ("journal", "mine")
    take_in(connection, row(2, renamed("n", "theirs")))
    assert name_of(connection) == ("journal", "mine")


def test_a_change_of_a_provisional_record_goes_to_the_log_behind_what_it_was_based_on(connection, limits):
    take_in(connection, row(1, Grant(5, CEILING)), row(2, new()))
    journal.append(connection, ME, Grant(5, CEILING), NOW, limits)
    journal.append(connection, ME, renamed("n", "mine"), NOW, limits)
    assert [sequence for sequence, _ in journal.read(connection, 0, *ALL)] == [1]
    assert journal.read(connection, 1, *ALL) == []
    apply.apply(connection, [entry(1, 1, Grant(5, CEILING), OTHER)], ME, NOW)
    assert journal.read(connection, 1, *ALL) == []
    apply.apply(connection, [entry(2, 1, Grant(5, CEILING)), entry(3, 2, new(), OTHER)], ME, NOW)
    assert [sequence for sequence, _ in journal.read(connection, 1, *ALL)] == [2]


def test_who_waits_for_whom_is_known(connection, limits):
    take_in(connection, row(1, new()))
    journal.append(connection, ME, Delete(U1, AT), NOW, limits)
    assert shared.waits_for(connection, ME) == {OTHER}
    apply.apply(connection, [entry(1, 1, new(), OTHER)], ME, NOW)
    assert shared.waits_for(connection, ME) == set()


def test_a_create_of_a_provisional_record_takes_its_integer(connection, limits):
    journal.append(connection, ME, Grant(5, CEILING), NOW, limits)
    apply.apply(connection, [entry(1, 1, Grant(5, CEILING))], ME, NOW)
    take_in(connection, row(1, new()))
    made = journal.append(connection, ME, new(integer=None), NOW, limits)
    assert made.sequence == 2
    assert made.image is not None
    assert made.image.integer == 7
    # Whichever is applied first, there is one record with one integer.
    apply.apply(connection, [entry(2, 2, new()), entry(3, 1, new(), OTHER)], ME, NOW)
    receipt = journal.receipt(connection, 2)
    assert receipt is not None
    assert (receipt.state, receipt.integer) == ("committed", 7)


def test_what_comes_twice_or_was_applied_is_not_kept_again(connection):
    assert take_in(connection, row(1, new()), row(2, renamed("n", "m"))) == [1, 2]
    assert take_in(connection, row(1, new()), row(2, renamed("n", "m")), row(3, Delete(U1, AT))) == [3]
    apply.apply(connection, [entry(1, 1, new(U2, 8), THIRD)], ME, NOW)
    assert take_in(connection, row(1, new(U2, 8), THIRD)) == []
    assert take_in(connection, row(1, new(U2, 9), ME)) == []  # own writes are in the journal or nowhere


def test_the_bounds_stop_keeping_and_nothing_behind_is_kept(connection):
    rows = [row(n, new(f"{n:08x}{U1[8:]}", n)) for n in range(1, 6)]
    assert len(journal.take_in(connection, ME, rows, 3, 10**6)) == 3
    assert shared.have(connection) == {OTHER: 3}
    size = len(rows[0].operation)
    assert len(journal.take_in(connection, ME, rows[3:], 100, 4 * size)) == 1
    assert shared.stock(connection) == shared.Stock(4, 4 * size)


def needing(connection: apsw.Connection, uuid: str = U1) -> bytes:
    needs = shared.based_on(connection, Delete(uuid, AT))
    assert needs is not None
    return needs


def test_a_write_is_kept_only_with_its_causes(connection, tmp_path: Path):
    take_in(connection, row(1, new()))
    needs = needing(connection)
    elsewhere = open_writer(tmp_path / "elsewhere.db")
    with elsewhere:
        identity.start(elsewhere, "00000000-0000-4000-8000-00000000000d", "d", "zoned")
        change = row(1, renamed("n", "m"), THIRD, needs)
        assert journal.take_in(elsewhere, ME, [change], *ALL) == []
        # In whatever order they come.
        assert len(journal.take_in(elsewhere, ME, [change, row(1, new())], *ALL)) == 2
        assert name_of(elsewhere) == ("provisional", "m")
        assert shared.run(elsewhere, THIRD, 0, *ALL) == []
        assert len(shared.run(elsewhere, OTHER, 0, *ALL)) == 1
    elsewhere.close()


def test_every_journal_has_its_part_of_what_is_given(connection, limits):
    leave_room(connection)
    for n in range(1, 6):
        journal.append(connection, ME, new(f"{n:08x}{U1[8:]}", n), NOW, limits)
    take_in(connection, *(row(n, new(f"{n:08x}{U2[8:]}", 10 + n)) for n in range(1, 6)))
    given = shared.give(connection, ME, 5, {}, set(), 4, 10**6)
    assert [(one.node, one.sequence) for one in given] == [(ME, 1), (ME, 2), (OTHER, 1), (OTHER, 2)]
    given = shared.give(connection, ME, 4, {ME: 3, OTHER: 4}, set(), 100, 1)
    assert [(one.node, one.sequence) for one in given] == [(ME, 4), (OTHER, 5)]
    assert [one.node for one in shared.give(connection, ME, 5, {}, {OTHER}, 1, 1)] == [ME]


def test_what_is_forwarded_has_no_gap(connection):
    take_in(connection, row(3, new()), row(4, renamed("n", "m")), row(7, Delete(U1, AT)))
    assert [write.sequence for write in shared.run(connection, OTHER, 0, *ALL)] == [3, 4]
    assert [write.sequence for write in shared.run(connection, OTHER, 4, *ALL)] == [7]
    assert all(write.buffered for write in shared.run(connection, OTHER, 0, *ALL))


def test_nobody_breaks_this_nodes_promises_with_an_integer(connection, limits):
    leave_room(connection)
    journal.append(connection, ME, new(U2, 7), NOW, limits)
    take_in(connection, row(1, new()))
    assert name_of(connection, 7) == ("journal", "n")
    found = catalogue.find(connection, U1)
    assert found is not None
    assert found.image.integer is None


@pytest.mark.parametrize("committed_before", [False, True])
def test_an_integer_that_two_zones_brought_along_apart_stops_nobody(connection, limits, committed_before):
    """Whose it is the log says; this node has writes to both images, and they end as everywhere."""
    leave_room(connection)
    mine = journal.append(connection, ME, new(U2, 7), NOW, limits)
    take_in(connection, row(1, new()))
    steps = [entry(2, 1, new(), OTHER), entry(3, 1, new(U2, 7), buffered=True)]
    if committed_before:
        apply.apply(connection, [steps.pop(0)], ME, NOW)
    journal.append(connection, ME, renamed("n", "m"), NOW, limits)
    assert name_of(connection, U1) == ("journal", "m")
    assert name_of(connection, 7) == ("journal", "n"), mine
    own = apply.apply(connection, [*steps, entry(4, 2, renamed("n", "m"), buffered=True)], ME, NOW)
    assert [one.outcome.code for one in own] == ["integer-taken", ""]
    assert name_of(connection, 7) == name_of(connection, U1) == ("local", "m")
    assert name_of(connection, U2) is None


def test_holders_never_become_fewer(connection):
    shared.note_holder(connection, OTHER, 5)
    shared.note_holder(connection, OTHER, 3)
    assert shared.holders(connection, 5) == [OTHER]
    assert shared.holders(connection, 6) == []


@pytest.mark.parametrize("packed", [b"\x93", b"\x01", b"\x81\x01\x01", b"\x81\xa1a\xa1b"])
def test_needs_that_are_none_are_refused(packed):
    with pytest.raises(ValueError, match=r"needs|npack|map key|exceeds"):
        shared.unpack_needs(packed)


def test_a_snapshot_takes_away_what_it_holds_and_keeps_the_rest(tmp_path: Path):
    theirs, mine = tmp_path / "theirs.db", tmp_path / "mine.db"
    for path, node in ((theirs, OTHER), (mine, ME)):
        opened = open_writer(path)
        with opened:
            identity.start(opened, node, "a", "zoned")
            if node == OTHER:
                apply.apply(opened, [entry(1, 1, new(), THIRD)], node, NOW)
                opened.execute("INSERT INTO log VALUES (1, 1, 1, x'')")
            else:
                take_in(opened, row(1, new(), THIRD), row(2, renamed("n", "m"), THIRD), row(1, new(U2, 8)))
                shared.note_holder(opened, OTHER, 9)
        opened.close()
    made = snapshot.write(theirs, tmp_path / "snapshot")
    snapshot.adopt(made.path, mine, ME, lambda connection: None)
    adopted = open_writer(made.path)
    assert shared.have(adopted) == {THIRD: 2, OTHER: 1}
    assert shared.stock(adopted).entries == 2
    assert name_of(adopted) == ("local", "n")
    assert name_of(adopted, U2) == ("provisional", "n")
    assert shared.holders(adopted, 9) == [OTHER]
    adopted.close()


def test_two_zones_that_make_one_uuid_apart_keep_what_does_not_clash_and_the_rest_in_the_ledger(connection):
    one = Create(U1, 7, AT, {"name": "a", "min_ram": 5}, {"shared": "1", "own": "x"}, ("red",))
    other = Create(U1, 8, AT, {"name": "b", "owner": "o"}, {"shared": "2", "more": "y"}, ("blue",))
    own = apply.apply(connection, [entry(1, 1, one, OTHER), entry(2, 1, other, THIRD, buffered=True)], ME, NOW)
    assert own == []
    found = catalogue.find(connection, U1)
    assert found is not None
    image = found.image
    assert (image.integer, image.fields["name"], image.fields["owner"], image.fields["min_ram"]) == (7, "a", "o", 5)
    assert (image.properties, image.tags) == ({"shared": "1", "own": "x", "more": "y"}, ("blue", "red"))
    # Both clients were told an integer: both lead to the image.
    for integer in (7, 8):
        by_integer = catalogue.find(connection, integer)
        assert by_integer is not None
        assert by_integer.image == image
    lost = [(one.what, one.committed, one.wanted) for one in conflicts.newest(connection, 9, True, 2**53)]
    assert sorted(lost) == [("name", "a", "b"), ("properties/shared", "1", "2")]


def test_a_create_whose_client_still_waits_is_refused_as_ever(connection):
    entries = [entry(1, 1, new(name="a"), OTHER), entry(2, 1, new(integer=8, name="b"), THIRD)]
    apply.apply(connection, entries, ME, NOW)
    assert conflicts.newest(connection, 9, True, 2**53) == []
    assert name_of(connection) == ("local", "a")


def test_a_second_integer_of_equal_creates_leads_to_the_same_image_and_nowhere_else(connection):
    one, other = new(integer=7), new(integer=8)
    apply.apply(connection, [entry(1, 1, one, OTHER), entry(2, 1, other, THIRD, buffered=True)], ME, NOW)
    assert name_of(connection, 8) == ("local", "n")
    # A wrong node promised an integer that another image has: that image keeps it.
    later = [entry(3, 2, new(U2, 9), OTHER), entry(4, 2, new(integer=9), THIRD, buffered=True)]
    apply.apply(connection, later, ME, NOW)
    found = catalogue.find(connection, 9)
    assert found is not None
    assert found.image.uuid == U2


def test_an_integer_that_its_client_was_told_leads_to_the_image_while_another_is_committed(connection, limits):
    """Two zones made one image without knowing of each other; this one's create waits when the other's is applied."""
    with connection:
        ranges.grant(connection, ME, Grant(10, CEILING), 1, True)
    made = journal.append(connection, ME, Create(U1, None, AT, {}), NOW, limits)
    assert made.image is not None
    mine = made.image.integer
    assert mine is not None
    apply.apply(connection, [entry(1, 1, Create(U1, 77, AT, {}), OTHER)], ME, NOW)
    for integer in (77, mine):
        found = catalogue.find(connection, integer)
        assert found is not None
        assert (found.image.uuid, found.image.integer) == (U1, 77)
    apply.apply(connection, [entry(2, 1, Create(U1, mine, AT, {}))], ME, NOW)
    found = catalogue.find(connection, mine)
    assert found is not None
    assert found.image.uuid == U1
    assert connection.execute("SELECT count(*) FROM promised").get == 0
