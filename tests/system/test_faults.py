"""Machines that misbehave without dying: frozen processes, full and broken disks, readers that never finish.

Each test does to real daemons what happens to real machines, while clients write, and then compares what the clients
were told with what every zone holds.
"""

import signal
import time
from pathlib import Path

import apsw
import pytest
import trio

from store.database import WAL_PAGES
from tests.system.conftest import settled, start_all, status, until
from tests.system.faults import (
    HALF_READ,
    another_registry,
    commits,
    create,
    ext4,
    fill,
    have_integers,
    streams,
    sync_shim,
    tmpfs,
)
from tests.system.test_kill import check
from tests.system.test_operations import registry_of, zonectl
from zoned.fleet import Daemon

pytestmark = [pytest.mark.system, HALF_READ]

PAGE_BYTES = 4_096
FROZEN_S = 4.0
SHORT_WAIT = "wait_s = 0.3\n"


def signal_to(daemon: Daemon, number: int) -> None:
    assert daemon.process is not None
    daemon.process.send_signal(number)


async def ended_by_itself(daemon: Daemon, within_s: float = 15.0) -> int:
    assert daemon.process is not None
    with trio.move_on_after(within_s):
        while daemon.process.poll() is None:  # noqa: ASYNC110  # another process
            await trio.sleep(0.05)
    assert daemon.process.poll() is not None, f"{daemon.zone} goes on; its log ends:\n{daemon.log_tail()}"
    return int(daemon.process.returncode)


async def test_a_frozen_registry_finds_itself_replaced(fleet, client):
    daemons = fleet(3, extra=SHORT_WAIT)
    await start_all(client, daemons)
    await have_integers(client, daemons)
    old = await registry_of(client, daemons)
    others = [daemon for daemon in daemons if daemon is not old]
    async with streams(client, daemons, seed=1) as record:
        await trio.sleep(0.5)
        began = time.monotonic()
        signal_to(old, signal.SIGSTOP)
        try:
            new = await another_registry(client, others, old, 10.0)
            await commits(client, new, 5.0)
            await trio.sleep(max(0.0, FROZEN_S - (time.monotonic() - began)))
        finally:
            signal_to(old, signal.SIGCONT)
        await another_registry(client, daemons, old, 10.0)
        await trio.sleep(0.5)
    assert "stepped down" in old.log.read_text()
    assert (await status(client, old))["registry"]["role"] == "voter"
    await check(client, daemons, record)
    assert record.committed > 20


async def test_a_full_disk_refuses_writes_and_recovers_by_itself(fleet, client):
    daemons = fleet(3, extra=f"{SHORT_WAIT}[journal]\nfree_disk_min_bytes = 0\n")
    full, *others = daemons
    data = full.directory / "data"
    with tmpfs(data, "24m"):
        await start_all(client, daemons)
        await have_integers(client, daemons)
        made = await create(client, full, "before")
        assert made.status_code == 201
        image = made.json()["uuid"]
        if await registry_of(client, daemons) is not full:
            assert zonectl(others[0], "registry", "transfer", full.zone).returncode == 0
            await until("the registry is on the small disk", lambda: is_registry(client, full))
        room = fill(data)
        # The registry itself cannot write: another takes over, and its zone goes on reading.
        assert (await create(client, full, "no room")).status_code == 507
        for other in others:
            await commits(client, other, 20.0)
        await another_registry(client, others, full, 20.0)
        for _ in range(20):
            assert (await create(client, full, "no room")).status_code == 507
            assert (await client.get(f"{full.url}/zone/v1/images/{image}")).status_code == 200
        assert (await client.get(f"{full.url}/readyz")).status_code == 200
        assert full.is_running
        room.unlink()
        await commits(client, full, 15.0)
        # And once more, with a voter's disk full: the registry and the others do not even notice.
        registry = await registry_of(client, daemons)
        if registry is full:
            assert zonectl(full, "registry", "transfer", others[0].zone).returncode == 0
            await another_registry(client, daemons, full, 10.0)
        room = fill(data)
        for number in range(20):
            assert (await create(client, others[number % 2], "elsewhere")).status_code == 201
        assert (await create(client, full, "no room")).status_code == 507
        room.unlink()
        await commits(client, full, 15.0)
        await settled(client, daemons)
        full.stop()


async def is_registry(client, daemon: Daemon) -> bool:
    return bool((await status(client, daemon))["registry"]["role"] == "registry")


async def test_a_disk_that_turned_read_only_ends_the_daemon_and_loses_nothing(fleet, client):
    daemons = fleet(3, extra=SHORT_WAIT)
    broken, *others = daemons
    with ext4(broken.directory / "data", 400) as disk:
        await start_all(client, daemons)
        await have_integers(client, daemons)
        async with streams(client, daemons, seed=2) as record:
            await trio.sleep(1.0)
            disk.break_down()
            assert await ended_by_itself(broken) == 1
            await commits(client, others[0], 15.0)
        said_last(broken, "ReadOnlyError", "IOError")
        # Started again on the same read-only disk it says what is wrong, in one line.
        broken.start()
        assert await ended_by_itself(broken) == 1
        said_last(broken, "cannot be")
        disk.unmount()
        assert disk.mount().returncode == 0  # the file system replays its own journal, as after a power cut
        await start_all(client, daemons)
        await check(client, daemons, record)
        assert record.committed > 20
        broken.stop()


def said_last(daemon: Daemon, *words: str) -> None:
    """The log ends with one line for people that has one of the words."""
    last = daemon.log_tail(1)
    assert last.startswith("zoned: "), daemon.log_tail()
    assert any(word in last for word in words), last


async def test_a_failed_sync_ends_the_daemon(fleet, client, tmp_path: Path, monkeypatch):
    library = sync_shim(tmp_path)
    daemons = fleet(3, extra=SHORT_WAIT)
    broken, *others = daemons
    trigger = tmp_path / "fail-now"
    with monkeypatch.context() as patch:
        patch.setenv("LD_PRELOAD", str(library))
        patch.setenv("FAIL_SYNC", str(trigger))
        broken.start()
    await start_all(client, daemons)
    await have_integers(client, daemons)
    async with streams(client, daemons, seed=3) as record:
        await trio.sleep(0.7)
        trigger.touch()
        assert await ended_by_itself(broken) == 1
        await commits(client, others[0], 15.0)
    said_last(broken, "IOError")
    # The disk is well again (or another): what was acknowledged is there.
    trigger.unlink()
    await start_all(client, daemons)
    await check(client, daemons, record)
    assert record.failed


async def test_the_write_ahead_log_stops_growing_once_a_reader_that_stays_has_left(fleet, client):
    (daemon,) = fleet(1)
    await start_all(client, [daemon])
    await have_integers(client, [daemon])
    store = daemon.directory / "data" / "zoned.db"
    wal = store.with_name("zoned.db-wal")

    async def write(count: int) -> int:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(some, count // 8)
        await settled(client, [daemon])
        return int(wal.stat().st_size)

    async def some(count: int) -> None:
        for _ in range(count):
            assert (await create(client, daemon, "n")).status_code in (201, 202)

    usual = await write(400)
    # What an operator with a shell, or a backup of the file, does to the daemon.
    reader = apsw.Connection(str(store), flags=apsw.SQLITE_OPEN_READONLY)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM images").fetchall()
    grown = await write(640)
    reader.execute("COMMIT")
    reader.close()
    after = await write(160)
    print(f"\nwrite-ahead log: {usual} bytes; {grown} after 640 writes under a reader; {after} after it left")
    assert usual < 1.5 * WAL_PAGES * PAGE_BYTES
    assert grown > usual
    assert after < grown + 1_000_000
