"""The figures of a registry in PostgreSQL: committed creates beside pgbench, and how long a takeover takes.

`python -m bench.postgres` (some minutes; it starts a PostgreSQL of its own, with fsync) prints them, and writes
bench/results/postgres.json with --write. All processes share the machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import trio

from zoned.fleet import Daemon, ended, make, zone_names
from zoned.postgres import scratch
from zoned.postgres.node import PROFILES
from zoned.postgres.scratch import Server

RESULTS = Path(__file__).parent / "results" / "postgres.json"
CLIENTS = 64
PATIENCE_S = 60.0
PGBENCH = """BEGIN;
UPDATE bench_row SET position = position + :n WHERE one = 1 AND term = 1 RETURNING position \\gset
INSERT INTO bench_log SELECT :position - :n + g, 1, 1, decode(repeat('a7', :bytes), 'hex')
  FROM generate_series(1, :n) g;
COMMIT;
"""


def body() -> dict[str, Any]:
    """A backup's registration of about 1.5 kB."""
    properties = {f"property_{n}": f"{uuid.uuid4()}" for n in range(16)}
    return {"name": f"backup {uuid.uuid4()}", "size": 10**10, "tags": ["backup", "daily"], "properties": properties}


async def until(look: Any) -> None:
    with trio.fail_after(PATIENCE_S):
        while not await look():  # noqa: ASYNC110  # what is awaited happens in another process
            await trio.sleep(0.005)


async def create(client: httpx.AsyncClient, daemon: Daemon) -> bool:
    """Whether it was committed."""
    answer = await client.post(f"{daemon.url}/zone/v1/images", json=body())
    return answer.status_code == 201


async def begin(client: httpx.AsyncClient, daemons: list[Daemon]) -> None:
    for daemon in daemons:
        daemon.start()
    for daemon in daemons:
        await daemon.wait_ready(client)
        await until(lambda daemon=daemon: create(client, daemon))


async def load(client: httpx.AsyncClient, daemons: list[Daemon], seconds: float) -> int:
    """How many creates were answered as committed."""
    done = 0
    ends = trio.current_time() + seconds

    async def one(number: int) -> None:
        nonlocal done
        while trio.current_time() < ends:
            committed = await create(client, daemons[number % len(daemons)])
            done += committed

    async with trio.open_nursery() as nursery:
        for number in range(CLIENTS):
            nursery.start_soon(one, number)
    return done


async def creates(daemons: list[Daemon], server: Server, seconds: float) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(timeout=PATIENCE_S, limits=limits, trust_env=False) as client:
        await begin(client, daemons)
        await load(client, daemons, seconds / 4)
        before = server.execute("SELECT position, beat FROM registry")[0]
        done = await load(client, daemons, seconds)
        after = server.execute("SELECT position, beat, (SELECT avg(length(data))::int FROM log) FROM registry")[0]
    entries, moved = after[0] - before[0], after[1] - before[1]
    batches = max(1, moved - round(seconds / PROFILES["lan"][0]))
    return {
        "committed_per_s": round(done / seconds, 1),
        "entries_a_commit": max(1, round(entries / batches)),
        "bytes_an_entry": after[2],
    }


def pgbench(server: Server, seconds: float, batch: int, size: int) -> float:
    """Rows a second of one client that inserts the same rows in the same batches."""
    server.execute("CREATE TABLE bench_row (one int PRIMARY KEY, term bigint, position bigint)")
    server.execute("INSERT INTO bench_row VALUES (1, 1, 0)")
    server.execute("CREATE TABLE bench_log (position bigint PRIMARY KEY, term bigint, kind smallint, data bytea)")
    script = server.directory / "pgbench.sql"
    script.write_text(PGBENCH)
    done = subprocess.run(
        [
            *(scratch.programs() / "pgbench", "-n", "-c", "1", "-T", str(round(seconds)), "-f", script),
            *("-D", f"n={batch}", "-D", f"bytes={size}"),
            *("-h", server.directory, "-p", str(server.port), "-U", server.user, "postgres"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("tps"))
    return float(line.split()[2]) * batch


async def takeovers(daemons: list[Daemon], trials: int) -> list[float]:
    """Seconds from the SIGKILL of the registry to the next committed write, in another zone."""
    took: list[float] = []
    async with httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False) as client:
        for _ in range(trials):
            status = (await client.get(f"{daemons[0].url}/zone/v1/status")).json()
            registry = next(one for one in daemons if one.zone == status["registry"]["zone"])
            survivor = next(one for one in daemons if one is not registry)
            registry.kill()
            began = time.monotonic()
            await until(lambda survivor=survivor: create(client, survivor))
            took.append(round(time.monotonic() - began, 3))
            registry.start()
            await registry.wait_ready(client)
            await trio.sleep(2.0)  # the returned zone has caught up before the next is killed
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--trials", type=int, default=11)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    with scratch.folder() as folder, tempfile.TemporaryDirectory() as directory:
        server = scratch.make(folder / "pg")
        server.start("fsync=on")
        extra = f'engine = "postgresql"\ndsn = ["{server.dsn}"]\nwait_s = 30.0\n[journal]\nfree_disk_min_bytes = 0\n'
        daemons = make(Path(directory), zone_names(3), 3, extra)
        try:
            with ended(daemons):
                found = trio.run(creates, daemons, server, arguments.seconds)
                took = trio.run(takeovers, daemons, arguments.trials)
            rate = pgbench(server, arguments.seconds, found["entries_a_commit"], found["bytes_an_entry"])
        finally:
            server.kill()
    result = {
        **found,
        "pgbench_rows_per_s": round(rate, 1),
        "ratio": round(found["committed_per_s"] / rate, 3),
        "takeover_s": {"median": statistics.median(took), "worst": max(took), "all": took},
        "election_s": PROFILES["lan"][1],
        "load_average": os.getloadavg()[0],
    }
    json.dump(result, sys.stdout, indent=1)
    if arguments.write:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
