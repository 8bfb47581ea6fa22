"""Goal: with the registry in PostgreSQL an acknowledged write is never lost and no integer is given twice, whatever
becomes of the database, of the registry, and of both.

Method: as `test_kill`, with a PostgreSQL of the test's own that is killed, frozen, restarted, and replaced by a standby
that lacks the newest entries; and with a registry that is frozen while another takes over.
"""

import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.system.conftest import settled, start_all, status, until
from tests.system.test_kill import Clients, Record, check
from zoned.fleet import Daemon
from zoned.postgres import scratch
from zoned.postgres.scratch import Server

pytestmark = pytest.mark.system

CLIENTS = 4


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """A data directory that was made once."""
    with scratch.folder() as folder:
        try:
            yield scratch.make(folder / "template").directory
        except scratch.NoServer as error:
            pytest.skip(str(error))


@pytest.fixture
def server(template: Path) -> Iterator[Server]:
    """A PostgreSQL that runs, empty."""
    with scratch.folder() as folder:
        made = Server(folder / "first")
        shutil.copytree(template, made.directory)
        for path in (made.directory, *made.directory.rglob("*")):
            shutil.chown(path, made.user)
        made.start()
        try:
            yield made
        finally:
            made.kill()


def engine(*servers: Server) -> str:
    dsns = ", ".join(f'"{one.dsn}"' for one in servers)
    return f'engine = "postgresql"\ndsn = [{dsns}]\nwait_s = 0.3\n[journal]\nfree_disk_min_bytes = 0\n'


async def registry_of(client, daemons: list[Daemon]) -> Daemon:
    """The daemon that is the registry; waits for one."""
    found: list[Daemon] = []

    async def there_is_one() -> bool:
        roles = [(await status(client, one))["registry"]["role"] for one in daemons if one.is_running]
        found[:] = [
            one for one, role in zip(filter(lambda d: d.is_running, daemons), roles, strict=True) if role == "registry"
        ]
        return len(found) == 1

    await until("there is one registry", there_is_one)
    return found[0]


async def begin(client, daemons: list[Daemon]) -> None:
    await start_all(client, daemons)

    async def has_integers() -> bool:
        return all([(await status(client, daemon))["ids"]["left"] for daemon in daemons])

    await until("every zone has integers", has_integers)


async def kill_database(server: Server, rng: random.Random, victim: Daemon) -> None:
    server.kill()
    await trio.sleep(rng.uniform(0.1, 1.0))
    await trio.to_thread.run_sync(server.start)


async def freeze_database(server: Server, rng: random.Random, victim: Daemon) -> None:
    server.freeze()
    await trio.sleep(rng.uniform(0.5, 3.0))
    server.thaw()


async def kill_registry(server: Server, rng: random.Random, victim: Daemon) -> None:
    victim.kill()
    await trio.sleep(rng.uniform(0.1, 1.0))
    victim.start()


async def freeze_registry(server: Server, rng: random.Random, victim: Daemon) -> None:
    """Long enough for another to take over: when it goes on, there are two that believe in themselves."""
    assert victim.process is not None
    victim.process.send_signal(signal.SIGSTOP)
    await trio.sleep(rng.uniform(2.5, 3.5))
    victim.process.send_signal(signal.SIGCONT)


async def kill_both(server: Server, rng: random.Random, victim: Daemon) -> None:
    server.kill()
    victim.kill()
    await trio.to_thread.run_sync(server.start)
    victim.start()


FAULTS = (kill_database, freeze_database, kill_registry, freeze_registry, kill_both)


@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <async_generator object ByteStream:pytest.PytestUnraisableExceptionWarning"
)
async def test_no_acknowledged_write_is_lost_whatever_becomes_of_the_database(fleet, client, server):
    daemons = fleet(3, extra=engine(server))
    await begin(client, daemons)
    record = Record()
    for seed, fault in enumerate(FAULTS):
        rng = random.Random(seed)
        victim = await registry_of(client, daemons)
        async with trio.open_nursery() as nursery:
            for number in range(CLIENTS):
                stream = Clients(client, daemons, random.Random(seed * 100 + number), record).stream
                nursery.start_soon(stream)
            await trio.sleep(rng.uniform(0.2, 0.6))
            await fault(server, rng, victim)
            await trio.sleep(rng.uniform(0.2, 0.6))
            nursery.cancel_scope.cancel()
        try:
            await start_all(client, daemons)
            await check(client, daemons, record)
        except BaseException as error:
            error.add_note(f"after {fault.__name__}")
            raise
    # There was something to lose, in both ways of answering; how much of each is the machine's to say.
    assert record.committed
    assert record.buffered
    [(position, entries, highest)] = server.execute(
        "SELECT position, (SELECT count(*) FROM log), (SELECT max(log.position) FROM log) FROM registry"
    )
    assert position == entries == highest  # numbered without gaps


async def create(client, daemon: Daemon, name: str) -> None:
    answer = await client.post(f"{daemon.url}/zone/v1/images", json={"name": name})
    assert answer.status_code in (201, 202), answer.text


async def copy_now(server: Server, standby: Server) -> None:
    """A standby that has all there is now, and gets nothing of what comes later: it lags until the primary is gone."""
    await trio.to_thread.run_sync(server.make_standby, standby.directory)


async def test_entries_that_a_promoted_standby_lacks_are_put_back_from_the_zones(fleet, client, server, tmp_path):
    standby = Server(server.directory.parent / "second")
    daemons = fleet(3, extra=engine(server, standby))
    try:
        await begin(client, daemons)
        await copy_now(server, standby)
        for number in range(20):
            await create(client, daemons[number % 3], f"lost-{number}")
        before = await settled(client, daemons)
        server.kill()
        await trio.to_thread.run_sync(standby.start)
        await trio.to_thread.run_sync(standby.promote)
        assert standby.execute("SELECT position FROM registry")[0][0] < before["position"]
        await create(client, daemons[1], "after")
        await registry_of(client, daemons)
        after = await settled(client, daemons)
        assert after["images"] == before["images"] + 1
        assert standby.execute("SELECT position FROM registry") == [(after["position"],)]
        assert standby.execute("SELECT count(*) FROM log") == [(after["position"],)]
        assert any("put back" in daemon.log.read_text() for daemon in daemons)
    finally:
        standby.kill()


async def test_a_node_that_alone_has_what_the_database_lost_says_so_and_stands_aside(fleet, client, server):
    """Nobody else was told, and it is away when the others begin anew: what it has cannot be put back."""
    standby = Server(server.directory.parent / "second")
    daemons = fleet(3, extra=engine(server, standby))
    try:
        await begin(client, daemons)
        before = await settled(client, daemons)
        alone = await registry_of(client, daemons)
        others = [one for one in daemons if one is not alone]
        await copy_now(server, standby)
        for other in others:
            other.kill()
        await create(client, alone, "known to one node only")
        await until("it is committed", lambda: is_drained(client, alone))
        lost = (await status(client, alone))["catalogue"]["position"]
        assert lost > before["position"]
        alone.kill()
        server.kill()
        await trio.to_thread.run_sync(standby.start)
        await trio.to_thread.run_sync(standby.promote)
        await start_all(client, others)
        for number in range(4):
            await create(client, others[number % 2], f"after-{number}")
        after = await settled(client, others)
        alone.start()
        await alone.wait_ready(client)

        async def stands_aside() -> bool:
            told = (await status(client, alone))["registry"]
            return told["problem"] is not None and "the database has other entries" in told["problem"]

        await until("it says what it has and the others have not", stands_aside)
        assert "known to one node only" in (await client.get(f"{alone.url}/zone/v1/images")).text
        assert "lost_writes" in alone.log.read_text()
        await create(client, others[0], "and on")
        assert (await settled(client, others))["images"] == after["images"] + 1
    finally:
        standby.kill()


async def is_drained(client, daemon: Daemon) -> bool:
    return bool((await status(client, daemon))["journal"]["entries"] == 0)
