"""Several real daemons on loopback, each its own process: for the demo and for tests that kill.

Every process is started from a list and ended by the handle kept here; leaving the block ends them all.
"""

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import trio

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 15.0
LOOK_S = 0.02
PORTS = (15_000, 32_000)  # below the usual ip_local_port_range


class FleetError(Exception):
    """A daemon did not do as asked; the text says which and shows the end of its log."""


@dataclass(slots=True)
class Daemon:
    """One daemon: its zone's name, its directory, its ports, its process while it runs."""

    zone: str
    directory: Path
    http_port: int
    peer_port: int
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def config(self) -> Path:
        return self.directory / "zoned.toml"

    @property
    def socket(self) -> Path:
        return self.directory / "data" / "zoned.sock"

    @property
    def log(self) -> Path:
        return self.directory / "log"

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Starts the process; `wait_ready` waits for it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "zoned", "run", "-c", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"},
            )

    async def wait_ready(self, client: httpx.AsyncClient) -> None:
        """Waits until the daemon answers. Raises FleetError when it ends or takes too long."""
        with trio.move_on_after(START_TIMEOUT_S):
            while self.is_running:
                try:
                    if (await client.get(f"{self.url}/readyz")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await trio.sleep(LOOK_S)
        raise FleetError(f"zone {self.zone} did not start; its log ends:\n{self.log_tail()}")

    def kill(self) -> None:
        """SIGKILL, and waits until the process is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM, and waits; the exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise FleetError(f"zone {self.zone} did not stop; its log ends:\n{self.log_tail()}") from None

    def log_tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""


def zone_names(count: int) -> list[str]:
    return [f"zone-{chr(ord('a') + n)}" for n in range(count)]


def free_ports(count: int) -> list[int]:
    """Ports of loopback that were free a moment ago, for TCP and UDP alike.

    None that the system hands out for outgoing connections: such a port may be gone when a killed daemon comes back.
    """
    rng = random.SystemRandom()
    with ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            port = rng.randint(*PORTS)
            tcp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            try:
                tcp.bind(("127.0.0.1", port))
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
        return found


def make(root: Path, zones: list[str], expect: int, extra: str = "") -> list[Daemon]:
    """Directories and configurations for one daemon per zone, each with all others as seeds. Starts nothing.

    With `expect` 1 the first founds alone and the others join it. `extra` goes into the [registry] table and beyond.
    """
    ports = free_ports(2 * len(zones))
    peers = [f"127.0.0.1:{port}" for port in ports[1::2]]
    daemons = []
    for n, zone in enumerate(zones):
        daemon = Daemon(zone, root / zone, ports[2 * n], ports[2 * n + 1])
        daemon.directory.mkdir(parents=True)
        alone = expect == 1 and n == 0
        seeds = ", ".join(f'"{peer}"' for m, peer in enumerate(peers) if m != n and not alone)
        daemon.config.write_text(
            f'[node]\nzone = "{zone}"\ndata_dir = "{daemon.directory / "data"}"\n'
            f'[http]\nlisten = "127.0.0.1:{daemon.http_port}"\n'
            f'[peers]\nlisten = "{peers[n]}"\nseeds = [{seeds}]\n'
            f"[registry]\nexpect = {expect if expect > 1 or alone else 0}\n{extra}"
        )
        daemons.append(daemon)
    return daemons


@contextmanager
def ended(daemons: list[Daemon]) -> Iterator[list[Daemon]]:
    """Whatever happens in the block, none of the daemons runs after it."""
    try:
        yield daemons
    finally:
        for daemon in daemons:
            if daemon.is_running:
                daemon.kill()
