"""What an operator may do to writes that wait: hold them back, take one out, carry them elsewhere.

A node's writes take effect in their sequence and without gaps, so nothing here can let one overtake another: a hold
holds everything from one entry on, and an entry that is dropped leaves a `Drop` in its place. What has left this node
already may be in the log: then the log decides, and the receipt says so. Plain functions of a connection.
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import apsw

from store import journal, keys, urgent
from store.operations import Drop, Origin, decode, encode, subject
from store.shared import Row

EXPORT_MAX = 1_000  # entries read at a time


@dataclass(frozen=True, slots=True)
class Hold:
    """From `sequence` on nothing leaves this node."""

    sequence: int
    reason: str
    by: str
    at: str


def held(connection: apsw.Connection) -> Hold | None:
    row = connection.execute("SELECT sequence, reason, by, at FROM hold").fetchone()
    return Hold(*row) if row is not None else None


def hold(connection: apsw.Connection, wanted: Hold) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO hold VALUES (1, ?, ?, ?, ?)", (wanted.sequence, wanted.reason, wanted.by, wanted.at)
    )


def release(connection: apsw.Connection) -> bool:
    """Whether there was a hold."""
    connection.execute("DELETE FROM hold")
    return connection.changes() > 0


def first_waiting(connection: apsw.Connection) -> int | None:
    found: int | None = connection.execute("SELECT min(sequence) FROM journal").get
    return found


def waiting_from(connection: apsw.Connection, sequence: int) -> int:
    """How many writes wait from `sequence` on."""
    found: int = connection.execute("SELECT count(*) FROM journal WHERE sequence >= ?", (sequence,)).get
    return found


def same_image_behind(connection: apsw.Connection, sequence: int) -> int:
    """How many writes that wait behind `sequence` are about the same image."""
    found: int = connection.execute(
        "SELECT count(*) FROM journal WHERE sequence > ? AND uuid = (SELECT uuid FROM journal WHERE sequence = ?)",
        (sequence, sequence),
    ).get
    return found


def drop(connection: apsw.Connection, me: str, sequence: int, reason: str, at: str, origin: Origin) -> bool:
    """Puts a `Drop` in the place of a waiting write; False when no such write waits (or it was dropped already).

    Unlike that write, the `Drop` needs no other node's writes before it.
    """
    data: Any = connection.execute("SELECT operation FROM journal WHERE sequence = ?", (sequence,)).get
    operation = decode(data) if data is not None else None
    if operation is None or isinstance(operation, Drop):
        return False
    uuid = subject(operation)
    # Without the key of the operator's own request: applied, a drop is never a repeat of anything.
    instead = encode(Drop(uuid, at, reason, data, replace(origin, key=b"", payload=b"", keep_s=0)))
    connection.execute("UPDATE journal SET operation = ?, needs = NULL WHERE sequence = ?", (instead, sequence))
    connection.execute("UPDATE node SET journal_bytes = journal_bytes + ?", (len(instead) - len(data),))
    keys.forget(connection, me, sequence, operation)
    urgent.forget(connection, me, sequence, operation)
    keys.forget_answer(connection, operation)
    if uuid is not None:
        journal.refresh_overlay(connection, uuid, me)
    return True


def export(connection: apsw.Connection, after: int) -> Iterator[dict[str, Any]]:
    """Waiting writes behind `after`, in order, at most EXPORT_MAX, as JSON documents."""
    rows = connection.execute(
        "SELECT node_id, journal.sequence, operation, at, needs FROM journal, node WHERE journal.sequence > ?"
        " ORDER BY journal.sequence LIMIT ?",
        (after, EXPORT_MAX),
    )
    for node, sequence, data, at, needs in rows:
        operation = decode(data)
        yield {
            "node": node,
            "sequence": sequence,
            "at": at,
            "kind": journal.kind_of(operation),
            "uuid": subject(operation),
            "needs": base64.b64encode(needs).decode() if needs is not None else None,
            "operation": base64.b64encode(data).decode(),
        }


def imported(document: Any) -> Row:
    """One exported line. Raises ValueError for anything else; what it holds is not looked at."""
    match document:
        case {"node": str(node), "sequence": int(sequence), "operation": str(data), "at": float() | int() as at}:
            needs = document.get("needs")
            packed = base64.b64decode(needs, validate=True) if isinstance(needs, str) else None
            return Row(node, sequence, float(at), packed, base64.b64decode(data, validate=True))
        case _:
            raise ValueError("an exported write has node, sequence, at, needs and operation")
