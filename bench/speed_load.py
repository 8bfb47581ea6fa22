"""Load and its figures: wrk for HTTP/1.1, h2load for gRPC, processor time from /proc."""

import os
import re
import statistics
import subprocess
import time
from base64 import b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson

from bench.registry_failover import BenchError
from store.images import Image
from tests.system.conftest import settled
from zoned.fleet import Daemon

LOAD_CORE = "0"
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
UNITS = {"us": 0.001, "ms": 1.0, "s": 1_000.0, "m": 60_000.0}
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Load:
    """One run: requests a second, errors, the 99th percentile, and the server's processor time for each request."""

    rate: float
    errors: int
    p99_ms: float | None
    cpu_us: float | None


def summary(runs: list[Load]) -> dict[str, Any]:
    """Medians, and every rate."""
    if any(run.errors for run in runs):
        raise BenchError(f"{sum(run.errors for run in runs)} requests failed")

    def middle(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return round(statistics.median(known), 2) if known else None

    return {
        "rate": middle([run.rate for run in runs]),
        "rates": [round(run.rate) for run in runs],
        "p99_ms": middle([run.p99_ms for run in runs]),
        "cpu_us": middle([run.cpu_us for run in runs]),
    }


def wait(what: str, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if ready():
            return
        time.sleep(0.1)
    raise BenchError(f"not within {PATIENCE_S} s: {what}")


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


async def settle(daemons: list[Daemon]) -> None:
    """Waits until all are up and equal."""
    async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
        for daemon in daemons:
            await daemon.wait_ready(client)
        await settled(client, daemons)


def cpu_s(pid: int) -> float:
    """Processor time of a process and of its children that run."""
    total = 0.0
    pids = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        pids += map(int, path.read_text().split())
    for one in pids:
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) * TICK_S
    return total


# --- generators -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """A generator that runs, and how its report is read."""

    process: subprocess.Popen[str]
    read: Callable[[str], tuple[int, float, int, float | None]]  # requests, seconds, errors, p99


def started_wrk(url: str, connections: int, seconds: int, script: Path) -> Started:
    words = ["wrk", "-t1", "--timeout", "30s", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script), url]
    return _start(words, _read_wrk)


def started_h2load(url: str, method: str, connections: int, seconds: int, frame: Path) -> Started:
    words = ["h2load", "-t1", f"-c{connections}", "-m1", f"-D{seconds}", "-d", str(frame)]
    words += ["-H", "content-type: application/grpc", "-H", "te: trailers", f"{url}/etcdserverpb.KV/{method}"]
    return _start(words, _read_h2load)


def _start(words: list[str], read: Callable[[str], tuple[int, float, int, float | None]]) -> Started:
    pinned = ["taskset", "-c", LOAD_CORE, *words]
    return Started(subprocess.Popen(pinned, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True), read)


def together(started: list[Started], pids: list[int]) -> Load:
    """The sum of generators that run at the same time."""
    before = sum(map(cpu_s, pids))
    reports = []
    for one in started:
        text, _ = one.process.communicate(timeout=300)
        if one.process.returncode:
            raise BenchError(text)
        reports.append(one.read(text))
    requests = sum(report[0] for report in reports)
    late = [report[3] for report in reports if report[3] is not None]
    return Load(
        rate=sum(count / seconds for count, seconds, _, _ in reports),
        errors=sum(report[2] for report in reports),
        p99_ms=round(max(late), 3) if late else None,
        cpu_us=(sum(map(cpu_s, pids)) - before) * 1e6 / requests if pids else None,
    )


def wrk(url: str, connections: int, seconds: int, script: Path, pid: int) -> Load:
    return together([started_wrk(url, connections, seconds, script)], [pid] if pid else [])


def h2load(url: str, method: str, connections: int, seconds: int, frame: Path, pid: int) -> Load:
    return together([started_h2load(url, method, connections, seconds, frame)], [pid])


def _found(pattern: str, text: str) -> tuple[str, ...]:
    match = re.search(pattern, text)
    if match is None:
        raise BenchError(f"no {pattern!r} in: {text}")
    return match.groups()


def _read_wrk(text: str) -> tuple[int, float, int, float | None]:
    count, seconds, unit = _found(r"(\d+) requests in ([\d.]+)(ms|s|m)", text)
    late, late_unit = _found(r"99%\s+([\d.]+)(us|ms|s|m)", text)
    errors = sum(int(number) for number in re.findall(r"(?:connect|read|write|timeout) (\d+)", text))
    errors += sum(int(number) for number in re.findall(r"(?:Non-2xx or 3xx responses|not committed): (\d+)", text))
    return int(count), float(seconds) * UNITS[unit] / 1_000, errors, float(late) * UNITS[late_unit]


def _read_h2load(text: str) -> tuple[int, float, int, float | None]:
    seconds, unit = _found(r"finished in ([\d.]+)(ms|s|m)", text)
    (count,) = _found(r"(\d+) succeeded", text)
    failed, errored = _found(r"(\d+) failed, (\d+) errored", text)
    return int(count), float(seconds) * UNITS[unit] / 1_000, int(failed) + int(errored), None


# --- what is asked ----------------------------------------------------------------------------------------------------


def lookup_script(directory: Path, uuids: list[str], prefix: str = "/v2/images/", delay_ms: int = 0) -> Path:
    """Records drawn at random."""
    names = directory / f"uuids-{len(uuids)}"
    names.write_text("\n".join(uuids) + "\n")
    script = directory / f"lookup-{len(uuids)}-{delay_ms}-{prefix.count('/')}.lua"
    script.write_text(
        f'local uuids = {{}}\nfor line in io.lines("{names}") do uuids[#uuids + 1] = line end\n'
        "math.randomseed(7)\n"
        f'request = function() return wrk.format("GET", "{prefix}" .. uuids[math.random(#uuids)]) end\n'
        + _delay(delay_ms)
    )
    return script


def batch_script(directory: Path, uuids: list[str]) -> Path:
    """100 records drawn at random, in one request."""
    names = directory / f"uuids-{len(uuids)}"
    script = directory / "batch.lua"
    script.write_text(
        f'local uuids = {{}}\nfor line in io.lines("{names}") do uuids[#uuids + 1] = line end\n'
        'local headers = {["content-type"] = "application/json"}\n'
        "request = function()\n  local found = {}\n"
        "  for n = 1, 100 do found[n] = '\"' .. uuids[math.random(#uuids)] .. '\"' end\n"
        '  return wrk.format("POST", "/zone/v1/images:batchGet", headers,'
        " '{\"references\":[' .. table.concat(found, \",\") .. ']}')\nend\n"
    )
    return script


def create_script(directory: Path, delay_ms: int = 0) -> Path:
    """A backup of about 1 kB is registered. Whatever is answered otherwise than as committed (201) is counted."""
    body = {
        "name": "backup-of-00000000-0000-4000-8000-000000000000",
        "owner": f"{7:032x}",
        "visibility": "private",
        "size": 1 << 33,
        "min_disk": 20,
        "disk_format": "qcow2",
        "container_format": "bare",
        "properties": {
            "image_type": "backup",
            "backup_type": "daily",
            "instance_uuid": "00000000-0000-4000-8000-000000000000",
            "base_image_ref": "00000000-0000-4000-8000-000000000000",
        },
        "tags": ["daily"],
        "locations": [{"url": "swift+https://objects.zone-a.example/v1/AUTH_0/images/backup", "metadata": {}}],
    }
    script = directory / f"create-{delay_ms}.lua"
    script.write_text(
        f"local body = '{orjson.dumps(body).decode()}'\n"
        'local headers = {["content-type"] = "application/json"}\n'
        'request = function() return wrk.format("POST", "/zone/v1/images", headers, body) end\n'
        "local threads = {}\nsetup = function(thread) threads[#threads + 1] = thread end\n"
        "init = function() others = 0 end\n"
        "response = function(status) if status ~= 201 then others = others + 1 end end\n"
        'done = function() for _, one in ipairs(threads) do print("not committed: " .. one:get("others")) end end\n'
        + _delay(delay_ms)
    )
    return script


def _delay(delay_ms: int) -> str:
    return f"delay = function() return {delay_ms} end\n" if delay_ms else ""


def fill_etcd(url: str, found: Iterable[Image], say: Callable[[str], None]) -> list[bytes]:
    """Puts every record's document under its UUID, in transactions of 100; the keys."""
    from zoned.api.documents import images_document

    say("filling etcd")
    keys: list[bytes] = []
    puts: list[dict[str, Any]] = []
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        for image in found:
            keys.append(image.uuid.encode())
            value = b64encode(orjson.dumps(images_document(image))).decode()
            puts.append({"requestPut": {"key": b64encode(keys[-1]).decode(), "value": value}})
            if len(puts) == 100:
                client.post("/v3/kv/txn", json={"success": puts}).raise_for_status()
                puts = []
        if puts:
            client.post("/v3/kv/txn", json={"success": puts}).raise_for_status()
    return keys


def _frame(directory: Path, name: str, *fields: tuple[int, bytes | bool]) -> Path:
    """A gRPC message of length-delimited and boolean fields (protobuf wire types 2 and 0), in a file."""
    message = b""
    for number, value in fields:
        if isinstance(value, bool):
            message += bytes([number << 3, value])
        else:
            message += bytes([number << 3 | 2]) + _varint(len(value)) + value
    path = directory / name
    path.write_bytes(b"\0" + len(message).to_bytes(4) + message)
    return path


def _varint(number: int) -> bytes:
    found = b""
    while number >= 0x80:
        found += bytes([number & 0x7F | 0x80])
        number >>= 7
    return found + bytes([number])


def range_frame(directory: Path, key: bytes) -> Path:
    """etcdserverpb.RangeRequest: key 1, serializable 7."""
    return _frame(directory, "range", (1, key), (7, True))


def put_frame(directory: Path, value_bytes: int) -> Path:
    """etcdserverpb.PutRequest: key 1, value 2."""
    return _frame(directory, "put", (1, b"bench"), (2, b"x" * value_bytes))
