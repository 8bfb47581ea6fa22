"""Who changed what of a record, and when. Plain functions of a connection.

A record that was never changed has no rows here: it says itself who made it. With its first change a row for its making
is added, and one for each change; of each record the newest are kept. Written where the log is applied, from the record
before and after, so every node has the same rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import apsw
import orjson

from store import presence
from store.images import Image, uuid_bytes
from store.operations import Assign, Delete, ImageOperation
from store.packing import pack, unpack

ENTRIES_MAX = 64  # kept of one record
TEXT_CHARS_MAX = 200  # of a value; longer ones are shown by their beginning
ENTRY_BYTES_MAX = 8_192  # of one change; above, the names are kept without values
NAMES_MAX, NAME_CHARS_MAX = 64, 100  # then


@dataclass(frozen=True, slots=True)
class Change:
    """One write's effect on a record. `kind`: created, updated, deleted or numbered; `by`: (actor, request ID).

    `changed` has (before, after) by what was changed: an attribute, `properties/NAME`, `tags/TAG`, `locations/URL`,
    `members/PROJECT`, `presence/ZONE`. None: not there.
    """

    position: int
    kind: str
    at: str | None
    write: str
    by: tuple[str, str]
    changed: Mapping[str, tuple[Any, Any]]


def keep(connection: apsw.Connection, before: Image | None, after: Image, operation: ImageOperation) -> None:
    """Notes the change from `before` to `after`. A presence that is only seen again is no change."""
    if before is None:
        return
    changed = differences(before, after)
    if not changed and before.presence != after.presence:
        return
    uuid = uuid_bytes(after.uuid)
    has_rows: Any = connection.execute("SELECT EXISTS (SELECT 1 FROM history WHERE uuid = ?)", (uuid,)).get
    if not has_rows:
        _insert(connection, uuid, made(before))
    kind, at = "updated", None
    if isinstance(operation, Delete):
        kind = "deleted"
    elif isinstance(operation, Assign):
        kind = "numbered"
    if not isinstance(operation, Assign):
        at = operation.at
    _insert(connection, uuid, Change(after.position, kind, at, after.write, after.by, changed))
    connection.execute(
        "DELETE FROM history WHERE uuid = ?1 AND position <="
        " (SELECT position FROM history WHERE uuid = ?1 ORDER BY position DESC LIMIT 1 OFFSET ?2)",
        (uuid, ENTRIES_MAX),
    )


def made(image: Image) -> Change:
    """The making of a record that was never changed."""
    return Change(image.position, "created", str(image.fields["created_at"]), image.write, image.by, {})


def _insert(connection: apsw.Connection, uuid: bytes, change: Change) -> None:
    entry = _encode(change, change.changed)
    if len(entry) > ENTRY_BYTES_MAX:
        entry = _encode(
            change, dict.fromkeys([name[:NAME_CHARS_MAX] for name in sorted(change.changed)[:NAMES_MAX]], (None, None))
        )
    connection.execute("INSERT INTO history VALUES (?, ?, ?)", (uuid, change.position, pack(entry)))


def _encode(change: Change, changed: Mapping[str, tuple[Any, Any]]) -> bytes:
    values = [change.kind, change.at, change.write, change.by, changed]
    return orjson.dumps(values, option=orjson.OPT_SORT_KEYS)


def read(connection: apsw.Connection, image: Image) -> list[Change]:
    """The changes of a record that are kept, the newest first."""
    rows = connection.execute(
        "SELECT position, entry FROM history WHERE uuid = ? ORDER BY position DESC", (uuid_bytes(image.uuid),)
    )
    return [_decode(*row) for row in rows] or [made(image)]


def at(connection: apsw.Connection, uuid: str, position: int) -> Change | None:
    """What the write at `position` changed of a record; None when it changed nothing, or that is no longer kept."""
    entry: bytes | None = connection.execute(
        "SELECT entry FROM history WHERE uuid = ? AND position = ?", (uuid_bytes(uuid), position)
    ).get
    return _decode(position, entry) if entry is not None else None


def _decode(position: int, entry: bytes) -> Change:
    kind, at, write, by, changed = orjson.loads(unpack(entry))
    return Change(position, kind, at, write, tuple(by), {what: tuple(pair) for what, pair in changed.items()})


def differences(before: Image, after: Image) -> dict[str, tuple[Any, Any]]:
    """What is not the same, but for the time of the change and the times of presence."""
    sides = [_flat(image) for image in (before, after)]
    return {
        what: (_short(sides[0].get(what)), _short(sides[1].get(what)))
        for what in sorted(sides[0].keys() | sides[1].keys())
        if sides[0].get(what) != sides[1].get(what)
    }


def _flat(image: Image) -> dict[str, Any]:
    """A record as one level of names."""
    return {
        **{name: value for name, value in image.fields.items() if name != "updated_at"},
        "integer": image.integer,
        "deleted_at": image.deleted_at,
        "successor": image.successor,
        **{f"properties/{name}": value for name, value in image.properties.items()},
        **{f"tags/{tag}": True for tag in image.tags},
        **{f"locations/{one.url}": dict(one.metadata) for one in image.locations},
        **{f"members/{project}": one.status for project, one in image.members.items()},
        **{f"presence/{zone}": presence.kinds(said) for zone, said in image.presence.items()},
    }


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > TEXT_CHARS_MAX:
        return f"{value[:TEXT_CHARS_MAX]}... ({len(value)} characters)"
    return value
