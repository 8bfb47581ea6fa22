"""This node's own writes, on disk before anybody is answered. Plain functions of a connection.

A write is checked against the local view, given the node's next sequence number and, for a create, the next integer of
its ranges, and stored with them in one transaction. It stays here until it is applied from the log; an outage only
means that it stays longer.
"""

import os
from dataclasses import dataclass, replace
from typing import Any

import apsw

from store import aliases, catalogue, ranges
from store.errors import Impossible, JournalFull, Refused
from store.images import Image, uuid_bytes
from store.operations import (
    Assign,
    Create,
    Operation,
    Outcome,
    Point,
    State,
    Write,
    decode,
    encode,
    perform,
    subject,
)
from store.soundness import OPERATION_BYTES_MAX, RECORD_BYTES_MAX, unsound


@dataclass(frozen=True, slots=True)
class Limits:
    """The journal's bounds: entries, bytes of operations, bytes of disk that must stay free."""

    entries_max: int
    bytes_max: int
    free_disk_min_bytes: int
    directory: str


@dataclass(frozen=True, slots=True)
class Journaled:
    """A write that can no longer be lost. `sequence` is None when its content was committed already (a repeat).

    `image` is the record as the write leaves it in this node's view.
    """

    write_id: str
    sequence: int | None
    image: Image | None


@dataclass(frozen=True, slots=True)
class Receipt:
    """One write of this node. `state`: journaled, committed, conflict, refused, applied; times in s since 1970."""

    sequence: int
    kind: str
    state: str
    at: float
    uuid: str | None = None
    integer: int | None = None
    position: int | None = None
    code: str = ""
    detail: str = ""
    finished_at: float | None = None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits: entries, bytes, and since when the oldest does (wall clock, None when empty)."""

    entries: int
    bytes: int
    oldest_at: float | None
    last_sequence: int


def append(connection: apsw.Connection, me: str, operation: Operation, at: float, limits: Limits) -> Journaled:
    """Checks and journals one write; `at` is the wall clock. A create without integer is given the next one.

    Raises Refused when the local view already shows that it cannot be done, JournalFull at a bound.
    """
    image: Image | None = None
    uuid = subject(operation)
    if isinstance(operation, Point):
        _, outcome = aliases.foresee(connection, Write(me, 0, operation), operation, 0)
        if outcome.state is State.REFUSED:
            raise Refused(outcome)
    if uuid is not None:
        found = catalogue.find(connection, uuid)
        image = found.image if found else None
        _, outcome = _foresee(image, Write(me, 0, operation))
        if outcome.state is State.REFUSED:
            raise Refused(outcome)
        if image is not None and isinstance(operation, Create):
            return _repeated(connection, me, image)
    _check_room(connection, limits)
    if isinstance(operation, Create | Assign) and not operation.integer:
        integer = ranges.take(connection, at)
        if integer is None and isinstance(operation, Assign):
            raise Refused(
                Outcome(State.REFUSED, "exhausted", "no integer is left in this node's ranges", operation.uuid)
            )
        operation = replace(operation, integer=integer)
    sequence = _store(connection, operation, at)
    after = refresh_overlay(connection, uuid, me) if uuid else None
    if after is not None and len(after.encode()) > RECORD_BYTES_MAX:
        raise Refused(Outcome(State.REFUSED, "too-large", f"a record has at most {RECORD_BYTES_MAX} bytes", uuid))
    return Journaled(f"{me}.{sequence}", sequence, after)


def _foresee(image: Image | None, write: Write) -> tuple[Image | None, Outcome]:
    """`image` as `write` would leave it, as far as this node knows; the position stays the committed record's."""
    return perform(image, write, image.position if image is not None else 0)


def _repeated(connection: apsw.Connection, me: str, image: Image) -> Journaled:
    """A create of what is there already: its receipt is that of the write that made it, if that still waits."""
    if catalogue.committed(connection, image.uuid) is not None:
        return Journaled(image.write, None, image)
    sequence: Any = connection.execute("SELECT min(sequence) FROM journal WHERE uuid = ?", (image.uuid,)).get
    return Journaled(f"{me}.{sequence}", sequence, image)


def _check_room(connection: apsw.Connection, limits: Limits) -> None:
    entries, size = connection.execute("SELECT journal_entries, journal_bytes FROM node").get
    if entries >= limits.entries_max:
        raise JournalFull(f"the journal holds {entries} writes, journal.entries_max is {limits.entries_max}")
    if size >= limits.bytes_max:
        raise JournalFull(f"the journal holds {size} bytes, journal.bytes_max is {limits.bytes_max}")
    disk = os.statvfs(limits.directory)
    free = disk.f_bavail * disk.f_frsize
    if free < limits.free_disk_min_bytes:
        raise JournalFull(f"{free} bytes of disk are free, journal.free_disk_min_bytes is {limits.free_disk_min_bytes}")


def _store(connection: apsw.Connection, operation: Operation, at: float) -> int:
    problem = unsound(operation)
    if problem:
        raise Refused(Outcome(State.REFUSED, "malformed", problem))
    data = encode(operation)
    if len(data) > OPERATION_BYTES_MAX:
        raise Refused(Outcome(State.REFUSED, "too-large", f"a write has at most {OPERATION_BYTES_MAX} bytes"))
    sequence: int = connection.execute(
        "UPDATE node SET sequence = sequence + 1, journal_entries = journal_entries + 1,"
        " journal_bytes = journal_bytes + ? RETURNING sequence",
        (len(data),),
    ).get
    about = aliases.journal_key(operation.alias) if isinstance(operation, Point) else subject(operation)
    connection.execute("INSERT INTO journal VALUES (?, ?, ?, ?)", (sequence, about, data, at))
    return sequence


def read(connection: apsw.Connection, after: int, entries_max: int, bytes_max: int) -> list[tuple[int, bytes]]:
    """(sequence, operation) of the writes behind `after`, in order: at least one if any, then within the bounds."""
    found: list[tuple[int, bytes]] = []
    size = 0
    rows = connection.execute(
        "SELECT sequence, operation FROM journal WHERE sequence > ? ORDER BY sequence LIMIT ?", (after, entries_max)
    )
    for sequence, operation in rows:
        size += len(operation)
        if found and size > bytes_max:
            break
        found.append((sequence, operation))
    return found


def backlog(connection: apsw.Connection) -> Backlog:
    entries, size, sequence = connection.execute("SELECT journal_entries, journal_bytes, sequence FROM node").get
    oldest: float | None = connection.execute("SELECT at FROM journal ORDER BY sequence LIMIT 1").get
    return Backlog(entries, size, oldest, sequence)


def has_grant(connection: apsw.Connection) -> bool:
    """Whether a request for a range is under way already."""
    found: int = connection.execute("SELECT EXISTS (SELECT 1 FROM journal WHERE uuid IS NULL)").get
    return bool(found)


def keep_settled(connection: apsw.Connection, write: Write, size: int, at: float, position: int) -> None:
    """Takes off the journal a write that a snapshot holds already, applied by `position`.

    Its outcome was decided elsewhere; the receipt says what the record and the ledger show of it, and otherwise only
    that it was applied.
    """
    _forget(connection, write.sequence, size)
    state, integer = "applied", None
    uuid = subject(write.operation)
    if uuid is not None:
        record = catalogue.committed(connection, uuid)
        image = Image.decode(record) if record is not None else None
        lost: Any = connection.execute(
            "SELECT EXISTS (SELECT 1 FROM conflicts WHERE node = ? AND sequence = ?)", (write.node, write.sequence)
        ).get
        made = isinstance(write.operation, Create) and image is not None and image.creator == write.node
        if lost:
            state = "conflict"
        elif image is not None and (made or image.write == write.id):
            state, integer = "committed", image.integer
    connection.execute(
        "INSERT OR REPLACE INTO receipts"
        " (sequence, uuid, integer, kind, state, code, detail, position, at, finished_at)"
        " VALUES (?, ?, ?, ?, ?, '', 'applied within a snapshot', ?, ?, ?)",
        (write.sequence, uuid, integer, kind_of(write.operation), state, position, at, at),
    )


def _forget(connection: apsw.Connection, sequence: int, size: int) -> None:
    connection.execute("DELETE FROM journal WHERE sequence = ?", (sequence,))
    connection.execute(
        "UPDATE node SET journal_entries = journal_entries - 1, journal_bytes = journal_bytes - ?", (size,)
    )


def settle(connection: apsw.Connection, write: Write, outcome: Outcome, position: int, now: float) -> None:
    """Takes an applied write of this node off the journal and keeps its receipt."""
    row: Any = connection.execute("SELECT operation, at FROM journal WHERE sequence = ?", (write.sequence,)).fetchone()
    if row is None or decode(row[0]) != write.operation:
        raise Impossible(
            f"write {write.id} was made under this node's ID, but not by what this data directory knows: an older copy"
            " was put back, or two daemons share it; give the node an empty data directory, so that it gets a new ID"
        )
    size, at = len(row[0]), row[1]
    _forget(connection, write.sequence, size)
    state = "committed" if outcome.state is State.DONE else outcome.state.value
    connection.execute(
        "INSERT OR REPLACE INTO receipts"
        " (sequence, uuid, integer, kind, state, code, detail, position, at, finished_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            write.sequence,
            outcome.uuid,
            outcome.integer,
            kind_of(write.operation),
            state,
            outcome.code,
            outcome.detail,
            position,
            at,
            now,
        ),
    )


def refresh_overlay(connection: apsw.Connection, uuid: str, me: str) -> Image | None:
    """Works out anew how this node's unapplied writes leave the record; returns that, None when there are none."""
    rows: Any = connection.execute("SELECT sequence, operation FROM journal WHERE uuid = ? ORDER BY sequence", (uuid,))
    waiting = [Write(me, sequence, decode(operation), buffered=True) for sequence, operation in rows]
    connection.execute("DELETE FROM overlay WHERE uuid = ?", (uuid_bytes(uuid),))
    if not waiting:
        return None
    record = catalogue.committed(connection, uuid)
    image = Image.decode(record) if record is not None else None
    for write in waiting:
        image, _ = _foresee(image, write)
    if image is not None:
        catalogue.put(connection, "overlay", image)
    return image


def kind_of(operation: Operation) -> str:
    return type(operation).__name__.lower()


def receipt(connection: apsw.Connection, sequence: int) -> Receipt | None:
    """The receipt of this node's `sequence`-th write, None if it was never made or is no longer kept."""
    row = connection.execute(
        "SELECT sequence, kind, state, at, uuid, integer, position, code, detail, finished_at FROM receipts"
        " WHERE sequence = ?",
        (sequence,),
    ).fetchone()
    if row:
        return Receipt(*row)
    waiting = connection.execute("SELECT operation, at FROM journal WHERE sequence = ?", (sequence,)).fetchone()
    return _waiting(sequence, *waiting) if waiting else None


def _waiting(sequence: int, data: bytes, at: float) -> Receipt:
    operation = decode(data)
    uuid = subject(operation)
    integer = operation.integer if isinstance(operation, Create | Assign) else None
    return Receipt(sequence, kind_of(operation), "journaled", at, uuid, integer)


def receipts(connection: apsw.Connection, limit: int, only_waiting: bool = False) -> list[Receipt]:
    """The newest `limit` receipts, newest first: waiting writes, then finished ones."""
    rows = connection.execute("SELECT sequence, operation, at FROM journal ORDER BY sequence DESC LIMIT ?", (limit,))
    found = [_waiting(*row) for row in rows]
    if not only_waiting and len(found) < limit:
        finished = connection.execute(
            "SELECT sequence, kind, state, at, uuid, integer, position, code, detail, finished_at FROM receipts"
            " ORDER BY sequence DESC LIMIT ?",
            (limit - len(found),),
        )
        found += [Receipt(*row) for row in finished]
    return found


def has_receipts_before(connection: apsw.Connection, before: float) -> bool:
    """Whether some receipt finished before the wall-clock time `before`."""
    found: Any = connection.execute("SELECT EXISTS (SELECT 1 FROM receipts WHERE finished_at < ?)", (before,)).get
    return bool(found)


def forget_receipts(connection: apsw.Connection, before: float, limit: int) -> int:
    """Removes at most `limit` receipts that finished before the wall-clock time `before`; returns how many."""
    connection.execute(
        "DELETE FROM receipts WHERE sequence IN (SELECT sequence FROM receipts WHERE finished_at < ? LIMIT ?)",
        (before, limit),
    )
    return connection.changes()
