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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import apsw

from store.catalogue import Found, Source, any_overlay, overlay_source, stored
from store.errors import TooBroad
from store.facets import BY_VALUE, OPEN_VISIBILITIES, Facet, facets, number
from store.images import FIELDS, Image, Scalar
from store.packing import unpack

PAGE_BYTES_MAX = 8_388_608  # of records in one page; a page ends early rather than be larger
QUICK_LIMIT = 100  # a page of at most so many records ...
QUICK_BYTES = 262_144  # ... and bytes, and ...
QUICK_STEPS = 60_000  # ... of so little work costs less than handing it to a thread
SORT_MAX = 20_000  # so many rows are sorted for a page; above, the index of the order is walked instead
FEW_ROWS = 64  # of a condition: no other one is looked at then
COUNT_MAX = 1_000  # of candidates to drive a scan, the one with fewest rows is taken, counted so far
LOOKED_INSIDE_MAX = 50_000  # records unpacked for a condition that no column answers; about a second
STEPS_MAX = 100_000_000  # of SQLite's machine for one page, about two seconds
_STEPS_TOLD = 100_000  # how often the count is looked at

BROAD = "this question reads too much of the catalogue; narrow it by an owner, a name, a tag or a property"

Order = tuple[tuple[str, bool], ...]  # (column, descending)
NEWEST: Order = (("created_at", True), ("uuid", True))
OLDEST: Order = (("created_at", False), ("uuid", False))
Test = tuple[str, str, Scalar]  # (column, operator, value)
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
_DRIVING = ("name", *_FEW)  # equality on these has an index
_NO_COLUMN = frozenset(BY_VALUE) - {"owner"}  # equality on these is by facet only


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
    tests: tuple[Test, ...] = ()
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
    """At most `query.limit` records, unapplied writes included. Raises TooBroad, and Damaged."""
    with _bounded(connection, STEPS_MAX, _STEPS_TOLD):
        return _page(connection, query, PAGE_BYTES_MAX)


def _page(connection: apsw.Connection, query: Query, bytes_max: int) -> Page:
    assert query.order[-1][0] == "uuid"
    query = _as_stored(query)
    found: list[Found] = []
    size = 0
    streams = [_stream(connection, source, parts) for source, parts in _statements(connection, query)]
    merged = streams[0] if len(streams) == 1 else heapq.merge(*streams, key=_comparison(query.order))
    for row in merged:
        one = _found(connection, *row[-3:])
        size += len(one.record)
        if len(found) == query.limit or (found and size > bytes_max):
            return Page(found, more=True)
        found.append(one)
    return Page(found, more=False)


def quick_page(connection: apsw.Connection, query: Query) -> Page | None:
    """As `page`, when that is little work: about a millisecond at most. None when it would be more."""
    if query.limit > QUICK_LIMIT:
        return None
    try:
        with _bounded(connection, QUICK_STEPS, QUICK_STEPS // 6):
            found = _page(connection, query, QUICK_BYTES)
    except TooBroad:
        return None
    return None if found.more and len(found.found) < query.limit else found


def _found(connection: apsw.Connection, record: bytes | None, key: int, source: Source) -> Found:
    if record is not None:
        return Found(unpack(record), source)
    if source is Source.LOCAL:
        return Found(unpack(connection.execute("SELECT record FROM images WHERE key = ?", (key,)).get), source)
    row: Any = connection.execute("SELECT record, provisional FROM overlay WHERE key = ?", (key,)).fetchone()
    return Found(unpack(row[0]), overlay_source(row[1]))


def _as_stored(query: Query) -> Query:
    """With values as columns have them."""
    after = query.after
    return replace(
        query,
        after=tuple(stored(column, value) for (column, _), value in zip(query.order, after, strict=True))
        if after is not None
        else None,
        tests=tuple((column, operator, stored(column, value)) for column, operator, value in query.tests),
        any_of=tuple((column, tuple(stored(column, value) for value in values)) for column, values in query.any_of),
    )


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
        raise TooBroad(BROAD) from None
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

    tests: list[Test]
    facets: list[Facet]


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
                    [Facet("member", status, viewer.project)],
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
        return _Branch([("visibility", "=", visibility)], [Facet("visibility", "", visibility)])
    return _Branch([("visibility", "=", visibility)], [])


Statement = tuple[str, tuple[Any, ...]]


def _statements(connection: apsw.Connection, query: Query) -> Iterator[tuple[Source, list[Statement]]]:
    asked = [Facet("tag", "", tag) for tag in query.tags]
    asked += [Facet("property", name, value) for name, value in query.properties]
    asked += _by_value(query.tests)
    branches, drivers = _branches(query), _Drivers(connection, query)
    if not branches:
        return
    each = [([*branch.tests, *query.tests], [*branch.facets, *asked, *_by_value(branch.tests)]) for branch in branches]
    whole = _Branch(list(query.tests), [])
    if len(branches) > 1 and drivers.is_few(query.tests, asked):
        yield Source.LOCAL, _catalogue_statements(drivers, query, whole, asked, branches)
    else:
        for tests, wanted in each:
            yield Source.LOCAL, _catalogue_statements(drivers, query, _Branch(tests, []), wanted, ())
    if drivers.any_overlay:
        for tests, wanted in each:
            yield Source.JOURNAL, _overlay_statements(query, tests, wanted)


def _by_value(tests: Iterable[Test]) -> list[Facet]:
    equal = ((column, value) for column, operator, value in tests if operator == "=" and value)
    return [Facet(column, "", str(value)) for column, value in equal if column in BY_VALUE]


def _common(query: Query, tests: Sequence[Test]) -> tuple[list[str], list[Any]]:
    """Conditions on columns that both tables have."""
    where, values = _tested(tests)
    if query.deleted is not None:
        where.append(f"i.deleted = {int(query.deleted)}")
    if query.hidden is not None:
        where.append(f"i.os_hidden = {int(query.hidden)}")
    for column, choices in query.any_of:
        assert column in COLUMNS
        where.append(f"i.{column} IN ({', '.join('?' * len(choices))})")
        values += choices
    return where, values


def _tested(tests: Iterable[Test]) -> tuple[list[str], list[Any]]:
    where: list[str] = []
    values: list[Any] = []
    for column, operator, value in tests:
        assert column in COLUMNS
        assert operator in OPERATORS or operator == "IS NOT"
        if column in _NO_COLUMN:
            assert operator == "="
            where.append("1" if value else "0")  # its facet tells; nothing is not equal to anything
            continue
        where.append(f"i.{column} {operator} ?")
        values.append(value)
    return where, values


Holding = Callable[[Facet], tuple[str, Any]]  # the condition that a row has a facet, and its value


def _any_branch(branches: Sequence[_Branch], holding: Holding, where: list[str], values: list[Any]) -> None:
    """The condition that a row is in one of them."""
    alternatives = []
    for branch in branches:
        conditions, more = _tested(branch.tests)
        for facet in branch.facets:
            if facet.kind == "member":  # a test says the same as the others
                condition, value = holding(facet)
                conditions.append(condition)
                more.append(value)
        alternatives.append(" AND ".join(conditions) or "1")
        values += more
    if alternatives:
        where.append(f"({' OR '.join(f'({one})' for one in alternatives)})")


class _Inside:
    """Whether a packed record has all of some facets; for rows that `facets` does not list."""

    def __init__(self, wanted: Iterable[Facet]) -> None:
        self._wanted = set(wanted)
        self._left = LOOKED_INSIDE_MAX

    def __call__(self, record: bytes) -> bool:
        self._left -= 1
        if self._left < 0:
            raise TooBroad(BROAD)
        return self._wanted <= facets(Image.decode(unpack(record)))


def prepare(connection: apsw.Connection) -> None:
    """Lets lists be asked of a connection: `holds(record, test)` is what `test`, a function, says of the record."""
    connection.create_scalar_function("holds", _holds, 2)


def _holds(*arguments: Any) -> bool:
    record, test = arguments
    return bool(test(record))


def _look_inside(wanted: Sequence[Facet], where: list[str], values: list[Any]) -> None:
    """The conditions of facets, asked of the record itself: rows of the overlay and tombstones are not in `facets`."""
    if wanted:
        where.append("holds(i.record, ?)")
        values.append(apsw.pyobject(_Inside(wanted)))


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
    query: Query,
    alias: str,
    table: str,
    where: list[str],
    values: list[Any],
    choices: Sequence[str] = (),
    record: str = "NULL",
) -> list[Statement]:
    """What to ask of `table`; times of creation, UUIDs and keys are taken from `alias`."""
    expressions = [_qualified(column, alias) for column, _ in query.order]
    ways = [f"{e} {'DESC' if down else 'ASC'}" for e, (_, down) in zip(expressions, query.order, strict=True)]
    return [
        (
            f"SELECT {', '.join(expressions)}, {record}, {alias}.key FROM {table}"  # noqa: S608  # our own names
            f" WHERE {' AND '.join([*where, condition])}"
            f" ORDER BY {', '.join(ways[fixed:])} LIMIT ?",
            (*values, *more, query.limit + 1),  # one more tells whether others follow
        )
        for condition, more, fixed in _parts(query, expressions, choices)
    ]


def _qualified(column: str, facets: str = "i") -> str:
    expression = SORTS[column][0]
    alias = facets if column in ("created_at", "uuid") else "i"
    return expression.replace(column, f"{alias}.{column}")


def _overlay_statements(query: Query, tests: list[Test], wanted: list[Facet]) -> list[Statement]:
    where, values = _common(query, tests)
    table = "overlay AS i"
    if any(facet.kind in ("member", "visibility") for facet in wanted):
        table += " INDEXED BY overlay_open"
        where.append("i.open = 1")
    # Of owner and visibility there are conditions on columns already.
    _look_inside([facet for facet in wanted if facet.kind not in ("owner", "visibility")], where, values)
    return _ordered(query, "i", table, where, values)


def _catalogue_statements(
    drivers: "_Drivers", query: Query, branch: _Branch, wanted: list[Facet], among: Sequence[_Branch]
) -> list[Statement]:
    """What to ask for the rows of a branch that have the facets `wanted`, and are in one of the branches `among`."""
    where, values = _common(query, branch.tests)
    if query.deleted is not False:
        _look_inside(wanted, where, values)
        wanted = []
    driver = drivers.choose(branch.tests, wanted)
    if driver.is_empty:
        return []
    by_facet, index = driver.facet, driver.index
    if by_facet is not None:
        where.append("f.facet = ?")
        values.append(number(by_facet))
        wanted = [facet for facet in wanted if facet != by_facet]
        table, alias = "facets AS f CROSS JOIN images AS i ON i.key = f.key", "f"
    else:
        table, alias = f"images AS i{f' INDEXED BY {index}' if index else ''}", "i"
        for column, operator, value in branch.tests:
            if operator == "=" and index == f"images_{column}":
                where.append(f"{_qualified(column)} = ?")
                values.append(value)
    if drivers.any_overlay:
        where.append(f"{alias}.uuid NOT IN (SELECT uuid FROM overlay)")  # noqa: S608  # our own names

    def holding(facet: Facet) -> tuple[str, Any]:
        found = f"SELECT 1 FROM facets AS o WHERE o.facet = ? AND o.created_at = {alias}.created_at"  # noqa: S608  # our own names
        return f"EXISTS ({found} AND o.uuid = {alias}.uuid)", number(facet)

    for facet in wanted:
        condition, value = holding(facet)
        where.append(condition)
        values.append(value)
    _any_branch(among, holding, where, values)
    column = query.order[0][0]
    choices = ("", *FIELDS[column].choices) if column in _FEW and index == SORTS[column][1] else ()
    # Rows that come in order are read one by one, and so may bring their records along; what is sorted should be small.
    record = "i.record" if query.order in (NEWEST, OLDEST) and (by_facet is not None or index) else "NULL"
    return _ordered(query, alias, table, where, values, choices, record)


@dataclass(frozen=True, slots=True)
class _Driver:
    """What finds the rows of a branch: a facet, or an index ("" for SQLite's choice); and whether it finds none."""

    facet: Facet | None
    index: str
    is_empty: bool = False


class _Drivers:
    """Chooses drivers by counting what candidates have, each one once for all branches."""

    def __init__(self, connection: apsw.Connection, query: Query) -> None:
        self.any_overlay = any_overlay(connection)
        self._connection = connection
        self._query = query
        self._by_time = query.order in (NEWEST, OLDEST)
        self._most = COUNT_MAX if self._by_time else SORT_MAX
        self._counts: dict[tuple[str, Any], int] = {}

    def is_few(self, tests: Sequence[Test], wanted: list[Facet]) -> bool:
        """Whether a condition that all branches share leaves so few rows that telling the branches apart is dearer."""
        if self._query.deleted is not False or any(test[0] in ("uuid", "integer") for test in tests):
            return False
        return any(self._count(one, FEW_ROWS) < FEW_ROWS for one in self._candidates(tests, wanted))

    def choose(self, tests: Sequence[Test], wanted: list[Facet]) -> _Driver:
        ordered_by = SORTS[self._query.order[0][0]][1]
        if any(operator == "=" and column in ("uuid", "integer") for column, operator, _ in tests):
            return _Driver(None, "")
        if self._query.deleted is not False:  # only live records have facets; most indexes leave tombstones out
            return _Driver(None, ordered_by if ordered_by == "images_updated" else "")
        candidates = self._candidates(tests, wanted)
        if self._by_time and len(candidates) <= 1:
            return _Driver(*candidates[0][:2]) if candidates else _Driver(None, ordered_by)
        default = chosen = _Driver(None, ordered_by)
        rows = self._most
        for candidate in candidates:
            count = self._count(candidate, rows)
            if count < rows or (self._by_time and chosen is default):
                chosen, rows = _Driver(*candidate[:2], count == 0 < rows), count
            if rows < FEW_ROWS:
                break
        return chosen

    def _candidates(self, tests: Sequence[Test], wanted: list[Facet]) -> list[tuple[Facet | None, str, str, Any]]:
        """(facet, index, what to count, its value), the likely narrowest first."""
        found: list[tuple[Facet | None, str, str, Any]] = []
        for column, operator, value in tests:
            if column in _DRIVING and operator == "=" and value is not None:
                source = f"images INDEXED BY images_{column} WHERE deleted = 0 AND {SORTS[column][0]} = ?"
                found.append((None, f"images_{column}", source, value))
        found.sort(key=lambda one: one[1] != "images_name")
        facets = [(facet, "", "facets WHERE facet = ?", number(facet)) for facet in wanted]
        return [*facets, *found] if not found or found[0][1] != "images_name" else [*found, *facets]

    def _count(self, candidate: tuple[Facet | None, str, str, Any], most: int) -> int:
        """How many rows it has, up to `most`."""
        _, _, source, value = candidate
        known = self._counts.get((source, value))
        if known is None:
            sql = f"SELECT count(*) FROM (SELECT 1 FROM {source} LIMIT ?)"  # noqa: S608  # our own names
            known = self._connection.execute(sql, (value, most)).get
            assert isinstance(known, int)
            if known < most or most == self._most:  # else there may be more
                self._counts[source, value] = known
        return min(known, most)
