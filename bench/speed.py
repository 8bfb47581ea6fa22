"""How fast zoned is, beside nginx and etcd on the same machine in the same run: `make bench`.

Load comes from wrk (and h2load for etcd's gRPC) on core 0, the server under test has core 1. Runs of the two sides take
turns, and the medians are compared, because the machine's own speed changes from minute to minute. Processor time is
read from /proc, so it tells the same on a busy machine.

`python -m bench.speed` measures everything; with the names of parts (lookups, batch, flat, writes, level) only those,
the others stay as they were measured. Joining, starting and memory are measured by `bench.registry`, whose results are
shown with the others.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import trio

from bench import speed_load as load
from bench.registry import machine, measured
from bench.registry_records import images, make_catalogue
from bench.registry_scale import restore
from bench.speed_text import render
from zoned.api.documents import images_document
from zoned.fleet import Daemon, ended, free_ports, make, zone_names

RESULTS = Path(__file__).parent / "results"
PARTS = ("lookups", "batch", "flat", "writes", "level")
PACKAGES = {"nginx": "nginx-light", "wrk": "wrk", "etcd": "etcd-server", "h2load": "nghttp2-client"}
ROUNDS = 3
CONNECTIONS = 64
SERVER_CORE = "1"
VALUE_BYTES = 1_024


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def install_peers() -> None:
    missing = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
    if missing:
        say(f"installing {' '.join(missing)}")
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], check=True)


# --- servers ----------------------------------------------------------------------------------------------------------


@contextmanager
def process(words: list[str], ready: Callable[[], bool], core: str | None = SERVER_CORE) -> Iterator[int]:
    """A server process on its core until the end of the block; its ID."""
    pinned = ["taskset", "-c", core, *words] if core else words
    with tempfile.TemporaryFile() as log:
        started = subprocess.Popen(pinned, stdout=log, stderr=log)
        try:
            load.wait(f"{words[0]} is ready", ready)
            yield started.pid
        finally:
            started.terminate()
            started.wait(30)


@contextmanager
def zone(directory: Path, count: int, workers: int = 1) -> Iterator[tuple[Daemon, list[str]]]:
    """A daemon with `count` records and lookup workers, all on the server's core; the records' UUIDs."""
    directory.mkdir()
    say(f"making {count} records")
    make_catalogue(directory / "snapshot", count)
    (daemon,) = make(directory, ["zone-a"], 1)
    restore(daemon, directory / "snapshot")
    (directory / "snapshot").unlink()
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace("[http]\n", f"[http]\nworkers = {workers}\n"))
    with ended([daemon]):
        daemon.start()
        assert daemon.process is not None
        subprocess.run(["taskset", "-pc", SERVER_CORE, str(daemon.process.pid)], check=True, stdout=subprocess.DEVNULL)
        load.wait("the daemon is ready", lambda: load.answers(f"{daemon.url}/readyz"))
        load.wait("it is the registry", lambda: httpx.get(f"{daemon.url}/zone/v1/ids").json()["left"] > 0)
        yield daemon, [image.uuid for image in images(count)]


@contextmanager
def nginx(directory: Path, count: int) -> Iterator[tuple[str, int]]:
    """One worker with the same bodies as static files; (URL, process ID)."""
    root, port = directory / "root", free_ports(1)[0]
    (root / "v2/images").mkdir(parents=True)
    for image in images(count):
        (root / "v2/images" / image.uuid).write_bytes(orjson.dumps(images_document(image)))
    config = directory / "nginx.conf"
    config.write_text(
        f"daemon off; master_process off; pid {directory}/pid; error_log {directory}/error.log;\n"
        "events { worker_connections 4096; }\n"
        f"http {{ access_log off; sendfile on; keepalive_requests 1000000000; default_type application/json;\n"
        f"server {{ listen 127.0.0.1:{port}; root {root}; }} }}\n"
    )
    url, path = f"http://127.0.0.1:{port}", f"/v2/images/{next(images(count)).uuid}"
    with process(["nginx", "-p", str(directory), "-c", str(config)], lambda: load.answers(url + path)) as pid:
        yield url, pid


@contextmanager
def etcd(directory: Path, members: int, core: str | None) -> Iterator[tuple[list[str], list[int]]]:
    """Members of one cluster; (client URLs, process IDs)."""
    ports = free_ports(2 * members)
    clients, peers = ([f"http://127.0.0.1:{port}" for port in ports[part::2]] for part in (0, 1))
    cluster = ",".join(f"m{n}={peer}" for n, peer in enumerate(peers))
    with contextmanager(_nested)(
        [
            process(
                [
                    *("etcd", "--name", f"m{n}", "--data-dir", str(directory / f"m{n}"), "--initial-cluster", cluster),
                    *("--listen-client-urls", clients[n], "--advertise-client-urls", clients[n]),
                    *("--listen-peer-urls", peers[n], "--initial-advertise-peer-urls", peers[n]),
                    *("--quota-backend-bytes", "8589934592", "--log-level", "error"),
                ],
                lambda: True,
                core,
            )
            for n in range(members)
        ]
    ) as pids:
        for url in clients:
            load.wait("etcd is ready", lambda url=url: load.answers(f"{url}/health"))  # type: ignore[misc]
        yield clients, pids


def _nested(managers: list[Any]) -> Iterator[list[int]]:
    if not managers:
        yield []
        return
    with managers[0] as first, contextmanager(_nested)(managers[1:]) as rest:
        yield [first, *rest]


# --- parts ------------------------------------------------------------------------------------------------------------


def lookups(arguments: argparse.Namespace) -> dict[str, Any]:
    """Records by UUID over 64 connections, beside nginx with files and etcd with serializable gets."""
    count, seconds = arguments.records, arguments.seconds
    found: dict[str, list[load.Load]] = {"zoned": [], "nginx": [], "etcd": []}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with (
            zone(directory / "zoned", count) as (daemon, uuids),
            nginx(directory / "nginx", count) as (static, nginx_pid),
            etcd(directory / "etcd", 1, SERVER_CORE) as ((etcd_url,), (etcd_pid,)),
        ):
            assert daemon.process is not None
            script = load.lookup_script(directory, uuids)
            keys = load.fill_etcd(etcd_url, images(count), say)
            frame = load.range_frame(directory, keys[count // 2])
            for _ in range(ROUNDS):
                found["zoned"].append(load.wrk(daemon.url, CONNECTIONS, seconds, script, daemon.process.pid))
                found["nginx"].append(load.wrk(static, CONNECTIONS, seconds, script, nginx_pid))
                found["etcd"].append(load.h2load(etcd_url, "Range", CONNECTIONS, seconds, frame, etcd_pid))
                say("; ".join(f"{name} {runs[-1].rate:.0f}/s" for name, runs in found.items()))
    return {"records": count, **{name: load.summary(runs) for name, runs in found.items()}}


def batch(arguments: argparse.Namespace) -> dict[str, Any]:
    """batchGet of 100 references, in records a second, beside single lookups."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with zone(directory / "zoned", 10_000) as (daemon, uuids):
            assert daemon.process is not None
            known = httpx.post(f"{daemon.url}/zone/v1/images:batchGet", json={"references": uuids[:100]})
            if known.status_code != 200:
                return {"missing": f"batchGet answers {known.status_code}"}
            single, many = [], []
            for _ in range(ROUNDS):
                pid = daemon.process.pid
                script = load.lookup_script(directory, uuids, "/zone/v1/images/")
                single.append(load.wrk(daemon.url, CONNECTIONS, arguments.seconds, script, pid))
                script = load.batch_script(directory, uuids)
                many.append(load.wrk(daemon.url, CONNECTIONS, arguments.seconds, script, pid))
    return {"references": 100, "single": load.summary(single), "batch": load.summary(many)}


def flat(arguments: argparse.Namespace) -> dict[str, Any]:
    """Processor time per lookup with few and with many records."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        few, many = 10_000, arguments.many
        with zone(directory / "few", few) as (small, uuids), zone(directory / "many", many) as (large, more):
            runs: dict[int, list[load.Load]] = {few: [], many: []}
            scripts = {few: load.lookup_script(directory, uuids), many: load.lookup_script(directory, more)}
            for daemon, count in ((small, few), (large, many)):  # the page cache filled for both
                load.wrk(daemon.url, CONNECTIONS, arguments.seconds, scripts[count], 0)
            for _ in range(ROUNDS):
                for daemon, count in ((small, few), (large, many)):
                    assert daemon.process is not None
                    pid = daemon.process.pid
                    runs[count].append(load.wrk(daemon.url, CONNECTIONS, arguments.seconds, scripts[count], pid))
            found = {str(count): load.summary(those) for count, those in runs.items()}
    return {"few": few, "many": many, **found}


def writes(arguments: argparse.Namespace) -> dict[str, Any]:
    """Creates committed by three voters beside puts of 1 KiB by three etcd members, 64 clients over all three."""
    shares = (22, 21, 21)
    found: dict[str, list[load.Load]] = {"zoned": [], "etcd": []}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        daemons = make(directory / "zoned", zone_names(3), 3)
        with ended(daemons), etcd(directory / "etcd", 3, None) as (urls, etcd_pids):
            for daemon in daemons:
                daemon.start()
            trio.run(load.settle, daemons)
            frame = load.put_frame(directory, VALUE_BYTES)
            pids = [daemon.process.pid for daemon in daemons if daemon.process is not None]
            script = load.create_script(directory)
            for _ in range(ROUNDS):
                found["zoned"].append(
                    load.together(
                        [
                            load.started_wrk(daemon.url, share, arguments.seconds, script)
                            for daemon, share in zip(daemons, shares, strict=True)
                        ],
                        pids,
                    )
                )
                found["etcd"].append(
                    load.together(
                        [
                            load.started_h2load(url, "Put", share, arguments.seconds, frame)
                            for url, share in zip(urls, shares, strict=True)
                        ],
                        etcd_pids,
                    )
                )
                say("; ".join(f"{name} {runs[-1].rate:.0f}/s" for name, runs in found.items()))
    return {"clients": sum(shares), **{name: load.summary(runs) for name, runs in found.items()}}


def level(arguments: argparse.Namespace) -> dict[str, Any]:
    """p99 of lookups at a steady 500 a second, without and with 500 creates a second."""
    found: dict[str, list[load.Load]] = {"idle": [], "writing": [], "creates": []}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with zone(directory / "zoned", arguments.records) as (daemon, uuids):
            assert daemon.process is not None
            asking = load.lookup_script(directory, uuids, delay_ms=16)
            creating = load.create_script(directory, delay_ms=28)
            for _ in range(ROUNDS):
                found["idle"].append(load.wrk(daemon.url, 8, arguments.seconds, asking, 0))
                writer = load.started_wrk(daemon.url, 16, arguments.seconds + 1, creating)
                time.sleep(0.5)
                found["writing"].append(load.wrk(daemon.url, 8, arguments.seconds, asking, 0))
                found["creates"].append(load.together([writer], []))
                say("; ".join(f"{name} {runs[-1].rate:.0f}/s p99 {runs[-1].p99_ms} ms" for name, runs in found.items()))
    return {"records": arguments.records, **{name: load.summary(runs) for name, runs in found.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.speed", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all when none is named")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--many", type=int, default=1_000_000, help="records of the larger catalogue (flat)")
    parser.add_argument("--seconds", type=int, default=8, help="of each run")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    os.environ["no_proxy"] = "127.0.0.1"
    install_peers()
    RESULTS.mkdir(exist_ok=True)
    kept = RESULTS / "speed.json"
    results: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    results["machine"] = machine()
    others = RESULTS / "registry.json"
    scale = json.loads(others.read_text()).get("scale") if others.exists() else None
    if scale is not None:
        results["scale"] = scale
    jobs = {"lookups": lookups, "batch": batch, "flat": flat, "writes": writes, "level": level}
    for name in arguments.parts or PARTS:
        results[name] = measured(jobs[name], arguments)
        kept.write_text(json.dumps(results, indent=1) + "\n")
        (RESULTS / "speed.md").write_text(render(results))
    print((RESULTS / "speed.md").read_text())


if __name__ == "__main__":
    main()
