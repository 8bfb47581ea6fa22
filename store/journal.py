"""This node's own writes, on disk before anybody is answered. Plain functions of a connection.

A write is checked against the local view, given the node's next sequence number and, for a create, the next integer of
its ranges, and stored with them in one transaction. It stays here until it is applied from the log; an outage only
means that it stays longer.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import apsw

from store import aliases, catalogue, keys, numbers, ranges, shared, urgent
from store.catalogue import Found, Source
from store.errors import Impossible, JournalFull, Refused
from store.images import Image, uuid_bytes
from store.operations import (
    Assign,
    Create,
    Drop,
    Operation,
    Outcome,
    Point,
    State,
    Write,
    decode,
    encode,
    perform,
    subject,
    switches_off,
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

    @property
    def is_finished(self) -> bool:
        return self.state != "journaled"


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
    uuid = subject(operation)
    if isinstance(operation, Point):
        _, outcome = aliases.foresee(connection, Write(me, 0, operation), operation, 0)
        if outcome.state is State.REFUSED:
            raise Refused(outcome)
    found = catalogue.find(connection, uuid) if uuid is not None else None
    image = found.image if found is not None else None
    if uuid is not None and not (image is None and isinstance(operation, Create)):
        _, outcome = _foresee(image, Write(me, 0, operation))
        if outcome.state is State.REFUSED:
            raise Refused(outcome)
    if image is not None and isinstance(operation, Create):
        repeated = _repeated(connection, me, image)
        if repeated is not None:
            return repeated
        # Another zone made it and this one was told: one image has one integer. Journaled all the same, whatever
        # this node changed in it since: the other zone's create may still come to nothing.
        operation = replace(operation, integer=image.integer)
    elif isinstance(operation, Create) and operation.integer is not None:
        _check_brought_along(connection, operation.uuid, operation.integer)
    _check_room(connection, limits)
    if isinstance(operation, Create | Assign) and not operation.integer:
        integer = ranges.take(connection, at)
        if integer is None and isinstance(operation, Assign):
            raise Refused(
                Outcome(State.REFUSED, "exhausted", "no integer is left in this node's ranges", operation.uuid)
            )
        operation = replace(operation, integer=integer)
    is_first = uuid is not None and _is_first(connection, uuid, found)
    sequence = _store(connection, operation, at)
    keys.journaled(connection, me, sequence, operation)
    urgent.note(connection, me, sequence, operation)
    if switches_off(operation):
        connection.execute("INSERT INTO watched VALUES (?)", (sequence,))
    if is_first:
        after = _show_first(connection, image, Write(me, sequence, operation, buffered=image is not None))
    else:
        after = refresh_overlay(connection, uuid, me) if uuid else None
        _check_size(uuid, after.encode() if after is not None else b"")
    return Journaled(f"{me}.{sequence}", sequence, after)


def _is_first(connection: apsw.Connection, uuid: str, found: Found | None) -> bool:
    """Whether no other unapplied write is about the image, which was found so."""
    if found is not None and found.source is not Source.LOCAL:
        return False
    waits: int = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM journal WHERE uuid = ?1) OR EXISTS (SELECT 1 FROM shared WHERE uuid = ?1)",
        (uuid,),
    ).get
    return not waits


def _show_first(connection: apsw.Connection, image: Image | None, write: Write) -> Image | None:
    """`refresh_overlay` where there was nothing in it, and `write` is all there is to show."""
    after, _ = _foresee(image, write)
    if after is not None:
        after, record = _show(connection, after)
        _check_size(after.uuid, record)
        numbers.show(connection, after.uuid, (write,), after)
    return after


def _check_size(uuid: str | None, record: bytes) -> None:
    if len(record) > RECORD_BYTES_MAX:
        raise Refused(Outcome(State.REFUSED, "too-large", f"a record has at most {RECORD_BYTES_MAX} bytes", uuid))


def _check_brought_along(connection: apsw.Connection, uuid: str, integer: int) -> None:
    """Raises Refused unless an image from elsewhere can keep this integer."""
    found = catalogue.find(connection, integer)
    taken = f"integer {integer} belongs to image {found.image.uuid}" if found is not None else None
    problem = taken or ranges.why_not_kept(connection, integer)
    if problem is not None:
        raise Refused(Outcome(State.REFUSED, "integer-taken", problem, uuid))


def _foresee(image: Image | None, write: Write) -> tuple[Image | None, Outcome]:
    """`image` as `write` would leave it, as far as this node knows; the position stays the committed record's."""
    return perform(image, write, image.position if image is not None else 0)


def _repeated(connection: apsw.Connection, me: str, image: Image) -> Journaled | None:
    """A create of what is committed, or waits as this node's own create: then its receipt is that one's. Else None."""
    if catalogue.committed(connection, image.uuid) is not None:
        return Journaled(image.write, None, image)
    rows: Any = connection.execute(
        "SELECT sequence, operation FROM journal WHERE uuid = ? ORDER BY sequence DESC", (image.uuid,)
    )
    sequence = next((sequence for sequence, data in rows if isinstance(decode(data), Create)), None)
    return Journaled(f"{me}.{sequence}", sequence, image) if sequence is not None else None


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
    sequence: int = connection.execute("SELECT sequence FROM node").get + 1
    connection.execute(
        "UPDATE node SET sequence = ?, journal_entries = journal_entries + 1, journal_bytes = journal_bytes + ?"
        " WHERE one = 1",
        (sequence, len(data)),
    )
    about = aliases.journal_key(operation.alias) if isinstance(operation, Point) else subject(operation)
    needs = shared.based_on(connection, operation)
    connection.execute("INSERT INTO journal VALUES (?, ?, ?, ?, ?)", (sequence, about, data, at, needs))
    return sequence


def read(connection: apsw.Connection, after: int, entries_max: int, bytes_max: int) -> list[tuple[int, bytes]]:
    """(sequence, operation) of the writes behind `after`, in order: at least one if any, then within the bounds.

    Ends before a write that is based on what another node made and the log does not have yet: it has to come behind.
    What is held (`store.holding`) is left out.
    """
    found: list[tuple[int, bytes]] = []
    size = 0
    rows = connection.execute(
        "SELECT sequence, operation, needs FROM journal WHERE sequence > ?"
        " AND sequence < ifnull((SELECT sequence FROM hold), 9223372036854775807) ORDER BY sequence LIMIT ?",
        (after, entries_max),
    )
    for sequence, operation, needs in rows:
        size += len(operation)
        if (found and size > bytes_max) or shared.missing(connection, needs):
            break
        found.append((sequence, operation))
    return found


def backlog(connection: apsw.Connection) -> Backlog:
    entries, size, sequence = connection.execute("SELECT journal_entries, journal_bytes, sequence FROM node").get
    oldest: float | None = connection.execute("SELECT at FROM journal ORDER BY sequence LIMIT 1").get
    return Backlog(entries, size, oldest, sequence)


def is_waiting(connection: apsw.Connection, through: int) -> bool:
    """Whether some write up to this sequence is not applied yet."""
    return last_waiting(connection, through) is not None


def is_pending(connection: apsw.Connection, sequence: int) -> bool:
    """Whether this very write is not applied yet."""
    found: int = connection.execute("SELECT EXISTS (SELECT 1 FROM journal WHERE sequence = ?)", (sequence,)).get
    return bool(found)


def last_waiting(connection: apsw.Connection, through: int) -> int | None:
    """The last write up to this sequence that is not applied yet."""
    found: int | None = connection.execute("SELECT max(sequence) FROM journal WHERE sequence <= ?", (through,)).get
    return found


def has_grant(connection: apsw.Connection) -> bool:
    """Whether a request for a range is under way already."""
    found: int = connection.execute("SELECT EXISTS (SELECT 1 FROM journal WHERE uuid IS NULL)").get
    return bool(found)


def keep_settled(connection: apsw.Connection, write: Write, size: int, at: float, position: int) -> None:
    """Takes off the journal a write that a snapshot holds already, applied by `position`.

    Its outcome was decided elsewhere; the receipt says what the record and the ledger show of it, and otherwise only
    that it was applied.
    """
    _forget(connection, [write.sequence], size)
    state, code, integer = "applied", "", None
    uuid = subject(write.operation)
    lost: Any = connection.execute(
        "SELECT take FROM conflicts WHERE node = ? AND sequence = ?", (write.node, write.sequence)
    ).fetchone()
    if lost is not None:
        state = code = "dropped" if lost[0] == "dropped" else "conflict"
    elif uuid is not None:
        record = catalogue.committed(connection, uuid)
        image = Image.decode(record) if record is not None else None
        made = isinstance(write.operation, Create) and image is not None and image.creator == write.node
        if image is not None and (made or image.write == write.id):
            state, integer = "committed", image.integer
    connection.execute(
        "INSERT OR REPLACE INTO receipts"
        " (sequence, uuid, integer, kind, state, code, detail, position, at, finished_at)"
        " VALUES (?, ?, ?, ?, ?, ?, 'applied within a snapshot', ?, ?, ?)",
        (write.sequence, uuid, integer, kind_of(write.operation), state, code, position, at, at),
    )


def _forget(connection: apsw.Connection, sequences: Sequence[int], size: int) -> None:
    connection.executemany("DELETE FROM journal WHERE sequence = ?", [(sequence,) for sequence in sequences])
    connection.execute(
        "UPDATE node SET journal_entries = journal_entries - ?, journal_bytes = journal_bytes - ? WHERE one = 1",
        (len(sequences), size),
    )


class Settling:
    """Applied writes of this node on their way from the journal to their receipts; both are written by `finish`."""

    def __init__(self, connection: apsw.Connection, now: float) -> None:
        self._connection = connection
        self._now = now
        self._bytes = 0
        self._receipts: list[tuple[Any, ...]] = []

    def settle(self, write: Write, outcome: Outcome, position: int) -> None:
        """Raises Impossible for a write that this node never journaled."""
        row: Any = self._connection.execute(
            "SELECT operation, at FROM journal WHERE sequence = ?", (write.sequence,)
        ).fetchone()
        if row is None or (row[0] != encode(write.operation) and not _too_late(row[0], write)):
            raise Impossible(
                f"write {write.id} was made under this node's ID, but not by what this data directory knows: an older"
                " copy was put back, or two daemons share it; give the node an empty data directory, so that it gets a"
                " new ID"
            )
        state = "committed" if outcome.state is State.DONE else outcome.state.value
        about = (outcome.uuid, outcome.integer, kind_of(write.operation), state, outcome.code, outcome.detail)
        self._receipts.append((write.sequence, *about, position, row[1], self._now))
        self._bytes += len(row[0])

    def finish(self) -> None:
        if not self._receipts:
            return
        _forget(self._connection, [receipt[0] for receipt in self._receipts], self._bytes)
        self._connection.executemany(
            "INSERT OR REPLACE INTO receipts"
            " (sequence, uuid, integer, kind, state, code, detail, position, at, finished_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            self._receipts,
        )


def _too_late(kept: bytes, write: Write) -> bool:
    """Whether the journal has a `Drop` in the place of the write, which was in the log already."""
    known = decode(kept)
    return known == write.operation or (isinstance(known, Drop) and known.entry == encode(write.operation))


def refresh_overlay(connection: apsw.Connection, uuid: str, me: str) -> Image | None:
    """Works out anew how unapplied writes leave the record; returns that, None when there are none.

    On a committed record only this node's own writes show, as applying would take them now. Where there is none yet,
    other nodes' writes show as well: creates first, and this node's own changes last and whole.
    """
    # Sorted here: asked for in order, SQLite begins with a sorter, though most often there is nothing to sort.
    rows: Any = connection.execute("SELECT sequence, operation FROM journal WHERE uuid = ?", (uuid,)).fetchall()
    others = shared.of_image(connection, uuid)
    connection.execute("DELETE FROM overlay WHERE uuid = ?", (uuid_bytes(uuid),))
    numbers.forget(connection, uuid)
    if not rows and not others:
        return None
    record = catalogue.committed(connection, uuid)
    own = [Write(me, sequence, decode(operation), buffered=record is not None) for sequence, operation in sorted(rows)]
    others = others if record is None else []
    if not own and not others:
        return None
    image = Image.decode(record) if record is not None else None
    for write in _in_order(own, others):
        image, _ = _foresee(image, write)
    if image is not None:
        if others and catalogue.holds_integer(connection, image):
            image = replace(image, integer=None)  # what others say must not break the own promise
        image, _ = _show(connection, image, provisional=all(isinstance(write.operation, Drop) for write in own))
    numbers.show(connection, uuid, (*own, *others), image)
    return image


def _show(connection: apsw.Connection, image: Image, *, provisional: bool = False) -> tuple[Image, bytes]:
    """Puts a record in the overlay; returns it as it is shown, and its canonical form.

    Two zones that were apart may have brought one integer along for two images. The log decides whose it is; until this
    node's writes to both are applied, the one that is shown later is shown without.
    """
    try:
        return image, catalogue.show(connection, image, provisional=provisional)
    except apsw.ConstraintError:
        image = replace(image, integer=None)
        return image, catalogue.show(connection, image, provisional=provisional)


def take_in(
    connection: apsw.Connection, me: str, rows: Iterable[shared.Row], entries_max: int, bytes_max: int
) -> list[shared.Row]:
    """Keeps what other nodes' journals gave and shows it as provisional records; returns what was new."""
    kept = shared.keep(connection, me, rows, entries_max, bytes_max)
    for uuid in {uuid for _, uuid in kept if uuid is not None}:
        refresh_overlay(connection, uuid, me)
    return [row for row, _ in kept]


def _in_order(own: list[Write], others: list[Write]) -> list[Write]:
    if not others:
        return own
    ordered: list[Write] = []
    for makes in (True, False):
        sides = (own, others) if makes else (others, own)
        ordered += [write for side in sides for write in side if isinstance(write.operation, Create) is makes]
    return ordered


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


def waiting(sequence: int, operation: Operation, at: float, image: Image | None) -> Receipt:
    """The receipt of a write that was just journaled, and left the record as `image`."""
    integer = image.integer if image is not None and isinstance(operation, Create | Assign) else None
    return Receipt(sequence, kind_of(operation), "journaled", at, subject(operation), integer)


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


def seen(connection: apsw.Connection, sequence: int) -> dict[str, float]:
    """The zones that have applied this node's `sequence`-th write, and when this node knew; "" stands for all."""
    rows: Any = connection.execute("SELECT zone, at FROM seen WHERE sequence = ?", (sequence,)).fetchall()
    return dict(rows)


def note_seen(connection: apsw.Connection, sequence: int, zones: Iterable[str], at: float) -> None:
    connection.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", [(sequence, zone, at) for zone in zones])


def watched(connection: apsw.Connection, limit: int) -> list[int]:
    """The newest writes that switched an image off, of which not every zone is known to have applied them."""
    rows = connection.execute("SELECT sequence FROM watched ORDER BY sequence DESC LIMIT ?", (limit,))
    return [sequence for (sequence,) in rows]


def unwatch(connection: apsw.Connection, sequences: Iterable[int]) -> None:
    connection.executemany("DELETE FROM watched WHERE sequence = ?", [(one,) for one in sequences])


def has_receipts_before(connection: apsw.Connection, before: float) -> bool:
    """Whether some receipt finished before the wall-clock time `before`."""
    found: Any = connection.execute("SELECT EXISTS (SELECT 1 FROM receipts WHERE finished_at < ?)", (before,)).get
    return bool(found)


def forget_receipts(connection: apsw.Connection, before: float, limit: int) -> int:
    """Removes at most `limit` receipts that finished before the wall-clock time `before`; returns how many."""
    old = connection.execute("SELECT sequence FROM receipts WHERE finished_at < ? LIMIT ?", (before, limit)).fetchall()
    for table in ("seen", "watched", "receipts"):
        connection.executemany(f"DELETE FROM {table} WHERE sequence = ?", old)  # noqa: S608  # our own names
    return len(old)
