"""Lists against a list in memory: every filter, order and viewer gives the same records, once each, page by page."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import catalogue, identity, listing
from store.database import open_writer
from store.errors import TooBroad
from store.images import DEFAULTS, Image, ImageMember
from store.listing import NEWEST, OLDEST, SORTS, Order, Query, Viewer, place
from tests.store.conftest import ME

AT = "2026-11-22T09:00:00Z"
LONG = "x" * 150


def record(rng: Random, n: int) -> Image:
    fields = {
        **DEFAULTS,
        "created_at": f"2026-11-22T09:00:{rng.randrange(5):02}Z",
        "updated_at": f"2026-11-22T10:00:{rng.randrange(5):02}Z",
        "name": rng.choice([None, "", "a", "b", "ñ", "Z"]),
        "size": rng.choice([None, 0, 1, 5, 2**40]),
        "status": rng.choice(["active", "queued", "deactivated"]),
        "disk_format": rng.choice([None, "raw", "qcow2"]),
        "owner": rng.choice([None, "p", "q", "r"]),
        "visibility": rng.choice(["public", "private", "shared", "community"]),
        "os_hidden": rng.random() < 0.1,
        "checksum": rng.choice([None, "c" * 32]),
    }
    return Image(
        str(uuid.UUID(int=rng.getrandbits(128))),
        n + 1,
        ME,
        f"{ME}.{n}",
        n,
        fields,
        {name: rng.choice(["1", "2", LONG + "1", LONG + "2"]) for name in ("os", "k") if rng.random() < 0.7},
        tuple(tag for tag in ("t", "u") if rng.random() < 0.5),
        deleted_at=AT if rng.random() < 0.05 else None,
        members={
            project: ImageMember(rng.choice(["pending", "accepted", "rejected"]), False, AT, AT)
            for project in ("p", "q")
            if rng.random() < 0.4
        },
    )


class Filled:
    """A catalogue and what is in it."""

    def __init__(self, connection: apsw.Connection, known: list[Image]) -> None:
        self.connection, self.known = connection, known


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    """Four hundred records, some of them as this node's own writes would leave them."""
    rng = Random(6)
    connection = open_writer(Path(tmp_path_factory.mktemp("lists")) / "zoned.db")
    known: dict[str, Image] = {}
    with connection:
        identity.start(connection, ME, "a", "zoned")
        for n in range(400):
            image = record(rng, n)
            if n % 9:
                catalogue.replace_committed(connection, None, image)
            if n % 7 == 0 or n % 9 == 0:
                if n % 2:
                    image = Image(**{**_values(record(rng, n)), "uuid": image.uuid})
                catalogue.show(connection, image)
            known[image.uuid] = image
        for image in list(known.values())[::5]:
            old = catalogue.committed(connection, image.uuid)
            if old is not None and image.integer is not None and image.integer % 7:
                changed = Image(**{**_values(record(rng, image.integer)), "uuid": image.uuid, "integer": image.integer})
                catalogue.replace_committed(connection, old, changed)
                if catalogue.find(connection, image.uuid) == catalogue.Found(changed.encode(), catalogue.Source.LOCAL):
                    known[image.uuid] = changed
    yield Filled(connection, list(known.values()))
    connection.close()


def _values(image: Image) -> dict[str, Any]:
    return {name: getattr(image, name) for name in image.__slots__}


def is_seen(image: Image, query: Query) -> bool:
    viewer, wanted = query.viewer, query.visibility
    owner, visibility = image.fields["owner"], image.fields["visibility"]
    if wanted not in (None, "all", visibility):
        return False
    if viewer is None or (viewer.project is not None and owner == viewer.project) or visibility == "public":
        return True
    if visibility == "community":
        return wanted is not None
    member = image.members.get(viewer.project or "")
    return visibility == "shared" and member is not None and member.status in viewer.member_statuses


def holds(image: Image, query: Query) -> bool:
    def value(column: str) -> Any:
        return image.uuid if column == "uuid" else image.fields[column]

    compare: dict[str, Callable[[Any, Any], bool]] = {
        "=": lambda a, b: a == b,
        "!=": lambda a, b: a is not None and a != b,
        "<": lambda a, b: a is not None and a < b,
        ">": lambda a, b: a is not None and a > b,
        "<=": lambda a, b: a is not None and a <= b,
        ">=": lambda a, b: a is not None and a >= b,
    }
    return (
        (query.hidden is None or image.fields["os_hidden"] == query.hidden)
        and (query.deleted is None or (image.deleted_at is not None) == query.deleted)
        and is_seen(image, query)
        and all(compare[operator](value(column), wanted) for column, operator, wanted in query.tests)
        and all(value(column) in choices for column, choices in query.any_of)
        and set(query.tags) <= set(image.tags)
        and set(query.properties) <= set(image.properties.items())
    )


def nth(n: int, order: Order) -> Callable[[Image], Any]:
    return lambda image: place(image, order)[n]


def expected(known: list[Image], query: Query) -> list[str]:
    found = [image for image in known if holds(image, query)]
    for n, (_, descending) in reversed(list(enumerate(query.order))):
        found.sort(key=nth(n, query.order), reverse=descending)
    return [image.uuid for image in found]


def walked(connection: apsw.Connection, query: Query) -> list[str]:
    seen: list[str] = []
    while True:
        page = listing.page(connection, query)
        assert listing.quick_page(connection, query) in (None, page)
        seen += [one.image.uuid for one in page.found]
        assert len(page.found) <= query.limit
        if not page.more:
            return seen
        assert len(page.found) == query.limit
        after = place(page.found[-1].image, query.order)
        query = Query(**{**{name: getattr(query, name) for name in query.__slots__}, "after": after})


orders = st.one_of(
    st.just(NEWEST),
    st.just(OLDEST),
    st.lists(
        st.tuples(st.sampled_from(sorted(set(SORTS) - {"uuid"})), st.booleans()), max_size=3, unique_by=lambda p: p[0]
    ).flatmap(lambda keys: st.booleans().map(lambda down: (*keys, ("uuid", down)))),
)
tests = st.lists(
    st.sampled_from(
        [
            *(("owner", "=", "p"), ("name", "=", "a"), ("name", "=", ""), ("status", "=", "queued")),
            *(("size", ">=", 1), ("size", "<=", 5), ("size", "=", 0), ("disk_format", "=", "raw")),
            *(("created_at", ">", "2026-11-22T09:00:02Z"), ("updated_at", "!=", "2026-11-22T10:00:02Z")),
            *(("checksum", "=", "c" * 32), ("protected", "=", False), ("owner", "!=", "q")),
        ]
    ),
    max_size=2,
    unique=True,
).map(tuple)
queries = st.builds(
    Query,
    limit=st.sampled_from([1, 3, 50]),
    order=orders,
    hidden=st.sampled_from([None, False, True]),
    deleted=st.sampled_from([False, False, False, None]),
    visibility=st.sampled_from([None, None, "all", "public", "private", "shared", "community"]),
    viewer=st.sampled_from(
        [None, None, Viewer("p"), Viewer("q", ("pending", "accepted", "rejected")), Viewer("x"), Viewer(None)]
    ),
    tests=tests,
    any_of=st.sampled_from([(), (), (("name", ("a", "b")),), (("status", ("active", "queued")),)]),
    tags=st.sampled_from([(), (), ("t",), ("t", "u")]),
    properties=st.sampled_from([(), (), (("os", "1"),), (("k", LONG + "1"),), (("k", "2"), ("os", "2"))]),
)


@settings(max_examples=200, deadline=None)
@given(queries)
def test_pages_hold_what_was_asked_for_in_order_and_once_each(filled: Filled, query: Query) -> None:
    connection, known = filled.connection, filled.known
    assert walked(connection, query) == expected(known, query)


@pytest.mark.parametrize("most", [0, 5])
def test_however_many_rows_are_sorted_at_most_the_answer_is_the_same(filled, monkeypatch, most):
    """The choice of an index is one of speed only."""
    connection, known = filled.connection, filled.known
    monkeypatch.setattr(listing, "SORT_MAX", most)
    monkeypatch.setattr(listing, "COUNT_MAX", most)
    for first in sorted(SORTS):
        for ways in ((False, True, True), (True, False, False), (False, False, False)):
            order: Order = tuple(
                dict.fromkeys([(first, ways[0]), ("created_at", ways[1])][: 2 if first != "created_at" else 1])
            )
            order = (*order, ("uuid", ways[2])) if first != "uuid" else order[:1]
            for viewer in (None, Viewer("p")):
                query = Query(7, order, viewer=viewer, tags=("t",), tests=(("status", "=", "active"),))
                assert walked(connection, query) == expected(known, query)


def test_facets_follow_the_records(filled):
    connection = filled.connection
    records = [Image.decode(data) for _, data in catalogue.records(connection)]
    wanted = {posting for image in records for posting in catalogue.postings(image)}
    assert set(connection.execute("SELECT facet, created_at, uuid FROM facets")) == wanted
    joined = "facets AS f LEFT JOIN images AS i ON i.key = f.key AND (i.created_at, i.uuid) = (f.created_at, f.uuid)"
    assert connection.execute(f"SELECT count(*) FROM {joined} WHERE i.key IS NULL").get == 0


def test_a_question_that_reads_too_much_is_stopped_and_the_connection_goes_on(filled, monkeypatch):
    connection = filled.connection
    monkeypatch.setattr(listing, "STEPS_MAX", 0)
    monkeypatch.setattr(listing, "_STEPS_TOLD", 100)
    with pytest.raises(TooBroad):
        listing.page(connection, Query(10, tests=(("size", "=", 77),)))
    monkeypatch.undo()
    assert listing.page(connection, Query(10)).more


def test_a_question_that_must_look_into_too_many_records_is_stopped(filled, monkeypatch):
    monkeypatch.setattr(listing, "LOOKED_INSIDE_MAX", 10)
    with pytest.raises(TooBroad):
        listing.page(filled.connection, Query(1_000, deleted=None, tags=("t",)))


def test_little_work_is_done_at_once_and_more_is_left_to_a_thread(filled, monkeypatch):
    connection = filled.connection
    quick, slow = Query(10), Query(10, tests=(("size", "=", 77),))
    assert listing.quick_page(connection, quick) == listing.page(connection, quick)
    assert listing.quick_page(connection, Query(listing.QUICK_LIMIT + 1)) is None
    monkeypatch.setattr(listing, "QUICK_STEPS", 100)
    assert listing.quick_page(connection, slow) is None
    monkeypatch.undo()
    monkeypatch.setattr(listing, "QUICK_BYTES", 1)
    assert listing.quick_page(connection, quick) is None
    assert listing.page(connection, quick).more


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (Query(5), "images_newest"),
        (Query(5, tests=(("owner", "=", "p"),)), "f USING PRIMARY KEY (facet=?"),
        (Query(5, tests=(("name", "=", "a"),)), "images_name (<expr>=?"),
        (Query(5, tags=("t",)), "f USING PRIMARY KEY (facet=?"),
        (Query(5, viewer=Viewer(None), visibility="public"), "f USING PRIMARY KEY (facet=?"),
        (Query(5, (("name", False), ("created_at", True), ("uuid", True))), "images_name"),
        (Query(5, (("size", True), ("created_at", True), ("uuid", True))), "images_size"),
        (Query(5, (("updated_at", True), ("created_at", True), ("uuid", True))), "images_updated"),
        (Query(5, (("status", False), ("created_at", True), ("uuid", True))), "images_status (status=?"),
    ],
)
def test_a_first_and_a_deep_page_walk_an_index(filled, query, index):
    """Never a table scan, never a sort of more than rows of one value."""
    connection, known = filled.connection, filled.known
    deep = Query(**{**{n: getattr(query, n) for n in query.__slots__}, "after": place(known[0], query.order)})
    for asked in (query, deep):
        for source, statements in listing._statements(connection, asked):
            for text, values in statements:
                plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", values)]
                if source is catalogue.Source.LOCAL:
                    assert index in plan[0], plan
                    assert "USE TEMP B-TREE FOR ORDER BY" not in plan, plan


def test_a_project_lists_its_own_among_very_many_unapplied_writes_of_others(connection, monkeypatch):
    """Nobody's list looks into the records of others: they are more than may be looked into."""
    monkeypatch.setattr(listing, "LOOKED_INSIDE_MAX", 5)
    with connection:
        for number in range(60):
            fields = {**DEFAULTS, "created_at": AT, "updated_at": AT, "status": "queued", "owner": f"p{number % 20}"}
            fields["visibility"] = "public" if number == 7 else "shared"
            members = {"p1": ImageMember("accepted", False, AT, AT)} if number == 8 else {}
            uuid = f"00000000-0000-4000-8000-{number:012d}"
            tags = ("t",) if number % 3 == 0 else ()
            catalogue.show(connection, Image(uuid, number + 1, ME, f"{ME}.1", 0, fields, tags=tags, members=members))
    found = listing.page(connection, Query(100, viewer=Viewer("p1"))).found
    assert sorted(one.image.integer or 0 for one in found) == [2, 8, 9, 22, 42]
    found = listing.page(connection, Query(100, viewer=Viewer("p1"), tags=("t",))).found
    assert [one.image.integer for one in found] == [22]
    with pytest.raises(TooBroad):
        listing.page(connection, Query(100, tags=("t",)))
