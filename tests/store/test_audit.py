"""The audit: the same lines on every node, whatever its batches, and any that was altered or removed is found."""

import hashlib

import orjson
import pytest

from store import audit, catalogue, identity
from store.apply import CHECKPOINT_ENTRIES, apply
from store.database import open_writer
from store.entries import Entry, EntryKind, Membership
from store.operations import Create, Delete, Grant, Origin, Point, Update
from tests.store.conftest import AT, ME, NOW, OTHER, dump, entry

U1, U2 = (f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2))
ALICE = Origin("b", "alice@p1", 1_795_338_000, "req-1", project="p1")


def entries() -> list[Entry]:
    return [
        Entry(1, 1, EntryKind.MEMBERSHIP, Membership("cluster", (ME,)).encode()),
        Entry(2, 1, EntryKind.NOOP),
        entry(3, 1, Grant(10, 2**53 - 1), OTHER),
        entry(4, 2, Create(U1, 1, AT, {"name": "x"}, origin=ALICE), OTHER),
        entry(5, 2, Create(U1, 1, AT, {"name": "x"}, origin=ALICE), OTHER),  # again: no second line
        entry(6, 3, Update(U1, AT, {"name": ("x", "y")}, if_match="other", origin=ALICE), OTHER),
        entry(7, 4, Point("stable", AT, {"": (None, U1)}, origin=ALICE), OTHER),
        entry(8, 5, Create(U2, -1, AT, {"name": "x"}, origin=ALICE), OTHER),  # malformed
        entry(9, 6, Delete(U1, AT, origin=ALICE), OTHER),
    ]


@pytest.fixture
def applied(connection):
    with connection:
        apply(connection, entries(), ME, NOW)
    return connection


def test_a_line_for_everything_that_was_done(applied):
    lines = [one.document() for one in audit.read(applied, 0, 100)]
    assert [(one["position"], one["kind"], one["outcome"], one["code"]) for one in lines] == [
        (1, "membership", "committed", ""),
        (3, "grant", "committed", ""),
        (4, "create", "committed", ""),
        (6, "update", "refused", "changed"),
        (7, "point", "committed", ""),
        (8, "create", "refused", "malformed"),
        (9, "delete", "committed", ""),
    ]
    made = lines[2]
    assert (made["by"], made["project"], made["zone"], made["request"]) == ("alice@p1", "p1", "b", "req-1")
    assert (made["at"], made["write"], made["subject"]) == (ALICE.at, f"{OTHER}.2", U1)
    assert made["sha256"] == hashlib.sha256(entries()[3].data).hexdigest()
    assert lines[4]["subject"] == "alias:stable"
    assert audit.count(applied) == audit.Counted(7, 1, 9, "")


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_same_on_every_node_whatever_its_batches(applied, tmp_path, size):
    other = open_writer(tmp_path / "other.db")
    with other:
        identity.start(other, OTHER.replace("b", "e"), "b", "zoned")
    for n in range(0, len(entries()), size):
        with other:
            apply(other, entries()[n : n + size], OTHER.replace("b", "e"), NOW + 5)
    assert dump(other) == dump(applied)
    assert audit.head(other) == audit.head(applied)
    other.close()


def test_what_nodes_compare_covers_the_chain(connection, tmp_path):
    """Two nodes with equal records that do not agree on what was refused are found out at the next round position."""
    other = open_writer(tmp_path / "other.db")
    with other:
        identity.start(other, ME, "a", "zoned")
    for node, asked in ((connection, "a"), (other, "b")):
        told = [
            entry(n, n, Delete(U1, AT, origin=Origin("z", asked, 1)), OTHER) for n in range(1, CHECKPOINT_ENTRIES + 1)
        ]
        with node:
            apply(node, told, ME, NOW)
    assert catalogue.replica(connection) == catalogue.replica(other)
    ours, theirs = (catalogue.checkpoint(node, CHECKPOINT_ENTRIES) for node in (connection, other))
    assert ours is not None
    assert theirs is not None
    assert ours != theirs
    other.close()


ALTERED = "UPDATE audit SET line = replace(line, 'alice', 'mallo') WHERE position = ?"


@pytest.mark.parametrize("position", [4, 6, 9])
@pytest.mark.parametrize("sql", [ALTERED, "DELETE FROM audit WHERE position = ?"])
def test_what_was_altered_or_removed_is_found(applied, position, sql):
    applied.execute(
        sql.replace("replace(line", "CAST(replace(CAST(line AS TEXT)").replace("'mallo')", "'mallo') AS BLOB)"),
        (position,),
    )
    assert applied.changes() == 1
    assert "altered or removed" in audit.count(applied).problem


def test_a_chain_made_anew_is_another_one(applied):
    """Who can write one node's store can make its chain whole again; then it is not the others' any more."""
    before, lines = audit.chain_at(applied, 9), audit.read(applied, 0, 100)
    chain = audit.BEGINNING
    for one in lines:
        text = one.text.replace(b"alice", b"mallo")
        applied.execute("UPDATE audit SET before = ?, line = ? WHERE position = ?", (chain, text, one.position))
        chain = audit.chained(chain, text)
    applied.execute("UPDATE replica SET chain = ?", (chain,))
    assert audit.count(applied).problem == ""
    assert audit.chain_at(applied, 3) == lines[2].before, "before the altered line all is as it was"
    assert audit.chain_at(applied, 9) != before


def test_old_lines_go_and_the_rest_still_holds(applied):
    whole = {position: audit.chain_at(applied, position) for position in range(10)}
    assert whole[0] == audit.BEGINNING
    assert whole[1] == whole[2], "an empty entry has no line"
    assert audit.has_before(applied, 4)
    assert audit.forget(applied, 4, 2) == 2
    assert audit.forget(applied, 4, 100) == 1
    assert not audit.has_before(applied, 4)
    assert audit.count(applied) == audit.Counted(4, 6, 9, "")
    assert [audit.chain_at(applied, position) for position in (3, 5, 9, 10)] == [None, whole[5], whole[9], None]
    audit.forget(applied, 100, 100)
    assert audit.count(applied) == audit.Counted(0, 0, 0, "")


def test_an_exported_line_is_its_own_proof(applied):
    line = audit.read(applied, 3, 1)[0]
    document = line.document()
    assert audit.parse(orjson.loads(orjson.dumps(document))) == line
    for wrong in ({"by": "mallory"}, {"before": "00"}, {"chain": "zz"}, {"position": None}):
        with pytest.raises(ValueError, match=r"altered|no line"):
            audit.parse({**document, **wrong})
    with pytest.raises(ValueError, match="no line"):
        audit.parse({})
