"""The faces: every socket the daemon listens on, and the application, door and lookup behind each.

Sockets are opened first, before anything else is started, so that a port that is taken ends the start at once; users
are let in last.
"""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import trio
from starlette.routing import BaseRoute

from conf import Config, Http, Peers
from gossip import Address
from store.database import Database
from zoned import clock, logs, paths
from zoned.api.app import make_app, make_registry_app
from zoned.api.asgi import App
from zoned.api.forward import from_workers
from zoned.api.guard import with_caller
from zoned.api.http1 import HttpLimits, RequestRecord
from zoned.api.lookup import HotReads
from zoned.api.server import HttpServer, Lookup, serve_http
from zoned.auth import Doors
from zoned.counts import Counts
from zoned.listeners import bound_address, open_admin, open_tcp, open_tcp_and_udp, take_inherited
from zoned.peer_tls import PeerTls
from zoned.settings import Settings
from zoned.workers import Workers, inner_limits, open_inner
from zoned.zone import Zone

PEER_GRACE_S = 1.0


@dataclass(frozen=True, slots=True)
class Sockets:
    """What is listened on. `registry_url` is empty without a listener of the registry API."""

    public: trio.SocketListener
    registry: list[trio.SocketListener]
    peer: trio.SocketListener
    udp: trio.socket.SocketType
    admin: trio.SocketListener
    admin_path: Path
    url: str  # of the public listener, as others are told
    registry_url: str

    @property
    def peer_address(self) -> Address:
        return bound_address(self.peer)

    @property
    def plane(self) -> tuple[trio.socket.SocketType, Address]:
        """What gossip speaks by: its datagrams, and where its streams are taken."""
        return self.udp, self.peer_address


async def open_sockets(config: Config, stack: AsyncExitStack) -> Sockets:
    """Every listener, bound. Raises CannotStart. `stack` takes away what must not stay behind."""
    listen = config.http.listen
    public = take_inherited("http", "http.listen", listen) or await open_tcp("http.listen", listen)
    stack.push_async_callback(public.aclose)
    registry, registry_url = await _open_registry(config.http.registry_listen)
    peer, udp = await open_tcp_and_udp("peers.listen", config.peers.listen)
    admin, admin_path = await _open_admin(config, stack)
    url = config.http.advertise_url or _url(bound_address(public))
    return Sockets(public, registry, peer, udp, admin, admin_path, url, registry_url)


async def _open_registry(address: str) -> tuple[list[trio.SocketListener], str]:
    """The listener of the registry API and its URL, if there is one."""
    if not address:
        return [], ""
    listener = await open_tcp("http.registry_listen", address)
    return [listener], _url(bound_address(listener))


async def _open_admin(config: Config, stack: AsyncExitStack) -> tuple[trio.SocketListener, Path]:
    """The admin socket and its path: the service manager's, which stays, or our own, which goes with the daemon."""
    inherited = take_inherited("admin", "admin.socket", config.admin.socket)
    if inherited is not None:
        return inherited, Path(inherited.socket.getsockname())
    path = paths.admin_socket(config)
    listener = await open_admin(path, config.admin.read_group)
    stack.callback(path.unlink, missing_ok=True)
    return listener, path


async def open_faces(
    faces: trio.Nursery,
    sockets: Sockets,
    zone: Zone,
    doors: Doors,
    steering: Sequence[BaseRoute],
    database: Database,
) -> Workers | None:
    """Lets users in, each by the door of the listener; `steering` are the admin socket's own routes.

    Returns the workers, if there are any: they are to be drained before the rest is cancelled.
    """
    settings = zone.settings
    bounds, observe = _limits(settings.config.http), _observer(zone)
    app = with_caller(make_app(zone, steering), doors.admin, None)
    counts = zone.counts
    _follow(settings, await faces.start(_serve, app, sockets.admin, bounds, observe, None, counts))
    for listener in sockets.registry:
        app = with_caller(make_registry_app(zone), doors.registry_api, doors.guesses, frozenset(), doors.rates)
        _follow(settings, await faces.start(_serve, app, listener, bounds, observe, None, counts))
    app = with_caller(make_app(zone), doors.api, doors.guesses, rates=doors.rates)
    if zone.is_witness or not settings.config.http.workers:
        lookup = None if zone.is_witness else HotReads(zone, doors.api.known, rates=doors.rates)
        _follow(settings, await faces.start(_serve, app, sockets.public, bounds, observe, lookup, counts))
        return None
    inner = open_inner()
    # Workers write the lines of `log.requests`; what they hand on is only counted here.
    served = await faces.start(_serve, from_workers(app), inner, inner_limits(bounds), counts.request, None, counts)
    _follow(settings, served, inner_limits)
    workers = Workers(zone, bounds, database, sockets.public, inner.socket.getsockname(), doors.trusted)
    settings.listen(lambda changed: workers.bound_by(_limits(changed.http)))
    await faces.start(workers.publish)
    await faces.start(workers.serve)
    return workers


async def serve_peers(
    app: App,
    at_once: Lookup,
    listener: trio.SocketListener,
    settings: Peers,
    tls: PeerTls | None,
    on_limit: Callable[[str], None],
    *,
    task_status: trio.TaskStatus[HttpServer],
) -> None:
    """The peer plane; `at_once` answers what it can without a task."""
    bounds = HttpLimits(body_bytes_max=settings.body_bytes_max, grace_s=PEER_GRACE_S)
    await serve_http(
        app,
        [listener],
        bounds,
        now=clock.wall,
        lookup=at_once if tls is None else None,
        security=tls,
        on_limit=lambda limit: on_limit(f"peers.{limit}"),
        task_status=task_status,
    )


async def _serve(
    app: App,
    listener: trio.SocketListener,
    bounds: HttpLimits,
    on_request: Callable[[RequestRecord], None] | None,
    lookup: Lookup | None,
    counts: Counts,
    *,
    task_status: trio.TaskStatus[HttpServer],
) -> None:
    await serve_http(
        app,
        [listener],
        bounds,
        now=clock.wall,
        lookup=lookup,
        on_request=on_request,
        on_limit=lambda limit: counts.limit(f"http.{limit}"),
        task_status=task_status,
    )


def _follow(
    settings: Settings, server: HttpServer, adapted: Callable[[HttpLimits], HttpLimits] = lambda bounds: bounds
) -> None:
    """A reload of the limits holds from each connection's next request on."""

    def change(config: Config) -> None:
        server.limits = adapted(_limits(config.http))

    settings.listen(change)


def _url(address: Address) -> str:
    host, port = address
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _limits(http: Http) -> HttpLimits:
    return HttpLimits(
        header_bytes_max=http.header_bytes_max,
        body_bytes_max=http.body_bytes_max,
        header_timeout_s=http.header_timeout_s,
        body_timeout_s=http.body_timeout_s,
        idle_timeout_s=http.idle_timeout_s,
        write_timeout_s=http.write_timeout_s,
        connections_max=http.connections_max,
        grace_s=http.grace_s,
    )


def _observer(zone: Zone) -> Callable[[RequestRecord], None]:
    """Counts every request, and writes a line if `log.requests` says so."""
    counts, settings = zone.counts, zone.settings

    def observe(record: RequestRecord) -> None:
        counts.request(record)
        if settings.config.log.requests:
            logs.request(record)

    return observe
