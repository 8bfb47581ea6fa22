"""`zonectl backup`: the snapshot that the daemon writes and streams, as a file; or a folder of the newest."""

import hashlib
import json
import os
from http.client import HTTPException
from pathlib import Path

import click

from zoned import clock
from zoned.asking import EXITS, Asker, UnixConnection, fail, no_daemon, text
from zoned.files import opened_private
from zoned.progress import bar

PART_BYTES = 1_048_576
TIMEOUT_S = 600.0  # the daemon writes its file before the first byte comes
PREFIX = "zoned-"  # of files in a folder of backups; nothing else there is ever touched


def save(socket: Path, target: Path) -> str:
    """Writes `target` whole or not at all, counts its records anew, and says what it is. Ends the process with one
    line when it cannot."""
    if target.exists():
        fail(f"{target} exists; name another file", 5)
    partial = target.with_name(target.name + ".partial")
    connection = UnixConnection(socket, TIMEOUT_S)
    try:
        said = _fetch(socket, connection, partial)
        _check(partial)
        partial.rename(target)
        _sync_folder(target.parent)
    except (OSError, HTTPException, KeyError, ValueError) as error:
        fail(f"no backup was written: {error}", 1)
    finally:
        connection.close()
        partial.unlink(missing_ok=True)
    return f"{target}: {said}"


def _fetch(socket: Path, connection: UnixConnection, partial: Path) -> str:
    try:
        connection.connect()
    except OSError as error:
        fail(no_daemon(socket, error), 3)
    connection.request("POST", "/admin/v1/backup")
    answer = connection.getresponse()
    if answer.status != 200:
        fail(_refusal(answer.read()), EXITS.get(answer.status, 1))
    total, position = int(answer.headers["Content-Length"]), answer.headers["Zone-Backup-Position"]
    digest = hashlib.sha256()
    with bar("backup", total) as advance, open(partial, "wb", opener=opened_private) as file:
        while part := answer.read(PART_BYTES):
            digest.update(part)
            file.write(part)
            advance(len(part))
        file.flush()
        os.fsync(file.fileno())
    if digest.hexdigest() != answer.headers["Zone-Backup-SHA256"]:
        fail("the backup came with another hash than was announced; try again", 1)
    return f"{total} bytes, position {position}, sha256 {digest.hexdigest()}"


def _refusal(body: bytes) -> str:
    try:
        return text(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return text(body[:300].decode(errors="replace"))


def _check(file: Path) -> None:
    """What is not whole now will not be whole on the day that it is needed."""
    from store import snapshot
    from store.errors import StoreError

    try:
        snapshot.check(file)
    except StoreError as error:
        fail(f"no backup was kept: {error}; zonectl sync verify says whether this node is damaged", 1)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_into(asker: Asker, folder: Path, keep: int) -> str:
    """A backup under its own name in `folder`, where then the newest `keep` remain."""
    if not folder.is_dir():
        fail(f"{folder} is no folder; make it, or leave --keep out to name a file", 2)
    zone = asker.get("/zone/v1/status")["node"]["zone"]
    stamp = "".join(char for char in clock.text(clock.wall()) if char not in "-:")
    said = save(asker.socket, folder / f"{PREFIX}{zone}-{stamp}")
    # Names end with the time, so of one zone the oldest comes first; other zones' files may be here, too.
    mine = sorted(path for path in folder.glob(f"{PREFIX}{zone}-*Z") if path.is_file())
    for old in mine[:-keep]:
        old.unlink()
        click.echo(f"zonectl: {old} removed, {keep} are kept", err=True)
    return said
