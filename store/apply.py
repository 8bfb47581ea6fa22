"""Committed entries become the catalogue. Plain functions of a connection.

Deterministic: the same entries give the same rows on every node, whatever its journal holds and whenever it applies
them. Rows and position change in one transaction, so an entry is applied exactly once however often the daemon dies.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import apsw

from store import aliases, audit, catalogue, conflicts, history, journal, keys, numbers, ranges, shared, urgent
from store.entries import Entry, EntryKind
from store.errors import Impossible
from store.images import Image, is_uuid
from store.operations import (
    Assign,
    Create,
    Drop,
    Grant,
    Outcome,
    Point,
    Retire,
    State,
    Update,
    Write,
    decode,
    decode_write,
    dropped,
    perform,
    subject,
)
from store.soundness import unsound

CHECKPOINT_ENTRIES = 64  # the hash before every so many-th entry is kept ...
CHECKPOINTS_MAX = 64  # ... so often, for nodes that are not at one position to compare


@dataclass(frozen=True, slots=True)
class Applied:
    """One of this node's own writes was applied. `image` is the record as it left it, None if it changed none."""

    sequence: int
    position: int
    outcome: Outcome
    image: Image | None = field(default=None, compare=False)


def apply(connection: apsw.Connection, entries: Sequence[Entry], me: str, now: float) -> list[Applied]:
    """Applies committed entries in order, in the caller's transaction; `now` (wall clock) only stamps receipts.

    Returns the outcomes of the writes of node `me`, which leave its journal. Raises Impossible when an entry does not
    follow the replica's position, and OperationError for a write this version does not understand: both end the
    daemon, because guessing would make replicas differ.
    """
    if not entries:
        return []
    batch = _Batch(connection, me, now)
    expected = catalogue.replica(connection).position + 1
    for entry in entries:
        if entry.index != expected:
            raise Impossible(f"entry {entry.index} cannot be applied, {expected} comes next")
        expected += 1
        if entry.index % CHECKPOINT_ENTRIES == 0:
            batch.running.save()
            catalogue.keep_checkpoint(connection, entry.index, batch.chain, CHECKPOINTS_MAX * CHECKPOINT_ENTRIES)
        if entry.kind is EntryKind.WRITE:
            batch.apply(entry)
        elif entry.kind is EntryKind.MEMBERSHIP:
            batch.tell(entry, audit.of_membership(entry))
    batch.finish(expected - 1)
    return batch.own


class _Batch:
    """Entries that are applied together: what needs to be written only once for all of them is, at the end."""

    def __init__(self, connection: apsw.Connection, me: str, now: float) -> None:
        self.running = catalogue.Running(connection)
        self.own: list[Applied] = []
        self.chain = audit.head(connection)
        self._connection = connection
        self._me = me
        self._lines: list[audit.Line] = []
        self._settling = journal.Settling(connection, now)
        self._shares = shared.stock(connection).entries > 0
        self._shown: dict[str, None] = {}  # images whose overlay may be another now, in the order of the log

    def apply(self, entry: Entry) -> None:
        connection, write = self._connection, decode_write(entry.data)
        self.running.last = None
        outcome = _apply_write(connection, self.running, write, entry.index, self._me)
        if outcome is None:
            return
        if outcome.code != "malformed":  # that waits nowhere, and looking into it may fail in any way
            keys.forget(connection, write.node, write.sequence, write.operation)
            urgent.forget(connection, write.node, write.sequence, write.operation)
        if write.node == self._me:
            self._settling.settle(write, outcome, entry.index)
            self.own.append(Applied(write.sequence, entry.index, outcome, self.running.last))
        elif self._shares:
            shared.forget(connection, write.node, write.sequence)
        for uuid in _named(write, outcome):  # the last write to an image counts, as if each were applied by itself
            self._shown.pop(uuid, None)
            self._shown[uuid] = None
        self.tell(entry, audit.of_write(entry, write, outcome))

    def tell(self, entry: Entry, text: bytes) -> None:
        """Adds a line to the audit."""
        self._lines.append(audit.Line(entry.index, self.chain, text))
        self.chain = audit.chained(self.chain, text)

    def finish(self, position: int) -> None:
        self._settling.finish()
        audit.keep(self._connection, self._lines)
        for uuid in self._shown:
            journal.refresh_overlay(self._connection, uuid, self._me)
        self.running.save()
        self._connection.execute("UPDATE replica SET position = ?, chain = ? WHERE one = 1", (position, self.chain))


def _named(write: Write, outcome: Outcome) -> set[str]:
    """The images that the write was shown at, or changed: a refused one must not stay visible either."""
    asked: object = subject(write.operation)  # of an unsound write it may be anything
    return {uuid for uuid in (asked, outcome.uuid) if isinstance(uuid, str) and is_uuid(uuid)}


def mark(connection: apsw.Connection, node: str) -> int:
    """The highest applied sequence of `node`; 0 when none."""
    found: int | None = connection.execute("SELECT sequence FROM marks WHERE node = ?", (node,)).get
    return found or 0


def _apply_write(
    connection: apsw.Connection, running: catalogue.Running, write: Write, position: int, me: str
) -> Outcome | None:
    """One write, exactly once."""
    if not _is_next(connection, write):
        return None
    problem = unsound(write.operation)
    if problem:
        return Outcome(State.REFUSED, "malformed", problem)
    again = keys.repeated(connection, write.operation)
    if again is not None:
        return _again(connection, write, again)
    outcome = _perform(connection, running, write, position, me)
    keys.record(connection, write, outcome)
    return outcome


def _is_next(connection: apsw.Connection, write: Write) -> bool:
    """Whether the write takes effect: without gaps, only the sequence after the node's mark does, or what rides ahead.

    One at or below the mark is a repeat of what was applied. One beyond it overtook an entry that an election lost;
    its origin will send both again, in order.
    """
    done = mark(connection, write.node)
    if write.ahead and write.sequence > done + 1:
        return urgent.take(connection, write.node, write.sequence)
    if write.sequence != done + 1:
        return False
    done = urgent.passed(connection, write.node, write.sequence)
    connection.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (write.node, done))
    return True


def _again(connection: apsw.Connection, write: Write, outcome: Outcome) -> Outcome:
    """A repeat: with the record's integer, and the one that its own client was told leads there as well."""
    record = catalogue.committed(connection, outcome.uuid) if outcome.uuid else None
    if record is None:
        return outcome
    image = Image.decode(record)
    if isinstance(write.operation, Create) and outcome.state is not State.REFUSED:
        numbers.keep(connection, write.operation.integer, image)
    return replace(outcome, integer=image.integer)


def _perform(connection: apsw.Connection, running: catalogue.Running, write: Write, position: int, me: str) -> Outcome:
    operation = write.operation
    match operation:
        case Grant():
            return ranges.grant(connection, write.node, operation, position, write.node == me)
        case Retire():
            return ranges.retire(connection, operation.node, position, operation.node == me)
        case Drop():
            keys.forget(connection, write.node, write.sequence, decode(operation.entry))
            conflicts.keep_dropped(connection, write, operation, position)
            return dropped(operation)
        case Point():
            return _point(connection, running, write, operation, position)
        case Update() if operation.resolves:
            return _resolve(connection, running, write, operation, position)
        case _:
            return _apply_to_image(connection, running, operation.uuid, write, position)


def _resolve(
    connection: apsw.Connection, running: catalogue.Running, write: Write, operation: Update, position: int
) -> Outcome:
    """An update that also closes an entry of the ledger."""
    refused = conflicts.refusal(connection, operation)
    if refused is not None:
        return refused
    outcome = _apply_to_image(connection, running, operation.uuid, write, position)
    if outcome.state is State.DONE:
        conflicts.resolve(connection, write, operation, position)
    return outcome


def _point(
    connection: apsw.Connection, running: catalogue.Running, write: Write, operation: Point, position: int
) -> Outcome:
    refused = conflicts.refusal(connection, operation) if operation.resolves else None
    if refused is not None:
        return refused
    before = aliases.committed(connection, operation.alias)
    outcome = aliases.apply(connection, running, write, operation, position)
    named = [str(uuid) for pair in operation.targets.values() for uuid in pair if uuid is not None]
    if outcome.state is State.CONFLICT:  # even where no alias is: what it had pointed at may have been deleted
        met = (named[0] if named else None, before.write if before is not None else "")
        conflicts.keep(connection, write, met, outcome, position)
    elif operation.resolves and outcome.state is State.DONE:
        conflicts.resolve(connection, write, operation, position)
    return outcome


def _apply_to_image(
    connection: apsw.Connection, running: catalogue.Running, uuid: str, write: Write, position: int
) -> Outcome:
    old = catalogue.committed(connection, uuid)
    before = Image.decode(old) if old is not None else None
    after, outcome = perform(before, write, position)
    if isinstance(write.operation, Create) and before is not None and outcome.state is not State.REFUSED:
        numbers.keep(connection, write.operation.integer, before)
    if after is None or after is before:
        return outcome
    if isinstance(write.operation, Create | Assign) and after.integer is not None:
        # Ranges make this unreachable for correct nodes; one wrong node must not stop the others.
        holder = catalogue.holder(connection, after.integer)
        if holder not in (None, uuid):
            return Outcome(State.REFUSED, "integer-taken", f"integer {after.integer} belongs to image {holder}", uuid)
    assert not isinstance(write.operation, Grant | Retire | Point)
    running.replace_committed(old, before, after)
    history.keep(connection, before, after, write.operation)
    if outcome.state is State.CONFLICT and before is not None:
        conflicts.keep(connection, write, (uuid, before.write), outcome, position)
    return outcome
