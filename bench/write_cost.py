"""What a write costs in processor time, daemon by daemon: `python -m bench.write_cost`.

Three voters, and a fixed number of writes: creates from 64 clients over all three zones (as `bench.speed` counts them),
creates and JSON patches of the Images API from 16 clients at the registry (as `bench.glance` does), and registrations
while nobody orders writes, from 32 clients (as `bench.outage` does), which then drain. User and system time is read
from /proc, so the figures mean something on a busy machine too; a rate stands beside them for the curious. What a
daemon uses in a millisecond of rest comes first: the slower the machine, the more of that is in each write.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import orjson
import trio

from bench.outage import BODY, entries, status, until
from bench.speed_load import cpu_s
from zoned.fleet import Daemon, ended, make, zone_names

KIND = "application/openstack-images-v2.1-json-patch"
WORK = ("speed", "create", "update", "buffered", "drain")
IMAGE = {
    "name": "image",
    "disk_format": "raw",
    "container_format": "bare",
    "min_disk": 1,
    "min_ram": 1,
    "tags": ["t1", "u2"],
    **{f"p{n}": f"v{n}" for n in range(10)},
}

IDLE_S = 5.0

Request = Callable[[int], bytes]  # of the n-th write


def post(path: str, body: object) -> Request:
    data = orjson.dumps(body)
    whole = f"POST {path} HTTP/1.1\r\nHost: z\r\nContent-Length: {len(data)}\r\n"
    return lambda n: f"{whole}Content-Type: application/json\r\n\r\n".encode() + data


def patch(ids: Sequence[str]) -> Request:
    def request(n: int) -> bytes:
        data = orjson.dumps([{"op": "replace", "path": "/name", "value": f"renamed-{n}"}])
        head = f"PATCH /v2/images/{ids[n % len(ids)]} HTTP/1.1\r\nHost: z\r\nContent-Type: {KIND}\r\n"
        return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data

    return request


async def client(port: int, mine: Sequence[int], request: Request, answers: list[bytes]) -> None:
    """One connection: a request, its answer, the next."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    buffer = b""
    async with stream:
        for n in mine:
            await stream.send_all(request(n))
            while (end := buffer.find(b"\r\n\r\n")) < 0:
                buffer += await stream.receive_some(65_536)
            length = int(buffer[:end].lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            while len(buffer) < end + 4 + length:
                buffer += await stream.receive_some(65_536)
            answers.append(buffer[: end + 4 + length])
            buffer = buffer[end + 4 + length :]


class Cost:
    """Processor time of daemons from here on."""

    def __init__(self, fleet: Sequence[Daemon]) -> None:
        self.pids = {daemon.zone: daemon.process.pid for daemon in fleet if daemon.process is not None}
        self.before = {zone: cpu_s(pid) for zone, pid in self.pids.items()}
        self.began = time.perf_counter()

    def say(self, work: str, count: int) -> None:
        took = time.perf_counter() - self.began
        each = {zone: (cpu_s(pid) - self.before[zone]) * 1e6 / count for zone, pid in self.pids.items()}
        parts = "  ".join(f"{zone} {us:5.0f}" for zone, us in each.items())
        print(f"{work:9} {count:6}  {parts}  all {sum(each.values()):5.0f} us  ({count / took:.0f}/s)", flush=True)


async def load(
    work: str, fleet: Sequence[Daemon], counted: Sequence[Daemon], clients: int, count: int, request: Request, want: int
) -> list[bytes]:
    """`count` writes by `clients` connections spread over `fleet`; the answers, all of status `want`."""
    answers: list[bytes] = []
    cost = Cost(counted)
    async with trio.open_nursery() as nursery:
        for n in range(clients):
            port = fleet[n % len(fleet)].http_port
            nursery.start_soon(client, port, range(n, count, clients), request, answers)
    cost.say(work, count)
    wrong = [one for one in answers if int(one[9:12]) != want]
    if wrong:
        sys.exit(f"{work}: {len(wrong)} of {count} answers are not {want}, as: {wrong[0].decode()}")
    return answers


async def measure(root: Path, work: Sequence[str], count: int, hook: str) -> None:
    """Prints a line for each. `hook` is a command that is told the daemons' process IDs, and runs beside."""
    async with httpx.AsyncClient(timeout=60.0, trust_env=False) as http, trio.open_nursery() as beside:
        with ended(make(root, zone_names(3), 3, "voters = 3\n[ids]\nlease_min = 1000000\n")) as fleet:
            for daemon in fleet:
                daemon.start()
            for daemon in fleet:
                await daemon.wait_ready(http)

            async def numbered() -> bool:
                return all([(await status(http, daemon))["ids"]["left"] for daemon in fleet])

            await until(numbered)
            found = [await status(http, daemon) for daemon in fleet]
            registry = found[0]["registry"]["node_id"]
            leader = fleet[[one["node"]["node_id"] for one in found].index(registry)]
            others = [daemon for daemon in fleet if daemon is not leader]
            print(f"the registry is {leader.zone}", flush=True)
            if hook:
                pids = [str(daemon.process.pid) for daemon in (leader, *others) if daemon.process is not None]
                beside.start_soon(trio.run_process, [hook, *pids])
            idle = Cost(fleet)
            await trio.sleep(IDLE_S)
            idle.say("idle", 1_000 * int(IDLE_S))
            await load("warm", fleet, fleet, 32, 300, post("/zone/v1/images", BODY), 201)
            if "speed" in work:
                await load("speed", fleet, fleet, 64, count, post("/zone/v1/images", BODY), 201)
            made: list[bytes] = []
            if "create" in work or "update" in work:
                made = await load("create", [leader], fleet, 16, count, post("/v2/images", IMAGE), 201)
            if "update" in work:
                ids = [orjson.loads(one.partition(b"\r\n\r\n")[2])["id"] for one in made]
                await load("update", [leader], fleet, 16, count, patch(ids), 200)
            if "buffered" in work or "drain" in work:
                await outage(http, leader, others, count, "drain" in work)


async def outage(http: httpx.AsyncClient, one: Daemon, others: Sequence[Daemon], count: int, drains: bool) -> None:
    for daemon in others:
        daemon.kill()
    register = post("/zone/v1/images", BODY)
    for _ in range(2):
        await load("away", [one], [one], 32, 64, register, 202)
    await load("buffered", [one], [one], 32, count, register, 202)
    if not drains:
        return
    for daemon in others:
        daemon.start()
    for daemon in others:
        await daemon.wait_ready(http)
    waiting = await entries(http, one)

    async def begun() -> bool:
        return await entries(http, one) < waiting

    async def empty() -> bool:
        return not await entries(http, one)

    await until(begun, 0.02)
    left, cost = await entries(http, one), Cost([one, *others])
    await until(empty, 0.05)
    cost.say("drain", left)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.write_cost", description=__doc__)
    parser.add_argument("work", nargs="*", metavar="WORK", help=f"of {', '.join(WORK)}; all when none is named")
    parser.add_argument("--count", type=int, default=4_000, help="writes of each kind")
    parser.add_argument("--hook", default="", help="a command to run beside, with the process IDs as arguments")
    arguments = parser.parse_args()
    if unknown := set(arguments.work) - set(WORK):
        parser.error(f"no such work: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as directory:
        trio.run(measure, Path(directory), arguments.work or WORK, arguments.count, arguments.hook)


if __name__ == "__main__":
    main()
