"""Images API v2: zoned beside a real Glance 33 on PostgreSQL, the same requests in the same run.

`python -m bench.glance` writes bench/results/glance.md and .json. Glance has 10,000 images, zoned 100,000, each with
10 properties and 2 tags. Clients are `wrk` with 16 connections; all processes, clients included, share the machine.
zoned's writes are committed by three voters, each with a store of its own.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import apsw
import httpx
import trio

from bench import glance_peer
from store import catalogue, log
from store.images import DEFAULTS, Image
from store.migrate import migrate
from zoned import clock
from zoned.fleet import ended, free_ports, make, zone_names

RESULTS = Path(__file__).parent / "results"
CONNECTIONS = 16
PEER_IMAGES, IMAGES = 10_000, 100_000
CREATOR = "00000000-0000-4000-8000-00000000000a"
KIND = "application/openstack-images-v2.1-json-patch"
# What is measured: (name, must, aim), both as multiples of Glance's rate.
WORK: Mapping[str, tuple[float, float]] = {
    "show": (20, 40),
    "list of 25": (15, 30),
    "list by tag": (15, 30),
    "list by two properties": (15, 30),
    "list by exact name": (15, 30),
    "create": (8, 20),
    "update": (8, 20),
}
# The properties of image n, in Lua and in SQL (glance_peer.fill): p0 to p9 have ten values each.
LUA = """
local count, work, offset = %(count)d, "%(work)s", %(offset)d
local ids = {}
if %(ids)s then for line in io.lines("%(file)s") do ids[#ids + 1] = line end end
math.randomseed(%(seed)d)
local made = 0
function body(n)
  local text = '{"name": "image-' .. n .. '", "disk_format": "raw", "container_format": "bare", "min_disk": 1, '
    .. '"min_ram": 1, "tags": ["t' .. n %% 100 .. '", "u' .. n %% 7 .. '"]'
  for k = 0, 9 do text = text .. ', "p' .. k .. '": "v' .. math.floor(n / 10 ^ (k %% 4)) %% 10 .. '"' end
  return text .. "}"
end
function request()
  local n = math.random(count)
  if work == "show" then return wrk.format("GET", "/v2/images/" .. ids[math.random(#ids)]) end
  if work == "list of 25" then return wrk.format("GET", "/v2/images?limit=25") end
  if work == "list by tag" then return wrk.format("GET", "/v2/images?limit=25&tag=t" .. n %% 100) end
  if work == "list by two properties" then
    return wrk.format("GET", "/v2/images?limit=25&p0=v" .. n %% 10 .. "&p1=v" .. math.floor(n / 10) %% 10)
  end
  if work == "list by exact name" then return wrk.format("GET", "/v2/images?name=image-" .. n) end
  made = made + 1
  if work == "create" then return wrk.format("POST", "/v2/images", nil, body(offset + made)) end
  wrk.headers["Content-Type"] = "%(kind)s"
  local change = '[{"op": "replace", "path": "/name", "value": "renamed-' .. made .. '"}]'
  return wrk.format("PATCH", "/v2/images/" .. ids[math.random(#ids)], nil, change)
end
function done(summary, latency)
  local e = summary.errors
  io.write("RESULT ", summary.requests, " ", summary.duration, " ", e.status, " ",
    e.connect + e.read + e.write + e.timeout, " ", latency:percentile(50), " ", latency:percentile(99), "\\n")
end
"""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Side:
    """One server under load: its URL, how many images it holds, and the UUIDs of some."""

    def __init__(self, url: str, count: int, ids: Path, directory: Path) -> None:
        self.url, self.count, self.ids, self._directory = url, count, ids, directory
        self.made = count

    def settle(self) -> None:
        """Waits until what was asked before is answered: a server may still have a queue of it."""
        httpx.get(f"{self.url}/v2/images?limit=1", headers=glance_peer.HEADERS, timeout=120, trust_env=False)

    def measure(self, work: str, seconds: float) -> dict[str, float]:
        """Requests a second and latencies in ms. Raises PeerError when any request fails."""
        script = self._directory / f"wrk-{uuid.uuid4()}.lua"
        needs_ids = "true" if work in ("show", "update") else "false"
        values = {"count": self.count, "work": work, "offset": self.made, "file": self.ids, "kind": KIND}
        script.write_text(LUA % {**values, "ids": needs_ids, "seed": time.time_ns() % 2**31})
        words = [
            "wrk",
            "-t",
            "1",
            "-c",
            str(CONNECTIONS),
            "-d",
            f"{round(seconds)}s",
            "--timeout",
            "30s",
            "-s",
            str(script),
        ]
        for header in glance_peer.HEADERS.items():
            words += ["-H", "{}: {}".format(*header)]
        said = glance_peer.run([*words, self.url])
        found = re.search(r"RESULT (\S+) (\S+) (\S+) (\S+) (\S+) (\S+)", said)
        if found is None:
            raise glance_peer.PeerError(f"wrk said:\n{said}")
        requests, took_us, bad, broken, p50_us, p99_us = map(float, found.groups())
        if bad or broken:
            raise glance_peer.PeerError(f"{work}: {bad:.0f} answers were errors, {broken:.0f} did not come; {said}")
        if work == "create":
            self.made += int(requests)
        return {"per_s": requests / took_us * 1e6, "p50_ms": p50_us / 1e3, "p99_ms": p99_us / 1e3}


def measure_all(side: Side, seconds: float, name: str) -> dict[str, dict[str, float]]:
    found = {}
    for work in WORK:
        side.measure(work, min(2.0, seconds))  # warm
        side.settle()
        found[work] = side.measure(work, seconds)
        say(f"{name}: {work}: {found[work]['per_s']:.0f} a second, p99 {found[work]['p99_ms']:.1f} ms")
    return found


def of_glance(venv: Path, seconds: float) -> dict[str, dict[str, float]]:
    glance_peer.install(venv)
    with tempfile.TemporaryDirectory(prefix="bench-glance-") as name:
        directory = Path(name)
        ports = free_ports(2)
        with glance_peer.database(directory, ports[0]) as url, glance_peer.glance(venv, directory, url, ports[1]) as at:
            glance_peer.fill(url, PEER_IMAGES)
            ids = directory / "ids"
            digests = [hashlib.md5(str(n).encode(), usedforsecurity=False).digest() for n in range(1, PEER_IMAGES + 1)]
            ids.write_text("".join(f"{uuid.UUID(bytes=one)}\n" for one in digests))
            return measure_all(Side(at, PEER_IMAGES, ids, directory), seconds, "Glance")


def of_zoned(seconds: float, count: int) -> dict[str, dict[str, float]]:
    """The first zone is restored from a catalogue; two others join it and vote."""
    with tempfile.TemporaryDirectory(prefix="bench-zoned-") as name:
        directory = Path(name)
        daemons = make(directory, zone_names(3), 1)
        say(f"zoned: writing {count} images")
        ids = write_catalogue(directory / "catalogue", count)
        side_ids = directory / "ids"
        side_ids.write_text("".join(f"{one}\n" for one in random.Random(7).sample(ids, min(count, 20_000))))
        glance_peer.run(
            [sys.executable, "-m", "zoned", "restore", "-c", daemons[0].config, directory / "catalogue"], timeout=600
        )
        with ended(daemons):
            for daemon in daemons:
                daemon.start()
            url = trio.run(_registry_of, [daemon.url for daemon in daemons])
            return measure_all(Side(url, count, side_ids, directory), seconds, "zoned")


def images(count: int) -> Iterator[Image]:
    """What `glance_peer.fill` makes, the newest first by number."""
    rng = random.Random(5)
    now = int(clock.wall())
    for n in range(1, count + 1):
        at = clock.text(now - n)
        name = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        own = {"name": f"image-{n}", "owner": glance_peer.PROJECT, "created_at": at, "updated_at": at}
        fields = {**DEFAULTS, **own, "disk_format": "raw", "container_format": "bare", "min_disk": 1, "min_ram": 1}
        properties = {f"p{k}": f"v{n // 10 ** (k % 4) % 10}" for k in range(10)}
        yield Image(
            name, n, CREATOR, f"{CREATOR}.{n}", n, fields, properties, tuple(sorted((f"t{n % 100}", f"u{n % 7}")))
        )


def write_catalogue(path: Path, count: int) -> list[str]:
    """A snapshot of `count` images; their UUIDs."""
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", "off")
    connection.pragma("synchronous", "off")
    migrate(connection, str(path))
    ids = []
    with connection:
        connection.execute("INSERT OR REPLACE INTO replica VALUES (1, 0, zeroblob(32), 0, 1, zeroblob(32))")
        for image in images(count):
            catalogue.replace_committed(connection, None, image)
            ids.append(image.uuid)
        connection.execute("UPDATE replica SET position = ?1, next_integer = ?1 + 1", (count,))
        connection.execute("INSERT INTO marks VALUES (?, ?)", (CREATOR, count))
        log.save_compacted(connection, log.Compacted(count, 1))
    connection.close()
    return ids


async def _registry_of(urls: list[str]) -> str:
    """The zone that is the registry, once all three vote and it has integers."""
    async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
        with trio.fail_after(180):
            while True:
                for url in urls:
                    try:
                        status = (await client.get(f"{url}/zone/v1/status")).json()
                    except httpx.TransportError:
                        continue
                    registry = status["registry"]
                    is_registry = registry["node_id"] == status["node"]["node_id"]
                    if is_registry and status["ids"]["left"] > 0 and len(registry["voters"]) == 3:
                        return url
                await trio.sleep(0.2)


def render(results: Mapping[str, Any]) -> str:
    machine, (before, after) = results["machine"], results["load_average"]
    lines = [
        "# zoned beside Glance",
        "",
        f"Written by `make bench-glance` on {results['on']}: {machine['cores']} cores, Linux {machine['kernel']},"
        f" Python {machine['python']}; load average {before} before, {after} after."
        f" Glance {glance_peer.VERSION} on PostgreSQL with {PEER_IMAGES:,} images, {glance_peer.WORKERS} uWSGI workers;"
        f" zoned with {results['images']:,} images, asked at the registry of three voters. {CONNECTIONS} connections;"
        " everything, clients included, shares the machine.",
        "",
        "| work | Glance/s | p99 ms | zoned/s | p99 ms | times | must | aim | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for work, (must, aim) in WORK.items():
        theirs, ours = results["glance"][work], results["zoned"][work]
        times = ours["per_s"] / theirs["per_s"]
        verdict = "aim met" if times >= aim else "met" if times >= must else "**short**"
        lines.append(
            f"| {work} | {theirs['per_s']:.0f} | {theirs['p99_ms']:.1f} | {ours['per_s']:.0f} | {ours['p99_ms']:.1f} |"
            f" {times:.1f} | {must} | {aim} | {verdict} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=Path(".venv-glance"), help="where Glance is, or is installed")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--images", type=int, default=IMAGES, help="in zoned's catalogue")
    parser.add_argument("--only", choices=["glance", "zoned"], help="measure one side; the other stays as it was")
    arguments = parser.parse_args()
    before = os.getloadavg()[0]
    kept = RESULTS / "glance.json"
    results: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    try:
        if arguments.only != "zoned":
            results["glance"] = of_glance(arguments.venv.absolute(), arguments.seconds)
        if arguments.only != "glance":
            results["zoned"] = of_zoned(arguments.seconds, arguments.images)
            results["images"] = arguments.images
    except (glance_peer.PeerError, subprocess.SubprocessError, OSError) as error:
        sys.exit(f"bench.glance: {error}")
    results |= {
        "on": time.strftime("%Y-%m-%d", time.gmtime()),
        "load_average": [round(before, 2), round(os.getloadavg()[0], 2)],
        "machine": {"cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()},
    }
    kept.write_text(json.dumps(results, indent=2) + "\n")
    if "glance" in results and "zoned" in results:
        page = render(results)
        (RESULTS / "glance.md").write_text(page)
        print(page)


if __name__ == "__main__":
    main()
