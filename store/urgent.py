"""Writes that ride ahead of their node's queue: what switches an image off. Plain functions of a connection.

A node's writes take effect in sequence. One that deactivates an image may go to the log before them, together with
whatever else of its node waits for the same image, in their order: so nothing that is about one image ever changes
places. What is applied ahead of its node's mark is kept in `ahead`, the same on every node, until the mark has come
there and passes over it; so each write still takes effect exactly once. `urgent` knows the waiting switch-offs, this
node's own and shared ones; `store.shared.urgent_run` says what may go.
"""

from typing import Any

import apsw

from store.operations import Drop, Operation, rides_ahead, subject


def note(connection: apsw.Connection, node: str, sequence: int, operation: Operation) -> None:
    """A write of `node` waits here now."""
    if rides_ahead(operation):
        connection.execute("INSERT INTO urgent VALUES (?, ?, ?)", (node, sequence, subject(operation)))


def forget(connection: apsw.Connection, node: str, sequence: int, operation: Operation) -> None:
    """Takes back `note`: the write is applied, or was dropped."""
    if rides_ahead(operation) or isinstance(operation, Drop):
        connection.execute("DELETE FROM urgent WHERE node = ? AND sequence = ?", (node, sequence))


def forget_applied(connection: apsw.Connection) -> None:
    """Takes back what a snapshot, which has taken the place of the catalogue, holds already."""
    connection.execute(
        "DELETE FROM urgent WHERE sequence <= (SELECT sequence FROM marks WHERE marks.node = urgent.node)"
        " OR (node, sequence) IN (SELECT node, sequence FROM ahead)"
    )


def nodes(connection: apsw.Connection) -> list[str]:
    """Whose switch-offs wait here."""
    return [node for (node,) in connection.execute("SELECT DISTINCT node FROM urgent")]


# What was applied ahead of a node's mark.


def take(connection: apsw.Connection, node: str, sequence: int) -> bool:
    """Whether a write that is beyond the mark, and rides ahead, takes effect now: the first time it does."""
    connection.execute("INSERT OR IGNORE INTO ahead VALUES (?, ?)", (node, sequence))
    return connection.changes() > 0


def passed(connection: apsw.Connection, node: str, mark: int) -> int:
    """The mark once it has come to `mark`: beyond whatever was applied ahead from there on."""
    while was_applied(connection, node, mark + 1):
        mark += 1
        connection.execute("DELETE FROM ahead WHERE node = ? AND sequence = ?", (node, mark))
    return mark


def applied(connection: apsw.Connection, node: str) -> set[int]:
    """The sequences of `node` that were applied ahead of its mark."""
    return {sequence for (sequence,) in connection.execute("SELECT sequence FROM ahead WHERE node = ?", (node,))}


def all_applied(connection: apsw.Connection) -> set[tuple[str, int]]:
    """(node, sequence) of everything that was."""
    rows: Any = connection.execute("SELECT node, sequence FROM ahead")
    return set(rows)


def was_applied(connection: apsw.Connection, node: str, sequence: int) -> bool:
    """Whether this write was applied ahead of its node's mark, which has not come there yet."""
    found: int = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM ahead WHERE node = ? AND sequence = ?)", (node, sequence)
    ).get
    return bool(found)
