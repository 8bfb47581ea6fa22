"""What is counted when somebody asks: every replicated table, and what stands beside each record."""

import pytest

from store import apply, catalogue, digests
from store.operations import Create, Delete, Drop, Grant, Operation, Origin, Point, Update, encode
from tests.store.conftest import AT, ME, NOW, OTHER, entry

U1, U2, U3 = (f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2, 3))


@pytest.fixture
def filled(connection):
    """Something in every table."""
    origin = Origin("a", "bob", 1, key=b"k" * 16, payload=b"p" * 16, keep_s=100)
    steps: list[Operation] = [
        Create(U1, 1, AT, {"name": "n", "owner": "o"}, {"k": "v"}, ("t",), origin=origin), Create(U2, 2, AT, {}),
        Create(U3, None, AT, {}), Create(U1, 9, AT, {"name": "n", "owner": "o"}, {"k": "v"}, ("t",)),
        Grant(10, 2**53 - 1), Point("stable", AT, {"": (None, U1)}), Update(U1, AT, {"name": ("n", "m")}),
        Drop(None, AT, "why", encode(Grant(1, 9)), Origin("a", "bob", 1)), Delete(U2, AT),
    ]  # fmt: skip
    apply.apply(connection, [entry(n, n, step, OTHER) for n, step in enumerate(steps, 1)], ME, NOW)
    connection.execute("INSERT INTO ahead VALUES (?, 77)", (OTHER,))
    for table in digests.TABLES:
        assert connection.execute(f"SELECT count(*) FROM {table}").get, table
    return connection


@pytest.mark.parametrize("table", digests.TABLES)
def test_a_row_more_or_less_is_seen(filled, table):
    before = digests.tables(filled)
    filled.execute(f"DELETE FROM {table}")
    after = digests.tables(filled)
    assert [name for name in before if before[name] != after[name]] == [table]


def test_what_applying_made_is_fit(filled):
    assert digests.unfit(filled, 10) == []
    assert catalogue.recount(filled) == catalogue.replica(filled)


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        ("UPDATE images SET name = 'x' WHERE integer = 1", [U1]),
        ("UPDATE images SET deleted = 0 WHERE integer = 2", [U2]),
        ("DELETE FROM facets", [U1]),
        ("INSERT INTO facets VALUES (1, 2, x'00', 3)", ["facets"]),
        ("UPDATE images SET record = x'00' WHERE integer = 1", [U1, "facets"]),
    ],
)
def test_what_lists_would_not_find_is_named(filled, harm, named):
    filled.execute(harm)
    found = digests.unfit(filled, 10)
    assert set(named) <= set(found) <= {*named, "facets"}
    assert digests.unfit(filled, 1) == found[:1]
