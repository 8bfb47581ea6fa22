"""The datagram socket: bytes in, bytes out, no opinion.

Receiving waits with a deadline and then takes all that is there, so that after a stall the waiting answers are heard
before any clock is. Sending never waits: a full buffer loses the datagram as the network might have, and is counted. No
error of a socket ends anything here; each is counted under its name.
"""

import errno
import ipaddress
import math
import socket
from collections import Counter

import trio

from gossip.codec import DATAGRAM_BYTES_MAX
from gossip.messages import Address

RECEIVE_MAX = 256  # datagrams taken per turn
BUFFER_BYTES = 1024 * 1024
RESOLVED_S = 30.0
RESOLVED_MAX = 1024


class Datagrams:
    """One UDP socket. `counts` holds datagrams in and out, and one `dropped_<reason>` for each way to lose one."""

    def __init__(self, raw: socket.socket, nursery: trio.Nursery, counts: Counter[str]) -> None:
        raw.setblocking(False)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        self._raw = raw
        self._nursery = nursery
        self._counts = counts
        self._resolved: dict[str, tuple[str, float]] = {}
        self._resolving: set[str] = set()
        self.muted = False  # nothing goes in or out, as if the network were cut
        self.waiting = trio.CancelScope()  # its deadline may be moved while `wait` sleeps

    @property
    def address(self) -> Address:
        host, port = self._raw.getsockname()[:2]
        return host, port

    async def wait(self, seconds: float) -> None:
        """Until something can be read, or so many seconds; moving `waiting.deadline` changes them."""
        deadline = trio.current_time() + seconds if math.isfinite(seconds) else math.inf
        with trio.CancelScope(deadline=deadline) as self.waiting:
            await trio.lowlevel.wait_readable(self._raw)

    def receive(self) -> list[tuple[bytes, Address]]:
        """All that is there, at most RECEIVE_MAX."""
        received: list[tuple[bytes, Address]] = []
        for _ in range(RECEIVE_MAX):
            try:
                # One byte more than allowed, so that the codec can tell a cut datagram from a whole one.
                data, sender = self._raw.recvfrom(DATAGRAM_BYTES_MAX + 1)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as bad:  # a late ICMP error of something that we sent
                self._counts[f"receive_{_name(bad)}"] += 1
                break
            if self.muted:
                self._counts["dropped_muted"] += 1
                continue
            self._counts["datagrams_in"] += 1
            received.append((data, (sender[0].removeprefix("::ffff:"), sender[1])))
        return received

    def send(self, data: bytes, address: Address) -> None:
        host = self._literal(address[0])
        if self.muted:
            self._counts["dropped_muted"] += 1
            return
        if host is None:
            self._counts["dropped_unresolved"] += 1
            return
        try:
            self._raw.sendto(data, (host, address[1]))
            self._counts["datagrams_out"] += 1
        except OSError as bad:
            self._counts[f"dropped_{_name(bad)}"] += 1

    def _literal(self, host: str) -> str | None:
        """The address as our socket's family wants it; None while a name is being looked up, or for ever if it has no
        address that we could reach.
        """
        known, until = self._resolved.get(host, (None, 0.0))
        if known is None:
            known = _as_family(host, self._raw.family)
            if known is not None:
                return known
            if _is_literal(host):
                return None
        if until < trio.current_time() and host not in self._resolving and len(self._resolving) < RESOLVED_MAX:
            self._resolving.add(host)
            self._nursery.start_soon(self._resolve, host)
        return known

    async def _resolve(self, host: str) -> None:
        try:
            found = await trio.socket.getaddrinfo(host, None, family=self._raw.family, type=socket.SOCK_DGRAM)
            if len(self._resolved) >= RESOLVED_MAX:
                self._resolved.clear()
            self._resolved[host] = (str(found[0][4][0]), trio.current_time() + RESOLVED_S)
        except (OSError, UnicodeError):
            self._counts["resolve_failed"] += 1
        finally:
            self._resolving.discard(host)


async def bind(host: str, port: int) -> socket.socket:
    """A bound socket; raises OSError."""
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    raw = socket.socket(family, kind, protocol)
    try:
        raw.bind(address)
    except OSError:
        raw.close()
        raise
    return raw


def adopt(bound: trio.socket.SocketType) -> socket.socket:
    """Take over a bound trio socket; the caller's object is empty afterwards."""
    return socket.socket(fileno=bound.detach())


def parse_address(text: str) -> Address:
    """`host:port` or `[v6]:port`; raises ValueError naming the text."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is not host:port")
    return host, int(port)


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _as_family(host: str, family: int) -> str | None:
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        return None
    if family == socket.AF_INET6:
        return host if literal.version == 6 else f"::ffff:{host}"
    return host if literal.version == 4 else None


def _name(bad: OSError) -> str:
    return errno.errorcode.get(bad.errno or 0, type(bad).__name__).lower()
