"""All image records, as of one position of the log. Plain functions of a connection.

Two tables of one shape: `images` is what applying the log has made, the same on every node; `overlay` holds, for the
few records that unapplied writes touch, what those writes would make of them: this node's own writes, and, for records
that are not in the catalogue yet, those that other nodes shared. Readers look at the overlay first, so a client reads
its own write at once. Rows of `images` come from `store.apply`, rows of `overlay` from `store.journal`; `facets`
follows `images`. Lists are in `store.listing`.
"""

import hashlib
from dataclasses import dataclass
from enum import Enum

import apsw

from store.images import FIELDS, Image

_DIGEST_MODULUS = 1 << 256
FACET_VALUE_CHARS = 100  # a property's value is looked up by its beginning, then compared as a whole
OPEN_VISIBILITIES = ("public", "community")


class Source(Enum):
    """Where an answer came from (the `Zone-Source` header)."""

    LOCAL = "local"
    JOURNAL = "journal"  # with this node's own unapplied writes
    PROVISIONAL = "provisional"  # of other nodes' unapplied writes only


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


def replica(connection: apsw.Connection) -> Replica:
    position, digest, images, next_integer = connection.execute(
        "SELECT position, digest, images, next_integer FROM replica"
    ).get
    return Replica(position, digest.hex(), images, next_integer)


def find(connection: apsw.Connection, reference: str | int) -> Found | None:
    """The record with this UUID or integer, tombstones included, unapplied writes first."""
    found = find_record(connection, reference)
    return Found(Image.decode(found[0]), found[1]) if found is not None else None


def overlay_source(provisional: int) -> Source:
    return Source.PROVISIONAL if provisional else Source.JOURNAL


def find_record(connection: apsw.Connection, reference: str | int) -> tuple[bytes, Source] | None:
    """The same, in its canonical form."""
    found = connection.execute(_BY_INTEGER if isinstance(reference, int) else _BY_UUID, (reference,)).fetchone()
    return (found[0], _SOURCES[found[1]]) if found is not None else None


# One statement, as each costs a read transaction of its own. The parts of a UNION ALL are computed in turn, so with the
# limit `images` is not looked at for a record that is in the overlay.
_SOURCES = (Source.LOCAL, Source.JOURNAL, Source.PROVISIONAL)
_BY_UUID, _BY_INTEGER = (
    f"SELECT record, 1 + (provisional <> 0) FROM overlay WHERE {column} = ?1"  # noqa: S608  # our own names
    f" UNION ALL SELECT record, 0 FROM images WHERE {column} = ?1 LIMIT 1"
    for column in ("uuid", "integer")
)
_PROMOTED = tuple(FIELDS)  # base attributes have columns of their own
_COLUMNS = ("uuid", "integer", "deleted", *_PROMOTED, "creator", "record")
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
    row = (image.uuid, image.integer, image.deleted_at is not None, *promoted, image.creator, record)
    connection.execute(_UPSERT % table, row)
    return record


def facets(image: Image) -> set[str]:
    """What a live record is found by besides its columns, each as one short text; nothing for a tombstone.

    Tags, free properties (long values by their beginning only), image members with their answers, and what few
    records have of a base attribute.
    """
    if image.deleted_at is not None:
        return set()
    found = {tag_facet(tag) for tag in image.tags}
    found |= {property_facet(name, value) for name, value in image.properties.items()}
    found |= {member_facet(project, member.status) for project, member in image.members.items()}
    if image.fields["visibility"] in OPEN_VISIBILITIES:
        found.add(value_facet("visibility", str(image.fields["visibility"])))
    for name in ("checksum", "os_hash_value"):
        if image.fields[name]:
            found.add(value_facet(name, str(image.fields[name])))
    return found


def tag_facet(tag: str) -> str:
    return f"t:{tag}"


def property_facet(name: str, value: str) -> str:
    return f"p{len(name)}:{name}={value[:FACET_VALUE_CHARS]}"


def member_facet(project: str, status: str) -> str:
    return f"m:{status}:{project}"


def value_facet(column: str, value: str) -> str:
    return f"{column}:{value}"


def _put_facets(connection: apsw.Connection, old: Image | None, new: Image) -> None:
    """Changes only what changed."""
    before = {(facet, str(old.fields["created_at"]), old.uuid) for facet in facets(old)} if old is not None else set()
    after = {(facet, str(new.fields["created_at"]), new.uuid) for facet in facets(new)}
    connection.executemany("DELETE FROM facets WHERE facet = ? AND created_at = ? AND uuid = ?", sorted(before - after))
    connection.executemany("INSERT INTO facets VALUES (?, ?, ?)", sorted(after - before))


def record_digest(record: bytes) -> int:
    return int.from_bytes(hashlib.sha256(record).digest())


def replace_committed(connection: apsw.Connection, old: bytes | None, image: Image) -> None:
    """Puts a record in the catalogue in the place of its canonical form `old`, and moves the running figures."""
    new = put(connection, "images", image)
    before = Image.decode(old) if old is not None else None
    was_live = before is not None and before.deleted_at is None
    _put_facets(connection, before, image)
    move_digest(connection, old, new, int(image.deleted_at is None) - int(was_live))


def move_digest(connection: apsw.Connection, old: bytes | None, new: bytes, more_images: int = 0) -> None:
    """Moves the running hash to `new` in the place of `old`, canonical forms of one record; counts live images."""
    digest: bytes = connection.execute("SELECT digest FROM replica").get
    total = int.from_bytes(digest) + record_digest(new) - (record_digest(old) if old is not None else 0)
    connection.execute(
        "UPDATE replica SET digest = ?, images = images + ?", ((total % _DIGEST_MODULUS).to_bytes(32), more_images)
    )


def recount(connection: apsw.Connection) -> Replica:
    """The replica's figures worked out from the records themselves, for comparison with the running ones."""
    total, live = 0, 0
    for record, deleted in connection.execute("SELECT record, deleted FROM images"):
        total += record_digest(record)
        live += not deleted
    for (record,) in connection.execute("SELECT record FROM aliases"):
        total += record_digest(record)
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


def holds_integer(connection: apsw.Connection, image: Image) -> bool:
    """Whether another record, committed or not, has this record's integer."""
    found: int = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM images WHERE integer = ?1 AND uuid != ?2)"
        " OR EXISTS (SELECT 1 FROM overlay WHERE integer = ?1 AND uuid != ?2)",
        (image.integer, image.uuid),
    ).get
    return bool(found)


def holder(connection: apsw.Connection, integer: int) -> str | None:
    """The UUID of the committed record that has this integer."""
    uuid: str | None = connection.execute("SELECT uuid FROM images WHERE integer = ?", (integer,)).get
    return uuid


def keep_checkpoint(connection: apsw.Connection, position: int, back: int) -> None:
    """Keeps the hash as it is now under `position`, and forgets those more than `back` positions older."""
    connection.execute("INSERT OR REPLACE INTO checkpoints SELECT ?, digest FROM replica", (position,))
    connection.execute("DELETE FROM checkpoints WHERE position <= ?", (position - back,))


def checkpoint(connection: apsw.Connection, position: int | None) -> tuple[int, str] | None:
    """(position, hash) kept under `position`, or of the latest; None when there is none."""
    found = connection.execute(
        "SELECT position, digest FROM checkpoints WHERE ? IN (position, -1) ORDER BY position DESC LIMIT 1",
        (position if position is not None else -1,),
    ).fetchone()
    return (found[0], found[1].hex()) if found else None
