"""The registry's SQL: plain functions of a psycopg connection, one transaction each.

Every commit's first statement fences, numbers and orders: it moves the position where the term is still this node's,
which locks the one row until the commit is decided. Only plain SQL is used.
"""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import psycopg

from store.entries import Entry, EntryKind, Membership
from zoned.postgres.takeover import Ask, Beat, Look, Row, Take

Connection = psycopg.Connection[Any]

_ROW = "term, position, holder, beat"


class Foreign(Exception):
    """The database is not what this node may work with; the text says why. Nothing was changed there."""


def migrate(connection: Connection) -> None:
    """Brings the schema to this program's version, all or nothing. Raises Foreign for a newer one."""
    folder = files("zoned.postgres.migrations")
    names = sorted(item.name for item in folder.iterdir() if item.name.startswith("v") and item.name.endswith(".sql"))
    known = [folder.joinpath(name).read_text(encoding="utf-8") for name in names]
    with connection.transaction():
        connection.execute(
            "CREATE TABLE IF NOT EXISTS zoned_schema (one smallint PRIMARY KEY CHECK (one = 1), version int NOT NULL)"
        )
        connection.execute("INSERT INTO zoned_schema VALUES (1, 0) ON CONFLICT DO NOTHING")
        # Several nodes start at once: the row is theirs one after another.
        found = connection.execute("SELECT version FROM zoned_schema WHERE one = 1 FOR UPDATE").fetchone()
        version = found[0] if found is not None else 0
        if version > len(known):
            raise Foreign(f"its schema has version {version}, this zoned knows {len(known)}: start the newer zoned")
        for statements in known[version:]:
            for statement in statements_of(statements):
                connection.execute(statement.encode())
        if version < len(known):
            connection.execute("UPDATE zoned_schema SET version = %s WHERE one = 1", (len(known),))


def statements_of(text: str) -> list[str]:
    """The statements of a migration file, in which `--` begins a comment and `;` ends a line."""
    bare = "\n".join(line.partition("--")[0].rstrip() for line in text.splitlines())
    return [part.strip() for part in bare.split(";\n") if part.strip(" \n;")]


def found(connection: Connection, cluster_id: str) -> None:
    """Begins a log in an empty database; somebody else's beginning stands."""
    with connection.transaction():
        made = connection.execute(
            "INSERT INTO registry VALUES (1, %s, 1, 1, '', 0) ON CONFLICT DO NOTHING", (cluster_id,)
        )
        if made.rowcount:
            founding = Membership(cluster_id, ()).encode()
            connection.execute("INSERT INTO log VALUES (1, 1, %s, %s)", (int(EntryKind.MEMBERSHIP), founding))
            connection.execute("INSERT INTO tables VALUES (1, 0)")


def cluster_of(connection: Connection) -> str | None:
    """The cluster whose log the database keeps; None while it is empty."""
    row = connection.execute("SELECT cluster_id FROM registry WHERE one = 1").fetchone()
    return str(row[0]) if row is not None else None


def perform(connection: Connection, me: str, cluster_id: str, ask: Ask) -> Row | None:
    """What the takeover protocol asks; the row after it, None when the condition does not hold.

    Raises Foreign when the database keeps the log of another cluster than `cluster_id`.
    """
    with connection.transaction():
        match ask:
            case Look():
                found = connection.execute(f"SELECT {_ROW}, cluster_id FROM registry WHERE one = 1")  # noqa: S608  # our own names
            case Take(seen, term):
                found = connection.execute(
                    f"UPDATE registry SET term = %s, holder = %s, beat = beat + 1"  # noqa: S608  # our own names
                    f" WHERE one = 1 AND term = %s AND beat = %s AND cluster_id = %s RETURNING {_ROW}, cluster_id",
                    (term, me, seen.term, seen.beat, cluster_id),
                )
            case Beat(term):
                found = connection.execute(
                    f"UPDATE registry SET beat = beat + 1 WHERE one = 1 AND term = %s AND holder = %s"  # noqa: S608  # our own names
                    f" RETURNING {_ROW}, cluster_id",
                    (term, me),
                )
        row = found.fetchone()
    if row is None and isinstance(ask, Look):
        raise Foreign("its registry row is gone")
    if row is None:
        return None
    if row[4] != cluster_id:
        raise Foreign(f"it keeps the log of cluster {row[4]}, this node is of cluster {cluster_id}")
    return Row(*row[:4])


def give_up(connection: Connection, me: str, term: int, heir: str) -> bool:
    """Leaves the term to `heir`, "" for anybody; whether it was this node's."""
    with connection.transaction():
        done = connection.execute(
            "UPDATE registry SET holder = %s, beat = beat + 1 WHERE one = 1 AND term = %s AND holder = %s",
            (heir, term, me),
        )
    return done.rowcount == 1


def commit(connection: Connection, me: str, term: int, writes: Sequence[bytes]) -> Row | None:
    """Adds writes behind everything that is committed; the row after it, None when the term is another's."""
    with connection.transaction():
        row = _number(connection, me, term, len(writes))
        if row is None:
            return None
        first = row.position - len(writes) + 1
        _insert(connection, [Entry(first + n, term, EntryKind.WRITE, data) for n, data in enumerate(writes)])
    return row


def put_back(connection: Connection, me: str, term: int, entries: Sequence[Entry]) -> Row | None:
    """Adds entries that were committed once and that the database lost, as they were; the row after it.

    None when the term is another's. Raises Foreign, and changes nothing, when they do not follow on the database's.
    """
    with connection.transaction():
        row = _number(connection, me, term, len(entries))
        if row is None:
            return None
        if row.position != entries[-1].index:
            raise Foreign(f"its log ends at {row.position - len(entries)}, not before {entries[0].index}")
        _insert(connection, entries)
    return row


def _number(connection: Connection, me: str, term: int, count: int) -> Row | None:
    row = connection.execute(
        "UPDATE registry SET position = position + %s, beat = beat + 1"  # noqa: S608  # our own names
        f" WHERE one = 1 AND term = %s AND holder = %s RETURNING {_ROW}",
        (count, term, me),
    ).fetchone()
    return Row(*row) if row is not None else None


def _insert(connection: Connection, entries: Sequence[Entry]) -> None:
    connection.execute(
        "INSERT INTO log (position, term, kind, data)"
        " SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::smallint[], %s::bytea[])",
        (
            [entry.index for entry in entries],
            [entry.term for entry in entries],
            [int(entry.kind) for entry in entries],
            [entry.data for entry in entries],
        ),
        binary=True,
    )


def read(connection: Connection, low: int, high: int) -> list[Entry]:
    """Entries `low` up to but not `high`. Raises Foreign when something else stands there."""
    with connection.transaction():
        rows = connection.execute(
            "SELECT position, term, kind, data FROM log WHERE position >= %s AND position < %s ORDER BY position",
            (low, high),
            binary=True,
        ).fetchall()
    try:
        return [Entry(position, term, EntryKind(kind), bytes(data)) for position, term, kind, data in rows]
    except ValueError as error:
        raise Foreign(f"its log holds what is no entry of this version: {error}") from None
