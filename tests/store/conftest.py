"""A store on disk for each test: the real thing is fast enough."""

from pathlib import Path

import apsw
import pytest

from store import identity
from store.database import open_writer
from store.entries import Entry, EntryKind
from store.journal import Limits
from store.operations import Operation, Write, encode_write

ME = "00000000-0000-4000-8000-00000000000a"
OTHER = "00000000-0000-4000-8000-00000000000b"
AT = "2026-11-22T09:00:00Z"
NOW = 1_795_338_000.0


@pytest.fixture
def connection(tmp_path: Path):
    opened = open_writer(tmp_path / "zoned.db")
    opened.execute("BEGIN IMMEDIATE")
    identity.start(opened, ME, "a", "zoned")
    opened.execute("COMMIT")
    yield opened
    opened.close()


@pytest.fixture
def limits(tmp_path: Path) -> Limits:
    return Limits(1_000, 1_000_000, 0, str(tmp_path))


def entry(position: int, sequence: int, operation: Operation, node: str = ME, buffered: bool = False) -> Entry:
    return Entry(position, 1, EntryKind.WRITE, encode_write(Write(node, sequence, operation, buffered)))


def dump(connection: apsw.Connection) -> list[object]:
    """Everything that must be equal on all nodes."""
    tables = (
        "images",
        "facets",
        "history",
        "aliases",
        "marks",
        "numbers",
        "ranges",
        "conflicts",
        "idempotency",
        "audit",
        "replica",
        "checkpoints",
    )
    return [list(connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2")) for table in tables]
