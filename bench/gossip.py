"""zoned beside serf on this machine: full view, kill -9, a changed fact, a new address, idle cost. Real processes.

    python -m bench.gossip [--sizes 10,25] [--profiles lan,wan] [--facts 200] [--kills 3] [--write FILE]

Both are driven alike: the first process is started and waited for, then all others at once; every process is asked for
its own list of members, one after the other, until all agree. A round of questions takes some milliseconds, and every
figure is late by up to one. Times are seconds, minimum / median / maximum. Needs `serf` (Debian package; installed with
apt-get when it is missing and we are root). Processes are started from lists and ended by their handles.
"""

import argparse
import http.client
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import fmean, median
from typing import Any

import msgpack

from zoned.fleet import Daemon, free_ports, make, zone_names

IDLE_S = 15.0
LIMIT_S = 60.0
SETTLE_S = 20.0  # elections, voters and learners: before that nothing is idle
BETWEEN_FACTS_S = 0.1
SHARE = 5  # so many times fewer facts are changed with `wan`, and with more than SMALL processes
SMALL = 10
Look = dict[str, dict[str, Any]]  # by member's name: up, gone (convicted, not only suspected), address, fact


class System(ABC):
    """Some number of processes of one kind, numbered from 0."""

    name = ""

    def __init__(self, size: int) -> None:
        self.size = size

    @abstractmethod
    def start(self, number: int) -> None: ...

    @abstractmethod
    def pid(self, number: int) -> int: ...

    @abstractmethod
    def kill(self, number: int) -> None: ...

    @abstractmethod
    def is_running(self, number: int) -> bool: ...

    @abstractmethod
    def look(self, number: int) -> Look | None: ...

    @abstractmethod
    def change(self, number: int, value: int) -> None:
        """Change a published fact of this process; returns once it is told, not once it is known."""

    @abstractmethod
    def move(self, number: int) -> str:
        """Give the (dead) process a new address; what others will list."""


class Zoned(System):
    """Whole daemons, one per zone; the fact is the draining flag."""

    name = "zoned"

    def __init__(self, size: int, profile: str, root: Path) -> None:
        super().__init__(size)
        extra = f'profile = "{profile}"\n[gossip]\nprofile = "{profile}"\n[log]\nlevel = "warning"\n'
        self.daemons: list[Daemon] = make(root, zone_names(size), 1, extra)
        self._connections: dict[int, http.client.HTTPConnection] = {}

    def start(self, number: int) -> None:
        self._connections.pop(number, None)
        self.daemons[number].start()

    def pid(self, number: int) -> int:
        process = self.daemons[number].process
        assert process is not None
        return process.pid

    def kill(self, number: int) -> None:
        if self.daemons[number].is_running:
            self.daemons[number].kill()

    def is_running(self, number: int) -> bool:
        return self.daemons[number].is_running

    def look(self, number: int) -> Look | None:
        port = self.daemons[number].http_port
        connection = self._connections.setdefault(number, http.client.HTTPConnection("127.0.0.1", port, timeout=5))
        try:
            connection.request("GET", "/zone/v1/zones")
            nodes = json.loads(connection.getresponse().read())["zones"]
        except (OSError, http.client.HTTPException, ValueError):
            connection.close()
            return None
        return {
            one["zone"]: {
                "up": one["state"] == "alive",
                "gone": one["state"] == "dead",
                "address": one["peer"],
                "fact": int(one["draining"]),
            }
            for one in nodes
        }

    def change(self, number: int, value: int) -> None:
        # Over the admin socket, as zonectl would.
        body = json.dumps({"on": value % 2 == 1}).encode()
        head = f"POST /admin/v1/drain HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        with closing(socket.socket(socket.AF_UNIX)) as stream:
            stream.connect(str(self.daemons[number].socket))
            stream.sendall(head.encode() + body)
            stream.recv(4096)

    def move(self, number: int) -> str:
        daemon = self.daemons[number]
        [port] = free_ports(1)
        text = daemon.config.read_text()
        old = f'[peers]\nlisten = "127.0.0.1:{daemon.peer_port}"'
        assert old in text
        daemon.config.write_text(text.replace(old, f'[peers]\nlisten = "127.0.0.1:{port}"'))
        daemon.peer_port = port
        return f"127.0.0.1:{port}"


class Serf(System):
    """Agents driven over their RPC; the fact is a tag."""

    name = "serf"

    def __init__(self, size: int, profile: str, root: Path) -> None:
        super().__init__(size)
        ports = free_ports(2 * size)
        self.binds, self.rpcs = ports[::2], ports[1::2]
        self.profile = profile
        self._log = (root / "serf.log").open("ab")
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._streams: dict[int, Rpc] = {}

    def start(self, number: int) -> None:
        self._streams.pop(number, None)
        command = ["serf", "agent", f"-node=z{number}", f"-bind=127.0.0.1:{self.binds[number]}"]
        command += [f"-rpc-addr=127.0.0.1:{self.rpcs[number]}", f"-profile={self.profile}", "-log-level=err"]
        other = self.binds[0] if number else self.binds[1] if self._processes.get(1) else 0
        if other:
            command.append(f"-retry-join=127.0.0.1:{other}")
        self._processes[number] = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )

    def pid(self, number: int) -> int:
        return self._processes[number].pid

    def kill(self, number: int) -> None:
        if number in self._processes:
            self._processes[number].kill()
            self._processes[number].wait()

    def is_running(self, number: int) -> bool:
        return number in self._processes and self._processes[number].poll() is None

    def look(self, number: int) -> Look | None:
        try:
            if number not in self._streams:
                self._streams[number] = Rpc(self.rpcs[number])
            members = self._streams[number].call("members")["Members"]
        except (OSError, ValueError, KeyError, msgpack.UnpackException):
            self._streams.pop(number, None)
            return None
        return {
            one["Name"]: {
                "up": one["Status"] == "alive",
                "gone": one["Status"] == "failed",
                "address": f"127.0.0.1:{one['Port']}",
                "fact": int(one["Tags"].get("fact", 0)),
            }
            for one in members
        }

    def change(self, number: int, value: int) -> None:
        Rpc(self.rpcs[number]).tell("tags", {"Tags": {"fact": str(value % 2)}, "DeleteTags": []})

    def move(self, number: int) -> str:
        [self.binds[number]] = free_ports(1)
        return f"127.0.0.1:{self.binds[number]}"


class Rpc:
    """serf's RPC: msgpack maps, a header and a body, both ways."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self._unpacker = msgpack.Unpacker(raw=False, strict_map_key=False, unicode_errors="replace")
        self._sequence = 0
        self.tell("handshake", {"Version": 1})
        self._next()

    def tell(self, command: str, body: Any = None) -> None:
        self._sequence += 1
        packed = msgpack.packb({"Command": command, "Seq": self._sequence})
        self._socket.sendall(packed + (msgpack.packb(body) if body is not None else b""))

    def call(self, command: str) -> Any:
        self.tell(command)
        if self._next()["Error"]:
            raise ValueError(command)
        return self._next()

    def _next(self) -> Any:
        while True:
            for value in self._unpacker:
                return value
            data = self._socket.recv(65536)
            if not data:
                raise OSError("closed")
            self._unpacker.feed(data)


def until(system: System, numbers: list[int], done: Callable[[Look], bool], since: float) -> float:
    """Seconds after `since` until every one of these processes said so once."""
    waiting = list(numbers)
    while waiting:
        for number in list(waiting):
            seen = system.look(number)
            if seen is not None and done(seen):
                waiting.remove(number)
        if time.monotonic() - since > LIMIT_S:
            return float("inf")
        time.sleep(0.005)
    return time.monotonic() - since


def name_of(system: System, number: int) -> str:
    return zone_names(system.size)[number] if isinstance(system, Zoned) else f"z{number}"


def is_whole(system: System) -> Callable[[Look], bool]:
    return lambda seen: sum(one["up"] for one in seen.values()) == system.size


def launch(system: System) -> tuple[float, float]:
    """Seconds from the start of all but the first, and from when the last of them answered, to the full view at all."""
    everybody = list(range(system.size))
    system.start(0)
    until(system, [0], lambda _: True, time.monotonic())
    began = time.monotonic()
    for number in everybody[1:]:
        system.start(number)
    answered = until(system, everybody, lambda _: True, began)
    whole = until(system, everybody, is_whole(system), began)
    return whole, whole - answered


def killed(system: System, number: int) -> float:
    others = [one for one in range(system.size) if one != number]
    name = name_of(system, number)
    began = time.monotonic()
    system.kill(number)
    return until(system, others, lambda seen: bool(seen[name]["gone"]), began)


def back(system: System, number: int) -> None:
    system.start(number)
    until(system, list(range(system.size)), is_whole(system), time.monotonic())


def changed(system: System, number: int, value: int) -> float:
    name = name_of(system, number)
    others = [one for one in range(system.size) if one != number]
    began = time.monotonic()
    system.change(number, value)
    return until(system, others, lambda seen: seen[name]["fact"] == value % 2, began)


def moved(system: System, number: int) -> float:
    """kill -9 and a start on another port at once; a supervisor starts it again should it end."""
    name = name_of(system, number)
    system.kill(number)
    began = time.monotonic()
    address = system.move(number)
    system.start(number)
    waiting = [one for one in range(system.size) if one != number]
    while waiting:
        for other in list(waiting):
            seen = system.look(other)
            if seen is not None and seen[name]["up"] and seen[name]["address"] == address:
                waiting.remove(other)
        if not system.is_running(number):
            time.sleep(1)
            system.start(number)
        if time.monotonic() - began > LIMIT_S:
            return float("inf")
        time.sleep(0.02)
    return time.monotonic() - began


def idle(system: System) -> tuple[list[float], list[float]]:
    """CPU in percent of a core and resident MiB of each process, over a while in which nobody asks."""
    ticks = os.sysconf("SC_CLK_TCK")

    def used(number: int) -> float:
        fields = Path(f"/proc/{system.pid(number)}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / ticks

    everybody = range(system.size)
    time.sleep(SETTLE_S if isinstance(system, Zoned) else 3)
    before = [used(number) for number in everybody]
    time.sleep(IDLE_S)
    cpu = [(used(number) - one) / IDLE_S * 100 for number, one in zip(everybody, before, strict=True)]
    pages = [int(Path(f"/proc/{system.pid(number)}/statm").read_text().split()[1]) for number in everybody]
    return cpu, [count * os.sysconf("SC_PAGE_SIZE") / 2**20 for count in pages]


@contextmanager
def running(kind: type[Zoned] | type[Serf], size: int, profile: str) -> Iterator[System]:
    with tempfile.TemporaryDirectory(prefix="bench-gossip-") as root:
        system: System = kind(size, profile, Path(root))
        try:
            yield system
        finally:
            for number in range(size):
                system.kill(number)


def spread(times: list[float]) -> str:
    return f"{min(times):.2f} / {median(times):.2f} / {max(times):.2f} (n={len(times)})"


def measure(kind: type[Zoned] | type[Serf], size: int, profile: str, facts: int, kills: int) -> dict[str, str]:
    rows: dict[str, str] = {}
    with running(kind, size, profile) as system:
        whole, after = launch(system)
        rows["full view at all, after the launch, s"] = f"{whole:.2f}"
        rows["full view at all, after the last process answered, s"] = f"{after:.2f}"
        cpu, mib = idle(system)
        rows["idle CPU of a process, mean / most, % of a core"] = f"{fmean(cpu):.2f} / {max(cpu):.2f}"
        rows["RSS of a process, mean / most, MiB"] = f"{fmean(mib):.1f} / {max(mib):.1f}"
        times = []
        for value in range(1, facts + 1):
            times.append(changed(system, 1 + value % 2, (value + 1) // 2))
            time.sleep(BETWEEN_FACTS_S)
        rows["a changed fact known to all, s"] = spread(times)
        rows["of these delivered"] = f"{sum(one < LIMIT_S for one in times)} of {len(times)}"
        deaths = []
        for number in range(2, 2 + kills):
            deaths.append(killed(system, number))
            back(system, number)
        rows["kill -9 known to all, s"] = spread(deaths)
        time.sleep(2)
        known_s = moved(system, size - 1)
        row = "the same node at a new address known to all, s"
        rows[row] = f"{known_s:.2f}" if known_s < LIMIT_S else f"not within {LIMIT_S:.0f}"
    return rows


def ensure_serf() -> str:
    if shutil.which("serf") is None:
        for command in (["apt-get", "update"], ["apt-get", "install", "-y", "serf"]):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    done = subprocess.run(["dpkg-query", "-W", "-f=${Version}", "serf"], capture_output=True, text=True, check=False)
    return done.stdout or "unknown version"


def main() -> None:
    parser = argparse.ArgumentParser(description="zoned beside serf.")
    parser.add_argument("--sizes", default="10,25")
    parser.add_argument("--profiles", default="lan,wan")
    parser.add_argument("--facts", type=int, default=200)
    parser.add_argument("--kills", type=int, default=3, help="at 10 with lan; 2 elsewhere")
    parser.add_argument("--write", type=Path)
    asked = parser.parse_args()
    lines = [
        "# Gossip: zoned beside serf",
        "",
        "Made by `make bench-gossip`.",
        *str(__doc__).split("\n\n")[2].splitlines(),
        "",
    ]
    version = f"serf {ensure_serf()}, Python {platform.python_version()}, {os.cpu_count()} cores, {platform.platform()}"
    lines += [version + "; both unsealed; zoned's processes are whole daemons with their store and registry.", ""]
    for size in map(int, asked.sizes.split(",")):
        for profile in asked.profiles.split(","):
            whole = profile == "lan" and size <= SMALL
            facts = asked.facts if whole else asked.facts // SHARE
            kills = asked.kills if whole else min(asked.kills, 2)
            found = {}
            for kind in (Serf, Zoned):
                print(f"{kind.name}, {size}, {profile} ...", file=sys.stderr, flush=True)
                found[kind.name] = measure(kind, size, profile, facts, kills)
                print(json.dumps(found[kind.name], indent=1), file=sys.stderr, flush=True)
            load = f"Load average of the last minute at the end: {os.getloadavg()[0]:.1f}."
            lines += [f"## {size} processes, `{profile}`", "", load, "", "| | serf | zoned |", "| --- | --- | --- |"]
            lines += [f"| {row} | {found['serf'][row]} | {found['zoned'][row]} |" for row in found["serf"]]
            lines.append("")
    print("\n".join(lines))
    if asked.write:
        asked.write.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
