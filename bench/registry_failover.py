"""How long writes wait when the registry is killed: three zoned nodes beside three etcd members, in turns.

The same measurement for both: SIGKILL of the leader at a random moment, and from then on a new write every 50 ms to
the survivors in turn; the first one that is answered as committed ends the trial. Then the killed one is started again
and everything settles.
"""

import random
import shutil
import signal
import subprocess
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import trio

from zoned.fleet import Daemon, free_ports, make, zone_names

EVERY_S = 0.05
GIVE_UP_S = 30.0
QUIET_S = 3.0  # between a settled cluster and the next kill


class BenchError(Exception):
    """Something did not work that must; the text says what."""


async def first_commit(write: Callable[[int], Awaitable[bool]]) -> float:
    """Starts `write(n)` every EVERY_S; seconds until the first of them returns True."""
    began, took_s, done = trio.current_time(), 0.0, trio.Event()

    async def one(number: int) -> None:
        nonlocal took_s
        if await write(number) and not done.is_set():
            took_s = trio.current_time() - began
            done.set()

    async with trio.open_nursery() as nursery:
        for number in range(round(GIVE_UP_S / EVERY_S)):
            nursery.start_soon(one, number)
            with trio.move_on_after(EVERY_S):
                await done.wait()
                break
        nursery.cancel_scope.cancel()
    if not done.is_set():
        raise BenchError(f"no write was committed within {GIVE_UP_S} s")
    return took_s


async def until(what: str, look: Callable[[], Awaitable[bool]], patience_s: float = GIVE_UP_S) -> None:
    with trio.move_on_after(patience_s):
        while not await look():  # noqa: ASYNC110  # what is awaited happens in another process
            await trio.sleep(0.1)
        return
    raise BenchError(f"not within {patience_s} s: {what}")


class Zoned:
    """Three nodes with the profile `lan` and the defaults."""

    def __init__(self, root: Path, client: httpx.AsyncClient) -> None:
        self.daemons = make(root, zone_names(3), 3)
        self._client = client

    async def start(self) -> None:
        for daemon in self.daemons:
            if not daemon.is_running:
                daemon.start()
        for daemon in self.daemons:
            await daemon.wait_ready(self._client)
        await until("one registry, all at one position", self._settled)

    async def _status(self, daemon: Daemon) -> dict[str, Any]:
        answer = await self._client.get(f"{daemon.url}/zone/v1/status", timeout=5.0)
        document: dict[str, Any] = answer.json()
        return document

    async def _settled(self) -> bool:
        states = [await self._status(daemon) for daemon in self.daemons]
        names = {state["registry"]["zone"] for state in states}
        positions = {state["catalogue"]["position"] for state in states}
        return None not in names and len(names) == len(positions) == 1 and all(state["ids"]["left"] for state in states)

    async def kill_leader(self) -> Callable[[int], Awaitable[bool]]:
        name = (await self._status(self.daemons[0]))["registry"]["zone"]
        leader = next(daemon for daemon in self.daemons if daemon.zone == name)
        rest = [daemon for daemon in self.daemons if daemon is not leader]

        async def write(number: int) -> bool:
            try:
                answer = await self._client.post(
                    f"{rest[number % 2].url}/zone/v1/images", json={"name": f"n {number}"}, timeout=10.0
                )
            except httpx.TransportError:
                return False
            return answer.status_code == 201

        leader.kill()
        return write

    def end(self) -> None:
        for daemon in self.daemons:
            if daemon.is_running:
                daemon.kill()


class Etcd:
    """Three members on loopback with the default times (heartbeat 100 ms, election 1,000 ms)."""

    def __init__(self, root: Path, client: httpx.AsyncClient) -> None:
        self._client = client
        self._root = root
        ports = free_ports(6)
        self._clients, self._peers = ports[:3], ports[3:]
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * 3
        self._known = False

    def _start(self, member: int) -> None:
        cluster = ",".join(f"m{n}=http://127.0.0.1:{port}" for n, port in enumerate(self._peers))
        url, peer = f"http://127.0.0.1:{self._clients[member]}", f"http://127.0.0.1:{self._peers[member]}"
        directory = self._root / f"m{member}"
        directory.mkdir(parents=True, exist_ok=True)
        state = "existing" if self._known else "new"
        words = f"--name m{member} --data-dir {directory}/data --listen-client-urls {url} --advertise-client-urls {url}"
        words += f" --listen-peer-urls {peer} --initial-advertise-peer-urls {peer} --initial-cluster {cluster}"
        words += f" --initial-cluster-state {state} --logger zap --log-outputs stderr"
        with (directory / "log").open("ab") as log:
            self._processes[member] = subprocess.Popen(
                [str(shutil.which("etcd")), *words.split()], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    async def start(self) -> None:
        for member, process in enumerate(self._processes):
            if process is None or process.poll() is not None:
                self._start(member)
        await until("all members healthy", self._settled)
        self._known = True

    async def _post(self, member: int, path: str, body: dict[str, str], timeout_s: float) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self._clients[member]}/v3/{path}"
        answer = await self._client.post(url, json=body, timeout=timeout_s)
        document: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
        return document

    async def _leader(self) -> int | None:
        """Which member leads, if all agree."""
        states = [await self._post(member, "maintenance/status", {}, 5.0) for member in range(3)]
        leaders = {state.get("leader") for state in states}
        ids = [state.get("header", {}).get("member_id") for state in states]
        return ids.index(leaders.pop()) if len(leaders) == 1 and leaders <= set(ids) and None not in leaders else None

    async def _settled(self) -> bool:
        try:
            if await self._leader() is None:
                return False
            return all([await self._put(member, "settled", 5.0) for member in range(3)])
        except httpx.TransportError:
            return False

    async def _put(self, member: int, key: str, timeout_s: float) -> bool:
        body = {"key": b64encode(key.encode()).decode(), "value": b64encode(b"v").decode()}
        return "header" in await self._post(member, "kv/put", body, timeout_s)

    async def kill_leader(self) -> Callable[[int], Awaitable[bool]]:
        leader = await self._leader()
        if leader is None:
            raise BenchError("etcd has no leader")
        rest = [member for member in range(3) if member != leader]

        async def write(number: int) -> bool:
            try:
                return await self._put(rest[number % 2], f"k{number}", 10.0)
            except httpx.TransportError:
                return False

        process = self._processes[leader]
        assert process is not None
        process.send_signal(signal.SIGKILL)
        process.wait()
        return write

    def end(self) -> None:
        for process in self._processes:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()


async def trials(root: Path, count: int, say: Callable[[str], None]) -> dict[str, list[float]]:
    """Seconds per trial, for each system that is here."""
    rng = random.Random(1)
    took: dict[str, list[float]] = {}
    pool = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(trust_env=False, limits=pool) as client:
        systems: dict[str, Zoned | Etcd] = {"zoned": Zoned(root / "zoned", client)}
        if shutil.which("etcd"):
            systems["etcd"] = Etcd(root / "etcd", client)
        try:
            for number in range(count):
                for name, system in systems.items():
                    await system.start()
                    await trio.sleep(QUIET_S + rng.uniform(0.0, 0.5))
                    seconds = await first_commit(await system.kill_leader())
                    took.setdefault(name, []).append(seconds)
                    say(f"failover {number + 1}/{count} {name}: {seconds:.3f} s")
        finally:
            for system in systems.values():
                system.end()
    return took


def etcd_version() -> str | None:
    found = shutil.which("etcd")
    if found is None:
        return None
    said = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    return said.splitlines()[0].removeprefix("etcd Version: ") if said else "unknown"


def main() -> None:
    """Only this part, for a look: `python -m bench.registry_failover`."""
    import sys
    import tempfile

    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        took = trio.run(trials, Path(directory), count, print)
    for name, values in took.items():
        print(name, [round(value, 3) for value in sorted(values)])
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
