"""`zonectl backup`: the snapshot that the daemon writes and streams, as a file, with a bar."""

import hashlib
import os
from http.client import HTTPException
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from zoned.asking import UnixConnection, fail
from zoned.files import opened_private

PART_BYTES = 1_048_576
TIMEOUT_S = 600.0  # the daemon writes its file before the first byte comes


def save(socket: Path, target: Path) -> None:
    """Writes `target` whole or not at all. Ends the process with one line when it cannot."""
    if target.exists():
        fail(f"{target} exists; name another file", 5)
    partial = target.with_name(target.name + ".partial")
    connection = UnixConnection(socket, TIMEOUT_S)
    try:
        connection.request("POST", "/admin/v1/backup")
        answer = connection.getresponse()
        if answer.status != 200:
            fail(answer.read(300).decode(errors="replace"), 1)
        total, position = int(answer.headers["Content-Length"]), answer.headers["Zone-Backup-Position"]
        digest = hashlib.sha256()
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with (
            Progress(*columns, console=Console(stderr=True), transient=True) as progress,
            open(partial, "wb", opener=opened_private) as file,
        ):
            task = progress.add_task("backup", total=total)
            while part := answer.read(PART_BYTES):
                digest.update(part)
                file.write(part)
                progress.advance(task, len(part))
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != answer.headers["Zone-Backup-SHA256"]:
            fail("the backup came with another hash than was announced; try again", 1)
        partial.rename(target)
    except (OSError, HTTPException, KeyError, ValueError) as error:
        fail(f"no backup was written: {error}", 3 if not partial.exists() else 1)
    finally:
        connection.close()
        partial.unlink(missing_ok=True)
    print(f"{target}: {total} bytes, position {position}, sha256 {digest.hexdigest()}")  # noqa: T201  # the command's answer
