"""The replicated state as a file: for nodes too far behind, for backups, for restoring. Plain functions of paths.

A snapshot is a complete store file that holds what is equal on all nodes and nothing of the node that wrote it: no
identity, no journal, no leases. So installing one is not loading rows but moving a file: what belongs to the node is
copied into it, and it takes the old file's place in one rename.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from store import apply, catalogue, identity, journal, keys, log, shared, urgent
from store.apply import Applied
from store.database import sync_path
from store.entries import Entry, EntryKind, HardState, Membership
from store.errors import CannotOpen, Impossible, StorageFull
from store.migrate import migrate, migrations
from store.operations import Write, decode

REPLICATED = (
    *("images", "facets", "history", "aliases", "marks", "ahead", "numbers", "ranges", "conflicts", "idempotency"),
    *("replica", "checkpoints", "audit"),
)
LOCAL = (
    *("node", "peers", "leases", "usage", "journal", "receipts", "shared", "urgent", "holders", "seen", "watched"),
    *("pending_keys", "answers", "hold"),
)
PART_BYTES = 4_194_304  # read and sent at a time
COPY_PAGES = 2_048  # of a store, between two looks at whether it is done


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot file: everything up to `position` (of `term`) is in it. `sha256` is of the whole file, hex."""

    path: Path
    position: int
    term: int
    membership: Entry | None
    bytes: int
    sha256: str


def write(source: Path, target: Path) -> Snapshot:
    """Writes the state of the store at `source`, as of one moment, to the file `target`, which must not exist.

    Reads in one transaction, so writers are not delayed; takes about as long as copying the file.
    """
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    check_room(target.parent, source.stat().st_size)
    try:
        begin = _write(source, partial)
        sync_path(partial)
        partial.rename(target)
    except apsw.FullError as error:
        raise StorageFull(f"no room for a snapshot: {error}") from None
    finally:
        partial.unlink(missing_ok=True)
    sync_path(target.parent)
    return Snapshot(target, begin.position, begin.term, begin.membership, target.stat().st_size, file_sha256(target))


def check_room(directory: Path, wanted_bytes: int) -> None:
    """Raises StorageFull when a file of this size would leave less than a quarter of its size free."""
    disk = os.statvfs(directory)
    free = disk.f_bavail * disk.f_frsize
    if free < wanted_bytes * 5 // 4:
        raise StorageFull(f"a snapshot needs {wanted_bytes} bytes in {directory}, {free} are free")


def _write(source: Path, partial: Path) -> log.Compacted:
    partial.touch(0o600)
    connection = apsw.Connection(str(partial))
    try:
        # Nothing is promised of this file until it is whole and renamed.
        connection.pragma("synchronous", "off")
        _copy(source, connection)
        connection.pragma("journal_mode", "off")
        connection.execute("BEGIN")
        begin = _where(connection)
        tables: Any = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        for (name,) in tables:
            if name not in REPLICATED and not name.startswith("sqlite_"):
                connection.execute(f"DELETE FROM {name}")  # noqa: S608  # our own names
        log.save_compacted(connection, begin)
        connection.execute("COMMIT")
        return begin
    finally:
        connection.close()


def _copy(source: Path, target: apsw.Connection) -> None:
    """Page by page, as of one moment: several times as quick as writing the rows and their indexes anew."""
    origin = apsw.Connection(str(source), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        origin.execute("BEGIN")  # a writer's commits would make the copy begin again
        origin.execute("SELECT position FROM replica").fetchall()
        with target.backup("main", origin, "main") as copy:
            while not copy.done:
                copy.step(COPY_PAGES)
    finally:
        origin.close()


def _where(connection: apsw.Connection) -> log.Compacted:
    """What the copied state stands at, by the log that was copied with it."""
    position = catalogue.replica(connection).position
    term = log.term_at(connection, position)
    return log.Compacted(position, term if term is not None else 0, log.membership(connection, position))


def describe(path: Path) -> Snapshot:
    """What a snapshot file holds. Raises CannotOpen for anything else."""
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    except apsw.Error as error:
        raise CannotOpen(f"{path} cannot be opened: {error}") from None
    try:
        version, known = connection.pragma("user_version"), len(migrations())
        if not isinstance(version, int) or not 0 < version <= known:
            raise CannotOpen(f"{path} has schema version {version}, this zoned knows 1 to {known}")
        begin = log.compacted(connection)
        if connection.execute("SELECT count(*) FROM node").get or not begin.position:
            raise CannotOpen(f"{path} is a store in use or an empty one, not a snapshot")
    except apsw.Error as error:
        raise CannotOpen(f"{path} is no snapshot: {error}") from None
    finally:
        connection.close()
    return Snapshot(path, begin.position, begin.term, begin.membership, path.stat().st_size, file_sha256(path))


def check(path: Path) -> catalogue.Replica:
    """Counts a snapshot's records anew. Raises CannotOpen when they are not what the file says of itself."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        said, counted = catalogue.replica(connection), catalogue.recount(connection)
    except apsw.Error as error:
        raise CannotOpen(f"{path} cannot be read: {error}") from None
    finally:
        connection.close()
    if said != counted:
        raise CannotOpen(f"{path} is damaged: it says hash {said.digest}, its records have {counted.digest}")
    return said


def adopt(path: Path, current: Path, me: str, finish: Callable[[apsw.Connection], None]) -> None:
    """Makes the snapshot at `path` this node's own store, ready to take the place of `current`.

    Copies what belongs to the node, settles writes of its journal that the snapshot holds already, and takes up ranges
    that were granted to it meanwhile. `finish` runs in the same transaction.
    """
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        migrate(connection, str(path))
        connection.pragma("synchronous", "full")
        connection.execute("ATTACH ? AS old", (str(current),))
        with connection:
            for table in LOCAL:
                connection.execute(f"DELETE FROM main.{table}")  # noqa: S608  # our own names
                connection.execute(f"INSERT INTO main.{table} SELECT * FROM old.{table}")  # noqa: S608  # our own names
            connection.execute("INSERT OR REPLACE INTO main.hard_state SELECT * FROM old.hard_state")
            _settle(connection, me)
            finish(connection)
        connection.execute("DETACH old")
        connection.pragma("journal_mode", "wal")
    finally:
        connection.close()
    sync_path(path)


def _settle(connection: apsw.Connection, me: str) -> None:
    ahead = urgent.applied(connection, me)
    done = max(apply.mark(connection, me), *ahead, 0)
    last: Any = connection.execute("SELECT sequence FROM node").get
    if done > last:
        raise Impossible(
            f"{done} writes were made under this node's ID, its data directory knows only {last}: an older copy was put"
            " back; give the node an empty data directory, so that it gets a new ID"
        )
    position = catalogue.replica(connection).position
    rows: Any = connection.execute(
        "SELECT sequence, operation, at FROM journal"
        " WHERE sequence <= ? OR sequence IN (SELECT sequence FROM ahead WHERE node = ?)",
        (apply.mark(connection, me), me),
    )
    for sequence, data, at in rows.fetchall():
        journal.keep_settled(connection, Write(me, sequence, decode(data)), len(data), at, position)
    connection.execute(
        "INSERT OR IGNORE INTO leases SELECT start, start, stop FROM ranges WHERE node = ?"
        " AND retired = 0 AND start NOT IN (SELECT start FROM leases)",
        (me,),
    )
    connection.execute("DELETE FROM leases WHERE start IN (SELECT start FROM ranges WHERE retired > 0)")
    shared.forget_applied(connection)
    urgent.forget_applied(connection)
    keys.forget_applied(connection)
    waiting: Any = connection.execute(
        "SELECT uuid FROM journal WHERE uuid NOT LIKE 'alias:%' UNION SELECT uuid FROM shared WHERE uuid IS NOT NULL"
    ).fetchall()
    for (uuid,) in waiting:
        journal.refresh_overlay(connection, uuid, me)


def found_anew(connection: apsw.Connection, me: str, cluster_id: str, integers_burnt: int, now: float) -> list[Applied]:
    """Begins a new cluster of this node alone on the state that is here: after a restore, or a lost majority.

    Everything in the log counts, and is applied at once. The cluster ID is new, so whoever still lives in the old
    cluster and this one cannot mistake each other; integers that may have been granted where this node could not see it
    are burnt; and the log begins anew behind all this, so that every other node can only join by a snapshot of it.
    Returns the outcomes of this node's own writes.
    """
    state = log.hard_state(connection)
    applied, last = catalogue.replica(connection).position, log.last_position(connection)
    term = max(state.term, log.term_at(connection, last) or 0) + 1
    membership = Membership(cluster_id, (me,))
    log.save_entries(connection, [Entry(last + 1, term, EntryKind.MEMBERSHIP, membership.encode())])
    log.save_hard_state(connection, HardState(term, me, last + 1))
    own = apply.apply(connection, log.read(connection, applied + 1, last + 2, 2**62), me, now)
    connection.execute("UPDATE replica SET next_integer = next_integer + ?", (integers_burnt,))
    log.compact(connection, last + 1)
    return own


# Ranges that may have been granted after a backup was written; integers are plentiful.
INTEGERS_BURNT = 10_000_000


def check_empty(target: Path) -> None:
    """Raises CannotOpen when a store, or what is left of one, is at `target`."""
    for old in (target, *(target.with_name(target.name + end) for end in ("-wal", "-shm", "-journal"))):
        if old.exists():
            raise CannotOpen(f"{old} exists; restore into an empty node.data_dir")


def restore(
    snapshot: Path, target: Path, integers_burnt: int, cluster_id: str, new_id: str, where: tuple[str, str]
) -> int:
    """Makes a store at `target` (which must not exist) from a snapshot, as a new node and a new cluster.

    `where` is (zone, label). The integer counter goes on `integers_burnt` above the snapshot's, because ranges may have
    been granted after it was written; returns the first integer that will be granted.
    """
    check_empty(target)
    partial = target.with_name(target.name + ".partial")
    for old in partial.parent.glob(partial.name + "*"):
        old.unlink()
    partial.touch(0o600)  # for its owner only, like every store
    with snapshot.open("rb") as source, partial.open("wb") as copy:
        while part := source.read(PART_BYTES):
            copy.write(part)
    connection = apsw.Connection(str(partial), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        migrate(connection, str(partial))
        with connection:
            me = identity.start(connection, new_id, *where)
            connection.execute("UPDATE node SET generation = 0")
            begin = log.compacted(connection)
            log.save_hard_state(connection, HardState(begin.term, "", begin.position))
            found_anew(connection, me.node_id, cluster_id, integers_burnt, 0.0)
        counter: Any = connection.execute("SELECT next_integer FROM replica").get
    finally:
        connection.close()
    sync_path(partial)
    partial.rename(target)
    sync_path(target.parent)
    return int(counter)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
