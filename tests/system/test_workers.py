"""Lookup workers as processes of their own: what any of them answers, and what the death of one costs."""

import os
import resource
import signal
from pathlib import Path

import httpx
import pytest
import trio

from tests.system.conftest import start_all, status, until, with_workers
from zoned.fleet import Daemon

pytestmark = pytest.mark.system


def pids(daemon: Daemon) -> list[int]:
    """The workers' processes."""
    assert daemon.process is not None
    found = Path(f"/proc/{daemon.process.pid}/task").glob("*/children")
    return sorted(int(word) for path in found for word in path.read_text().split())


def is_alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


async def ask(method: str, url: str, **more: object) -> httpx.Response:
    """On a connection of its own, which any worker may accept."""
    async with httpx.AsyncClient(timeout=60.0, trust_env=False) as client:
        return await client.request(method, url, **more)  # type: ignore[arg-type]  # passed on as it came


async def test_every_worker_answers_as_the_daemon_itself(fleet, client):
    (daemon,) = fleet(1)
    await start_all(client, [with_workers(daemon)])
    for number in range(12):
        made = await ask("POST", f"{daemon.url}/zone/v1/images", json={"name": f"image {number}"})
        assert made.status_code == 201, made.text
        record = made.json()
        del record["state"]
        for reference in (record["uuid"], record["integer"], record["uuid"]):
            shown = await ask("GET", f"{daemon.url}/zone/v1/images/{reference}")
            assert shown.json() == record
            assert shown.headers["zone-source"] == "local"
            assert int(shown.headers["zone-position"]) >= int(made.headers["zone-position"])
            assert int(shown.headers["zone-position"]) >= record["position"]
            assert float(shown.headers["zone-staleness"]) < 30
        assert (await ask("HEAD", f"{daemon.url}/v2/images/{record['uuid']}")).status_code == 200
    url = f"{daemon.url}/v2/images/{record['uuid']}"
    assert (await ask("GET", url, headers={"If-None-Match": shown.headers["etag"]})).status_code == 304
    # What is no lookup reaches the daemon, and what it changes is seen at once.
    listed = await ask("GET", f"{daemon.url}/v2/images?limit=5")
    assert len(listed.json()["images"]) == 5
    assert (await ask("GET", url, headers={"Zone-After-Position": "1"})).status_code == 200
    assert (await ask("DELETE", url)).status_code == 204
    assert [(await ask("GET", url)).status_code for _ in range(4)] == [404] * 4


async def test_a_killed_worker_costs_nobody_else_a_connection(fleet, client):
    (daemon,) = fleet(1)
    await start_all(client, [with_workers(daemon)])
    record = (await ask("POST", f"{daemon.url}/zone/v1/images", json={"name": "one"})).json()
    del record["state"]
    url = f"{daemon.url}/zone/v1/images/{record['uuid']}"
    kills, cut, answered = 4, 0, 0
    done = trio.Event()

    async def look_up() -> None:
        nonlocal cut, answered
        while not done.is_set():
            try:
                assert (await ask("GET", url)).json() == record
                answered += 1
            except (httpx.ReadError, httpx.RemoteProtocolError):
                cut += 1  # this connection was the killed worker's; ConnectError would fail the test

    async with trio.open_nursery() as nursery:
        lookers = 6
        for _ in range(lookers):
            nursery.start_soon(look_up)
        for number in range(kills):
            before = pids(daemon)
            os.kill(before[number % len(before)], signal.SIGKILL)

            async def replaced(before: list[int] = before) -> bool:
                now = pids(daemon)
                return len(now) == len(before) and now != before

            await until("another worker was started", replaced)
            seen = answered

            async def going_on(seen: int = seen) -> bool:
                return answered > seen + 20

            await until("lookups go on", going_on)
        done.set()
    assert cut <= kills * lookers
    assert daemon.log.read_text().count("worker ended, starting another") == kills


async def test_a_daemon_that_dies_takes_its_workers_along_and_gets_its_port_back(fleet, client):
    (daemon,) = fleet(1)
    await start_all(client, [with_workers(daemon)])
    workers = pids(daemon)
    daemon.kill()

    async def gone() -> bool:
        return not any(is_alive(pid) for pid in workers)

    await until("the workers have ended", gone)
    await start_all(client, [daemon])
    assert (await status(client, daemon))["catalogue"]["position"] > 0


async def test_a_stop_lets_workers_finish_what_they_do(fleet, client):
    (daemon,) = fleet(1)
    await start_all(client, [with_workers(daemon)])
    workers = pids(daemon)
    body = b'{"name": "half before the stop"}'
    head = b"POST /zone/v1/images HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with await trio.open_tcp_stream("127.0.0.1", daemon.http_port) as stream:
        with trio.fail_after(30):
            await stream.send_all(head)
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 100 ")
            await stream.send_all(body[:10])
            assert daemon.process is not None
            daemon.process.terminate()

            async def stopping() -> bool:
                return '"stopping"' in daemon.log.read_text()

            await until("the daemon is stopping", stopping)
            await stream.send_all(body[10:])
            said = b"".join([data async for data in stream])
    assert said.startswith(b"HTTP/1.1 201 ")
    assert daemon.stop() == 0
    assert not any(is_alive(pid) for pid in workers)
    assert "did not end in time" not in daemon.log.read_text()


def rss_mib(pids: list[int]) -> float:
    found = [Path(f"/proc/{pid}/statm").read_text().split()[1] for pid in pids]
    return sum(map(int, found)) * resource.getpagesize() / (1 << 20)


async def test_ten_thousand_idle_connections_cost_little_and_hinder_nobody(fleet, client):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 10_000 if hard == resource.RLIM_INFINITY else min(10_000, hard - 1_000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted + 1_000), hard))
    (daemon,) = fleet(1)
    streams: list[trio.SocketStream] = []
    try:
        await start_all(client, [with_workers(daemon)])
        assert daemon.process is not None
        before = rss_mib([daemon.process.pid, *pids(daemon)])
        streams += [await trio.open_tcp_stream("127.0.0.1", daemon.http_port) for _ in range(wanted)]
        assert (await ask("GET", f"{daemon.url}/readyz")).status_code == 200
        after = rss_mib([daemon.process.pid, *pids(daemon)])
        assert after - before < 80, f"{before:.0f} MiB, then {after:.0f} MiB"
    finally:
        for stream in streams:
            stream.socket.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_workers_follow_the_settings_of_the_log_and_tell_what_they_counted(fleet, client):
    (daemon,) = fleet(1)
    await start_all(client, [with_workers(daemon)])
    record = (await ask("POST", f"{daemon.url}/zone/v1/images", json={"name": "one"})).json()
    url = f"{daemon.url}/zone/v1/images/{record['uuid']}"
    before = pids(daemon)
    daemon.config.write_text(daemon.config.read_text() + "\n[log]\nrequests = true\n")
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)

    async def replaced() -> bool:
        now = pids(daemon)
        return len(now) == len(before) and not set(now) & set(before)

    await until("all workers are others", replaced)

    async def written() -> bool:
        assert (await ask("GET", url)).status_code == 200
        lines = daemon.log.read_text().splitlines()
        return any('"request"' in line and record["uuid"] in line for line in lines)

    await until("a worker's line about a request", written)

    async def counted() -> bool:
        lines = (await ask("GET", f"{daemon.url}/metrics")).text.splitlines()
        return any(line.startswith("zoned_lookups_total") and 'source="local"' in line for line in lines)

    await until("a worker's count in the metrics", counted)
    assert "worker ended, starting another" not in daemon.log.read_text()
