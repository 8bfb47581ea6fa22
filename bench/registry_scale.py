"""A catalogue of a million records: a node joins it, and what holding it costs in memory, disk and time.

The records are written into a store file directly, as backups of instances look (about 1 kB of JSON each), and become
a zone by `zoned restore`. Then a second zone joins the first, while a third process looks up records at the first at a
steady rate, before and during.
"""

import random
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import apsw
import httpx
import trio

from bench.registry_failover import BenchError, until
from store import catalogue, log
from store.images import DEFAULTS, Image, Location
from store.migrate import migrate
from zoned.fleet import Daemon, ended, make

RATE = 200  # lookups a second at the donor
BEFORE_S = 15.0
CREATOR = "00000000-0000-4000-8000-00000000000a"
PROJECTS = 2_000


def images(count: int) -> Iterator[Image]:
    """`count` records in the order of their UUIDs, so that writing them is quick."""
    rng = random.Random(5)
    uuids = sorted(str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(count))
    integers = list(range(1, count + 1))
    rng.shuffle(integers)
    for name, integer in zip(uuids, integers, strict=True):
        at = f"2026-{1 + integer * 11 // count:02d}-{1 + integer % 28:02d}T{integer % 24:02d}:{integer % 60:02d}:00Z"
        instance = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        owner = f"{rng.randrange(PROJECTS):032x}"
        fields = {
            **DEFAULTS,
            "name": f"backup-of-{instance}-{integer % 7}",
            "status": "active",
            "visibility": "private",
            "owner": owner,
            "size": rng.randrange(1 << 34),
            "min_disk": 20,
            "disk_format": "qcow2",
            "container_format": "bare",
            "created_at": at,
            "updated_at": at,
        }
        properties = {
            "image_type": "backup",
            "backup_type": "daily",
            "instance_uuid": instance,
            "user_id": f"{rng.randrange(10 * PROJECTS):032x}",
            "base_image_ref": f"{rng.randrange(300):08x}-0000-4000-8000-000000000000",
        }
        place = Location(f"swift+https://objects.zone-a.example/v1/AUTH_{owner}/images/{name}", {"zone": "zone-a"})
        write = f"{CREATOR}.{integer}"
        yield Image(name, integer, CREATOR, write, integer, fields, properties, ("daily",), (place,))


def make_catalogue(path: Path, count: int) -> None:
    """A snapshot file of `count` records."""
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", "off")
    connection.pragma("synchronous", "off")
    connection.pragma("cache_size", -1_000_000)
    migrate(connection, str(path))
    total = 0
    with connection:
        indexes: Any = connection.execute(
            "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'images' AND sql IS NOT NULL"
        ).fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        found: list[tuple[str, str, str]] = []
        for image in images(count):
            record = catalogue.put(connection, "images", image)
            total += catalogue.record_digest(record)
            found += [(facet, str(image.fields["created_at"]), image.uuid) for facet in catalogue.facets(image)]
        found.sort()
        connection.executemany("INSERT INTO facets VALUES (?, ?, ?)", found)
        for _, sql in indexes:
            connection.execute(sql)
        connection.execute(
            "INSERT OR REPLACE INTO replica (one, position, digest, images, next_integer) VALUES (1, ?, ?, ?, ?)",
            (count, (total % (1 << 256)).to_bytes(32), count, count + 1),
        )
        connection.execute("INSERT INTO marks VALUES (?, ?)", (CREATOR, count))
        connection.execute("INSERT INTO ranges (start, stop, node, position) VALUES (1, ?, ?, 1)", (count + 1, CREATOR))
        log.save_compacted(connection, replace(log.Compacted(), position=count, term=1))
    connection.close()


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


def tables_bytes(store: Path) -> dict[str, int]:
    """What each table and index of a store takes, the largest first."""
    connection = apsw.Connection(str(store), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        rows: Any = connection.execute("SELECT name, sum(pgsize) FROM dbstat GROUP BY name ORDER BY 2 DESC LIMIT 14")
        return dict(rows.fetchall())
    except apsw.SQLError:
        return {}
    finally:
        connection.close()


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
        make_catalogue(snapshot, count)
        say(f"{count} records written in {time.monotonic() - began:.0f} s")
    connection = apsw.Connection(str(snapshot), flags=apsw.SQLITE_OPEN_READONLY)
    sample = connection.execute("SELECT uuid FROM images ORDER BY random() LIMIT 20000")
    (root / "uuids").write_text("\n".join(str(row[0]) for row in sample))
    size: Any = connection.execute("SELECT sum(length(record)) FROM images").get
    connection.close()
    return snapshot, int(size)


async def measure(root: Path, count: int, say: Callable[[str], None], given: Path | None = None) -> dict[str, Any]:
    """All of it; sizes in bytes, times in seconds. `given`: a snapshot file with the records, made before."""
    snapshot, json_bytes = await trio.to_thread.run_sync(make_or_take, root, count, given, say)
    donor, newcomer = make(root, ["zone-a", "zone-b"], expect=1)
    found: dict[str, Any] = {"records": count, "json_bytes": json_bytes}
    found["restore_s"] = round(await trio.to_thread.run_sync(restore, donor, snapshot), 1)
    say(f"restored in {found['restore_s']} s")
    (root / "catalogue").unlink(missing_ok=True)
    async with httpx.AsyncClient(trust_env=False) as client:
        with ended([donor, newcomer]):
            found["start_to_ready_s"] = round(await ready(client, donor), 2)
            await trio.sleep(3.0)
            found |= await join(client, donor, newcomer, root)
            say(f"joined in {found['joined_s']} s; donor {found['donor_before']} -> {found['donor_during']}")
            found["memory_after_join_mib"] = {"donor": memory_mib(donor), "newcomer": memory_mib(newcomer)}
            found["disk_with_snapshot"] = disk_bytes(donor.directory / "data")
            newcomer.stop()
            found["newcomer_start_to_ready_s"] = round(await ready(client, newcomer), 2)
            load = Load(newcomer, root / "uuids", root / "after")
            await trio.sleep(BEFORE_S)
            found["lookups_after"] = load.finish()
            for query in ("limit=1000", "limit=1000&name=x", f"limit=100&owner={7:032x}"):
                await client.get(f"{newcomer.url}/zone/v1/images?{query}", timeout=60.0)
            found["memory_serving_mib"] = memory_mib(newcomer)
            say(f"memory {found['memory_serving_mib']}")
            newcomer.stop()
            found["disk"] = disk_bytes(newcomer.directory / "data")
            found["tables"] = await trio.to_thread.run_sync(tables_bytes, newcomer.directory / "data" / "zoned.db")
    found["disk_ratio"] = round(sum(found["disk"].values()) / json_bytes, 2)
    return found


if __name__ == "__main__":
    load_main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
