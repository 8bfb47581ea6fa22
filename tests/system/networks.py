"""Networks of our own for tests: namespaces whose links are cut, and proxies that delay what passes.

Each daemon gets a namespace with two links: one to the clients (this process), one to the other daemons. Only the
second is ever cut, so that what a cut-off zone answers can be seen.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from tests.system.faults import needs_root, run
from zoned.fleet import Daemon, free_ports, zone_names

NOWHERE = "02:00:00:00:de:ad"  # nobody's hardware address: what is sent there is lost without a word


@dataclass(slots=True)
class Netted(Daemon):
    """A daemon in a namespace of its own."""

    namespace: str = ""
    address: str = ""

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.http_port}"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, sys.executable, "-m", "zoned", "run", "-c", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )


class Network:
    """`count` namespaces on two bridges: 10.213.N.0/24 for clients, 10.214.N.0/24 between daemons."""

    def __init__(self, count: int, stack: ExitStack) -> None:
        self.name = f"z{os.getpid() % 100_000}"
        self.subnet = os.getpid() % 250
        self._cuts: list[tuple[int, int]] = []
        self._off: set[int] = set()
        for bridge in ("c", "p"):
            run("ip", "link", "add", f"{self.name}{bridge}", "type", "bridge")
            stack.callback(run, "ip", "link", "del", f"{self.name}{bridge}", check=False)
            run("ip", "link", "set", f"{self.name}{bridge}", "up")
        run("ip", "addr", "add", f"10.213.{self.subnet}.254/24", "dev", f"{self.name}c")
        for node in range(count):
            namespace = self.namespace(node)
            run("ip", "netns", "add", namespace)
            stack.callback(run, "ip", "netns", "del", namespace, check=False)
            run("ip", "-n", namespace, "link", "set", "lo", "up")
            for bridge, network in (("c", 213), ("p", 214)):
                outer = f"{self.name}{bridge}{node}"
                run("ip", "link", "add", outer, "type", "veth", "peer", "name", f"{bridge}0", "netns", namespace)
                stack.callback(run, "ip", "link", "del", outer, check=False)
                run("ip", "link", "set", outer, "master", f"{self.name}{bridge}", "up")
                address = f"10.{network}.{self.subnet}.{node + 1}/24"
                run("ip", "-n", namespace, "addr", "add", address, "dev", f"{bridge}0")
                run("ip", "-n", namespace, "link", "set", f"{bridge}0", "up")

    def namespace(self, node: int) -> str:
        return f"{self.name}-{node}"

    def address(self, node: int) -> str:
        return f"10.213.{self.subnet}.{node + 1}"

    def peer_address(self, node: int) -> str:
        return f"10.214.{self.subnet}.{node + 1}"

    def isolate(self, node: int) -> None:
        """Nothing passes between the node and any other, either way, without a word to anybody."""
        self._off.add(node)
        run("ip", "link", "set", f"{self.name}p{node}", "nomaster")

    def cut(self, source: int, target: int) -> None:
        """What `source` sends to `target` is lost; the other way goes on."""
        self._cuts.append((source, target))
        to = self.peer_address(target)
        neighbour = ("neigh", "replace", to, "lladdr", NOWHERE, "dev", "p0", "nud", "permanent")
        run("ip", "-n", self.namespace(source), *neighbour)

    def heal(self) -> None:
        for source, target in self._cuts:
            run("ip", "-n", self.namespace(source), "neigh", "del", self.peer_address(target), "dev", "p0")
        for node in self._off:
            run("ip", "link", "set", f"{self.name}p{node}", "master", f"{self.name}p")
        self._cuts.clear()
        self._off.clear()


@contextmanager
def network(count: int) -> Iterator[Network]:
    """Skips the test where namespaces cannot be made; leaves nothing behind."""
    needs_root("ip")
    with ExitStack() as stack:
        try:
            made = Network(count, stack)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces can be made here: {error.stderr.strip()}")
        yield made


def netted(root: Path, made: Network, count: int, extra: str) -> list[Daemon]:
    """One daemon per namespace, configured, not started. `extra` goes into the [registry] table and beyond."""
    daemons: list[Daemon] = []
    for node, zone in enumerate(zone_names(count)):
        daemon = Netted(zone, root / zone, 9292, 9293, None, made.namespace(node), made.address(node))
        daemon.directory.mkdir(parents=True)
        seeds = ", ".join(f'"{made.peer_address(other)}:9293"' for other in range(count) if other != node)
        daemon.config.write_text(
            f'[node]\nzone = "{zone}"\ndata_dir = "{daemon.directory / "data"}"\n[security]\ninsecure_listen = true\n'
            f'[http]\nlisten = "{daemon.address}:9292"\n[peers]\nlisten = "{made.peer_address(node)}:9293"\n'
            f"seeds = [{seeds}]\n[registry]\nexpect = {count}\n{extra}"
        )
        daemons.append(daemon)
    return daemons


def delayed(daemons: list[Daemon]) -> list[int]:
    """Gives each daemon of a fleet a port under which the others reach it by a proxy; the ports."""
    ports = free_ports(len(daemons))
    for daemon, port in zip(daemons, ports, strict=True):
        text = daemon.config.read_text()
        for other, theirs in zip(daemons, ports, strict=True):
            if other is not daemon:
                text = text.replace(f"127.0.0.1:{other.peer_port}", f"127.0.0.1:{theirs}")
        daemon.config.write_text(text.replace("[peers]\n", f'[peers]\nadvertise = "127.0.0.1:{port}"\n'))
    return ports


async def serve_delay(port: int, target: int, delay_s: Callable[[], float], nursery: trio.Nursery) -> None:
    """Passes TCP and UDP of `port` on to `target` (both on loopback), each piece `delay_s()` later, both ways."""

    async def connection(near: trio.SocketStream) -> None:
        try:
            far = await trio.open_tcp_stream("127.0.0.1", target)
        except OSError:
            await near.aclose()
            return
        async with near, far, trio.open_nursery() as pipes:
            pipes.start_soon(_pipe, near, far, delay_s)
            pipes.start_soon(_pipe, far, near, delay_s)

    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, connection, listeners)
    udp = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    await udp.bind(("127.0.0.1", port))
    nursery.start_soon(_datagrams, udp, ("127.0.0.1", target), delay_s, nursery)


async def _pipe(source: trio.SocketStream, sink: trio.SocketStream, delay_s: Callable[[], float]) -> None:
    """Delays, keeps the order, and passes the end on too."""
    send, receive = trio.open_memory_channel[tuple[float, bytes]](1_000)

    async def late() -> None:
        async for due, data in receive:
            await trio.sleep_until(due)
            try:
                await (sink.send_all(data) if data else sink.send_eof())
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(late)
        async with send:
            data = b"begin"
            while data:
                try:
                    data = await source.receive_some(65_536)
                except trio.BrokenResourceError:
                    data = b""
                try:
                    await send.send((trio.current_time() + delay_s(), data))
                except trio.BrokenResourceError:
                    break


async def _datagrams(
    near: trio.socket.SocketType, target: tuple[str, int], delay_s: Callable[[], float], nursery: trio.Nursery
) -> None:
    """Datagrams may overtake each other, as on a real network. Each sender gets a socket of its own for the answers."""
    ways: dict[tuple[str, int], trio.socket.SocketType] = {}

    async def late(through: trio.socket.SocketType, data: bytes, to: tuple[str, int]) -> None:
        await trio.sleep(delay_s())
        try:
            await through.sendto(data, to)
        except OSError:
            pass  # the daemon is away just now

    async def answers(way: trio.socket.SocketType, sender: tuple[str, int]) -> None:
        while True:
            try:
                data, _ = await way.recvfrom(65_536)
            except OSError:
                continue
            nursery.start_soon(late, near, data, sender)

    try:
        while True:
            data, sender = await near.recvfrom(65_536)
            if sender not in ways:
                ways[sender] = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                await ways[sender].bind(("127.0.0.1", 0))
                nursery.start_soon(answers, ways[sender], sender)
            nursery.start_soon(late, ways[sender], data, target)
    finally:
        for opened in (near, *ways.values()):
            opened.close()
