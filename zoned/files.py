"""Files that are for their owner only, and files that may change under a running daemon."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path


class NotPrivate(Exception):
    """Others may read or write a file that is a secret. Nothing was read."""


def check_private(path: Path) -> None:
    """Raises NotPrivate, or OSError. A group may be let in: systemd's credentials are made so."""
    if path.stat().st_mode & 0o007:
        raise NotPrivate(f"others may read or write {path}; chmod 600 it")


def read_private_bytes(path: Path) -> bytes:
    """A secret's file. Raises NotPrivate or OSError."""
    check_private(path)
    return path.read_bytes()


def read_private(path: Path) -> str:
    """The text of a secret's file. Raises NotPrivate, OSError or UnicodeDecodeError."""
    return read_private_bytes(path).decode("utf-8")


def opened_private(path: str, flags: int) -> int:
    """An `opener`: what it creates is for its owner only, whatever the umask."""
    return os.open(path, flags, 0o600)


class Watched:
    """Files that somebody may replace or write at any time, looked at once in `every_s` at most."""

    def __init__(self, paths: Sequence[Path], every_s: float, now: Callable[[], float]) -> None:
        """`now` in monotonic seconds. Make it before the files are read the first time: no change is missed then."""
        self._paths = paths
        self._every_s = every_s
        self._now = now
        self._looked = now()
        self._marks = self._look()

    def changed(self) -> bool:
        """Whether they are others than when it was last asked."""
        if self._now() - self._looked < self._every_s:
            return False
        self._looked, before, self._marks = self._now(), self._marks, self._look()
        return self._marks != before

    def _look(self) -> list[tuple[int, int, int]]:
        marks = []
        for path in self._paths:
            try:
                found = path.stat()
                marks.append((found.st_mtime_ns, found.st_size, found.st_ino))
            except OSError:
                marks.append((0, 0, 0))
        return marks


def write_private(path: Path, data: bytes) -> None:
    """The whole file or nothing, on disk, for its owner only."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    parent = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
