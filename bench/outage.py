"""The figures of an outage: registering while nobody orders writes, draining, and what a large journal costs.

`python -m bench.outage` takes some minutes and writes bench/results/outage.json and .md. Four real daemons on loopback
share the machine with the clients; three of them vote, two of those are killed, so that one voter and one follower
are left. The load average of each part is written down with it.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import trio

from bench.outage_text import render
from bench.registry import machine
from zoned.fleet import Daemon, ended, make, zone_names

RESULTS = Path(__file__).parent / "results"
CLIENTS = 32
BUFFERED_S = 15.0
BACKLOG = 100_000
BODY = {
    "name": "daily backup of instance 3f9c",
    "disk_format": "qcow2",
    "container_format": "bare",
    "visibility": "private",
    "owner": "5d1f0c6b1f0e4e0f9f3b1a2c3d4e5f60",
    "min_disk": 20,
    "size": 21474836480,
    "status": "active",
    "properties": {
        "image_type": "snapshot",
        "instance_uuid": "3f9c2b1e-6a7d-4c8e-9b0a-1d2e3f405162",
        "base_image_ref": "0b1c2d3e-4f50-4617-8293-a4b5c6d7e8f9",
        "backup_type": "daily",
    },
    "locations": [{"url": "swift+https://objects.zone-a.example/v1/backups/3f9c2b1e-6a7d-4c8e", "metadata": {}}],
}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Client:
    """One backup worker on one connection: a request, its answer, the next. Lean, because it shares the processor."""

    def __init__(self, daemon: Daemon) -> None:
        body = json.dumps(BODY).encode()
        head = f"POST /zone/v1/images HTTP/1.1\r\nHost: z\r\nContent-Length: {len(body)}\r\n\r\n"
        self._request = head.encode() + body
        self._port = daemon.http_port
        self.took: list[float] = []
        self.statuses: dict[int, int] = {}

    async def run(self, until: trio.Event, most: int | None = None) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", self._port)
        buffer = bytearray()
        async with stream:
            while not until.is_set() and (most is None or len(self.took) < most):
                began = time.perf_counter()
                await stream.send_all(self._request)
                status = await self._answer(stream, buffer)
                self.took.append(time.perf_counter() - began)
                self.statuses[status] = self.statuses.get(status, 0) + 1

    async def _answer(self, stream: trio.SocketStream, buffer: bytearray) -> int:
        while (end := buffer.find(b"\r\n\r\n")) < 0:
            buffer += await _some(stream)
        head = bytes(buffer[:end]).lower()
        length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        while len(buffer) < end + 4 + length:
            buffer += await _some(stream)
        del buffer[: end + 4 + length]
        return int(head[9:12])


async def _some(stream: trio.SocketStream) -> bytes:
    data = bytes(await stream.receive_some(65_536))
    if not data:
        raise ConnectionError("the daemon closed the connection")
    return data


async def load(daemon: Daemon, seconds: float | None, most: int | None = None) -> dict[str, Any]:
    """CLIENTS clients register for so long, or so many images in all."""
    until = trio.Event()
    clients = [Client(daemon) for _ in range(CLIENTS)]
    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(client.run, until, most // CLIENTS if most is not None else None)
        if seconds is not None:
            await trio.sleep(seconds)
            until.set()
    wall = time.perf_counter() - began
    took = sorted(value for client in clients for value in client.took)
    statuses: dict[int, int] = {}
    for client in clients:
        for status, count in client.statuses.items():
            statuses[status] = statuses.get(status, 0) + count
    return {
        "clients": CLIENTS,
        "registrations": len(took),
        "per_s": round(len(took) / wall),
        "median_ms": round(statistics.median(took) * 1_000, 2),
        "p99_ms": round(took[len(took) * 99 // 100] * 1_000, 2),
        "statuses": statuses,
    }


async def status(client: httpx.AsyncClient, daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get(f"{daemon.url}/zone/v1/status")).json()
    return found


async def entries(client: httpx.AsyncClient, daemon: Daemon, kind: str = "entries") -> int:
    return int((await status(client, daemon))["journal"][kind])


async def all_shared(client: httpx.AsyncClient, fleet: list[Daemon]) -> bool:
    return await entries(client, fleet[3], "shared_entries") >= await entries(client, fleet[0])


async def until(condition: Callable[[], Awaitable[bool]], every_s: float = 0.1) -> None:
    while not await condition():  # noqa: ASYNC110  # it happens in other processes
        await trio.sleep(every_s)


def memory_mib(daemon: Daemon) -> float:
    """Resident memory that is the process's own (not pages of the file that the kernel may drop)."""
    assert daemon.process is not None
    text = Path(f"/proc/{daemon.process.pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return round((int(fields["RssAnon"].split()[0])) / 1_024, 1)


async def started(client: httpx.AsyncClient, root: Path, extra: str = "") -> list[Daemon]:
    """Three voters and a follower, all with integers; not ended here."""
    fleet = make(root, zone_names(4), 3, "voters = 3\n[ids]\nlease_min = 1000000\n")
    last = fleet[3]
    last.config.write_text(last.config.read_text().replace("expect = 3", "expect = 0"))
    for daemon in fleet[:3]:
        daemon.start()
    for daemon in fleet[:3]:
        await daemon.wait_ready(client)
    last.start()
    await last.wait_ready(client)

    async def numbered() -> bool:
        return all([(await status(client, daemon))["ids"]["left"] for daemon in fleet])

    await until(numbered)
    return fleet


async def cut(client: httpx.AsyncClient, fleet: list[Daemon]) -> None:
    """Kills two voters, and waits until the registry is known to be away."""
    for daemon in fleet[1:3]:
        daemon.kill()
    for _ in range(2):
        await load(fleet[0], None, CLIENTS)


async def drained(client: httpx.AsyncClient, fleet: list[Daemon]) -> dict[str, Any]:
    """Starts the dead voters again and times the backlog of the first zone."""
    waiting = await entries(client, fleet[0])
    for daemon in fleet[1:3]:
        daemon.start()

    async def begun() -> bool:
        return await entries(client, fleet[0]) < waiting

    async def empty() -> bool:
        return not await entries(client, fleet[0])

    async def equal() -> bool:
        return len({json.dumps((await status(client, daemon))["catalogue"]) for daemon in fleet}) == 1

    await until(begun, 0.02)
    began, first = time.perf_counter(), await entries(client, fleet[0])
    await until(empty)
    wall = time.perf_counter() - began
    await until(equal)
    return {"entries": waiting, "per_s": round(first / wall), "equal_after_s": round(time.perf_counter() - began, 1)}


async def buffered(root: Path) -> dict[str, Any]:
    """Alone, then with a neighbour that takes a copy of each write; then the drain."""
    async with httpx.AsyncClient(timeout=60.0, trust_env=False) as client:
        with ended([]) as fleet:
            fleet += await started(client, root)
            await cut(client, fleet)
            shared = await load(fleet[0], BUFFERED_S)
            say(f"buffered, shared: {shared}")
            await until(partial(all_shared, client, fleet))
            fleet[3].kill()
            alone = await load(fleet[0], BUFFERED_S)
            say(f"buffered, alone: {alone}")
            fleet[3].start()
            drain = await drained(client, fleet)
            say(f"drain: {drain}")
    return {"alone": alone, "shared": shared, "drain": drain}


async def backlog(root: Path) -> dict[str, Any]:
    """Memory and start-up with a large journal, here and where it is shared."""
    async with httpx.AsyncClient(timeout=60.0, trust_env=False) as client:
        with ended([]) as fleet:
            fleet += await started(client, root)
            await cut(client, fleet)
            before = [memory_mib(fleet[0]), memory_mib(fleet[3])]
            filled = await load(fleet[0], None, BACKLOG)
            await until(partial(all_shared, client, fleet))
            after = [memory_mib(fleet[0]), memory_mib(fleet[3])]
            took = []
            for _ in range(3):
                fleet[0].stop()
                began = time.perf_counter()
                fleet[0].start()
                await fleet[0].wait_ready(client)
                took.append(time.perf_counter() - began)
            again = memory_mib(fleet[0])
            drain = await drained(client, fleet)
    found = {
        "entries": BACKLOG,
        "filled_per_s": filled["per_s"],
        "memory_mib": {"before": before, "after": after, "after_restart": again},
        "start_s": [round(value, 2) for value in took],
        "drain": drain,
    }
    say(f"backlog: {found}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.outage", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="of buffered, backlog; both when none is named")
    arguments = parser.parse_args()
    kept = RESULTS / "outage.json"
    results: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    results["machine"] = machine()
    parts = {"buffered": buffered, "backlog": backlog}
    for name in arguments.parts or parts:
        before = os.getloadavg()[0]
        with tempfile.TemporaryDirectory() as directory:
            found = trio.run(parts[name], Path(directory))
        loads = [round(before, 2), round(os.getloadavg()[0], 2)]
        results[name] = {"on": time.strftime("%Y-%m-%d"), "load_average": loads, **found}
        kept.write_text(json.dumps(results, indent=1) + "\n")
        (RESULTS / "outage.md").write_text(render(results))


if __name__ == "__main__":
    main()
