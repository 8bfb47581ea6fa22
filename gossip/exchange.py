"""The full-state exchange: one POST to a peer's HTTP plane, both sides' whole tables, bounded.

Broadcasts are quick and may be lost; this is slow and complete. The address may be a name: it is resolved anew at every
dial, and every address behind it is tried, so that a moved seed is found again. A name that begins with an underscore,
as `_zoned._tcp.example.org`, is a service (SRV, RFC 2782): its records name hosts and ports, its own port is not used.
How to post is handed in (plain or with TLS); whether a peer may talk to us at all is decided there and in the peers'
HTTP application, not here.
"""

import ipaddress
import math
import socket
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Protocol

import trio

from gossip.codec import EXCHANGE_BYTES_MAX
from gossip.errors import ExchangeFailed
from gossip.messages import Address

if TYPE_CHECKING:
    import dns.asyncresolver

PATH = "/peer/v1/gossip"
HEADERS = b"content-type: application/msgpack\r\n"
REFUSAL_CHARS_MAX = 400
ADDRESSES_MAX = 8  # tried behind one name


class Post(Protocol):
    """One HTTP POST: status and body of the answer, at most `bytes_max` long, nothing decompressed. Raises OSError.

    `name` is the host that is meant: the certificate and the Host header are for that, `address` is where it is.
    """

    async def __call__(
        self,
        address: Address,
        path: str,
        headers: bytes,
        body: bytes,
        bytes_max: int,
        *,
        name: str = "",
        connect_s: float = math.inf,
    ) -> tuple[int, bytes]: ...


class Refused(ExchangeFailed):
    """The peer answered, and would not. It said why; nothing was changed on either side."""


@dataclass(frozen=True, slots=True)
class Dial:
    """How to reach peers. `timeout_s` bounds a whole exchange; the addresses behind one name share it."""

    post: Post
    rng: Random
    timeout_s: float
    resolver: "dns.asyncresolver.Resolver | None" = None  # for services; None: as the system is configured


@dataclass(frozen=True, slots=True)
class _Target:
    """One address to try, and the name that was asked for."""

    name: str
    literal: str
    port: int


async def exchange(dial: Dial, address: Address, body: bytes) -> bytes:
    """Give our state, get theirs (at most EXCHANGE_BYTES_MAX). Raises `ExchangeFailed`. The caller bounds the time."""
    reasons: list[str] = []
    targets = await _resolve(dial, address)
    for target in targets:
        try:
            return await _post(dial, target, body, len(targets))
        except OSError as bad:
            reasons.append(f"{type(bad).__name__} {bad}".strip())
    raise ExchangeFailed("; ".join(reasons) or "no address")


async def _post(dial: Dial, target: _Target, body: bytes, shares: int) -> bytes:
    connect_s = dial.timeout_s / shares
    status, answer = await dial.post(
        (target.literal, target.port), PATH, HEADERS, body, EXCHANGE_BYTES_MAX, name=target.name, connect_s=connect_s
    )
    if status != 200:
        said = f"status {status}: {' '.join(answer[:REFUSAL_CHARS_MAX].decode(errors='replace').split())}"
        raise ExchangeFailed(said) if status >= 500 else Refused(said)
    return answer


async def _resolve(dial: Dial, address: Address) -> list[_Target]:
    named = await _services(dial, address[0]) if address[0].startswith("_") else [address]
    found: list[_Target] = []
    reasons: list[str] = []
    for host, port in named:
        try:
            found += [_Target(host, literal, port) for literal in await _literals(host, port, dial.rng)]
        except ExchangeFailed as bad:
            reasons.append(str(bad))
    if not found:
        raise ExchangeFailed("; ".join(reasons) or f"{address[0]!r} names no host")
    return found[:ADDRESSES_MAX]


async def _services(dial: Dial, name: str) -> list[Address]:
    """Hosts and ports behind a service, the least priority first, equal ones in random order."""
    import dns.asyncresolver  # 3 MiB and 60 ms that only those pay who have such a seed
    import dns.exception

    try:
        resolver = dial.resolver or dns.asyncresolver.Resolver()
        answer = await resolver.resolve(name, "SRV", lifetime=dial.timeout_s)
    except (dns.exception.DNSException, OSError) as bad:
        raise ExchangeFailed(f"service {name!r} cannot be resolved: {type(bad).__name__}") from None
    records = list(answer)
    dial.rng.shuffle(records)
    records.sort(key=lambda record: int(record.priority))
    return [(str(record.target).rstrip("."), int(record.port)) for record in records if record.port]


async def _literals(host: str, port: int, rng: Random) -> list[str]:
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return [str(literal)]
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as bad:
        raise ExchangeFailed(f"{host!r} cannot be resolved: {bad}") from None
    hosts = sorted({str(item[4][0]) for item in found})
    rng.shuffle(hosts)
    return hosts
