"""The daemon: one staircase that opens and starts everything. Start reading here.

Down the stairs everything is opened in the order of need: store, sockets, gossip, replication, the write path, and last
the faces that let users in. Indentation is the shutdown order: on SIGTERM the faces go first (finishing the requests
under way), then replication, then gossip with a good-bye, and the store last.
"""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom

import structlog
import trio

from conf import Config, ConfigError
from gossip import Address, Gossip
from store import identity
from store.database import open_database
from zoned import paths, systemd
from zoned.admin import admin_routes
from zoned.api.peers import make_peer_app
from zoned.auth import Doors
from zoned.bootstrap import Donor
from zoned.errors import StoreDamaged
from zoned.faces import Sockets, open_faces, open_sockets, serve_peers
from zoned.founding import Founding
from zoned.health import status_line
from zoned.housekeeping import Housekeeping
from zoned.leasing import Leasing
from zoned.membership import check_owner, load_credentials, open_membership, publish
from zoned.peers import Peers
from zoned.posting import Poster
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
        sockets = await open_sockets(config, stack)
        poster = Poster()
        stack.push_async_callback(poster.aclose)
        where = (sockets.udp, sockets.peer_address)
        async with (
            open_membership(config, directory, me, own, database, *where, poster.post, rng) as gossip,
            trio.open_nursery() as inner,
        ):
            peers = Peers(poster, Roster(gossip), config.gossip.label)
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
            zone = Zone(me, database, proxy, replication, gossip, staleness, _for_users(config, sockets.url), settings)
            database.on_round = zone.counts.store_commit_s.add
            settings.listen(lambda changed: proxy.set_limits(limits(changed.journal, str(directory))))

            donor = Donor(database)
            inner.start_soon(donor.serve)
            inner.start_soon(Housekeeping(database, replication.positions, config.registry, donor.hold).serve)
            peer_app = make_peer_app(config.gossip.label, gossip, replication, staleness, database, donor)
            await inner.start(serve_peers, peer_app, sockets.peer, config.peers)
            inner.start_soon(publish, gossip, replication, zone)
            inner.start_soon(hear, gossip, replication)
            await inner.start(replication.serve)
            await inner.start(proxy.serve)
            await inner.start(Leasing(database, proxy, config.ids).serve)
            async with trio.open_nursery() as faces:
                steering = admin_routes(replication, database)
                workers = await open_faces(faces, sockets, zone, Doors(config, directory, stack), steering, database)
                logger.info("ready", url=sockets.url, peer="{}:{}".format(*sockets.peer_address), node=me.node_id)
                task_status.started(_running(sockets, zone))
                systemd.notify(READY=1)
                faces.start_soon(systemd.keep_informed, zone.check_store, lambda: status_line(zone.status()))
                faces.start_soon(_end_if_damaged, zone)
                await stop.wait()
                zone.feed.end()
                if workers is not None:
                    await workers.drain()
                faces.cancel_scope.cancel()  # finishes the requests under way, while everything below still works
            await replication.step_down(STEP_DOWN_TIMEOUT_S)
            await gossip.leave(LEAVE_TIMEOUT_S)
            inner.cancel_scope.cancel()


def _running(sockets: Sockets, zone: Zone) -> Running:
    return Running(sockets.url, sockets.peer_address, sockets.admin_path, zone, sockets.registry_url)


def _for_users(config: Config, url: str) -> str | None:
    """Where other zones send their users; nowhere, when this node is a witness."""
    if config.node.role != "witness":
        return url
    logger.info("witness: votes and keeps a copy, answers operators only", key="node.role")
    return None


async def _end_if_damaged(zone: Zone) -> None:
    await zone.damaged.wait()
    raise StoreDamaged(
        f"the store cannot be read ({zone.damage}); restore a backup, or give this node an empty node.data_dir and let"
        " it join the others"
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


def secure_umask() -> None:
    """Files of the daemon are for its user only."""
    os.umask(0o077)
