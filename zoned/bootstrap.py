"""Snapshots between nodes: written once by a donor, fetched in parts, resumed, verified, and put in place whole.

A node that is further behind than anybody's log needs the state itself. The donor writes it to a file beside its store
(`store.snapshot`) and serves that file in parts, to any number of nodes; the fetcher appends parts to a file of its
own, so a broken connection or a restart goes on where it was. Only a file with the right hash, whose records add up to
the catalogue hash that it claims, takes the place of the store. Until then lookups are answered from the old state.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import apsw
import structlog
import trio

from store import log, snapshot
from store.database import Database, sync_path
from store.entries import Entry, EntryKind, Membership
from store.errors import CannotOpen, StorageFull
from store.snapshot import Snapshot, check_room
from zoned.errors import PeerRefused, PeerUnreachable
from zoned.peers import Peers
from zoned.supervise import first_of

FETCH_BYTES = 524_288  # one part: the donor's loop copies it, and its lookups wait so long
ASK_TIMEOUT_S = 30.0
HELD_S = 120.0  # the log goes on from a snapshot for so long after its last part was read
FULL_AGAIN_S = 10.0  # a snapshot that did not fit is tried again so much later
PREPARING_S = 0.5  # how often a donor that is still writing is asked again
OFFERED_S = 600.0  # a snapshot that nobody fetched from for so long is removed: it takes as much disk as the store
FOLDER = "snapshots"

logger = structlog.get_logger()


class Donor:
    """Serves this node's state to nodes that are far behind. One snapshot is kept, as long as the log continues it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._folder = database.path.parent / FOLDER
        self._current: Snapshot | None = None
        self._used_at = -math.inf
        for old in self._folder.glob("backup-*"):
            old.unlink()  # of a daemon that was killed while it wrote one
        self._wanted = trio.Event()

    async def serve(self) -> None:
        """Writes a snapshot whenever one is asked for that is not there; removes it when nobody wants it any more."""
        await trio.to_thread.run_sync(self._forget)  # what an earlier run of the daemon left
        while True:
            if not await first_of(self._wanted, at_most_s=OFFERED_S / 10):
                if self._current is not None and trio.current_time() - self._used_at >= OFFERED_S:
                    self._current = None
                    await trio.to_thread.run_sync(self._forget)
                continue
            self._used_at = trio.current_time()
            try:
                self._current = await self._database.copy(self._write)
                self._used_at = trio.current_time()
                logger.info("snapshot written", position=self._current.position, bytes=self._current.bytes)
            except (OSError, StorageFull) as error:
                logger.error("snapshot not written", problem=str(error))
                await trio.sleep(FULL_AGAIN_S)
            # Only now: whoever waited asked again and again meanwhile, and must not be given one and lose it to a next.
            self._wanted = trio.Event()

    def hold(self) -> int | None:
        """The position that the log must go on from for whoever is fetching; None when nobody is."""
        in_use = self._current is not None and trio.current_time() - self._used_at < HELD_S
        return self._current.position if in_use and self._current is not None else None

    def _write(self, source: Path) -> Snapshot:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._forget()
        made = snapshot.write(source, self._folder / "own-new")
        path = made.path.with_name(f"own-{made.position}")
        return replace(made, path=made.path.rename(path))

    def _forget(self) -> None:
        for old in self._folder.glob("own-*"):
            old.unlink()

    def offer(self) -> Snapshot | None:
        """A snapshot that this node's log continues; None while it is being written."""
        current = self._current
        reader = self._database.reader
        if current is None or current.position + 1 < log.first_position(reader) or not _is_of(current, reader):
            self._wanted.set()
            return None
        self._used_at = trio.current_time()
        return current

    async def part(self, sha256: str, offset: int, length: int) -> bytes | None:
        """A part of the snapshot with this hash; None when it is not there any more."""
        current = self._current
        if current is None or current.sha256 != sha256:
            return None
        self._used_at = trio.current_time()
        return await trio.to_thread.run_sync(_read_part, current.path, offset, min(length, FETCH_BYTES))


def _is_of(found: Snapshot, reader: apsw.Connection) -> bool:
    """Whether a snapshot is of the cluster that this node is in now."""
    ours = log.membership(reader, log.last_position(reader))
    if ours is None or found.membership is None:
        return False
    return Membership.decode(ours.data).cluster_id == Membership.decode(found.membership.data).cluster_id


def _read_part(path: Path, offset: int, length: int) -> bytes | None:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(length)
    except OSError:
        return None


def pack(offer: Snapshot | None) -> list[Any]:
    if offer is None:
        return []
    held = offer.membership
    membership = [held.index, held.term, held.data] if held is not None else None
    return [offer.position, offer.term, membership, offer.bytes, offer.sha256]


def unpack(packed: Any, folder: Path) -> Snapshot | None:
    """Raises PeerRefused for anything but a packed offer."""
    match packed:
        case []:
            return None
        case [int(position), int(term), [int(index), int(of_term), bytes(data)], int(size), str(sha256)] if (
            len(sha256) == 64 and sha256.isalnum() and 0 < size < 2**53
        ):
            membership = Entry(index, of_term, EntryKind.MEMBERSHIP, data)
            return Snapshot(folder / f"from-{sha256}", position, term, membership, size, sha256)
        case _:
            raise PeerRefused("answered with no snapshot")


@dataclass(frozen=True, slots=True)
class Fetching:
    """How far a snapshot has come, for status."""

    donor: str
    position: int
    bytes: int
    total: int


class Fetcher:
    """Gets a snapshot from a donor, a part at a time."""

    def __init__(self, database: Database, peers: Peers) -> None:
        self.state: Fetching | None = None
        self._folder = database.path.parent / FOLDER
        self._peers = peers
        for old in self._folder.glob("from-*"):
            # Whole but not installed: perhaps half adopted when the daemon was killed. What is still coming goes on.
            if old.suffix != ".part":
                old.unlink()

    async def fetch(self, donor: str, known_cluster: str) -> Snapshot:
        """The donor's snapshot, of our cluster ("": any), as a verified file of ours.

        Raises PeerUnreachable, PeerRefused or StorageFull; call again then.
        """
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            offered = await self._ask(donor)
            theirs = Membership.decode(offered.membership.data).cluster_id if offered.membership is not None else ""
            if not theirs or known_cluster not in ("", theirs):
                raise PeerRefused(f"the snapshot is of cluster {theirs}, this node of {known_cluster}")
            check_room(self._folder, offered.bytes)
            await self._fetch(donor, offered)
            return offered
        except OSError as error:
            raise StorageFull(f"a snapshot cannot be kept: {error}") from None
        finally:
            self.state = None

    async def _ask(self, donor: str) -> Snapshot:
        while True:
            offered = unpack(await self._peers.ask(donor, "snapshot", None, ASK_TIMEOUT_S), self._folder)
            if offered is not None:
                return offered
            self.state = Fetching(donor, 0, 0, 0)
            await trio.sleep(PREPARING_S)

    async def _fetch(self, donor: str, offered: Snapshot) -> None:
        partial = offered.path.with_name(offered.path.name + ".part")
        for other in self._folder.glob("from-*"):
            if other != partial:
                other.unlink()
        have = partial.stat().st_size if partial.exists() else 0
        while have < offered.bytes:
            self.state = Fetching(donor, offered.position, have, offered.bytes)
            part = await self._peers.ask(donor, "snapshot-part", [offered.sha256, have, FETCH_BYTES], ASK_TIMEOUT_S)
            if not isinstance(part, bytes) or not part:
                raise PeerUnreachable(f"{donor} has this snapshot no more")
            await trio.to_thread.run_sync(_append, partial, part)
            have += len(part)
        self.state = Fetching(donor, offered.position, have, offered.bytes)
        await trio.to_thread.run_sync(_verify, partial, offered)
        await trio.to_thread.run_sync(_keep, partial, offered.path)
        logger.info("snapshot fetched", donor=donor, position=offered.position, bytes=offered.bytes)


def _keep(partial: Path, whole: Path) -> None:
    sync_path(partial)
    partial.rename(whole)
    sync_path(whole.parent)


def _append(path: Path, part: bytes) -> None:
    with path.open("ab") as file:
        file.write(part)


def _verify(partial: Path, offered: Snapshot) -> None:
    """Raises PeerRefused, and forgets the file, when it is not what was offered or its records do not add up."""
    try:
        if snapshot.file_sha256(partial) != offered.sha256:
            raise PeerRefused("the snapshot came with another hash than was offered")
        found = snapshot.describe(partial)
        if (found.position, found.term) != (offered.position, offered.term):
            raise PeerRefused(f"the snapshot is of position {found.position}, offered was {offered.position}")
        snapshot.check(partial)
    except (PeerRefused, CannotOpen) as error:
        partial.unlink(missing_ok=True)
        raise PeerRefused(str(error)) from None


async def install(database: Database, fetched: Snapshot, me: str, finish: Callable[[apsw.Connection], None]) -> None:
    """Puts a fetched snapshot in the place of the store; `finish` runs in the transaction that completes it."""

    def prepare() -> Path:
        snapshot.adopt(fetched.path, database.path, me, finish)
        return fetched.path

    try:
        await database.replace(prepare)
    except (OSError, apsw.FullError) as error:
        raise StorageFull(f"the snapshot cannot be installed: {error}") from None
    logger.info("snapshot installed", position=fetched.position)
