"""Other nodes' unapplied writes, kept so that one node's death loses nothing. Plain functions of a connection.

What a node pulls from another is synced before it counts as shared. The rows of a node are a part of its journal
without holes, except for what was applied already where they came from: so sending them in order, each behind the one
before, is always right, and a gap at the registry closes by itself when this node has applied as much.

A write that was made on top of another node's unapplied writes *needs* those (per node the highest sequence): it may
reach the log only behind them, and is kept here only once they are here or applied. So whoever holds a write also holds
everything that it takes to make sense of it.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import apsw
import msgpack

from store import keys, urgent
from store.images import uuid_bytes
from store.operations import Assign, Delete, Operation, Point, Update, Write, decode, subject


@dataclass(frozen=True, slots=True)
class Row:
    """One write of one node's journal, as it travels. `at`: wall clock there; `needs`: node -> sequence, packed."""

    node: str
    sequence: int
    at: float
    needs: bytes | None
    operation: bytes


@dataclass(frozen=True, slots=True)
class Stock:
    """What is kept of other nodes: entries, bytes of operations."""

    entries: int
    bytes: int


def stock(connection: apsw.Connection) -> Stock:
    return Stock(*connection.execute("SELECT shared_entries, shared_bytes FROM node").get)


# What a write is based on.


def based_on(connection: apsw.Connection, operation: Operation) -> bytes | None:
    """The needs of a change, packed; None when its images are in the catalogue or nobody else is in them."""
    match operation:
        case Update(uuid=uuid) | Delete(uuid=uuid) | Assign(uuid=uuid):
            uuids = {uuid}
        case Point():
            uuids = {str(wanted) for _, wanted in operation.targets.values() if wanted is not None}
        case _:
            return None
    needs: dict[str, int] = {}
    for uuid in uuids:
        rows: Any = connection.execute(
            "SELECT node, max(sequence) FROM shared WHERE uuid = ?1"
            " AND NOT EXISTS (SELECT 1 FROM images WHERE uuid = ?2) GROUP BY node",
            (uuid, uuid_bytes(uuid)),
        )
        for node, sequence in rows:
            needs[node] = max(sequence, needs.get(node, 0))
    packed: bytes | None = msgpack.packb(needs) if needs else None
    return packed


def unpack_needs(needs: bytes | None) -> dict[str, int]:
    """Raises ValueError for what `based_on` did not make."""
    if needs is None:
        return {}
    found = msgpack.unpackb(needs)
    if not isinstance(found, dict) or not all(
        type(node) is str and type(sequence) is int for node, sequence in found.items()
    ):
        raise ValueError("not the needs of a write")
    return found


def missing(connection: apsw.Connection, needs: bytes | None) -> set[str]:
    """The nodes whose writes the log has to have, and has not, before a write with these needs."""
    return {
        node
        for node, sequence in unpack_needs(needs).items()
        if _mark(connection, node) < sequence and not urgent.was_applied(connection, node, sequence)
    }


def _mark(connection: apsw.Connection, node: str) -> int:
    found: int | None = connection.execute("SELECT sequence FROM marks WHERE node = ?", (node,)).get
    return found or 0


def waits_for(connection: apsw.Connection, me: str) -> set[str]:
    """The nodes whose writes have to go first, for the next write of any journal that is known here to go on."""
    found: set[str] = set()
    own = connection.execute("SELECT needs FROM journal ORDER BY sequence LIMIT 1").get
    for needs in (own, *(_next_needs(connection, node) for node in nodes(connection))):
        found |= missing(connection, needs)
    return found - {me}


def _next_needs(connection: apsw.Connection, node: str) -> bytes | None:
    needs: bytes | None = connection.execute(
        "SELECT needs FROM shared WHERE node = ? AND sequence > ? ORDER BY sequence LIMIT 1",
        (node, _mark(connection, node)),
    ).get
    return needs


# Giving and keeping.


def have(connection: apsw.Connection) -> dict[str, int]:
    """Per node the highest sequence that is here, kept or applied: what to ask the others for more than."""
    rows: Any = connection.execute("SELECT node, sequence FROM marks").fetchall()
    found: dict[str, int] = dict(rows)
    for node in nodes(connection):
        last: int = connection.execute("SELECT max(sequence) FROM shared WHERE node = ?", (node,)).get
        found[node] = max(last, found.get(node, 0))
    return found


def any_unapplied(connection: apsw.Connection) -> bool:
    """Whether this node knows any write that is not applied, its own or others'."""
    return bool(connection.execute("SELECT EXISTS (SELECT 1 FROM journal) OR EXISTS (SELECT 1 FROM shared)").get)


def give(
    connection: apsw.Connection,
    me: str,
    offered: int,
    wanted: Mapping[str, int],
    without: Set[str],
    entries_max: int,
    bytes_max: int,
) -> list[Row]:
    """Unapplied writes beyond those `wanted` names: this node's own up to `offered`, others' but for nodes `without`.

    Every journal has its part of the bounds, at least one row: of journals that wait for each other the next to go on
    is then always among them.
    """
    sources = [node for node in nodes(connection) if node not in without]
    entries_max, bytes_max = (max(1, bound // (len(sources) + 1)) for bound in (entries_max, bytes_max))
    own = connection.execute(
        "SELECT ?, sequence, at, needs, operation FROM journal WHERE sequence > ? AND sequence <= ?"
        " AND sequence < ifnull((SELECT sequence FROM hold), 9223372036854775807) ORDER BY sequence LIMIT ?",
        (me, wanted.get(me, 0), offered, entries_max),
    )
    found = _within(own, bytes_max)
    for node in sources:
        rows = connection.execute(
            "SELECT node, sequence, at, needs, operation FROM shared WHERE node = ? AND sequence > ?"
            " ORDER BY sequence LIMIT ?",
            (node, max(wanted.get(node, 0), _mark(connection, node)), entries_max),
        )
        found += _within(rows, bytes_max)
    return found


def _within(rows: Iterable[Any], bytes_max: int) -> list[Row]:
    found: list[Row] = []
    size = 0
    for values in rows:
        row = Row(*values)
        size += len(row.operation)
        if found and size > bytes_max:
            break
        found.append(row)
    return found


def keep(
    connection: apsw.Connection, me: str, rows: Iterable[Row], entries_max: int, bytes_max: int
) -> list[tuple[Row, str | None]]:
    """Keeps what is new of `rows` and can be understood here; each with the UUID of its image. Stops at the bounds.

    The overlay is the caller's business: `store.journal.take_in`.
    """
    known, ahead = have(connection), urgent.all_applied(connection)
    held = stock(connection)
    entries, size = held.entries, held.bytes
    waiting = [row for row in rows if row.node != me]
    kept: list[tuple[Row, str | None]] = []
    progress = True
    while progress:
        progress, blocked, later = False, set[str](), []
        for row in waiting:
            if row.sequence <= known.get(row.node, 0) or (row.node, row.sequence) in ahead:
                continue
            needs = [need for need in unpack_needs(row.needs).items() if need not in ahead]
            full = entries >= entries_max or size + len(row.operation) > bytes_max
            if (
                row.node in blocked
                or full
                or any(known.get(node, 0) < sequence for node, sequence in needs if node != me)
            ):
                blocked.add(row.node)
                later.append(row)
                continue
            kept.append((row, _keep(connection, row)))
            known[row.node] = row.sequence
            entries, size, progress = entries + 1, size + len(row.operation), True
        waiting = later
    connection.execute("UPDATE node SET shared_entries = ?, shared_bytes = ?", (entries, size))
    return kept


def _keep(connection: apsw.Connection, row: Row) -> str | None:
    operation = decode(row.operation)
    uuid = subject(operation)
    keys.journaled(connection, row.node, row.sequence, operation)
    urgent.note(connection, row.node, row.sequence, operation)
    connection.execute(
        "INSERT INTO shared VALUES (?, ?, ?, ?, ?, ?)",
        (row.node, row.sequence, uuid, row.operation, row.at, row.needs),
    )
    return uuid


def forget(connection: apsw.Connection, node: str, sequence: int) -> None:
    """A write of another node was applied: its place is in the catalogue now."""
    size = connection.execute(
        "DELETE FROM shared WHERE node = ? AND sequence = ? RETURNING length(operation)", (node, sequence)
    ).get
    if size is not None:
        connection.execute(
            "UPDATE node SET shared_entries = shared_entries - 1, shared_bytes = shared_bytes - ?", (size,)
        )


def forget_applied(connection: apsw.Connection) -> None:
    """Drops whatever a snapshot, which has taken the place of the catalogue, holds already."""
    connection.execute(
        "DELETE FROM shared WHERE sequence <= (SELECT sequence FROM marks WHERE marks.node = shared.node)"
        " OR (node, sequence) IN (SELECT node, sequence FROM ahead)"
    )
    connection.execute(
        "UPDATE node SET (shared_entries, shared_bytes) ="
        " (SELECT count(*), coalesce(sum(length(operation)), 0) FROM shared)"
    )


# Showing and forwarding.


def nodes(connection: apsw.Connection) -> list[str]:
    """The other nodes of which something is kept here."""
    found: list[str] = []
    while True:  # one seek for each, however much is kept
        node: str | None = connection.execute(
            "SELECT node FROM shared WHERE node > ? ORDER BY node LIMIT 1", (found[-1] if found else "",)
        ).get
        if node is None:
            return found
        found.append(node)


def of_image(connection: apsw.Connection, uuid: str) -> list[Write]:
    """Other nodes' unapplied writes to a record, in an order that is the same wherever the same ones are kept."""
    rows: Any = connection.execute(
        "SELECT at, node, sequence, operation FROM shared WHERE uuid = ?", (uuid,)
    ).fetchall()
    return [Write(node, sequence, decode(data), buffered=True) for _, node, sequence, data in sorted(rows)]


def run(connection: apsw.Connection, node: str, after: int, entries_max: int, bytes_max: int) -> list[Write]:
    """The next writes of `node` behind `after` that may go to the log now, in sequence and without a gap."""
    rows = connection.execute(
        "SELECT node, sequence, at, needs, operation FROM shared WHERE node = ? AND sequence > ?"
        " ORDER BY sequence LIMIT ?",
        (node, max(after, _mark(connection, node)), entries_max),
    )
    found: list[Write] = []
    ahead = urgent.applied(connection, node)
    for row in _within(rows, bytes_max):
        between = range(found[-1].sequence + 1, row.sequence) if found else ()
        if any(one not in ahead for one in between) or missing(connection, row.needs):
            break
        found.append(Write(row.node, row.sequence, decode(row.operation), buffered=True))
    return found


def urgent_run(
    connection: apsw.Connection, me: str, node: str, beyond: int, entries_max: int, bytes_max: int
) -> list[Write]:
    """What may ride ahead of `node`'s queue now: its switch-offs beyond that sequence, each behind what waits for its
    image, so far as nothing is held or has to come behind others' writes. At least one if any, then within the bounds.
    """
    images: Any = connection.execute(
        "SELECT uuid, max(sequence) FROM urgent WHERE node = ? AND sequence > ? GROUP BY uuid ORDER BY max(sequence)"
        " LIMIT ?",
        (node, beyond, entries_max),
    ).fetchall()
    found: list[Write] = []
    size = 0
    for uuid, last in images:
        for sequence, data, needs in _of_image(connection, me, node, uuid, last):
            size += len(data)
            if found and (len(found) >= entries_max or size > bytes_max):
                break
            if missing(connection, needs):
                break
            found.append(Write(node, sequence, decode(data), buffered=True, ahead=True))
    return sorted(found, key=lambda write: write.sequence)


def _of_image(connection: apsw.Connection, me: str, node: str, uuid: str, last: int) -> list[Any]:
    if node != me:
        return connection.execute(
            "SELECT sequence, operation, needs FROM shared WHERE uuid = ? AND node = ? AND sequence <= ?"
            " ORDER BY sequence",
            (uuid, node, last),
        ).fetchall()
    return connection.execute(
        "SELECT sequence, operation, needs FROM journal WHERE uuid = ? AND sequence <= ?"
        " AND sequence < ifnull((SELECT sequence FROM hold), 9223372036854775807) ORDER BY sequence",
        (uuid, last),
    ).fetchall()


# Who holds this node's own journal.


def note_holder(connection: apsw.Connection, node: str, through: int) -> None:
    connection.execute(
        "INSERT INTO holders VALUES (?, ?) ON CONFLICT (node) DO UPDATE SET through = max(through, excluded.through)",
        (node, through),
    )


def holders(connection: apsw.Connection, sequence: int) -> list[str]:
    """The nodes that said that they hold this node's `sequence`-th write. They never become fewer."""
    rows = connection.execute("SELECT node FROM holders WHERE through >= ? ORDER BY node", (sequence,))
    return [node for (node,) in rows]
