"""This node's place in gossip: its key pair and keyring on disk, the address book, what it tells the others of itself.

The key pair is made once and never leaves the data directory; the node's ID is the hash of its public half. The keyring
seals what members say to each other. It is the same on all nodes, changes by `zonectl keys`, and is written anew
whenever gossip brings a newer one, so that a restart does not fall behind.
"""

import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Generic, TypeVar

import apsw
import structlog
import trio

from conf import Config, split_address
from gossip import (
    PROTOCOL,
    Address,
    Credentials,
    FactValue,
    Gossip,
    GossipOptions,
    Keyring,
    KeyringError,
    Member,
    Post,
    Sealing,
    Security,
    open_gossip,
)
from store import identity
from store.database import Database, open_database
from store.errors import CannotOpen, StorageFull
from store.identity import Identity
from zoned import __version__
from zoned.errors import CannotStart
from zoned.files import NotPrivate, read_private_bytes, write_private
from zoned.replication import Replication
from zoned.supervise import beat, next_beat
from zoned.zone import Zone

KEY_FILE = "node.key"
KEYRING_FILE = "gossip-keys.json"
SECRET_BYTES = 32
PUBLISH_S = 1.0  # how often the position is told to others, at most
KEEP_S = 1.0  # how often the peer book is written, at most

T = TypeVar("T")

logger = structlog.get_logger()


def load_credentials(directory: Path, label: str, is_new: bool) -> Credentials:
    """The node's key pair, made when the store is new. Raises CannotOpen when the file is no key.

    A key without the store that it belonged to is put aside: whoever lost its data must not come back under its old ID,
    because others count on what it promised (a vote, an entry) being still on its disk.
    """
    path = directory / KEY_FILE
    if is_new and path.exists():
        path.rename(path.with_name(f"{KEY_FILE}.lost-{secrets.token_hex(4)}"))
        logger.warning("key of a node whose store is gone put aside", key=str(path))
    try:
        secret = read_private_bytes(path)
    except NotPrivate as error:
        raise CannotOpen(str(error)) from None
    except FileNotFoundError:
        secret = secrets.token_bytes(SECRET_BYTES)
        write_private(path, secret)
    if len(secret) != SECRET_BYTES:
        raise CannotOpen(f"{path} is no node key ({SECRET_BYTES} bytes); restore it, or start with an empty directory")
    return Credentials(secret, label)


def check_owner(me: Identity, credentials: Credentials) -> None:
    """Raises CannotOpen when the store and the key are of two nodes."""
    if me.node_id != credentials.node_id:
        raise CannotOpen(f"{KEY_FILE} is not the key of node {me.node_id} in the store; restore both from one copy")


def keyring_path(config: Config, directory: Path) -> Path:
    return Path(config.gossip.keyring).expanduser() if config.gossip.keyring else directory / KEYRING_FILE


def load_keyring(config: Config, directory: Path) -> Keyring | None:
    """None when nothing is sealed. Raises CannotStart naming the setting."""
    if config.gossip.sealing == "off":
        return None
    path = keyring_path(config, directory)
    try:
        if path.stat().st_mode & 0o077:
            raise CannotStart(f"gossip.keyring {path} can be read by others; chmod 600 {path}")
        return Keyring.decode(path.read_bytes())
    except OSError as error:
        raise CannotStart(
            f"gossip.keyring {path} cannot be read: {error.strerror}; make one with `zonectl keys generate` and put "
            "the same file on every node, or set gossip.sealing = 'off'"
        ) from None
    except KeyringError as error:
        raise CannotStart(f"gossip.keyring {path}: {error}") from None


async def establish(config: Config, directory: Path) -> str:
    """This node's ID; the identity is made if there is none yet. Raises CannotOpen."""
    if (directory / "zoned.db").exists():
        return load_credentials(directory, config.gossip.label, is_new=False).node_id
    async with open_database(directory) as database:
        own = load_credentials(directory, config.gossip.label, identity.is_new(database.reader))
        await database.write(lambda c: identity.start(c, own.node_id, config.node.zone, config.gossip.label))
    return own.node_id


@asynccontextmanager
async def open_membership(
    config: Config,
    directory: Path,
    me: Identity,
    credentials: Credentials,
    database: Database,
    udp: trio.socket.SocketType,
    bound: Address,
    post: Post,
    rng: Random,
) -> AsyncIterator[Gossip]:
    """Takes part in gossip until the block ends. Raises CannotStart."""
    host, port = split_address(config.peers.advertise) if config.peers.advertise else bound
    expect = config.registry.expect if config.registry.engine == "embedded" else 0  # a database needs no founders
    facts: dict[str, FactValue] = {"expect": expect, "version": __version__, "protocol": PROTOCOL}
    if config.node.role == "witness":
        facts["witness"] = True
    options = GossipOptions.lan() if config.gossip.profile == "lan" else GossipOptions.wan()
    if config.gossip.stream_only:
        options, facts = replace(options, stream_only=True), {**facts, "stream": True}
    keyring = load_keyring(config, directory)

    def keep_keys(newer: Keyring) -> None:
        # At once, though the disk is waited for: it is rare, and a key that was used must not be forgotten.
        try:
            write_private(keyring_path(config, directory), newer.encode())
        except OSError as error:
            logger.error("keyring not kept on disk", problem=str(error))

    async def keep_book(addresses: tuple[Address, ...]) -> None:
        def keep(connection: apsw.Connection) -> None:
            identity.remember_peers(connection, addresses)

        await database.write(keep)

    book = _Latest(keep_book)
    async with (
        trio.open_nursery() as nursery,
        open_gossip(
            options,
            label=config.gossip.label,
            me=Member(me.node_id, me.generation, me.zone, host, port, facts=facts),
            bind_to=udp,
            seeds=config.peers.seeds,
            book=identity.known_peers(database.reader),
            post=post,
            rng=rng,
            book_changed=book.put,
            security=Security(credentials, Sealing(config.gossip.sealing), keyring, keep_keys),
        ) as gossip,
    ):
        nursery.start_soon(book.serve)
        yield gossip
        nursery.cancel_scope.cancel()


class _Latest(Generic[T]):
    """Keeps the newest of something on disk, at most every KEEP_S; a full disk is told and tried again at the next."""

    def __init__(self, keep: Callable[[T], Awaitable[None]]) -> None:
        self._keep = keep
        self._newest: list[T] = []
        self._changed = trio.Event()

    def put(self, newest: T) -> None:
        self._newest = [newest]
        self._changed.set()

    async def serve(self) -> None:
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            try:
                await self._keep(self._newest[0])
            except (StorageFull, OSError) as error:
                logger.warning("not kept on disk", problem=str(error))
            await beat(KEEP_S)


async def publish(gossip: Gossip, replication: Replication, zone: Zone) -> None:
    """Tells the other nodes, over gossip, what this one is and how far it has come."""
    while True:
        replication.role_changed.clear()
        membership = replication.membership()
        gossip.publish(
            api=zone.url,
            cluster=membership.cluster_id if membership else None,
            voter=replication.is_voter,
            registry=replication.registry_term,
            draining=zone.draining,
        )
        runway, staleness_s = zone.runway(), zone.staleness.bound_s
        gossip.report(
            **replication.verifier.vitals(),
            staleness_s=round(staleness_s, 1) if staleness_s is not None else None,
            runway_days=round(runway.days, 1) if runway.days is not None else None,
            ids_per_day=runway.rate,
            load=round(os.getloadavg()[0], 1),
        )
        replication.verifier.compare()
        with trio.move_on_at(next_beat(PUBLISH_S)):
            await replication.role_changed.event.wait()
