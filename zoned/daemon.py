"""The daemon: one staircase that opens and starts everything. Start reading here.

Down the stairs everything is opened in the order of need: store, sockets, gossip, replication, the write path, and last
the faces that let users in. Indentation is the shutdown order: on SIGTERM the faces go first (finishing the requests
under way), then replication, then gossip with a good-bye, and the store last.
"""

import os
import signal
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random, SystemRandom

import structlog
import trio

from conf import Config, ConfigError
from gossip import Address, Gossip, MemberView
from store import identity
from store.database import Database, open_database
from store.identity import Identity
from zoned import engine, paths, systemd
from zoned.admin import admin_routes
from zoned.api.peers import make_peer_app
from zoned.auth import Doors
from zoned.bootstrap import Donor
from zoned.drain import Drain
from zoned.drills import Cut, CutPoster, Drills, Switch
from zoned.errors import StoreDamaged
from zoned.faces import Sockets, open_faces, open_sockets, serve_peers
from zoned.founding import Founding
from zoned.health import status_line
from zoned.housekeeping import Housekeeping
from zoned.leasing import Leasing
from zoned.membership import check_owner, load_credentials, open_membership, publish
from zoned.peer_tls import PeerTls, connect_by, generation_of, open_tls
from zoned.peers import Peers
from zoned.proxy import Proxy, limits, shared_limits
from zoned.queue import Queue
from zoned.receipts import Receipts
from zoned.replication import Replication
from zoned.settings import Settings
from zoned.sharing import Sharing
from zoned.staleness import Staleness
from zoned.steering import steering_routes
from zoned.supervise import Backoff
from zoned.survey import Survey
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

    @classmethod
    def of(cls, sockets: Sockets, zone: Zone) -> "Running":
        return cls(sockets.url, sockets.peer_address, sockets.admin_path, zone, sockets.registry_url)


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
    engine.check(config.registry)
    rng, directory = SystemRandom(), paths.data_dir(config)
    async with open_database(directory) as database, AsyncExitStack() as stack:
        own = load_credentials(directory, config.gossip.label, identity.is_new(database.reader))
        me = await database.write(lambda c: identity.start(c, own.node_id, config.node.zone, config.gossip.label))
        check_owner(me, own)
        structlog.contextvars.bind_contextvars(zone=me.zone)
        sockets, cut = await open_sockets(config, stack), Cut()
        tls = open_tls(config, me)
        poster = CutPoster(cut, connect_by(tls), generation_of(tls))
        stack.push_async_callback(poster.aclose)
        async with (
            open_membership(config, directory, me, own, database, *sockets.plane, poster.post, rng) as gossip,
            trio.open_nursery() as inner,
        ):
            peers = Peers(poster, Roster(gossip), config.gossip.label)
            members = gossip.members
            founding = Founding(
                me.node_id, config.gossip.label, config.registry.expect, database, peers, members.values()
            )
            replication = Replication(me.node_id, database, peers, members, founding, config.registry, rng)
            switch = Switch(replication)
            proxy, sharing, receipts = _write_path(me, settings, directory, peers, members, replication, switch, rng)
            staleness = Staleness(replication)
            inner.start_soon(staleness.serve)
            url = _for_users(config, sockets.url)
            zone = Zone(me, database, proxy, replication, gossip, staleness, receipts, url, settings)
            _let_measure(inner, zone, database, tls)
            drills = Drills(zone, proxy, switch, cut, config.journal, str(directory))
            inner.start_soon(drills.serve)
            donor = Donor(database)
            inner.start_soon(donor.serve)
            keep = Housekeeping(database, replication.positions, config.registry, config.audit, donor.hold)
            inner.start_soon(keep.serve)
            plane = make_peer_app(config.gossip.label, gossip, replication, staleness, database, donor, sharing)
            await inner.start(serve_peers, *cut.around(*plane), sockets.peer, config.peers, tls, zone.counts.limit)
            inner.start_soon(publish, gossip, replication, zone)
            inner.start_soon(hear, gossip, replication)
            inner.start_soon(receipts.serve)
            await inner.start(replication.serve)
            await inner.start(proxy.serve)
            await inner.start(sharing.serve)
            await inner.start(Leasing(database, proxy, config.ids).serve)
            async with trio.open_nursery() as faces:
                operating = steering_routes(Queue(database, proxy, sharing), config.ids, drills)
                steering = [*admin_routes(replication, database), *operating]
                doors = Doors(config, directory, stack, zone.counts.limit)
                workers = await open_faces(faces, sockets, zone, doors, steering, database)
                logger.info("ready", url=sockets.url, peer="{}:{}".format(*sockets.peer_address), node=me.node_id)
                task_status.started(Running.of(sockets, zone))
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


def _write_path(
    me: Identity,
    settings: Settings,
    directory: Path,
    peers: Peers,
    members: Mapping[str, MemberView],
    replication: Replication,
    switch: Switch,
    rng: Random,
) -> tuple[Proxy, Sharing, Receipts]:
    """This node's outgoing writes, what it does for those of others, and what is told of them."""
    now, backoff, database = settings.config, Backoff(0.05, 1.0, rng), replication.database
    drain = Drain(now.journal.drain_max_per_s, rng)
    bounds = limits(now.journal, str(directory))
    proxy = Proxy(me.node_id, database, switch, now.registry, bounds, backoff, drain)
    replication.listen(proxy.on_applied)
    bounds = shared_limits(now.journal, str(directory))
    sharing = Sharing(me.node_id, database, peers, members, replication, proxy, now.registry, bounds, rng)
    settings.listen(lambda changed: proxy.set_limits(limits(changed.journal, str(directory))))
    settings.listen(lambda changed: sharing.set_limits(shared_limits(changed.journal, str(directory))))
    return proxy, sharing, Receipts(me.node_id, database, proxy, sharing, members, replication.positions)


def _let_measure(nursery: trio.Nursery, zone: Zone, database: Database, tls: PeerTls | None) -> None:
    """Health and metrics see the store's transactions and this node's certificates; figures are kept for a while."""
    nursery.start_soon(zone.keep_trend)
    nursery.start_soon(Survey(zone).serve)
    database.on_round = zone.counts.store_commit_s.add
    if tls is not None:
        zone.certificates = tls.ending


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

    def nearest(self, views: Iterable[MemberView]) -> Sequence[MemberView]:
        return self._gossip.nearest(views)


async def hear(gossip: Gossip, replication: Replication) -> None:
    """Carries news of other nodes to the replication."""
    async with gossip.subscribe() as notices:
        async for _ in notices:
            replication.hear()


def secure_umask() -> None:
    """Files of the daemon are for its user only."""
    os.umask(0o077)
