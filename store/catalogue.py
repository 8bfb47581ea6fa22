"""All image records, as of one position of the log. Plain functions of a connection.

Two tables of one shape: `images` is what applying the log has made, the same on every node; `overlay` holds, for the
few records that this node's own unapplied writes touch, what those writes would make of them. Readers look at the
overlay first, so a client reads its own write at once. Rows of `images` come from `store.apply`, rows of `overlay` from
`store.journal`.
"""

import hashlib
from dataclasses import dataclass
from enum import Enum

import apsw

from store.images import Image

_DIGEST_MODULUS = 1 << 256
PAGE_BYTES_MAX = 8_388_608  # of records in one page; a page ends early rather than be larger


class Source(Enum):
    """Where an answer came from (the `Zone-Source` header)."""

    LOCAL = "local"
    JOURNAL = "journal"


@dataclass(frozen=True, slots=True)
class Found:
    """A record and where it was found."""

    image: Image
    source: Source


@dataclass(frozen=True, slots=True)
class Replica:
    """What applying the log has come to. `digest` is a multiset hash: equal catalogues have equal digests."""

    position: int
    digest: str
    images: int
    next_integer: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some records in order, and whether others follow."""

    found: list[Found]
    more: bool


@dataclass(frozen=True, slots=True)
class Query:
    """One page of the catalogue, newest first. `equals` holds promoted columns; `after` is (created_at, uuid)."""

    limit: int
    after: tuple[str, str] | None = None
    hidden: bool | None = False
    equals: tuple[tuple[str, str], ...] = ()


FILTERS = ("name", "owner", "status", "visibility", "uuid")  # columns a query may ask for by value


def replica(connection: apsw.Connection) -> Replica:
    position, digest, images, next_integer = connection.execute(
        "SELECT position, digest, images, next_integer FROM replica"
    ).get
    return Replica(position, digest.hex(), images, next_integer)


def find(connection: apsw.Connection, reference: str | int) -> Found | None:
    """The record with this UUID or integer, tombstones included, this node's own unapplied writes first."""
    column = "integer" if isinstance(reference, int) else "uuid"
    for source, table in ((Source.JOURNAL, "overlay"), (Source.LOCAL, "images")):
        data = connection.execute(f"SELECT record FROM {table} WHERE {column} = ?", (reference,)).get  # noqa: S608  # our own names
        if data is not None:
            return Found(Image.decode(data), source)
    return None


def page(connection: apsw.Connection, query: Query) -> Page:
    """At most `query.limit` live records by (created_at, uuid) descending, own unapplied writes included."""
    where, values = ["deleted = 0"], []
    if query.hidden is not None:
        where.append(f"hidden = {int(query.hidden)}")
    for column, value in query.equals:
        assert column in FILTERS
        where.append(f"{column} = ?")
        values.append(value)
    if query.after is not None:
        where.append("(created_at, uuid) < (?, ?)")
        values += query.after
    condition, order = " AND ".join(where), "ORDER BY created_at DESC, uuid DESC LIMIT ?"
    limit = query.limit + 1  # one more tells whether others follow
    # Each half reads at most `limit` rows in index order; the outer order merges at most twice that.
    rows = connection.execute(
        f"""SELECT mine, record FROM (
              SELECT * FROM (SELECT 0 AS mine, record, created_at, uuid FROM images
                WHERE {condition} AND uuid NOT IN (SELECT uuid FROM overlay) {order})
              UNION ALL
              SELECT * FROM (SELECT 1 AS mine, record, created_at, uuid FROM overlay WHERE {condition} {order})
            ) {order}""",  # noqa: S608  # our own names
        (*values, limit, *values, limit, limit),
    )
    found: list[Found] = []
    size = 0
    for mine, record in rows:
        size += len(record)
        if len(found) == query.limit or (found and size > PAGE_BYTES_MAX):
            return Page(found, more=True)
        found.append(Found(Image.decode(record), Source.JOURNAL if mine else Source.LOCAL))
    return Page(found, more=False)


_PROMOTED = ("owner", "name", "status", "visibility")  # base attributes with a column of their own
_COLUMNS = ("uuid", "integer", "created_at", "deleted", "hidden", *_PROMOTED, "creator", "record")
_UPSERT = (
    f"INSERT INTO %s ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608  # our own names
    f" ON CONFLICT (uuid) DO UPDATE SET {', '.join(f'{column} = excluded.{column}' for column in _COLUMNS[1:])}"
)


def put(connection: apsw.Connection, table: str, image: Image) -> bytes:
    """Writes the record's row in `images` or `overlay`; returns its canonical form.

    An integer that another record has is a constraint error, which ends the daemon: it would be a broken promise.
    """
    record = image.encode()
    promoted = [image.fields[column] for column in _PROMOTED]
    deleted, hidden = image.deleted_at is not None, image.fields["os_hidden"]
    row = (image.uuid, image.integer, image.fields["created_at"], deleted, hidden, *promoted, image.creator, record)
    connection.execute(_UPSERT % table, row)
    return record


def record_digest(record: bytes) -> int:
    return int.from_bytes(hashlib.sha256(record).digest())


def replace_committed(connection: apsw.Connection, old: bytes | None, image: Image) -> None:
    """Puts a record in the catalogue in the place of its canonical form `old`, and moves the running figures."""
    new = put(connection, "images", image)
    was_live = old is not None and Image.decode(old).deleted_at is None
    digest: bytes = connection.execute("SELECT digest FROM replica").get
    total = int.from_bytes(digest) + record_digest(new) - (record_digest(old) if old is not None else 0)
    connection.execute(
        "UPDATE replica SET digest = ?, images = images + ?",
        ((total % _DIGEST_MODULUS).to_bytes(32), int(image.deleted_at is None) - int(was_live)),
    )


def recount(connection: apsw.Connection) -> Replica:
    """The replica's figures worked out from the records themselves, for comparison with the running ones."""
    total, live = 0, 0
    for record, deleted in connection.execute("SELECT record, deleted FROM images"):
        total += record_digest(record)
        live += not deleted
    kept = replica(connection)
    return Replica(kept.position, (total % _DIGEST_MODULUS).to_bytes(32).hex(), live, kept.next_integer)


def unnumbered(connection: apsw.Connection, me: str, limit: int) -> list[str]:
    """UUIDs of live records that node `me` made while it had no integer left, and no assignment under way."""
    rows = connection.execute(
        "SELECT uuid FROM images WHERE integer IS NULL AND deleted = 0 AND creator = ?"
        " AND uuid NOT IN (SELECT uuid FROM overlay) LIMIT ?",
        (me, limit),
    )
    return [uuid for (uuid,) in rows]


def committed(connection: apsw.Connection, uuid: str) -> bytes | None:
    """The canonical form of the record in the catalogue, without the overlay."""
    record: bytes | None = connection.execute("SELECT record FROM images WHERE uuid = ?", (uuid,)).get
    return record


def holder(connection: apsw.Connection, integer: int) -> str | None:
    """The UUID of the committed record that has this integer."""
    uuid: str | None = connection.execute("SELECT uuid FROM images WHERE integer = ?", (integer,)).get
    return uuid
