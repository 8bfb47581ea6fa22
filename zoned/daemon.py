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
from random import Random, SystemRandom

import httpx
import structlog
import trio

from conf import Config
from gossip import Address, Gossip
from store import identity
from store.database import Database, open_database
from zoned import clock, logs, paths
from zoned.admin import admin_routes
from zoned.api.app import make_app, make_registry_app
from zoned.api.asgi import App
from zoned.api.forward import from_workers
from zoned.api.http1 import HttpLimits
from zoned.api.lookup import make_lookup
from zoned.api.peers import make_peer_app
from zoned.api.server import HttpServer, Lookup, RequestRecord, serve_http
from zoned.bootstrap import Donor
from zoned.errors import StoreDamaged
from zoned.founding import Founding
from zoned.housekeeping import Housekeeping
from zoned.leasing import Leasing
from zoned.listeners import bound_address, open_admin, open_tcp, open_tcp_and_udp
from zoned.membership import check_owner, load_credentials, open_membership, publish
from zoned.peers import Peers
from zoned.proxy import Proxy, limits
from zoned.replication import Replication
from zoned.staleness import Staleness
from zoned.supervise import Backoff
from zoned.workers import Workers, inner_limits, open_inner
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


async def run(config: Config, *, task_status: trio.TaskStatus[Running] = trio.TASK_STATUS_IGNORED) -> None:
    """Runs one daemon until SIGTERM or SIGINT. Raises CannotOpen or CannotStart before anything is served."""
    stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch_signals, signals, stop, nursery.cancel_scope)
            await serve(config, stop, task_status=task_status)
            nursery.cancel_scope.cancel()


async def _watch_signals(signals: AsyncIterator[int], stop: trio.Event, scope: trio.CancelScope) -> None:
    async for number in signals:
        if stop.is_set():
            scope.cancel()  # asked twice: at once
        logger.info("stopping", signal=signal.Signals(number).name)
        stop.set()


async def serve(
    config: Config, stop: trio.Event, *, task_status: trio.TaskStatus[Running] = trio.TASK_STATUS_IGNORED
) -> None:
    """Everything; returns after `stop` is set and all is closed in order."""
    rng = SystemRandom()
    directory = paths.data_dir(config)
    async with open_database(directory) as database, AsyncExitStack() as stack:
        own = load_credentials(directory, config.gossip.label, identity.is_new(database.reader))
        me = await database.write(lambda c: identity.start(c, own.node_id, config.node.zone, config.gossip.label))
        check_owner(me, own)
        structlog.contextvars.bind_contextvars(zone=me.zone)
        public = await open_tcp("http.listen", config.http.listen)
        stack.push_async_callback(public.aclose)
        old, old_url = await _open_registry(config.http.registry_listen)
        peer, udp = await open_tcp_and_udp("peers.listen", config.peers.listen)
        admin = await open_admin(paths.admin_socket(config))
        stack.callback(paths.admin_socket(config).unlink, missing_ok=True)
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
            zone = Zone(me, database, proxy, replication, gossip, staleness, url)

            donor = Donor(database)
            inner.start_soon(donor.serve)
            inner.start_soon(Housekeeping(database, replication.positions, config.registry, donor.hold).serve)
            peer_app = make_peer_app(config.gossip.label, gossip, replication, database, donor)
            await inner.start(_serve, peer_app, [peer], _peer_limits(config), None, None)
            inner.start_soon(publish, gossip, replication, zone, url)
            inner.start_soon(hear, gossip, replication)
            await inner.start(replication.serve)
            await inner.start(proxy.serve)
            await inner.start(Leasing(database, proxy, config.ids).serve)
            async with trio.open_nursery() as faces:
                steering = make_app(zone, admin_routes(replication, database))
                await _open_faces(faces, config, zone, steering, admin, old)
                workers = await _open_public(faces, config, zone, database, public, rng)
                logger.info("ready", url=url, peer="{}:{}".format(*bound_address(peer)), node=me.node_id)
                task_status.started(Running(url, bound_address(peer), paths.admin_socket(config), zone, old_url))
                faces.start_soon(_end_if_damaged, zone)
                await stop.wait()
                if workers is not None:
                    await workers.drain()
                faces.cancel_scope.cancel()  # finishes the requests under way, while everything below still works
            await replication.step_down(STEP_DOWN_TIMEOUT_S)
            await gossip.leave(LEAVE_TIMEOUT_S)
            inner.cancel_scope.cancel()


async def _open_faces(
    faces: trio.Nursery,
    config: Config,
    zone: Zone,
    steering: App,
    admin: trio.SocketListener,
    old: list[trio.SocketListener],
) -> None:
    """Lets operators and old zones in; `steering` is the admin socket's application."""
    bounds, on_request = _limits(config), _on_request(config)
    await faces.start(_serve, steering, [admin], bounds, on_request, make_lookup(zone))
    for listener in old:
        await faces.start(_serve, make_registry_app(zone), [listener], bounds, on_request, None)


async def _open_public(
    faces: trio.Nursery, config: Config, zone: Zone, database: Database, public: trio.SocketListener, rng: Random
) -> Workers | None:
    """Lets users in: by workers that hand on what is no lookup, or directly when none are wanted."""
    bounds, app = _limits(config), make_app(zone)
    if not config.http.workers:
        await faces.start(_serve, app, [public], bounds, _on_request(config), make_lookup(zone))
        return None
    inner = open_inner()
    # Requests are logged by the workers.
    await faces.start(_serve, from_workers(app), [inner], inner_limits(bounds), None, None)
    workers = Workers(config, bounds, database, public, inner.socket.getsockname(), rng)
    await faces.start(workers.publish, zone.replication, zone.staleness)
    await faces.start(workers.serve)
    return workers


def _on_request(config: Config) -> Callable[[RequestRecord], None] | None:
    return logs.request if config.log.requests else None


async def _open_registry(address: str) -> tuple[list[trio.SocketListener], str]:
    """The listener of the registry API and its URL, if there is one."""
    if not address:
        return [], ""
    listener = await open_tcp("http.registry_listen", address)
    return [listener], _url(bound_address(listener))


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


def secure_umask() -> None:
    """Files of the daemon are for its user only."""
    os.umask(0o077)
