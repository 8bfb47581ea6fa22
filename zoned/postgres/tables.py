"""The tables for people who query with SQL, kept a moment behind the log.

The registry reads which records the next entries of the log are about, and writes these records as its own catalogue
has them by now. So a row is never older than `tables.position` says and may be newer. Whoever was deposed meanwhile
finds that position moved, and changes nothing.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import apsw
import orjson

from store import catalogue
from store.database import Database
from store.entries import Entry, EntryKind
from store.images import Image, is_uuid
from store.operations import Grant, OperationError, Retire, decode_write, subject
from zoned.postgres import ledger
from zoned.postgres.lanes import Lane
from zoned.postgres.ledger import Connection

ENTRIES_MAX = 500  # in one transaction
TIMEOUT_S = 30.0

_COLUMNS = (
    *("created_at", "updated_at", "owner", "name", "status", "visibility", "disk_format", "container_format"),
    *("size", "protected", "os_hidden"),
)
Ranges = Sequence[tuple[int, int, str, int, int]]


async def catch_up(database: Database, lane: Lane) -> bool:
    """The next entries; whether there may be more at once. Raises DatabaseAway."""
    applied = catalogue.replica(database.reader).position
    at, entries = await lane.run(partial(_next, applied=applied), TIMEOUT_S)
    if not entries:
        return False
    uuids, nodes = named(entries)
    images, ranges = await database.read(partial(_look_up, uuids, nodes))
    await lane.run(partial(_write, at=at, to=entries[-1].index, images=images, ranges=ranges), TIMEOUT_S)
    return True


def _next(connection: Connection, applied: int) -> tuple[int, list[Entry]]:
    with connection.transaction():
        row = connection.execute("SELECT position FROM tables WHERE one = 1").fetchone()
        at = row[0] if row is not None else 0
    return at, ledger.read(connection, at + 1, min(applied, at + ENTRIES_MAX) + 1)


def named(entries: Sequence[Entry]) -> tuple[list[str], list[str]]:
    """The images, and the nodes whose ranges, these entries are about."""
    uuids: dict[str, None] = {}
    nodes: dict[str, None] = {}
    for entry in entries:
        if entry.kind is not EntryKind.WRITE:
            continue
        try:
            write = decode_write(entry.data)
        except OperationError:
            continue
        operation = write.operation
        uuid: object = subject(operation)
        if isinstance(uuid, str) and is_uuid(uuid):
            uuids[uuid] = None
        if isinstance(operation, Grant | Retire):
            nodes[operation.node if isinstance(operation, Retire) else write.node] = None
    return list(uuids), list(nodes)


def _look_up(uuids: Sequence[str], nodes: Sequence[str], connection: apsw.Connection) -> tuple[list[Image], Ranges]:
    records = [record for uuid in uuids if (record := catalogue.committed(connection, uuid)) is not None]
    ranges: list[Any] = []
    for node in nodes:
        ranges += connection.execute(
            "SELECT start, stop, node, position, retired FROM ranges WHERE node = ?", (node,)
        ).fetchall()
    return [Image.decode(record) for record in records], ranges


def _write(connection: Connection, at: int, to: int, images: Sequence[Image], ranges: Ranges) -> None:
    with connection.transaction():
        moved = connection.execute("UPDATE tables SET position = %s WHERE one = 1 AND position = %s", (to, at))
        if moved.rowcount == 1:
            _put_images(connection, images)
            _put_ranges(connection, ranges)


def _put_images(connection: Connection, images: Sequence[Image]) -> None:
    uuids = [image.uuid for image in images]
    if not uuids:
        return
    for table in ("images", "properties", "tags", "image_members", "locations"):
        connection.execute(f"DELETE FROM {table} WHERE uuid = ANY(%s::uuid[])", (uuids,))  # noqa: S608  # our own names
    marks = ", ".join(["%s"] * (len(_COLUMNS) + 5))
    cursor = connection.cursor()
    cursor.executemany(
        f'INSERT INTO images (uuid, "integer", position, deleted_at, fields, {", ".join(_COLUMNS)}) VALUES ({marks})',  # noqa: S608  # our own names
        [_image(image) for image in images],
    )
    for table, rows in _children(images).items():
        if rows:
            marks = ", ".join(["%s"] * len(rows[0]))
            cursor.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)  # noqa: S608  # our own names


def _image(image: Image) -> tuple[Any, ...]:
    fields = orjson.dumps(dict(image.fields), option=orjson.OPT_SORT_KEYS).decode()
    columns = tuple(image.fields.get(name) for name in _COLUMNS)
    return (image.uuid, image.integer, image.position, image.deleted_at, fields, *columns)


def _children(images: Sequence[Image]) -> Mapping[str, list[tuple[Any, ...]]]:
    """The rows of the other tables, of records that live."""
    live = [image for image in images if image.deleted_at is None]
    return {
        "properties": [(one.uuid, name, value) for one in live for name, value in one.properties.items()],
        "tags": [(one.uuid, tag) for one in live for tag in one.tags],
        "image_members": [
            (one.uuid, project, member.status, member.can_share)
            for one in live
            for project, member in one.members.items()
        ],
        "locations": [
            (one.uuid, number, location.url, orjson.dumps(dict(location.metadata)).decode())
            for one in live
            for number, location in enumerate(one.locations)
        ],
    }


def _put_ranges(connection: Connection, ranges: Ranges) -> None:
    if ranges:
        connection.cursor().executemany(
            "INSERT INTO ranges VALUES (%s, %s, %s, %s, %s)"
            " ON CONFLICT (start) DO UPDATE SET retired = excluded.retired",
            ranges,
        )
