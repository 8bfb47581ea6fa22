"""The daemon: one staircase that opens and starts everything. Start reading here.

Down the stairs everything is opened in the order of need: store, sockets, gossip, replication, the write path, and last
the faces that let users in. Indentation is the shutdown order: on SIGTERM the faces go first (finishing the requests
under way), then replication, then gossip with a good-bye, and the store last.
"""

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom

import httpx
import structlog
import trio

from conf import Config, ConfigError
from gossip import Address, Gossip
from store import identity
from store.database import open_database
from zoned import clock, paths, systemd
from zoned.admin import admin_routes
from zoned.api import request_id
from zoned.api.app import make_app, make_registry_app
from zoned.api.asgi import App
from zoned.api.guard import with_caller
from zoned.api.http1 import HttpLimits
from zoned.api.lookup import make_lookup
from zoned.api.peers import make_peer_app
from zoned.api.server import HttpServer, Lookup, RequestRecord, serve_http
from zoned.auth import Doors
from zoned.bootstrap import Donor
from zoned.errors import StoreDamaged
from zoned.founding import Founding
from zoned.health import status_line
from zoned.housekeeping import Housekeeping
from zoned.leasing import Leasing
from zoned.listeners import bound_address, open_admin, open_tcp, open_tcp_and_udp, take_inherited
from zoned.membership import check_owner, load_credentials, open_membership, publish
from zoned.peers import Peers
from zoned.proxy import Proxy, limits
from zoned.replication import Replication
from zoned.settings import Settings
from zoned.staleness import Staleness
from zoned.supervise import Backoff
from zoned.zone import Zone

STEP_DOWN_TIMEOUT_S = 2.0
LEAVE_TIMEOUT_S = 3.0

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Running:
    """What a started daemon tells whoever started it."""

    url: str
    peer: Address
    socket: Path
    zone: Zone
    registry_url: str = ""


async def run(settings: Settings, *, task_status: trio.TaskStatus[Running] = trio.TASK_STATUS_IGNORED) -> None:
    """Runs one daemon until SIGTERM or SIGINT. Raises CannotOpen or CannotStart before anything is served."""
    stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch_signals, signals, settings, stop, nursery.cancel_scope)
            await serve(settings.config, stop, settings, task_status=task_status)
            nursery.cancel_scope.cancel()


async def _watch_signals(
    signals: AsyncIterator[int], settings: Settings, stop: trio.Event, scope: trio.CancelScope
) -> None:
    async for number in signals:
        if number == signal.SIGHUP:
            _reload(settings)
            continue
        if stop.is_set():
            scope.cancel()  # asked twice: at once
        logger.info("stopping", signal=signal.Signals(number).name)
        systemd.notify(STOPPING=1, STATUS="finishing requests, leaving")
        stop.set()


def _reload(settings: Settings) -> None:
    systemd.notify_reloading()
    try:
        settings.reload()
    except ConfigError as error:
        for mistake in error.mistakes:
            logger.error("configuration not reloaded", key=mistake.key, problem=mistake.problem)
    systemd.notify(READY=1)


async def serve(
    config: Config,
    stop: trio.Event,
    settings: Settings | None = None,
    *,
    task_status: trio.TaskStatus[Running] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Everything; returns after `stop` is set and all is closed in order."""
    settings = settings or Settings(config)
    rng = SystemRandom()
    directory = paths.data_dir(config)
    async with open_database(directory) as database, AsyncExitStack() as stack:
        own = load_credentials(directory, config.gossip.label, identity.is_new(database.reader))
        me = await database.write(lambda c: identity.start(c, own.node_id, config.node.zone, config.gossip.label))
        check_owner(me, own)
        structlog.contextvars.bind_contextvars(zone=me.zone)
        listen = config.http.listen
        public = take_inherited("http", "http.listen", listen) or await open_tcp("http.listen", listen)
        old, old_url = await _open_registry(config.http.registry_listen)
        peer, udp = await open_tcp_and_udp("peers.listen", config.peers.listen)
        admin, admin_path = await _open_admin(config, stack)
        url = config.http.advertise_url or _url(bound_address(public))
        async with (
            httpx.AsyncClient(
                limits=httpx.Limits(max_connections=256, max_keepalive_connections=64), trust_env=False
            ) as client,
            open_membership(config, directory, me, own, database, udp, bound_address(peer), client, rng) as gossip,
            trio.open_nursery() as inner,
        ):
            peers = Peers(client, Roster(gossip), config.gossip.label)
            members = gossip.members
            founding = Founding(
                me.node_id, config.gossip.label, config.registry.expect, database, peers, members.values()
            )
            replication = Replication(me.node_id, database, peers, members, founding, config.registry, rng)
            proxy = Proxy(
                me.node_id,
                database,
                replication,
                config.registry,
                limits(config.journal, str(directory)),
                Backoff(0.05, 1.0, rng),
            )
            replication.listen(proxy.on_applied)
            staleness = Staleness(replication)
            inner.start_soon(staleness.serve)
            told_url = _for_users(config, url)
            zone = Zone(me, database, proxy, replication, gossip, staleness, told_url, settings)
            database.on_round = zone.counts.store_commit_s.add
            settings.listen(lambda changed: proxy.set_limits(limits(changed.journal, str(directory))))

            donor = Donor(database)
            inner.start_soon(donor.serve)
            inner.start_soon(Housekeeping(database, replication.positions, config.registry, donor.hold).serve)
            peer_app = make_peer_app(config.gossip.label, gossip, replication, database, donor)
            await inner.start(_serve, peer_app, [peer], _peer_limits(config), None, None)
            inner.start_soon(publish, gossip, replication, zone)
            inner.start_soon(hear, gossip, replication)
            await inner.start(replication.serve)
            await inner.start(proxy.serve)
            await inner.start(Leasing(database, proxy, config.ids).serve)
            async with trio.open_nursery() as faces:
                doors = Doors(config, directory, client)
                steering = make_app(zone, admin_routes(replication, database))
                await _open_faces(faces, config, zone, doors, steering, public, admin, old)
                logger.info("ready", url=url, peer="{}:{}".format(*bound_address(peer)), node=me.node_id)
                task_status.started(Running(url, bound_address(peer), admin_path, zone, old_url))
                systemd.notify(READY=1)
                faces.start_soon(systemd.keep_informed, zone.check_store, lambda: status_line(zone.status()))
                faces.start_soon(_end_if_damaged, zone)
                await stop.wait()
                faces.cancel_scope.cancel()  # finishes the requests under way, while everything below still works
            await replication.step_down(STEP_DOWN_TIMEOUT_S)
            await gossip.leave(LEAVE_TIMEOUT_S)
            inner.cancel_scope.cancel()


async def _open_faces(
    faces: trio.Nursery,
    config: Config,
    zone: Zone,
    doors: Doors,
    steering: App,
    public: trio.SocketListener,
    admin: trio.SocketListener,
    old: list[trio.SocketListener],
) -> None:
    """Lets users in, each by the door of the listener; `steering` is the admin socket's application."""
    bounds = _limits(config)
    on_request = _observer(zone)
    app = with_caller(make_app(zone), doors.api, doors.guesses)
    lookup = None if zone.is_witness else make_lookup(zone, doors.api.known)
    await faces.start(_serve, app, [public], bounds, on_request, lookup)
    await faces.start(_serve, with_caller(steering, doors.admin, doors.guesses), [admin], bounds, on_request, None)
    for listener in old:
        app = with_caller(make_registry_app(zone), doors.registry_api, doors.guesses)
        await faces.start(_serve, app, [listener], bounds, on_request, None)


def _for_users(config: Config, url: str) -> str | None:
    """Where other zones send their users; nowhere, when this node is a witness."""
    if config.node.role != "witness":
        return url
    logger.info("witness: votes and keeps a copy, answers operators only", key="node.role")
    return None


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


async def _end_if_damaged(zone: Zone) -> None:
    await zone.damaged.wait()
    raise StoreDamaged(
        f"the store cannot be read ({zone.damage}); restore a backup, or give this node an empty node.data_dir and let"
        " it join the others"
    )


async def _serve(
    app: App,
    listeners: list[trio.SocketListener],
    bounds: HttpLimits,
    on_request: Callable[[RequestRecord], None] | None,
    lookup: Lookup | None,
    *,
    task_status: trio.TaskStatus[HttpServer],
) -> None:
    await serve_http(
        app, listeners, bounds, now=clock.wall, lookup=lookup, on_request=on_request, task_status=task_status
    )


class Roster:
    """Where nodes are reached: what gossip knows. Implements `zoned.peers.AddressBook`."""

    def __init__(self, gossip: Gossip) -> None:
        self._gossip = gossip

    def address_of(self, node_id: str) -> Address | None:
        view = self._gossip.members.get(node_id)
        return view.address if view is not None else None


async def hear(gossip: Gossip, replication: Replication) -> None:
    """Carries news of other nodes to the replication."""
    async with gossip.subscribe() as notices:
        async for _ in notices:
            replication.hear()


def _url(address: Address) -> str:
    host, port = address
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _limits(config: Config) -> HttpLimits:
    http = config.http
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


def _peer_limits(config: Config) -> HttpLimits:
    return HttpLimits(body_bytes_max=config.peers.body_bytes_max, grace_s=1.0)


def _observer(zone: Zone) -> Callable[[RequestRecord], None]:
    """Counts every request, and writes a line if `log.requests` says so."""
    counts, settings = zone.counts, zone.settings

    def observe(record: RequestRecord) -> None:
        counts.request(record)
        if settings.config.log.requests:
            _log_request(record)

    return observe


def _log_request(record: RequestRecord) -> None:
    told_id = next((value for name, value in record.headers if name == request_id.HEADER), b"-")
    logger.info(
        "request",
        request_id=told_id.decode("latin-1"),
        method=record.method,
        path=record.path,
        status=record.status,
        bytes=record.sent_bytes,
        duration_ms=round(record.duration_s * 1_000, 2),
        client=record.client,
    )


def secure_umask() -> None:
    """Files of the daemon are for its user only."""
    os.umask(0o077)
