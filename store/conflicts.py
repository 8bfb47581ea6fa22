"""The ledger of what lost: values that concurrent writes did not get into the catalogue, and writes that were dropped.

Filled when the log is applied, so it is the same on every node. A person resolves an entry by an ordinary update that
names it: `ours` keeps what the catalogue has, `theirs` takes what the losing write wanted, `value` takes neither.
Plain functions of a connection.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import apsw
import orjson

from store.aliases import Alias
from store.images import Image
from store.operations import (
    Change,
    Create,
    Drop,
    MemberChange,
    Outcome,
    Point,
    State,
    Update,
    Write,
    decode,
    origin_of,
    subject,
)

PROPERTY, MEMBER, ALIAS = "properties/", "members/", "aliases/"
RESOLVED_MAX = 10_000  # settled entries that are kept; open ones all are


@dataclass(frozen=True, slots=True)
class Conflict:
    """One entry. `what`: a field, `properties/NAME`, `members/PROJECT`, `aliases/NAME/ZONE`, or
    `write` for a whole one that was dropped.

    `node`, `zone`, `by` and `at` are of the write that lost; `committed_write` is the one that the catalogue had kept.
    `take` is None while the entry is open.
    """

    number: int
    position: int
    at: str
    uuid: str | None
    what: str
    committed: Any
    committed_write: str
    wanted: Any
    node: str
    sequence: int
    zone: str
    by: str
    take: str | None
    resolved_at: str | None
    resolved_by: str | None
    resolved_zone: str | None
    resolved_write: str | None
    resolved_position: int | None
    note: str


_COLUMNS = ", ".join(item.name for item in fields(Conflict))


def _conflict(row: Any) -> Conflict:
    named = dict(zip((item.name for item in fields(Conflict)), row, strict=True))
    return Conflict(**{**named, "committed": orjson.loads(named["committed"]), "wanted": orjson.loads(named["wanted"])})


def keep(
    connection: apsw.Connection, write: Write, met: tuple[str | None, str], outcome: Outcome, position: int
) -> None:
    """Enters what `write` did not get. `met` is what it met: an image, and the last write to it or to its alias."""
    operation, (uuid, committed_write) = write.operation, met
    assert isinstance(operation, Create | Update | Point), "only these have something to lose"
    for what, kept, wanted in outcome.lost:
        _enter(connection, write, (position, operation.at, uuid, what), (kept, committed_write, wanted))


def keep_dropped(connection: apsw.Connection, write: Write, operation: Drop, position: int) -> None:
    """Enters a whole write that its node's operator took out; nobody has to resolve it any more."""
    entry = decode(operation.entry)
    wanted = {"kind": type(entry).__name__.lower(), **_readable(entry)}
    number = _enter(connection, write, (position, operation.at, operation.uuid, "write"), (None, "", wanted))
    _settle(connection, number, ("dropped", operation.at, operation.reason), write, position)


def _readable(entry: Any) -> dict[str, Any]:
    """What a dropped write asked for, for people; digests and the like are left out."""
    named = {item.name: getattr(entry, item.name) for item in fields(entry) if item.name not in ("origin", "entry")}
    if isinstance(entry, Create | Update):
        named = {name: value for name, value in named.items() if value not in ((), {}, None)}
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in named.items()}


def _enter(connection: apsw.Connection, write: Write, where: tuple[Any, ...], values: tuple[Any, str, Any]) -> int:
    origin = origin_of(write.operation)
    committed, committed_write, wanted = values
    connection.execute(
        "INSERT INTO conflicts (position, at, uuid, what, committed, committed_write, wanted, node, sequence, zone, by)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *where,
            *(orjson.dumps(committed).decode(), committed_write, orjson.dumps(wanted).decode()),
            *(write.node, write.sequence, origin.zone if origin else "", origin.by if origin else ""),
        ),
    )
    return connection.last_insert_rowid()


def refusal(connection: apsw.Connection, operation: Update | Point) -> Outcome | None:
    """Why a write that resolves an entry cannot be done, or None."""
    found, uuid = get(connection, operation.resolves), subject(operation)
    if found is None or not _is_about(found, operation):
        named = f"alias {operation.alias}" if isinstance(operation, Point) else f"image {uuid}"
        return Outcome(State.REFUSED, "not-found", f"{named} has no conflict {operation.resolves}", uuid)
    if found.take is not None:
        detail = f"conflict {found.number} was resolved by {found.resolved_by} at {found.resolved_at}: {found.take}"
        return Outcome(State.REFUSED, "resolved", detail, uuid)
    return None


def _is_about(found: Conflict, operation: Update | Point) -> bool:
    if isinstance(operation, Point):
        return found.what.startswith(f"{ALIAS}{operation.alias}/")
    return found.uuid == operation.uuid and not found.what.startswith(ALIAS)


def resolve(connection: apsw.Connection, write: Write, operation: Update | Point, position: int) -> None:
    """Closes the entry that the write names, now that it is applied at `position`."""
    _settle(connection, operation.resolves, (operation.take, operation.at, ""), write, position)


def _settle(connection: apsw.Connection, number: int, how: tuple[str, str, str], write: Write, position: int) -> None:
    """`how`: whose value was taken, when, why. Of what was settled the latest RESOLVED_MAX are kept."""
    origin, (take, at, note) = origin_of(write.operation), how
    connection.execute(
        "UPDATE conflicts SET take = ?, resolved_at = ?, resolved_by = ?, resolved_zone = ?, resolved_write = ?,"
        " resolved_position = ?, note = ? WHERE number = ?",
        (take, at, origin.by if origin else "", origin.zone if origin else "", write.id, position, note, number),
    )
    connection.execute(
        "DELETE FROM conflicts WHERE resolved_position <= (SELECT resolved_position FROM conflicts"
        " WHERE resolved_position IS NOT NULL ORDER BY resolved_position DESC LIMIT 1 OFFSET ?)",
        (RESOLVED_MAX,),
    )


def get(connection: apsw.Connection, number: int) -> Conflict | None:
    row = connection.execute(f"SELECT {_COLUMNS} FROM conflicts WHERE number = ?", (number,)).fetchone()  # noqa: S608  # our own names
    return _conflict(row) if row is not None else None


def newest(connection: apsw.Connection, limit: int, only_open: bool, before: int) -> list[Conflict]:
    """The newest `limit` entries with a number below `before`, newest first."""
    still = " AND take IS NULL" if only_open else ""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM conflicts WHERE number < ?{still} ORDER BY number DESC LIMIT ?",  # noqa: S608  # our own names
        (before, limit),
    )
    return [_conflict(row) for row in rows]


def count_open(connection: apsw.Connection) -> int:
    found: int = connection.execute("SELECT count(*) FROM conflicts WHERE take IS NULL").get
    return found


def resolving(found: Conflict, image: Image, at: str, take: str, value: Any) -> Update:
    """The update that resolves an open entry on the record as it is now. `value` counts for `take="value"` only."""
    update = Update(image.uuid, at, resolves=found.number, take=take)
    if take == "ours":
        return update
    wanted = found.wanted if take == "theirs" else value
    kind, name = field_of(found.what)
    if kind == MEMBER:
        member = image.members.get(name)
        change: MemberChange = (
            (member.status, member.can_share) if member is not None else None,
            (wanted[0], wanted[1]) if wanted is not None else None,
        )
        return Update(image.uuid, at, members={name: change}, resolves=found.number, take=take)
    current = image.properties.get(name) if kind == PROPERTY else image.fields[name]
    changes: dict[str, Change] = {name: (current, wanted)} if current != wanted else {}
    if kind == PROPERTY:
        return Update(image.uuid, at, properties=changes, resolves=found.number, take=take)
    return Update(image.uuid, at, fields=changes, resolves=found.number, take=take)


def resolving_alias(found: Conflict, alias: Alias | None, at: str, take: str, value: Any) -> Point:
    """The same for an alias as it is now."""
    name, _, zone = field_of(found.what)[1].partition("/")
    point = Point(name, at, {}, resolves=found.number, take=take)
    if take == "ours":
        return point
    wanted = found.wanted if take == "theirs" else value
    current = alias.targets.get(zone) if alias is not None else None
    return replace(point, targets={zone: (current, wanted)}) if current != wanted else point


def field_of(what: str) -> tuple[str, str]:
    """(`properties/`, `members/`, `aliases/` or nothing, the name) of what an entry is about."""
    for kind in (PROPERTY, MEMBER, ALIAS):
        if what.startswith(kind):
            return kind, what.removeprefix(kind)
    return "", what
