"""What breaks machines, for tests: file systems that fill up or turn read-only, syncs that fail, writes meanwhile."""

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest
import trio

from tests.system.conftest import status, until
from tests.system.test_kill import Clients, Record
from zoned.fleet import Daemon

# httpx leaves a half-read body to the garbage collector when a request is cancelled, which trio remarks upon.
HALF_READ = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <async_generator object ByteStream:pytest.PytestUnraisableExceptionWarning"
)


def run(*words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=30, check=check)


def needs_root(tool: str) -> None:
    """Skips the test where it cannot be done, and says why."""
    if os.geteuid() != 0:
        pytest.skip(f"only root may use {tool} for this test")
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed here")


@contextmanager
def tmpfs(directory: Path, size: str) -> Iterator[None]:
    """A small file system of its own at `directory`; gone after the block."""
    needs_root("mount")
    directory.mkdir(parents=True, exist_ok=True)
    mounted = run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", directory, check=False)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        run("umount", "--lazy", directory)


class Disk:
    """An ext4 file system in a file, mounted at a directory."""

    def __init__(self, image: str, directory: Path) -> None:
        self.image = image
        self.directory = directory

    def mount(self) -> subprocess.CompletedProcess[str]:
        return run("mount", "-o", "loop", self.image, self.directory, check=False)

    def break_down(self) -> None:
        """What ext4 does after an error of the device: read-only from here on, whoever has files open."""
        run("mount", "-o", "remount,abort", self.directory)

    def unmount(self) -> None:
        run("umount", self.directory)


@contextmanager
def ext4(directory: Path, megabytes: int) -> Iterator[Disk]:
    needs_root("mkfs.ext4")
    with tempfile.NamedTemporaryFile(suffix=".img") as image:
        os.truncate(image.name, megabytes << 20)
        run("mkfs.ext4", "-q", image.name)
        directory.mkdir(parents=True, exist_ok=True)
        disk = Disk(image.name, directory)
        mounted = disk.mount()
        if mounted.returncode:
            pytest.skip(f"no file can be mounted here: {mounted.stderr.strip()}")
        try:
            yield disk
        finally:
            if directory.is_mount():
                run("umount", "--lazy", directory)


def fill(directory: Path) -> Path:
    """Leaves no byte free on the file system of `directory`; gives the file that takes the room."""
    path = directory / "fill"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                pass
    return path


SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
static int fails(void) { const char *path = getenv("FAIL_SYNC"); return path && access(path, F_OK) == 0; }
int fsync(int fd) {
    if (fails()) { errno = EIO; return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}
int fdatasync(int fd) {
    if (fails()) { errno = EIO; return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
"""


def sync_shim(directory: Path) -> Path:
    """A library for LD_PRELOAD: while the file $FAIL_SYNC exists, every sync fails with EIO."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed here: no library that fails syncs")
    source, library = directory / "shim.c", directory / "shim.so"
    source.write_text(SHIM)
    built = run("gcc", "-shared", "-fPIC", "-o", library, source, "-ldl", check=False)
    if built.returncode:
        pytest.skip(f"gcc cannot build here: {built.stderr.strip()[:200]}")
    return library


@asynccontextmanager
async def streams(http: httpx.AsyncClient, daemons: list[Daemon], seed: int, count: int = 4) -> AsyncIterator[Record]:
    """Clients that write at random to `daemons` during the block, and what they were told."""
    record = Record()
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(Clients(http, daemons, random.Random(seed * 100 + number), record).stream)
        yield record
        nursery.cancel_scope.cancel()


async def have_integers(http: httpx.AsyncClient, daemons: list[Daemon]) -> None:
    async def everyone() -> bool:
        return all([(await status(http, daemon))["ids"]["left"] for daemon in daemons])

    await until("every zone has integers", everyone)


async def another_registry(http: httpx.AsyncClient, daemons: list[Daemon], old: Daemon, patience_s: float) -> Daemon:
    """The one that `daemons` all name as the registry, once it is not `old`."""
    found: list[Daemon] = []

    async def elected() -> bool:
        names = {(await status(http, daemon))["registry"]["zone"] for daemon in daemons}
        found[:] = [daemon for daemon in daemons if names == {daemon.zone} and daemon is not old]
        return bool(found)

    await until(f"another registry than {old.zone}", elected, patience_s)
    return found[0]


async def create(http: httpx.AsyncClient, daemon: Daemon, name: str) -> httpx.Response:
    return await http.post(f"{daemon.url}/zone/v1/images", json={"name": name})


async def commits(http: httpx.AsyncClient, daemon: Daemon, patience_s: float) -> None:
    """Waits until a write at `daemon` is committed while its client waits."""

    async def committed() -> bool:
        return (await create(http, daemon, "probe")).status_code == 201

    await until(f"a write at {daemon.zone} commits", committed, patience_s)
