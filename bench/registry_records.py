"""Records for the benchmarks: as many as are wanted, each like one of those that a real Glance served.

The templates are the 240 records of zoned/data/catalogue.jsonl (base images, customers' backups and snapshots). What is
one record's own in them (UUIDs, hashes, instances, dates in names, sizes) is drawn anew for each; what records share
(owners, names of properties, formats) is shared here as well.
"""

import random
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import apsw
import orjson

from store import catalogue, log
from store.images import DEFAULTS, FIELDS, Image, Location
from store.migrate import migrate
from zoned.api.documents import images_document, is_free

CREATOR = "00000000-0000-4000-8000-00000000000a"
OWNED = 500  # records for each project
FIRST_AT = 1_760_000_000  # the first record's creation, seconds since 1970
EVERY_S = 7  # between two records
_OWN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{64}|[0-9a-f]{32}")
_DATE = re.compile(r"2026-\d\d-\d\d")
_DIGEST_MODULUS = 1 << 256


def templates() -> list[dict[str, Any]]:
    text = files("zoned").joinpath("data/catalogue.jsonl").read_bytes()
    return [orjson.loads(line) for line in text.splitlines()]


def owner(number: int) -> str:
    return f"{number:032x}"


def images(count: int) -> Iterator[Image]:
    """`count` records in the order of their creation."""
    rng = random.Random(5)
    known = templates()
    for n in range(count):
        yield _image(rng, rng.choice(known), n + 1, projects(count))


def projects(count: int) -> int:
    """How many projects own `count` records: each about as many, however large the catalogue."""
    return max(1, count // OWNED)


def _image(rng: random.Random, template: dict[str, Any], n: int, owners: int) -> Image:
    name = _new_uuid(rng)
    at = datetime.fromtimestamp(FIRST_AT + EVERY_S * n, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    fields = {**DEFAULTS, **{key: value for key, value in template.items() if key in FIELDS}}
    fields |= {"created_at": at, "updated_at": at}
    if fields["owner"]:
        fields["owner"] = owner(rng.randrange(owners))
    if fields["checksum"]:
        fields |= {
            "checksum": f"{rng.getrandbits(128):032x}",
            "os_hash_value": f"{rng.getrandbits(512):0128x}",
            "size": rng.randrange(1 << 20, 1 << 36),
        }
    if fields["name"]:
        fields["name"] = _DATE.sub(at[:10], str(fields["name"]))
    properties = {
        key: _OWN.sub(lambda found: _like(rng, found[0]), value)
        for key, value in template.items()
        if isinstance(value, str) and key not in FIELDS and is_free(key)
    }
    places = tuple(
        Location(one["url"].replace(template["id"], name), one["metadata"]) for one in template.get("locations", ())
    )
    tags = tuple(sorted(template["tags"]))
    return Image(name, n, CREATOR, f"{CREATOR}.{n}", n + 1, fields, properties, tags, places)


def _new_uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _like(rng: random.Random, text: str) -> str:
    return _new_uuid(rng) if "-" in text else f"{rng.getrandbits(4 * len(text)):0{len(text)}x}"


def json_bytes(image: Image) -> int:
    """Of the record as the Images API v2 answers it: what disk is compared with."""
    return len(orjson.dumps(images_document(image)))


def make_catalogue(path: Path, count: int) -> int:
    """Writes a snapshot file of `count` records, in bulk; returns the bytes of their JSON."""
    path.touch(0o600)
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", "off")
    connection.pragma("synchronous", "off")
    connection.pragma("cache_size", -400_000)
    migrate(connection, str(path))
    total = size = 0
    with connection:
        indexes: Any = connection.execute(
            "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'images' AND sql IS NOT NULL"
        ).fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        connection.execute("CREATE TEMP TABLE found (facet, created_at, uuid, key)")
        for image in images(count):
            key, record = catalogue.put(connection, "images", image)
            total += catalogue.record_digest(record)
            size += json_bytes(image)
            rows = [(*one, key) for one in catalogue.postings(image)]
            connection.executemany("INSERT INTO found VALUES (?, ?, ?, ?)", rows)
        connection.execute("INSERT INTO facets SELECT * FROM found ORDER BY facet, created_at, uuid")
        connection.execute("DROP TABLE found")
        for _, sql in indexes:
            connection.execute(sql)
        connection.execute(
            "INSERT INTO replica VALUES (1, ?, ?, ?, ?, zeroblob(32))",
            (count + 1, (total % _DIGEST_MODULUS).to_bytes(32), count, count + 1),
        )
        finish(connection, count)
    connection.close()
    return size


def grow(path: Path, count: int) -> int:
    """As `make_catalogue`, but record by record, as applying the log does: pages are as full as they really get."""
    path.touch(0o600)
    connection = apsw.Connection(str(path))
    connection.pragma("synchronous", "off")
    connection.pragma("journal_mode", "off")
    connection.pragma("cache_size", -400_000)
    migrate(connection, str(path))
    size = 0
    with connection:
        connection.execute("INSERT INTO replica VALUES (1, 0, zeroblob(32), 0, 1, zeroblob(32))")
        for image in images(count):
            catalogue.replace_committed(connection, None, image)
            size += json_bytes(image)
        connection.execute("UPDATE replica SET position = ?, next_integer = ?", (count + 1, count + 1))
        finish(connection, count)
    connection.close()
    return size


def finish(connection: apsw.Connection, count: int) -> None:
    """What a snapshot says besides its records."""
    connection.execute("INSERT INTO marks VALUES (?, ?)", (CREATOR, count))
    connection.execute("INSERT INTO ranges (start, stop, node, position) VALUES (1, ?, ?, 1)", (count + 1, CREATOR))
    log.save_compacted(connection, log.Compacted(count + 1, 1))


def tables_bytes(store: Path) -> dict[str, int]:
    """What each table and index of a store takes, the largest first."""
    connection = apsw.Connection(str(store), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        rows: Any = connection.execute("SELECT name, sum(pgsize) FROM dbstat GROUP BY name ORDER BY 2 DESC LIMIT 14")
        return dict(rows.fetchall())
    finally:
        connection.close()
