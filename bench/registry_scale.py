"""A catalogue of a million records: a node joins it, and what holding it costs in memory, disk and time.

The records (bench/registry_records.py) are written into a store file directly and become a zone by `zoned restore`.
Then a second zone joins the first, while a third process looks up records at the first at a steady rate, before and
during. Last, the large zone is asked the same as one of ten thousand records (bench/registry_speed.py).
"""

import compileall
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import apsw
import httpx
import trio

from bench import registry_speed
from bench.registry_failover import BenchError, until
from bench.registry_records import grow, images, json_bytes, make_catalogue, owner, tables_bytes
from store.images import uuid_text
from zoned.fleet import Daemon, ended, make

RATE = 200  # lookups a second at the donor
BEFORE_S = 15.0
FEW = 10_000
GROWN = 50_000
UUIDS = 20_000  # looked up, of all
STARTS = 5
IDLE_S = 10.0


def restore(daemon: Daemon, snapshot: Path) -> float:
    """Seconds that `zoned restore` took."""
    began = time.monotonic()
    words = [sys.executable, "-m", "zoned", "restore", "-c", str(daemon.config), str(snapshot)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        raise BenchError(done.stderr)
    return time.monotonic() - began


def lookups(port: int, uuids: list[str], stop: Callable[[], bool]) -> list[float]:
    """Looks up records at a steady rate over one connection; seconds each took, from when it was due."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    rng = random.Random(9)
    took = []
    due = time.perf_counter()
    while not stop():
        due += 1 / RATE
        time.sleep(max(0.0, due - time.perf_counter()))
        began = time.perf_counter()
        connection.request("GET", f"/zone/v1/images/{rng.choice(uuids)}")
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise BenchError(f"a lookup was answered {answer.status}")
        took.append(time.perf_counter() - began)
    connection.close()
    return took


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def memory_mib(daemon: Daemon) -> dict[str, float]:
    """Resident memory of the process, and how much of it is its own (not pages of files)."""
    assert daemon.process is not None
    text = Path(f"/proc/{daemon.process.pid}/status").read_text()
    found = {name: int(kib) / 1_024 for name, kib in re.findall(r"(VmRSS|VmHWM|RssAnon|RssFile):\s+(\d+) kB", text)}
    return {name: round(value, 1) for name, value in found.items()}


def disk_bytes(directory: Path) -> dict[str, int]:
    return {
        str(path.relative_to(directory)): path.stat().st_size for path in sorted(directory.rglob("*")) if path.is_file()
    }


async def status(client: httpx.AsyncClient, daemon: Daemon) -> dict[str, Any]:
    document: dict[str, Any] = (await client.get(f"{daemon.url}/zone/v1/status", timeout=30.0)).json()
    return document


class Load:
    """Lookups in a process of their own, so that measuring costs the measured one little."""

    def __init__(self, daemon: Daemon, uuids: Path, out: Path) -> None:
        self._out = out
        words = [sys.executable, "-m", "bench.registry_scale", str(daemon.http_port), str(uuids), str(out)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE)

    def finish(self) -> dict[str, float]:
        self._process.communicate(timeout=60)  # the end of its input ends it
        took = [float(line) for line in self._out.read_text().split()]
        names = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999}
        found = {name: round(percentile(took, share) * 1_000, 2) for name, share in names.items()}
        return {"lookups": len(took), **found, "max_ms": round(max(took) * 1_000, 2)}


def load_main(port: int, uuids: Path, out: Path) -> None:
    import threading

    over = threading.Event()

    def watch() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=watch, daemon=True).start()
    took = lookups(port, uuids.read_text().split(), over.is_set)
    out.write_text("\n".join(map(repr, took)))


async def join(client: httpx.AsyncClient, donor: Daemon, newcomer: Daemon, root: Path) -> dict[str, Any]:
    """Lookups at the donor alone, then while the newcomer joins."""
    load = Load(donor, root / "uuids", root / "before")
    await trio.sleep(BEFORE_S)
    before = load.finish()
    load = Load(donor, root / "uuids", root / "during")
    await trio.sleep(1.0)
    began = time.monotonic()
    newcomer.start()

    async def at_head() -> bool:
        try:
            theirs, ours = await status(client, newcomer), await status(client, donor)
        except (httpx.TransportError, ValueError, KeyError):
            return False
        return bool(theirs.get("catalogue", {}).get("position", 0) >= ours["catalogue"]["position"] > 1)

    await until("the newcomer is at the head", at_head, 900.0)
    took = time.monotonic() - began
    return {"joined_s": round(took, 1), "donor_before": before, "donor_during": load.finish()}


async def ready(client: httpx.AsyncClient, daemon: Daemon) -> float:
    """Seconds from the start of the process until it is ready."""
    began = time.monotonic()
    daemon.start()
    await daemon.wait_ready(client)
    return time.monotonic() - began


def make_or_take(root: Path, count: int, snapshot: Path | None, say: Callable[[str], None]) -> tuple[Path, int]:
    """The snapshot file with the records, made or as given, and the bytes of their JSON; some UUIDs in a file."""
    if snapshot is None:
        snapshot = root / "catalogue"
        began = time.monotonic()
        size = make_catalogue(snapshot, count)
        say(f"{count} records written in {time.monotonic() - began:.0f} s")
    else:
        size = sum(map(json_bytes, images(count)))
    write_uuids(snapshot, root / "uuids")
    return snapshot, size


def write_uuids(store: Path, out: Path) -> None:
    connection = apsw.Connection(str(store), flags=apsw.SQLITE_OPEN_READONLY)
    # By key: every so many-th, and quicker than sorting all by random().
    last: Any = connection.execute("SELECT max(key) FROM images").get
    keys = random.Random(3).sample(range(1, last + 1), min(last, UUIDS))
    found: Any = [connection.execute("SELECT uuid FROM images WHERE key = ?", (key,)).get for key in keys]
    out.write_text("\n".join(map(uuid_text, found)))
    connection.close()


def compiled_packages() -> None:
    """As an installation leaves them: a start does not compile."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for package in ("conf", "gossip", "store", "zoned"):
        compileall.compile_dir(package, quiet=1)


async def starts(client: httpx.AsyncClient, daemon: Daemon) -> dict[str, list[float]]:
    """Seconds from the start of the process until it is ready, by the clock and of the processor; leaves it running."""
    found: dict[str, list[float]] = {"clock_s": [], "processor_s": []}
    for _ in range(STARTS):
        if daemon.is_running:
            daemon.stop()
        found["clock_s"].append(round(await ready(client, daemon), 2))
        found["processor_s"].append(registry_speed.busy_s(daemon))
    return found


async def measure(root: Path, count: int, say: Callable[[str], None], given: Path | None = None) -> dict[str, Any]:
    """All of it; sizes in bytes, times in seconds. `given`: a snapshot file with the records, made before."""
    compiled_packages()
    snapshot, json_size = await trio.to_thread.run_sync(make_or_take, root, count, given, say)
    donor, newcomer = make(root / "large", ["zone-a", "zone-b"], expect=1)
    found: dict[str, Any] = {"records": count, "json_bytes": json_size}
    found["restore_s"] = round(await trio.to_thread.run_sync(restore, donor, snapshot), 1)
    say(f"restored in {found['restore_s']} s")
    (root / "catalogue").unlink(missing_ok=True)
    async with httpx.AsyncClient(trust_env=False) as client:
        with ended([donor, newcomer]):
            await ready(client, donor)
            await trio.sleep(3.0)
            found |= await join(client, donor, newcomer, root)
            say(f"joined in {found['joined_s']} s; donor {found['donor_before']} -> {found['donor_during']}")
            found["memory_after_join_mib"] = {"donor": memory_mib(donor), "newcomer": memory_mib(newcomer)}
            found["disk_with_snapshot"] = disk_bytes(donor.directory / "data")
            donor.stop()
            found["starts"] = await starts(client, newcomer)
            say(f"ready in {found['starts']}")
            load = Load(newcomer, root / "uuids", root / "after")
            await trio.sleep(BEFORE_S)
            found["lookups_after"] = load.finish()
            for query in ("limit=1000", "limit=1000&name=x", f"limit=100&owner={owner(7)}"):
                await client.get(f"{newcomer.url}/v2/images?{query}", timeout=60.0)
            found["memory_serving_mib"] = memory_mib(newcomer)
            say(f"memory {found['memory_serving_mib']}")
            found |= await trio.to_thread.run_sync(smaller, root, newcomer, count, say)
            newcomer.stop()
            found["disk"] = disk_bytes(newcomer.directory / "data")
            found["tables"] = await trio.to_thread.run_sync(tables_bytes, newcomer.directory / "data" / "zoned.db")
    found["disk_ratio"] = round(sum(found["disk"].values()) / json_size, 2)
    return found


def smaller(root: Path, large: Daemon, count: int, say: Callable[[str], None]) -> dict[str, Any]:
    """An empty zone at rest, one of few records beside the large one, and a store grown record by record."""

    async def alone() -> dict[str, Any]:
        empty, few = (make(root / name, [f"zone-{name}"], expect=1)[0] for name in ("empty", "few"))
        found: dict[str, Any] = {"few": FEW}
        async with httpx.AsyncClient(trust_env=False) as client:
            with ended([empty, few]):
                found["empty_starts"] = await starts(client, empty)
                await trio.sleep(IDLE_S)
                found["memory_idle_mib"] = memory_mib(empty)
                empty.stop()
                say(f"idle {found['memory_idle_mib']}, ready in {found['empty_starts']}")
                make_catalogue(root / "few-records", FEW)
                write_uuids(root / "few-records", root / "few-uuids")
                restore(few, root / "few-records")
                await ready(client, few)
                sides = {"large": (large, count, root / "uuids"), "few": (few, FEW, root / "few-uuids")}
                found["speed"] = registry_speed.compare(sides)
                say(f"speed {found['speed']}")
        size = grow(root / "grown", GROWN)
        return {**found, "grown": GROWN, "grown_ratio": round((root / "grown").stat().st_size / size, 2)}

    return trio.run(alone)


if __name__ == "__main__":
    load_main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
