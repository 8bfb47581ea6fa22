"""Networks that misbehave: the registry cut off, heard but not hearing, or far away. Real packets, real daemons.

While clients write everywhere, links are cut; then they heal, and every zone must hold what every client was told,
once, with equal hashes.
"""

import random
from pathlib import Path

import httpx
import pytest
import trio

from tests.system.conftest import start_all, status, until
from tests.system.faults import HALF_READ, another_registry, commits, create, have_integers, streams
from tests.system.networks import Network, delayed, netted, network, serve_delay
from tests.system.test_kill import check
from tests.system.test_operations import registry_of
from zoned.fleet import Daemon, ended

pytestmark = [pytest.mark.system, HALF_READ]

SHORT_WAIT = "wait_s = 0.3\n"
ONE_WAY_S = 0.040  # between the zones; within Europe it is 5 to 25 ms, from Frankfurt to New York 40
JITTER_S = 0.010


async def one_way_cuts(http: httpx.AsyncClient, made: Network, daemons: list[Daemon]) -> None:
    """The registry is heard but hears nobody; then the next one hears everybody but is not heard."""
    for heard in (True, False):
        old = daemons.index(await registry_of(http, daemons))
        others = [daemon for daemon in daemons if daemon is not daemons[old]]
        for other in range(len(daemons)):
            if other != old:
                made.cut(*((other, old) if heard else (old, other)))
        new = await another_registry(http, others, daemons[old], 15.0)
        await commits(http, new, 5.0)
        made.heal()
        await another_registry(http, daemons, daemons[old], 20.0)


async def test_cuts_between_zones(client, tmp_path: Path):
    with network(3) as made, ended(netted(tmp_path, made, 3, SHORT_WAIT)) as daemons:
        await start_all(client, daemons)
        await have_integers(client, daemons)
        old = await registry_of(client, daemons)
        place = daemons.index(old)
        others = [daemon for daemon in daemons if daemon is not old]
        async with streams(client, daemons, seed=1) as record:
            await trio.sleep(0.5)
            made.isolate(place)
            new = await another_registry(client, others, old, 10.0)
            await commits(client, new, 5.0)

            async def gave_up() -> bool:
                return bool((await status(client, old))["registry"]["role"] != "registry")

            await until("the cut-off registry steps down", gave_up)
            # Its zone goes on: writes are kept, and read back.
            kept = await create(client, old, "cut off")
            assert kept.status_code == 202
            assert (await client.get(f"{old.url}/zone/v1/images/{kept.json()['integer']}")).status_code == 200
            made.heal()
            await another_registry(client, daemons, old, 20.0)
            await one_way_cuts(client, made, daemons)
            await trio.sleep(0.5)
        assert "stepped down" in old.log.read_text()
        await check(client, daemons, record)
        assert (await client.get(f"{new.url}/zone/v1/images/{kept.json()['integer']}")).json()["name"] == "cut off"
        assert record.committed > 20
        assert record.buffered > 5
        await one_link(client, made, daemons)


async def one_link(http: httpx.AsyncClient, made: Network, daemons: list[Daemon]) -> None:
    """The link between the registry and one voter breaks; a third sees both. Nobody is toppled for it."""
    old = await registry_of(http, daemons)
    far = next(daemon for daemon in daemons if daemon is not old)
    third = next(daemon for daemon in daemons if daemon not in (old, far))
    term = (await status(http, old))["registry"]["term"]
    async with streams(http, daemons, seed=2) as record:
        for ends in ((old, far), (far, old)):
            made.cut(*map(daemons.index, ends))
        await trio.sleep(4.0)
        for daemon in (old, third):
            assert (await create(http, daemon, "n")).status_code == 201
        assert (await status(http, old))["registry"]["term"] == term
        made.heal()
        await commits(http, far, 15.0)
    await check(http, daemons, record)


async def test_zones_far_apart(fleet, client):
    daemons = fleet(3, extra='profile = "wan"\n')
    ports = delayed(daemons)
    rng = random.Random(7)
    async with trio.open_nursery() as nursery:
        for daemon, port in zip(daemons, ports, strict=True):
            await serve_delay(port, daemon.peer_port, lambda: ONE_WAY_S + rng.uniform(0, JITTER_S), nursery)
        await start_all(client, daemons)
        await have_integers(client, daemons)
        old = await registry_of(client, daemons)
        others = [daemon for daemon in daemons if daemon is not old]
        began = trio.current_time()
        assert (await create(client, others[0], "far")).status_code == 201
        took_s = trio.current_time() - began
        # To the registry, to the voters and back: the wire is in it, so the proxies are.
        assert 3 * ONE_WAY_S < took_s < 2.0, took_s
        async with streams(client, daemons, seed=3) as record:
            await trio.sleep(1.0)
            old.kill()
            began = trio.current_time()
            new = await another_registry(client, others, old, 40.0)
            await commits(client, new, 10.0)
            print(f"\n{took_s:.2f} s a write, another registry after {trio.current_time() - began:.1f} s")
            old.start()
            await trio.sleep(1.0)
        await start_all(client, daemons)
        await check(client, daemons, record)
        nursery.cancel_scope.cancel()
