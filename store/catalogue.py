"""All image records, as of one position of the log. Plain functions of a connection.

Two tables of one shape: `images` is what applying the log has made, the same on every node; `overlay` holds, for the
few records that unapplied writes touch, what those writes would make of them: this node's own writes, and, for records
that are not in the catalogue yet, those that other nodes shared. Readers look at the overlay first, so a client reads
its own write at once. Rows of `images` come from `store.apply`, rows of `overlay` from `store.journal`; `facets`
follows `images`. Lists are in `store.listing`.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import apsw
import orjson

from store.errors import Damaged
from store.facets import OPEN_VISIBILITIES, Facet, facets, number
from store.images import FIELDS, TIMES, Image, Scalar, seconds, uuid_bytes, uuid_text
from store.packing import pack, unpack

_DIGEST_MODULUS = 1 << 256


class Source(Enum):
    """Where an answer came from (the `Zone-Source` header)."""

    LOCAL = "local"
    JOURNAL = "journal"  # with this node's own unapplied writes
    PROVISIONAL = "provisional"  # of other nodes' unapplied writes only


class Found:
    """A record, in its canonical form, and where it was found. It is read when somebody asks for `image`."""

    __slots__ = ("_image", "record", "source")

    def __init__(self, record: bytes, source: Source) -> None:
        self.record = record
        self.source = source
        self._image: Image | None = None

    @property
    def image(self) -> Image:
        if self._image is None:
            self._image = Image.decode(self.record)
        return self._image

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Found) and (self.record, self.source) == (other.record, other.source)

    __hash__ = None  # type: ignore[assignment]  # as everything that is equal by its parts and may be a large record


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
    """The record with this UUID or integer, tombstones included, unapplied writes first. Raises Damaged."""
    if isinstance(reference, int):
        found = connection.execute(_BY_INTEGER, (reference,)).fetchone()
    else:
        found = connection.execute(_BY_UUID, (uuid_bytes(reference),)).fetchone()
    if found is not None:
        return Found(unpack(found[0]), _SOURCES[found[1]])
    if not isinstance(reference, int):
        return None
    also = connection.execute(
        "SELECT uuid FROM numbers WHERE integer = ?1 UNION ALL SELECT uuid FROM promised WHERE integer = ?1 LIMIT 1",
        (reference,),
    ).get
    return find(connection, also) if also is not None else None


def find_many(connection: apsw.Connection, references: Sequence[str | int | None]) -> list[Found | None]:
    """As `find` for each of them; texts must be UUIDs. Ask in one read transaction. Raises Damaged."""
    found = [find(connection, one) if type(one) is int else None for one in references]
    asked = orjson.dumps(references).decode()
    for table in ("images", "overlay") if any_overlay(connection) else ("images",):
        rows: list[Any] = connection.execute(_MANY[table], (asked,)).fetchall()
        for place, record, source in rows:
            found[place] = Found(unpack(record), _SOURCES[source])
    return found


def any_overlay(connection: apsw.Connection) -> bool:
    """Whether any record is touched by unapplied writes."""
    return connection.execute("SELECT 1 FROM overlay LIMIT 1").get is not None


def overlay_source(provisional: int) -> Source:
    return Source.PROVISIONAL if provisional else Source.JOURNAL


# One statement, as each costs a read transaction of its own. The parts of a UNION ALL are computed in turn, so with the
# limit `images` is not looked at for a record that is in the overlay.
_SOURCES = (Source.LOCAL, Source.JOURNAL, Source.PROVISIONAL)
_BY_UUID, _BY_INTEGER = (
    f"SELECT record, 1 + (provisional <> 0) FROM overlay WHERE {column} = ?1"  # noqa: S608  # our own names
    f" UNION ALL SELECT record, 0 FROM images WHERE {column} = ?1 LIMIT 1"
    for column in ("uuid", "integer")
)
_MANY = {
    table: f"SELECT j.key, t.record, {source} FROM json_each(?) AS j CROSS JOIN {table} AS t"  # noqa: S608  # our own names
    " ON t.uuid = unhex(j.value, '-')"
    for table, source in (("images", "0"), ("overlay", "1 + (t.provisional <> 0)"))
}
_PROMOTED = tuple(name for name in FIELDS if name not in ("checksum", "os_hash_value"))  # which have columns
COLUMNS = ("integer", "deleted", *_PROMOTED, "unnumbered")  # beside the record, for lists to find it by
_COLUMNS = ("uuid", *COLUMNS, "record")
_INSERT = f"INSERT INTO %s ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608  # our own names


def stored(column: str, value: Scalar) -> Any:
    """A value of a record as its column has it. A time that is none is the beginning of all."""
    if column == "uuid":
        return uuid_bytes(str(value))
    if column in TIMES:
        return seconds(str(value)) or 0
    return value


def columns(image: Image) -> tuple[Any, ...]:
    """What these columns of `images` hold of a record."""
    fields = image.fields
    promoted = [(seconds(str(fields[name])) or 0) if name in TIMES else fields[name] for name in _PROMOTED]
    unnumbered = image.creator if image.integer is None else None
    return (image.integer, int(image.deleted_at is not None), *promoted, unnumbered)


def _row(image: Image, record: bytes) -> list[Any]:
    """The record's row, in the order of the columns; `record` is its canonical form, or nothing."""
    return [uuid_bytes(image.uuid), *columns(image), pack(record) if record else b""]


def put(connection: apsw.Connection, table: str, image: Image) -> bytes:
    """Writes the row of a record that has none, in `images` or `overlay`; returns the record's canonical form.

    An integer that another record has is a constraint error, which ends the daemon: it would be a broken promise.
    """
    record = image.encode()
    connection.execute(_INSERT % table, _row(image, record))
    return record


def _change(connection: apsw.Connection, before: Image, image: Image) -> bytes:
    """Writes what changed of the record's row in `images`, so that only the indexes of that are touched."""
    record = image.encode()
    uuid, *old = _row(before, b"")
    _, *new = _row(image, record)
    changed = [(column, now) for column, was, now in zip(_COLUMNS[1:], old, new, strict=True) if was != now]
    sets = ", ".join([f"{column} = ?" for column, _ in changed])
    values = [*(now for _, now in changed), uuid]
    connection.execute(f"UPDATE images SET {sets} WHERE uuid = ?", values)  # noqa: S608  # our own names
    return record


def show(connection: apsw.Connection, image: Image, *, provisional: bool = False) -> bytes:
    """Puts a record that is not there in the overlay; returns its canonical form.

    `provisional`: it is of other nodes' writes only.
    """
    record = put(connection, "overlay", image)
    is_open = image.fields["visibility"] in OPEN_VISIBILITIES or bool(image.members)
    if provisional or is_open:
        connection.execute(
            "UPDATE overlay SET provisional = ?, open = ? WHERE uuid = ?",
            (provisional, is_open, uuid_bytes(image.uuid)),
        )
    return record


Posting = tuple[int, int, bytes]  # (facet, time of creation, UUID): what the table finds a record by


def postings(image: Image | None) -> set[Posting]:
    """What a record is found by in `facets`; nothing for a tombstone."""
    if image is None or image.deleted_at is not None:
        return set()
    return _numbered(image, facets(image))


def _numbered(image: Image, found: Iterable[Facet]) -> set[Posting]:
    created_at, uuid = stored("created_at", image.fields["created_at"]), uuid_bytes(image.uuid)
    return {(number(facet), created_at, uuid) for facet in found}


def _put_postings(connection: apsw.Connection, old: Image | None, new: Image) -> None:
    """Changes only what changed."""
    if old is not None and (old.deleted_at, old.fields["created_at"]) == (new.deleted_at, new.fields["created_at"]):
        had, has = facets(old), facets(new)
        gone, come = _numbered(old, had - has), _numbered(new, has - had)
    else:
        before, after = postings(old), postings(new)
        gone, come = before - after, after - before
    if gone:
        connection.executemany("DELETE FROM facets WHERE facet = ? AND created_at = ? AND uuid = ?", sorted(gone))
    if come:
        key: int = connection.execute("SELECT key FROM images WHERE uuid = ?", (uuid_bytes(new.uuid),)).get
        connection.executemany("INSERT INTO facets VALUES (?, ?, ?, ?)", [(*one, key) for one in sorted(come)])


def record_digest(record: bytes) -> int:
    return int.from_bytes(hashlib.sha256(record).digest())


class Running:
    """How a batch of changes moves the running hash and the number of live images; written once, by `save`."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self.last: Image | None = None  # what was put in the catalogue last
        self._digest = 0
        self._images = 0

    def replace_committed(self, old: bytes | None, before: Image | None, image: Image) -> None:
        """Puts a record in the catalogue in the place of `before`, of which `old` is the canonical form."""
        new = put(self._connection, "images", image) if before is None else _change(self._connection, before, image)
        was_live = before is not None and before.deleted_at is None
        _put_postings(self._connection, before, image)
        self.last = image
        self.move(old, new, int(image.deleted_at is None) - int(was_live))

    def move(self, old: bytes | None, new: bytes, more_images: int = 0) -> None:
        """Moves the hash to `new` in the place of `old`, canonical forms of one record; counts live images."""
        self._digest += record_digest(new) - (record_digest(old) if old is not None else 0)
        self._images += more_images

    def save(self) -> None:
        """Writes the replica's figures."""
        digest: bytes = self._connection.execute("SELECT digest FROM replica").get
        total = (int.from_bytes(digest) + self._digest) % _DIGEST_MODULUS
        self._connection.execute(
            "UPDATE replica SET digest = ?, images = images + ? WHERE one = 1",
            (total.to_bytes(32), self._images),
        )
        self._digest = self._images = 0


def replace_committed(connection: apsw.Connection, old: bytes | None, image: Image) -> None:
    """One change by itself: `Running.replace_committed`, saved."""
    running = Running(connection)
    running.replace_committed(old, Image.decode(old) if old is not None else None, image)
    running.save()


def records(connection: apsw.Connection, prefix: bytes = b"") -> Iterator[tuple[str, bytes]]:
    """(UUID, canonical form) of the records whose UUIDs begin so. Nothing in the place of one that is damaged."""
    some, values = (" WHERE uuid >= ? AND uuid < ?", (prefix, prefix + b"\xff" * 16)) if prefix else ("", ())
    for uuid, record in connection.execute(f"SELECT uuid, record FROM images{some}", values):  # noqa: S608  # our own names
        yield uuid_text(uuid), _readable(record)


def _readable(record: bytes) -> bytes:
    try:
        return unpack(record)
    except Damaged:
        return b""


def recount(connection: apsw.Connection) -> Replica:
    """The replica's figures worked out from the records themselves, for comparison with the running ones."""
    total, live = 0, 0
    for record, deleted in connection.execute("SELECT record, deleted FROM images"):
        total += record_digest(_readable(record))
        live += not deleted
    for (record,) in connection.execute("SELECT record FROM aliases"):
        total += record_digest(record)
    kept = replica(connection)
    return Replica(kept.position, (total % _DIGEST_MODULUS).to_bytes(32).hex(), live, kept.next_integer)


def unnumbered(connection: apsw.Connection, me: str, limit: int) -> list[str]:
    """UUIDs of live records that node `me` made while it had no integer left, and no assignment under way."""
    rows = connection.execute(
        "SELECT uuid FROM images WHERE unnumbered = ? AND deleted = 0"
        " AND uuid NOT IN (SELECT uuid FROM overlay) LIMIT ?",
        (me, limit),
    )
    return [uuid_text(uuid) for (uuid,) in rows]


def committed(connection: apsw.Connection, uuid: str) -> bytes | None:
    """The canonical form of the record in the catalogue, without the overlay. Raises Damaged."""
    record: bytes | None = connection.execute("SELECT record FROM images WHERE uuid = ?", (uuid_bytes(uuid),)).get
    return unpack(record) if record is not None else None


def holds_integer(connection: apsw.Connection, image: Image) -> bool:
    """Whether another record, committed or not, has this record's integer."""
    found: int = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM images WHERE integer = ?1 AND uuid != ?2)"
        " OR EXISTS (SELECT 1 FROM overlay WHERE integer = ?1 AND uuid != ?2)",
        (image.integer, uuid_bytes(image.uuid)),
    ).get
    return bool(found)


def holder(connection: apsw.Connection, integer: int) -> str | None:
    """The UUID of the committed record that has this integer."""
    uuid: bytes | None = connection.execute("SELECT uuid FROM images WHERE integer = ?", (integer,)).get
    return uuid_text(uuid) if uuid is not None else None


def keep_checkpoint(connection: apsw.Connection, position: int, chain: bytes, back: int) -> None:
    """Keeps the hash as it is now under `position`, and forgets those more than `back` positions older.

    With the records it covers `chain`, the audit's so far: what every write came to, in order.
    """
    digest: bytes = connection.execute("SELECT digest FROM replica").get
    both = hashlib.sha256(digest + chain).digest()
    connection.execute("INSERT OR REPLACE INTO checkpoints VALUES (?, ?)", (position, both))
    connection.execute("DELETE FROM checkpoints WHERE position <= ?", (position - back,))


def checkpoint(connection: apsw.Connection, position: int | None) -> tuple[int, str] | None:
    """(position, hash) kept under `position`, or of the latest; None when there is none."""
    found = connection.execute(
        "SELECT position, digest FROM checkpoints WHERE ? IN (position, -1) ORDER BY position DESC LIMIT 1",
        (position if position is not None else -1,),
    ).fetchone()
    return (found[0], found[1].hex()) if found else None
