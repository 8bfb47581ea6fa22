"""The replicated log and Raft's hard state, as tables. Plain functions of a connection."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import apsw

from store.entries import Entry, EntryKind, HardState
from store.errors import Impossible


def hard_state(connection: apsw.Connection) -> HardState:
    term, vote, commit = connection.execute("SELECT term, vote, commit_index FROM hard_state").get
    return HardState(term, vote, commit)


def save_hard_state(connection: apsw.Connection, state: HardState) -> None:
    connection.execute(
        "UPDATE hard_state SET term = ?, vote = ?, commit_index = ?", (state.term, state.vote, state.commit)
    )


def advance_commit(connection: apsw.Connection, term: int, commit: int) -> None:
    """For a node that follows: what it holds up to `commit` is decided. A vote given in a term is never forgotten."""
    before = hard_state(connection)
    vote = before.vote if before.term >= term else ""
    save_hard_state(connection, HardState(max(term, before.term), vote, max(commit, before.commit)))


def save_entries(connection: apsw.Connection, entries: Sequence[Entry]) -> None:
    """Appends `entries`; whatever stood at or behind the first of them is replaced."""
    if not entries:
        return
    truncate(connection, entries[0].index)
    expected = last_position(connection) + 1
    if entries[0].index != expected:
        raise Impossible(f"log entry {entries[0].index} would leave a gap, {expected} comes next")
    connection.executemany(
        "INSERT INTO log VALUES (?, ?, ?, ?)", [(e.index, e.term, int(e.kind), e.data) for e in entries]
    )


def truncate(connection: apsw.Connection, position: int) -> None:
    """Removes the entries at and behind `position`; refuses to touch what was applied."""
    applied: int = connection.execute("SELECT position FROM replica").get
    if position <= applied:
        raise Impossible(f"log entry {position} would be replaced, but {applied} entries are applied")
    connection.execute("DELETE FROM log WHERE position >= ?", (position,))


@dataclass(frozen=True, slots=True)
class Compacted:
    """Where the log begins: the last entry that is gone, its term, and the membership in force there."""

    position: int = 0
    term: int = 0
    membership: Entry | None = None


def compacted(connection: apsw.Connection) -> Compacted:
    row: Any = connection.execute(
        "SELECT position, term, membership_position, membership_term, membership FROM compacted"
    ).fetchone()
    if row is None:
        return Compacted()
    membership = Entry(row[2], row[3], EntryKind.MEMBERSHIP, row[4]) if row[2] else None
    return Compacted(row[0], row[1], membership)


def save_compacted(connection: apsw.Connection, state: Compacted) -> None:
    held = state.membership
    of_membership = (held.index, held.term, held.data) if held is not None else (0, 0, b"")
    connection.execute(
        "INSERT OR REPLACE INTO compacted VALUES (1, ?, ?, ?, ?, ?)", (state.position, state.term, *of_membership)
    )


def compact(connection: apsw.Connection, position: int) -> int:
    """Forgets the entries up to and including `position`, all of them applied; returns how many."""
    before = compacted(connection)
    term = term_at(connection, position)
    applied: Any = connection.execute("SELECT position FROM replica").get
    if position <= before.position or term is None or position > applied:
        return 0
    save_compacted(connection, Compacted(position, term, membership(connection, position)))
    connection.execute("DELETE FROM log WHERE position <= ?", (position,))
    return connection.changes()


def first_position(connection: apsw.Connection) -> int:
    """The index of the oldest entry held, or that will be held next."""
    return compacted(connection).position + 1


def last_position(connection: apsw.Connection) -> int:
    """The newest entry's index; where the log begins when there is none, 0 at first."""
    found: Any = connection.execute("SELECT max(position) FROM log").get
    return int(found) if found is not None else compacted(connection).position


def term_at(connection: apsw.Connection, position: int) -> int | None:
    """The term of an entry that is held, or of the last one that is gone; None of any other."""
    found: Any = connection.execute("SELECT term FROM log WHERE position = ?", (position,)).get
    if found is not None:
        return int(found)
    begin = compacted(connection)
    return begin.term if position == begin.position else None


def read(connection: apsw.Connection, low: int, high: int, bytes_max: int) -> list[Entry]:
    """Entries `low` up to but not `high`: at least one if there is one, then as many as fit in `bytes_max`."""
    found: list[Entry] = []
    size = 0
    rows = connection.execute(
        "SELECT position, term, kind, data FROM log WHERE position >= ? AND position < ? ORDER BY position", (low, high)
    )
    for position, term, kind, data in rows:
        size += len(data)
        if found and size > bytes_max:
            break
        found.append(Entry(position, term, EntryKind(kind), data))
    return found


def membership(connection: apsw.Connection, at_most: int) -> Entry | None:
    """The newest membership entry at or below `at_most`."""
    row: Any = connection.execute(
        "SELECT position, term, kind, data FROM log WHERE kind = 2 AND position <= ? ORDER BY position DESC LIMIT 1",
        (at_most,),
    ).fetchone()
    if row:
        return Entry(row[0], row[1], EntryKind(row[2]), row[3])
    kept = compacted(connection).membership
    return kept if kept is not None and kept.index <= at_most else None
