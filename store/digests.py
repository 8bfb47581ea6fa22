"""What a store holds besides the records, counted when somebody asks. Plain functions of a connection.

The running hash of the catalogue is of images and aliases, and the audit's chain of every outcome; both cost little and
are compared all the time. Here the rest is counted: whole tables, which are the same on every node at one position, and
what stands beside each record for lists to find it by. It takes about a minute for a million records, in a thread.
"""

import hashlib
from collections.abc import Iterator

import apsw
import msgpack

from store import catalogue
from store.errors import Damaged
from store.images import Image, uuid_text
from store.packing import unpack

TABLES = ("aliases", "history", "numbers", "ranges", "marks", "ahead", "conflicts", "idempotency")
_MODULUS = 1 << 256


def tables(connection: apsw.Connection) -> dict[str, bytes]:
    """Per table a hash of its rows, in whatever order they are read."""
    return {table: _table(connection, table) for table in TABLES}


def _table(connection: apsw.Connection, table: str) -> bytes:
    total = 0
    for row in connection.execute(f"SELECT * FROM {table}"):  # noqa: S608  # our own names
        total += int.from_bytes(hashlib.sha256(msgpack.packb(row)).digest())
    return (total % _MODULUS).to_bytes(32)


def unfit(connection: apsw.Connection, limit: int) -> list[str]:
    """UUIDs of records that lists would not find, or find wrongly: at most `limit`, and "facets" when there are rows
    in that table that belong to no record.
    """
    found: list[str] = []
    postings = 0
    for uuid, values, record in _rows(connection):
        try:
            image = Image.decode(unpack(record))
        except Damaged:
            image = None
        wanted = catalogue.postings(image)
        postings += len(wanted)
        if (
            image is None
            or values != catalogue.columns(image)
            or not all(_is_there(connection, *one) for one in wanted)
        ):
            found.append(uuid)
            if len(found) == limit:
                return found
    if connection.execute("SELECT count(*) FROM facets").get != postings:
        found.append("facets")
    return found


def _rows(connection: apsw.Connection) -> Iterator[tuple[str, tuple[object, ...], bytes]]:
    named = ", ".join(catalogue.COLUMNS)
    for uuid, record, *values in connection.execute(f"SELECT uuid, record, {named} FROM images"):  # noqa: S608  # our own names
        yield uuid_text(uuid), tuple(values), record


def _is_there(connection: apsw.Connection, facet: int, created_at: int, uuid: bytes) -> bool:
    found: int = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM facets JOIN images ON images.key = facets.key AND images.uuid = facets.uuid"
        " WHERE facet = ? AND facets.created_at = ? AND facets.uuid = ?)",
        (facet, created_at, uuid),
    ).get
    return bool(found)
