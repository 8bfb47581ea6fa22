"""Committed entries become the catalogue. Plain functions of a connection.

Deterministic: the same entries give the same rows on every node, whatever its journal holds and whenever it applies
them. Rows and position change in one transaction, so an entry is applied exactly once however often the daemon dies.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import apsw
import orjson

from store import aliases, catalogue, history, journal, ranges
from store.entries import Entry, EntryKind
from store.errors import Impossible
from store.images import Image
from store.operations import Assign, Create, Grant, Outcome, Point, State, Write, decode_write, perform
from store.soundness import unsound

CHECKPOINT_ENTRIES = 64  # the hash before every so many-th entry is kept ...
CHECKPOINTS_MAX = 64  # ... so often, for nodes that are not at one position to compare


@dataclass(frozen=True, slots=True)
class Applied:
    """One of this node's own writes was applied."""

    sequence: int
    position: int
    outcome: Outcome


def apply(connection: apsw.Connection, entries: Sequence[Entry], me: str, now: float) -> list[Applied]:
    """Applies committed entries in order, in the caller's transaction; `now` (wall clock) only stamps receipts.

    Returns the outcomes of the writes of node `me`, which leave its journal. Raises Impossible when an entry does not
    follow the replica's position, and OperationError for a write this version does not understand: both end the
    daemon, because guessing would make replicas differ.
    """
    if not entries:
        return []
    expected = catalogue.replica(connection).position + 1
    own: list[Applied] = []
    for entry in entries:
        if entry.index != expected:
            raise Impossible(f"entry {entry.index} cannot be applied, {expected} comes next")
        expected += 1
        if entry.index % CHECKPOINT_ENTRIES == 0:
            catalogue.keep_checkpoint(connection, entry.index, CHECKPOINTS_MAX * CHECKPOINT_ENTRIES)
        if entry.kind is not EntryKind.WRITE:
            continue
        write = decode_write(entry.data)
        outcome = _apply_write(connection, write, entry.index, me)
        if outcome is not None and write.node == me:
            journal.settle(connection, write, outcome, entry.index, now)
            own.append(Applied(write.sequence, entry.index, outcome))
        if outcome is not None and outcome.uuid is not None:
            journal.refresh_overlay(connection, outcome.uuid, me)
    connection.execute("UPDATE replica SET position = ?", (expected - 1,))
    return own


def mark(connection: apsw.Connection, node: str) -> int:
    """The highest applied sequence of `node`; 0 when none."""
    found: int | None = connection.execute("SELECT sequence FROM marks WHERE node = ?", (node,)).get
    return found or 0


def _apply_write(connection: apsw.Connection, write: Write, position: int, me: str) -> Outcome | None:
    """One write, exactly once and without gaps: only the sequence after the node's mark takes effect.

    One at or below the mark is a repeat of what was applied. One beyond it overtook an entry that an election lost;
    its origin will send both again, in order.
    """
    if write.sequence != mark(connection, write.node) + 1:
        return None
    connection.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (write.node, write.sequence))
    problem = unsound(write.operation)
    if problem:
        return Outcome(State.REFUSED, "malformed", problem)
    if isinstance(write.operation, Grant):
        return ranges.grant(connection, write.node, write.operation, position, write.node == me)
    if isinstance(write.operation, Point):
        outcome = aliases.apply(connection, write, write.operation, position)
        named = [uuid for pair in write.operation.targets.values() for uuid in pair if uuid is not None]
        _keep_lost(connection, str(named[0]) if named else "", write, outcome, position)
        return outcome
    return _apply_to_image(connection, write.operation.uuid, write, position)


def _apply_to_image(connection: apsw.Connection, uuid: str, write: Write, position: int) -> Outcome:
    old = catalogue.committed(connection, uuid)
    before = Image.decode(old) if old is not None else None
    after, outcome = perform(before, write, position)
    if after is None or after is before:
        return outcome
    if isinstance(write.operation, Create | Assign) and after.integer is not None:
        # Ranges make this unreachable for correct nodes; one wrong node must not stop the others.
        holder = catalogue.holder(connection, after.integer)
        if holder not in (None, uuid):
            return Outcome(State.REFUSED, "integer-taken", f"integer {after.integer} belongs to image {holder}", uuid)
    assert not isinstance(write.operation, Grant | Point)
    catalogue.replace_committed(connection, old, after)
    history.keep(connection, before, after, write.operation)
    _keep_lost(connection, uuid, write, outcome, position)
    return outcome


def _keep_lost(connection: apsw.Connection, uuid: str, write: Write, outcome: Outcome, position: int) -> None:
    """Both values of each change that was not taken, for a person to resolve."""
    if outcome.state is State.CONFLICT:
        connection.executemany(
            "INSERT INTO conflicts VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    position,
                    what,
                    uuid,
                    write.node,
                    write.sequence,
                    orjson.dumps(kept).decode(),
                    orjson.dumps(wanted).decode(),
                )
                for what, kept, wanted in outcome.lost
            ],
        )
