"""Pages of the catalogue: filters, orders, who may see what. Plain functions of a connection.

Intuition: every list is an order that ends with the UUID, so a page is "the next rows behind these values" (keyset) and
the thousandth page costs what the first costs. A query is split into *branches* that do not overlap (one's own images,
public ones, those shared with one, unapplied writes); each is one scan of one index in the order asked
for, and the streams are merged as they are read. Which index drives a branch is decided by looking how many rows each
candidate has, up to a bound, because the catalogue keeps no statistics. What still reads too much is stopped.

Null sorts as nothing: before every text and number in ascending order.
"""

import functools
import heapq
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import apsw

from store.catalogue import (
    FACET_VALUE_CHARS,
    OPEN_VISIBILITIES,
    Found,
    Source,
    member_facet,
    overlay_source,
    property_facet,
    tag_facet,
    value_facet,
)
from store.errors import TooBroad
from store.images import FIELDS, Image, Scalar

PAGE_BYTES_MAX = 8_388_608  # of records in one page; a page ends early rather than be larger
QUICK_LIMIT = 100  # a page of at most so many records ...
QUICK_BYTES = 262_144  # ... and bytes, and ...
QUICK_STEPS = 20_000  # ... of so little work costs less than handing it to a thread
SORT_MAX = 20_000  # so many rows are sorted for a page; above, the index of the order is walked instead
COUNT_MAX = 3_000  # of candidates to drive a scan, the one with fewest rows is taken, counted so far
STEPS_MAX = 100_000_000  # of SQLite's machine for one page, about two seconds
_STEPS_TOLD = 100_000  # how often the count is looked at

Order = tuple[tuple[str, bool], ...]  # (column, descending)
NEWEST: Order = (("created_at", True), ("uuid", True))
OLDEST: Order = (("created_at", False), ("uuid", False))
COLUMNS = frozenset((*FIELDS, "uuid", "integer"))
OPERATORS = ("=", "!=", "<", "<=", ">", ">=")
# Sort key -> (expression that is never null, its index); made with them in migrations/v0001.sql.
SORTS = {
    "created_at": ("created_at", "images_newest"),
    "updated_at": ("updated_at", "images_updated"),
    "uuid": ("uuid", ""),
    "status": ("status", "images_status"),
    "name": ("ifnull(name, '')", "images_name"),
    "disk_format": ("ifnull(disk_format, '')", "images_disk_format"),
    "container_format": ("ifnull(container_format, '')", "images_container_format"),
    "size": ("ifnull(size, -1)", "images_size"),
}
_FEW = ("status", "disk_format", "container_format")  # columns of a dozen values
_DRIVING = ("owner", "name", "status", "disk_format", "container_format")  # equality on these has an index


@dataclass(frozen=True, slots=True)
class Viewer:
    """A project that sees its own images, public ones, and those shared with it and answered in `member_statuses`."""

    project: str | None
    member_statuses: tuple[str, ...] = ("accepted",)


@dataclass(frozen=True, slots=True)
class Query:
    """One page of the catalogue; everything given must hold. `viewer` None sees all.

    `order` must end with the UUID; `after` holds the values of the record before the page, one for each of `order`.
    `visibility` is one of the four, "all", or None: all but other projects' community images.
    """

    limit: int
    order: Order = NEWEST
    after: tuple[Scalar, ...] | None = None
    hidden: bool | None = False
    deleted: bool | None = False
    visibility: str | None = None
    viewer: Viewer | None = None
    tests: tuple[tuple[str, str, Scalar], ...] = ()  # (column, operator, value)
    any_of: tuple[tuple[str, tuple[str, ...]], ...] = ()  # (column, values)
    tags: tuple[str, ...] = ()
    properties: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """Some records in order, and whether others follow."""

    found: list[Found]
    more: bool


def place(image: Image, order: Order) -> tuple[Scalar, ...]:
    """The values of a record in an order, for `Query.after`."""
    empty = {"size": -1}
    values: list[Scalar] = []
    for column, _ in order:
        value = image.uuid if column == "uuid" else image.fields[column]
        values.append(empty.get(column, "") if value is None else value)
    return tuple(values)


def page(connection: apsw.Connection, query: Query) -> Page:
    """At most `query.limit` records, unapplied writes included. Raises TooBroad."""
    with _bounded(connection, STEPS_MAX, _STEPS_TOLD):
        return _page(connection, query, PAGE_BYTES_MAX)


def _page(connection: apsw.Connection, query: Query, bytes_max: int) -> Page:
    assert query.order[-1][0] == "uuid"
    found: list[Found] = []
    size = 0
    streams = [_stream(connection, source, parts) for source, parts in _statements(connection, query)]
    for row in heapq.merge(*streams, key=_comparison(query.order)):
        record, source = _record(connection, row[-2], row[-1])
        size += len(record)
        if len(found) == query.limit or (found and size > bytes_max):
            return Page(found, more=True)
        found.append(Found(Image.decode(record), source))
    return Page(found, more=False)


def quick_page(connection: apsw.Connection, query: Query) -> Page | None:
    """As `page`, when that is little work: about a millisecond at most. None when it would be more."""
    if query.limit > QUICK_LIMIT:
        return None
    try:
        with _bounded(connection, QUICK_STEPS, QUICK_STEPS):
            found = _page(connection, query, QUICK_BYTES)
    except TooBroad:
        return None
    return None if found.more and len(found.found) < query.limit else found


def _record(connection: apsw.Connection, uuid: str, source: Source) -> tuple[bytes, Source]:
    if source is Source.LOCAL:
        data: bytes = connection.execute("SELECT record FROM images WHERE uuid = ?", (uuid,)).get
        return data, source
    row: Any = connection.execute("SELECT record, provisional FROM overlay WHERE uuid = ?", (uuid,)).fetchone()
    return row[0], overlay_source(row[1])


def _stream(
    connection: apsw.Connection, source: Source, statements: Sequence["Statement"]
) -> Iterator[tuple[Any, ...]]:
    """Rows of one branch in order; a statement runs only when the ones before it are read to their end."""
    for statement in statements:
        for row in connection.execute(*statement):
            yield (*row, source)


@contextmanager
def _bounded(connection: apsw.Connection, steps_max: int, told: int) -> Iterator[None]:
    left = steps_max // told

    def too_many() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    connection.set_progress_handler(too_many, told)
    try:
        yield
    except apsw.InterruptError:
        raise TooBroad(
            "this question reads too much of the catalogue; narrow it by an owner, a name, a tag or a property"
        ) from None
    finally:
        connection.set_progress_handler(None)


def _comparison(order: Order) -> Any:
    """A key for rows whose first values are those of `order`."""

    def compare(one: tuple[Any, ...], other: tuple[Any, ...]) -> int:
        for (_, descending), mine, theirs in zip(order, one, other, strict=False):
            if mine != theirs:
                return -1 if (mine < theirs) is not descending else 1
        return 0

    return functools.cmp_to_key(compare)


@dataclass(slots=True)
class _Branch:
    """Conditions that all must hold: on columns, and by facet. The first facets come from who is looking."""

    tests: list[tuple[str, str, Scalar]]
    facets: list[str]


def _branches(query: Query) -> list[_Branch]:
    """Branches that do not overlap and together are what the viewer sees."""
    viewer, wanted = query.viewer, query.visibility
    if viewer is None:
        return [_narrowed(wanted)] if wanted not in (None, "all") else [_Branch([], [])]
    branches = []
    if viewer.project is not None:
        mine = _Branch([("owner", "=", viewer.project)], [])
        if wanted not in (None, "all"):
            mine.tests.append(("visibility", "=", wanted))
        branches.append(mine)
        if wanted in (None, "all", "shared"):
            branches += [
                _Branch(
                    [("visibility", "=", "shared"), ("owner", "IS NOT", viewer.project)],
                    [member_facet(viewer.project, status)],
                )
                for status in viewer.member_statuses
            ]
    for visibility in OPEN_VISIBILITIES:
        if wanted in (visibility, "all") or (wanted is None and visibility == "public"):
            branch = _narrowed(visibility)
            if viewer.project is not None:  # its own are in a branch already
                branch.tests.append(("owner", "IS NOT", viewer.project))
            branches.append(branch)
    return branches


def _narrowed(visibility: str | None) -> _Branch:
    if visibility in OPEN_VISIBILITIES:
        return _Branch([("visibility", "=", visibility)], [value_facet("visibility", visibility)])
    return _Branch([("visibility", "=", visibility)], [])


Statement = tuple[str, tuple[Any, ...]]


def _statements(connection: apsw.Connection, query: Query) -> Iterator[tuple[Source, list[Statement]]]:
    for branch in _branches(query):
        tests = [*branch.tests, *query.tests]
        facets = list(branch.facets)
        facets += [tag_facet(tag) for tag in query.tags]
        facets += [property_facet(name, value) for name, value in query.properties]
        facets += [
            value_facet(column, str(value))
            for column, operator, value in query.tests
            if column in ("checksum", "os_hash_value") and operator == "=" and value
        ]
        yield Source.LOCAL, _catalogue_statements(connection, query, tests, facets)
        yield Source.JOURNAL, _overlay_statements(query, tests, branch.facets)


def _common(query: Query, tests: Sequence[tuple[str, str, Scalar]]) -> tuple[list[str], list[Any]]:
    """Conditions on columns that both tables have."""
    where: list[str] = []
    values: list[Any] = []
    if query.deleted is not None:
        where.append(f"i.deleted = {int(query.deleted)}")
    if query.hidden is not None:
        where.append(f"i.os_hidden = {int(query.hidden)}")
    for column, operator, value in tests:
        assert column in COLUMNS
        assert operator in OPERATORS or operator == "IS NOT"
        where.append(f"i.{column} {operator} ?")
        values.append(value)
    for column, choices in query.any_of:
        assert column in COLUMNS
        where.append(f"i.{column} IN ({', '.join('?' * len(choices))})")
        values += choices
    return where, values


_PROPERTY_IN_RECORD = (
    "EXISTS (SELECT 1 FROM json_each(CAST(i.record AS TEXT), '$.properties') AS one"
    " WHERE one.key = ? AND one.value = ?)"
)
_TAG_IN_RECORD = "EXISTS (SELECT 1 FROM json_each(CAST(i.record AS TEXT), '$.tags') AS one WHERE one.value = ?)"
_MEMBER_IN_RECORD = (
    "EXISTS (SELECT 1 FROM json_each(CAST(i.record AS TEXT), '$.members') AS one"
    " WHERE one.key = ? AND json_extract(one.value, '$[0]') = ?)"
)


# A condition, its values, and for how many of the order's columns it leaves one value only: those need no ordering
# (which SQLite does not see of an expression).
Part = tuple[str, list[Any], int]


def _parts(query: Query, expressions: Sequence[str], choices: Sequence[str]) -> list[Part]:
    """The rows to read as consecutive pieces, each of which SQLite finds by seeking.

    In an order by one column and then by another, what comes behind a row is: the rest of the rows with its value, then
    the rows with later values; asked for with OR, SQLite would read from the start. A column with few `choices` is read
    value by value, so that rows with one value need no sorting when the other columns run the other way.
    """
    (_, descending), sign = query.order[0], "<" if query.order[0][1] else ">"
    after = query.after
    if all(one[1] is descending for one in query.order) and query.order[0][0] in ("created_at", "uuid"):
        marks = ", ".join("?" * len(query.order))
        return (
            [(f"({', '.join(expressions)}) {sign} ({marks})", list(after), 0)] if after is not None else [("1", [], 0)]
        )
    first = expressions[0]
    parts: list[Part] = []
    if after is not None:
        condition, values = _behind(query.order[1:], after[1:], expressions[1:])
        parts.append((f"{first} = ? AND {condition}", [after[0], *values], 1))
    if choices:
        left = [one for one in sorted(choices, reverse=descending) if after is None or _is_behind(one, after[0], sign)]
        return parts + [(f"{first} = ?", [one], 1) for one in left]
    return [*parts, (f"{first} {sign} ?", [after[0]], 0) if after is not None else ("1", [], 0)]


def _is_behind(one: str, other: Scalar, sign: str) -> bool:
    return one < str(other) if sign == "<" else one > str(other)


def _behind(order: Order, after: Sequence[Scalar], expressions: Sequence[str]) -> tuple[str, list[Any]]:
    """The condition that a row comes after `after`. Row values where all go one way, as SQLite seeks by them."""
    descending = order[0][1]
    sign = "<" if descending else ">"
    if all(one[1] is descending for one in order):
        return f"({', '.join(expressions)}) {sign} ({', '.join('?' * len(order))})", list(after)
    first, value = expressions[0], after[0]
    rest, values = _behind(order[1:], after[1:], expressions[1:])
    # The first condition follows from the second; it is there for SQLite to seek by.
    return f"{first} {sign}= ? AND ({first} {sign} ? OR ({first} = ? AND {rest}))", [value, value, value, *values]


def _ordered(
    query: Query, expressions: Sequence[str], table: str, where: list[str], values: list[Any], choices: Sequence[str]
) -> list[Statement]:
    ways = [f"{e} {'DESC' if down else 'ASC'}" for e, (_, down) in zip(expressions, query.order, strict=True)]
    return [
        (
            f"SELECT {', '.join(expressions)} FROM {table} WHERE {' AND '.join([*where, condition])}"  # noqa: S608  # our own names
            f" ORDER BY {', '.join(ways[fixed:])} LIMIT ?",
            (*values, *more, query.limit + 1),  # one more tells whether others follow
        )
        for condition, more, fixed in _parts(query, expressions, choices)
    ]


def _qualified(column: str, facets: str = "i") -> str:
    expression = SORTS[column][0]
    alias = facets if column in ("created_at", "uuid") else "i"
    return expression.replace(column, f"{alias}.{column}")


def _overlay_statements(query: Query, tests: list[tuple[str, str, Scalar]], facets: Sequence[str]) -> list[Statement]:
    where, values = _common(query, tests)
    _look_inside(query, facets, where, values)
    return _ordered(query, [_qualified(column) for column, _ in query.order], "overlay AS i", where, values, ())


def _look_inside(query: Query, facets: Sequence[str], where: list[str], values: list[Any]) -> None:
    """The conditions of facets, asked of the record itself: rows of the overlay and tombstones have no facets."""
    for facet in facets:
        if facet.startswith("m:"):
            _, status, project = facet.split(":", 2)
            where.append(_MEMBER_IN_RECORD)
            values += (project, status)
    for tag in query.tags:
        where.append(_TAG_IN_RECORD)
        values.append(tag)
    for name, text in query.properties:
        where.append(_PROPERTY_IN_RECORD)
        values += (name, text)


def _catalogue_statements(
    connection: apsw.Connection, query: Query, tests: list[tuple[str, str, Scalar]], facets: list[str]
) -> list[Statement]:
    where, values = _common(query, tests)

    if query.deleted is not False:
        _look_inside(query, facets, where, values)
        facets = []
    for name, text in query.properties:
        if len(text) > FACET_VALUE_CHARS:
            where.append(_PROPERTY_IN_RECORD)
            values += (name, text)
    by_facet, index = _driver(connection, query, tests, facets)
    if by_facet is not None:
        where.append("f.facet = ?")
        values.append(by_facet)
        facets = [facet for facet in facets if facet != by_facet]
        table, alias = "facets AS f CROSS JOIN images AS i ON i.uuid = f.uuid", "f"
    else:
        table, alias = f"images AS i{f' INDEXED BY {index}' if index else ''}", "i"
        for column, operator, value in tests:
            if operator == "=" and column != "owner" and index == f"images_{column}":
                where.append(f"{_qualified(column)} = ?")
                values.append(value)
    where.append(f"{alias}.uuid NOT IN (SELECT uuid FROM overlay)")  # noqa: S608  # our own names
    for facet in facets:
        where.append(
            f"EXISTS (SELECT 1 FROM facets AS o WHERE o.facet = ? AND o.created_at = {alias}.created_at"  # noqa: S608  # our own names
            f" AND o.uuid = {alias}.uuid)"
        )
        values.append(facet)
    column = query.order[0][0]
    choices = ("", *FIELDS[column].choices) if column in _FEW and index == SORTS[column][1] else ()
    return _ordered(query, [_qualified(name, alias) for name, _ in query.order], table, where, values, choices)


def _driver(
    connection: apsw.Connection, query: Query, tests: list[tuple[str, str, Scalar]], facets: list[str]
) -> tuple[str | None, str]:
    """(the facet to drive by, or None; the index to walk, "" for SQLite's choice)."""
    equal = [(column, value) for column, operator, value in tests if operator == "=" and value is not None]
    ordered_by = SORTS[query.order[0][0]][1]
    if any(column in ("uuid", "integer") for column, _ in equal):
        return None, ""
    if query.deleted is not False:  # only live records have facets, and the other indexes leave tombstones out
        return None, ordered_by if ordered_by == "images_updated" else ""
    candidates: list[tuple[str | None, str, str, str]] = [
        (facet, "", "facets WHERE facet = ?", facet) for facet in facets
    ]
    for column, value in equal:
        if column in _DRIVING:
            expression = "owner" if column == "owner" else SORTS[column][0]
            source = f"images INDEXED BY images_{column} WHERE deleted = 0 AND {expression} = ?"
            candidates.append((None, f"images_{column}", source, str(value)))
    by_time = query.order in (NEWEST, OLDEST)
    if by_time and len(candidates) <= 1:
        return (candidates[0][0], candidates[0][1]) if candidates else (None, ordered_by)
    most = COUNT_MAX if by_time else SORT_MAX
    chosen: tuple[str | None, str] = (None, ordered_by)
    rows = most
    for facet, index, source, value in candidates:
        count: Any = connection.execute(f"SELECT count(*) FROM (SELECT 1 FROM {source} LIMIT ?)", (value, most)).get  # noqa: S608  # our own names
        if count < rows or (by_time and chosen == (None, ordered_by)):
            chosen, rows = (facet, index), count
    return chosen
