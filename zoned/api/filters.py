"""The query of `GET /v2/images` as a question to the catalogue. No I/O.

Every documented parameter, with Glance's rules; where Glance fails with 500 (`min_ram=abc`, `created_at_min=1`) this
refuses with 400. Whatever is no attribute is a free property, compared by value.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from starlette.datastructures import QueryParams

from store.images import FIELDS, INT64_MAX, MEMBER_STATUSES, VISIBILITIES, Scalar
from store.listing import Order, Query, Viewer
from zoned.api.answers import integer_of
from zoned.api.caller import Caller
from zoned.api.documents import NOT_PROPERTIES
from zoned.api.problems import Problem, bad

LIMIT_DEFAULT = 25
LIMIT_MAX = 1_000
CHOICES_MAX = 250  # values after one `in:`
FILTERS_MAX = 128  # conditions of one list
SORT_KEYS_MAX = 8
SORT_KEYS = ("name", "status", "container_format", "disk_format", "size", "id", "created_at", "updated_at")
_WITH_OPERATORS = ("name", "id", "status", "container_format", "disk_format")
_TIMES = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<=", "eq": "=", "neq": "!="}
_PAGING = ("limit", "marker", "sort", "sort_key", "sort_dir", "visibility", "member_status", "deleted", "consistent")
_NUMBERS = tuple(name for name, known in FIELDS.items() if known.kind is int)
_OPERATOR = re.compile(r"([a-z]+):(.*)", re.DOTALL)


def parse(asked: QueryParams, caller: Caller) -> Query:
    """Without the marker. Raises Problem for what cannot be answered."""
    check_count(asked)
    hidden = boolean("os_hidden", asked.get("os_hidden", "false").lower())
    tests: list[tuple[str, str, Scalar]] = []
    any_of: list[tuple[str, tuple[str, ...]]] = []
    properties: list[tuple[str, str]] = []
    for name, value in asked.multi_items():
        if name in _PAGING or name in ("os_hidden", "tag"):
            continue
        if name in _WITH_OPERATORS:
            _choose(name, value, tests, any_of)
        elif (column := _attribute(name)) is not None:
            tests.append(_compare(name, column, value))
        elif name in NOT_PROPERTIES or name == "changes-since" or not name:
            raise bad(f"images cannot be listed by {name[:80]!r}", "bad-query")
        else:
            properties.append((name, value))
    visibility = asked.get("visibility")
    if visibility not in (None, "all", *VISIBILITIES):
        raise bad(f"Invalid visibility value: {str(visibility)[:40]}", "bad-query")
    return Query(
        limit=integer_of(asked, "limit", LIMIT_DEFAULT, 0, LIMIT_MAX),
        order=order(asked.get("sort"), asked.getlist("sort_key"), asked.getlist("sort_dir")),
        hidden=hidden,
        visibility=visibility,
        viewer=viewer(caller, asked.get("member_status", "accepted")),
        tests=tuple(tests),
        any_of=tuple(any_of),
        tags=tuple(sorted(set(asked.getlist("tag")))),
        properties=tuple(sorted(set(properties))),
    )


def check_count(asked: QueryParams) -> None:
    """Raises Problem for more conditions than a question to the catalogue may have."""
    if len(asked.multi_items()) > FILTERS_MAX:
        raise bad(f"a list has at most {FILTERS_MAX} conditions", "bad-query")


def viewer(caller: Caller, member_status: str) -> Viewer | None:
    """Raises Problem for a status that no image member has."""
    if member_status not in ("all", *MEMBER_STATUSES):
        raise bad(f"Invalid status: {member_status[:40]}; known are all, {', '.join(MEMBER_STATUSES)}", "bad-query")
    statuses = MEMBER_STATUSES if member_status == "all" else (member_status,)
    return None if caller.sees_everything else Viewer(caller.project, statuses)


def order(sort: str | None, keys: Sequence[str], directions: Sequence[str]) -> Order:
    """The order of a list: the keys asked for, then time of creation and ID. Raises Problem."""
    default = True
    if sort is not None:
        if keys or directions:
            raise bad("Old and new sorting syntax cannot be combined", "bad-query")
        pairs = [_pair(one) for one in sort.split(",")]
        default = pairs[0][1] if len(pairs) == 1 else True  # one direction is that of everything, in Glance
    elif len(directions) > 1 and len(directions) != len(keys):
        raise bad("Number of sort dirs does not match the number of sort keys", "bad-query")
    else:
        default = _descending(directions[0]) if len(directions) == 1 else True
        down = [_descending(one) for one in directions] if len(directions) > 1 else [default] * len(keys)
        pairs = list(zip(map(_sort_column, keys), down, strict=True))
    if len(pairs) > SORT_KEYS_MAX:
        raise bad(f"at most {SORT_KEYS_MAX} sort keys", "bad-query")
    found: dict[str, bool] = {}
    for column, descending in [*pairs, ("created_at", default), ("uuid", default)]:
        found.setdefault(column, descending)
    named = list(found.items())
    # The ID is different for every record: what comes behind it orders nothing.
    return tuple(named[: [column for column, _ in named].index("uuid") + 1])


def _pair(text: str) -> tuple[str, bool]:
    key, _, direction = text.strip().partition(":")
    return _sort_column(key), _descending(direction or "desc")


def _sort_column(key: str) -> str:
    if key not in SORT_KEYS:
        raise bad(
            f"Invalid sort key: {key[:40]}. It must be one of the following: {', '.join(SORT_KEYS)}.", "bad-query"
        )
    return "uuid" if key == "id" else key


def _descending(direction: str) -> bool:
    if direction not in ("asc", "desc"):
        raise bad(f"Invalid sort direction: {direction[:40]}. It must be asc or desc.", "bad-query")
    return direction == "desc"


def _attribute(name: str) -> str | None:
    """The column that a parameter compares with, None when it is no attribute."""
    if name in FIELDS:
        return name
    if name == "zoned_id":
        return "integer"
    base = name.removesuffix("_min") if name.endswith("_min") else name.removesuffix("_max")
    return base if base != name and base in FIELDS else None


def _compare(name: str, column: str, value: str) -> tuple[str, str, Scalar]:
    if name != column and name != "zoned_id":
        if column not in _NUMBERS:
            raise bad(f"{column} is no number: {name} means nothing", "bad-query")
        return column, ">=" if name.endswith("_min") else "<=", number(name, value)
    if name in ("created_at", "updated_at"):
        operator, text = _split(value)
        if operator is not None and operator not in _TIMES:
            raise bad(f"Unable to filter by time with the operator {operator[:20]}.", "bad-query")
        return column, _TIMES[operator or "eq"], time(name, text)
    if column in _NUMBERS or name == "zoned_id":
        return column, "=", number(name, value)
    if column == "protected":
        return column, "=", boolean(name, value)
    return column, "=", value


def time(name: str, text: str) -> str:
    """An ISO 8601 time, as records have it. Raises Problem."""
    try:
        parsed = datetime.fromisoformat(text)
        parsed = parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        raise bad(f"{name} must be a time as 2026-11-22T09:00:00Z, is {text[:40]!r}", "bad-query") from None
    return f"{parsed.year:04}" + parsed.strftime("-%m-%dT%H:%M:%SZ")


def number(name: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > 19 or int(value) > INT64_MAX:
        raise bad(f"{name} must be a whole number, is {value[:40]!r}", "bad-query")
    return int(value)


def boolean(name: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise bad(f"{name} must be true or false, is {value[:40]!r}", "bad-query")
    return value == "true"


def _split(value: str) -> tuple[str | None, str]:
    """An operator and what it is about; without one, the whole value."""
    found = _OPERATOR.fullmatch(value)
    return (found[1], found[2]) if found else (None, value)


def _choose(
    name: str, value: str, tests: list[tuple[str, str, Scalar]], any_of: list[tuple[str, tuple[str, ...]]]
) -> None:
    """An attribute that may be asked for with `in:` and `eq:`."""
    column = "uuid" if name == "id" else name
    operator, text = _split(value)
    if operator == "in":
        choices = tuple(sorted({one.lower() if name == "id" else one for one in _items(text)}))
        any_of.append((column, choices))
    elif operator in (None, "eq"):
        text = _unquoted(text) if operator else text
        tests.append((column, "=", text.lower() if name == "id" else text))
    else:
        raise bad(f"Unable to filter by unknown operator '{operator[:40]}'.", "bad-query")


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return text[1:-1].replace('\\"', '"')
    return text


_ITEM = re.compile(r'"((?:[^"\\]|\\.)*)"|([^",]*)')


def _items(text: str) -> list[str]:
    """The values of `in:a,b,"c,d"`. Raises Problem for quotes that do not match."""
    found, at = [], 0
    while True:
        match = _ITEM.match(text, at)
        assert match is not None
        quoted, plain = match.groups()
        found.append(quoted.replace('\\"', '"') if quoted is not None else plain)
        at = match.end()
        if at == len(text):
            break
        if text[at] != ",":
            raise bad("Invalid filter value: the quotes do not match.", "bad-query")
        at += 1
    if len(found) > CHOICES_MAX:
        raise Problem(400, "bad-query", f"at most {CHOICES_MAX} values after one in:")
    return found
