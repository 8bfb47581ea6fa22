"""Ranges that are retired for good, and when a ceiling is reached."""

from pathlib import Path

import apsw
import pytest

from store import apply, identity, journal, log, ranges, snapshot
from store.database import open_writer
from store.entries import Entry, EntryKind, Membership
from store.errors import Refused
from store.operations import Create, Grant, Retire
from tests.store.conftest import AT, ME, NOW, OTHER, entry

CEILING = 2**53 - 1
U1, U2 = (f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2))
DAY_S = 86_400.0


def granted(connection: apsw.Connection, limits: journal.Limits) -> None:
    """ME has 1 to 10 (two taken), OTHER 11 to 20."""
    journal.append(connection, ME, Grant(10, CEILING), NOW, limits)
    apply.apply(connection, [entry(1, 1, Grant(10, CEILING)), entry(2, 1, Grant(10, CEILING), OTHER)], ME, NOW)
    assert [ranges.take(connection, NOW) for _ in range(2)] == [1, 2]


def test_what_a_range_begins_above_is_nobodys_and_images_may_bring_it_along(connection, limits):
    granted(connection, limits)
    apply.apply(connection, [entry(3, 2, Grant(5, CEILING, 100), OTHER)], ME, NOW)
    assert ranges.granted(connection, 101) == (OTHER, 101, 106, 3, 0)
    for integer, why in ((3, "which was granted"), (101, "which was granted"), (106, "behind the counter")):
        with pytest.raises(Refused, match=why):
            journal.append(connection, ME, Create(U1, integer, AT, {}), NOW, limits)
    kept = journal.append(connection, ME, Create(U1, 21, AT, {}), NOW, limits)
    assert kept.image is not None
    assert kept.image.integer == 21
    with pytest.raises(Refused, match=f"belongs to image {U1}"):
        journal.append(connection, ME, Create(U2, 21, AT, {}), NOW, limits)
    apply.apply(connection, [entry(4, 2, Create(U1, 21, AT, {})), entry(5, 3, Grant(5, CEILING, 50), OTHER)], ME, NOW)
    assert ranges.granted(connection, 106) == (OTHER, 106, 111, 5, 0), "the counter never goes down"


def test_what_a_retired_node_has_left_is_burnt_and_never_granted_again(connection, limits):
    granted(connection, limits)
    assert ranges.held_by(connection, OTHER) == (1, 10)
    apply.apply(connection, [entry(3, 2, Retire(OTHER), OTHER), entry(4, 3, Grant(5, CEILING), OTHER)], ME, NOW)
    assert ranges.held_by(connection, OTHER) == (1, 5)
    assert ranges.granted(connection, 15) == (OTHER, 11, 21, 2, 3)
    assert ranges.granted(connection, 21) == (OTHER, 21, 26, 4, 0)
    assert ranges.runway(connection, NOW).left == 8, "only the named node's ranges are burnt"


def test_a_node_that_is_retired_itself_takes_no_more_of_them(connection, limits):
    granted(connection, limits)
    apply.apply(connection, [entry(3, 2, Retire(ME), OTHER)], ME, NOW)
    assert ranges.take(connection, NOW) is None
    assert ranges.leases(connection) == []


def test_who_has_nothing_cannot_be_retired(connection, limits):
    journal.append(connection, ME, Retire(OTHER), NOW, limits)
    (own,) = apply.apply(connection, [entry(1, 1, Retire(OTHER))], ME, NOW)
    assert own.outcome.code == "not-found"


def test_a_retirement_is_learnt_from_a_snapshot_too(connection, limits, tmp_path: Path):
    granted(connection, limits)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    other = open_writer(theirs / "zoned.db")
    identity.start(other, OTHER, "b", "zoned")
    members = Membership("c", (OTHER,)).encode()
    entries = [
        Entry(1, 1, EntryKind.MEMBERSHIP, members),
        entry(2, 1, Grant(10, CEILING)),
        entry(3, 2, Retire(ME)),
        entry(4, 3, Create("00000000-0000-4000-8000-000000000001", None, AT, {})),
    ]
    other.execute("BEGIN")
    log.save_entries(other, entries)
    apply.apply(other, entries, "00000000-0000-4000-8000-00000000000c", NOW)
    other.execute("COMMIT")
    made = snapshot.write(theirs / "zoned.db", tmp_path / "snapshot")
    connection.execute("UPDATE node SET sequence = 9")
    snapshot.adopt(made.path, tmp_path / "zoned.db", ME, lambda _: None)
    adopted = apsw.Connection(str(made.path))
    assert ranges.leases(adopted) == []
    adopted.close()
    other.close()


@pytest.mark.parametrize(
    ("ceiling", "used", "per_day", "days", "date"),
    [
        (100, 0, 10.0, 10.0, "2026-12-02"),
        (2**31 - 1, 2**31 - 1, 10.0, 0.0, "2026-11-22"),
        (100, 0, 0.0, None, None),
        (2**53 - 1, 0, 1_000_000.0, 9_007_199_254.7, None),
    ],
)
def test_the_date_of_a_ceiling(ceiling, used, per_day, days, date):
    found = ranges.outlook(ceiling, used, per_day, NOW)
    assert (found["days"], found["runs_out_at"], found["left"]) == (days, date, ceiling - used)
