"""Requests known by their Idempotency-Key: a repeat is recognised in every zone. Plain functions of a connection.

The key travels in the write itself, as a digest. Applying a write records its key in the replicated `idempotency`, so
from then on every node knows it; and a second write with the same key, journaled where the first was not known yet,
is recognised when it is applied, the same on every node. `pending_keys` knows what is journaled and not applied;
`answers` holds, for this node's own clients, the answers themselves.

Source: draft-ietf-httpapi-idempotency-key-header-07.
"""

from dataclasses import dataclass

import apsw

from store.operations import Operation, Origin, Outcome, State, Write, origin_of, subject

PRUNE_MAX = 2  # rows that go when one comes: more than one, so that the table shrinks to what still counts


@dataclass(frozen=True, slots=True)
class Known:
    """The write that a key belongs to. `state`: journaled, done, conflict, refused; `buffered`: so it was answered."""

    payload: bytes
    node: str
    sequence: int
    uuid: str | None
    state: str = "journaled"
    code: str = ""
    buffered: int = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it was given. `headers` and `body` are packed by whoever gave it."""

    payload: bytes
    status: int
    headers: bytes
    body: bytes


def applied(connection: apsw.Connection, origin: Origin) -> Known | None:
    """The applied write with this key, if that still counted when `origin` was made."""
    row = connection.execute(
        "SELECT payload, node, sequence, uuid, state, code, buffered FROM idempotency WHERE key = ? AND until > ?"
        " ORDER BY number DESC LIMIT 1",
        (origin.key, origin.at),
    ).fetchone()
    return Known(*row) if row is not None else None


def pending(connection: apsw.Connection, key: bytes) -> Known | None:
    """A write with this key that is known here and not applied yet."""
    row = connection.execute(
        "SELECT payload, node, sequence, uuid FROM pending_keys WHERE key = ? ORDER BY node, sequence LIMIT 1", (key,)
    ).fetchone()
    return Known(*row) if row is not None else None


def journaled(connection: apsw.Connection, node: str, sequence: int, operation: Operation) -> None:
    """Remembers the key of a write that is in this node's hands now, its own or another node's."""
    origin = origin_of(operation)
    if origin is not None and origin.key:
        connection.execute(
            "INSERT OR IGNORE INTO pending_keys VALUES (?, ?, ?, ?, ?)",
            (origin.key, origin.payload, node, sequence, subject(operation)),
        )


def forget(connection: apsw.Connection, node: str, sequence: int, operation: Operation) -> None:
    """Takes back `journaled`: the write is applied, or it was dropped."""
    origin = origin_of(operation)
    if origin is not None and origin.key:
        connection.execute(
            "DELETE FROM pending_keys WHERE key = ? AND node = ? AND sequence = ?", (origin.key, node, sequence)
        )


def forget_applied(connection: apsw.Connection) -> None:
    """Takes back what a snapshot, which has taken the place of the catalogue, holds already."""
    connection.execute(
        "DELETE FROM pending_keys WHERE sequence <= (SELECT sequence FROM marks WHERE marks.node = pending_keys.node)"
        " OR (node, sequence) IN (SELECT node, sequence FROM ahead)"
    )


def repeated(connection: apsw.Connection, operation: Operation) -> Outcome | None:
    """The outcome of a write whose key was applied already: that of the first one. None when it is the first."""
    origin = origin_of(operation)
    known = applied(connection, origin) if origin is not None and origin.key else None
    if origin is None or known is None:
        return None
    first = f"write {known.node}.{known.sequence}"
    if known.payload != origin.payload:
        return Outcome(
            State.REFUSED, "key-reused", f"its Idempotency-Key belongs to {first}, another request", subject(operation)
        )
    detail = f"a repeat of {first}"
    return Outcome(State(known.state), known.code or "repeat", detail, known.uuid)


def record(connection: apsw.Connection, write: Write, outcome: Outcome) -> None:
    """Keeps the key of a write that was applied just now; a few that do not count any more go."""
    origin = origin_of(write.operation)
    if origin is None or not origin.key:
        return
    connection.execute(
        "DELETE FROM idempotency WHERE until <= ?"
        " AND number IN (SELECT number FROM idempotency ORDER BY number LIMIT ?)",
        (origin.at, PRUNE_MAX),
    )
    connection.execute(
        "INSERT INTO idempotency (key, payload, until, node, sequence, uuid, buffered, state, code)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(origin.key, origin.payload, origin.at + origin.keep_s, write.node, write.sequence),
            *(subject(write.operation), write.buffered, outcome.state.value, outcome.code),
        ),
    )


def count(connection: apsw.Connection) -> int:
    """How many keys are kept; rows go in the order in which they came, so the ends tell."""
    first, last = connection.execute(
        "SELECT (SELECT min(number) FROM idempotency), (SELECT max(number) FROM idempotency)"
    ).get
    return last - first + 1 if last is not None else 0


def answer(connection: apsw.Connection, key: bytes, at: int) -> Answer | None:
    """What this node answered to the request with this key, if it still has it."""
    row = connection.execute(
        "SELECT payload, status, headers, body FROM answers WHERE key = ? AND until > ?", (key, at)
    ).fetchone()
    return Answer(*row) if row is not None else None


def forget_answer(connection: apsw.Connection, operation: Operation) -> None:
    """The write was dropped: what its client was told is not so any more, and its key is free."""
    origin = origin_of(operation)
    if origin is not None:
        connection.execute("DELETE FROM answers WHERE key = ?", (origin.key,))


def keep_answer(connection: apsw.Connection, origin: Origin, given: Answer, most: int) -> None:
    """Keeps an answer; the oldest go, those beyond `most` and some that do not count any more."""
    connection.execute("DELETE FROM answers WHERE key = ?", (origin.key,))
    connection.execute(
        "INSERT INTO answers (key, payload, until, status, headers, body) VALUES (?, ?, ?, ?, ?, ?)",
        (origin.key, given.payload, origin.at + origin.keep_s, given.status, given.headers, given.body),
    )
    last = connection.last_insert_rowid()
    connection.execute(
        "DELETE FROM answers WHERE number IN (SELECT number FROM answers ORDER BY number LIMIT ?)"
        " AND (number <= ? OR until <= ?)",
        (PRUNE_MAX, last - most, origin.at),
    )
