"""Who this node is: ID for ever, generation for this start, the peers it met. Plain functions of a connection."""

from collections.abc import Iterable
from dataclasses import dataclass

import apsw

from store.entries import Membership
from store.errors import CannotOpen


@dataclass(frozen=True, slots=True)
class Identity:
    """A random UUID made once and never reused; `generation` grows at each start and is on disk before any packet."""

    node_id: str
    zone: str
    label: str
    generation: int


def is_new(connection: apsw.Connection) -> bool:
    """Whether no node has used this store yet."""
    found: int = connection.execute("SELECT count(*) FROM node").get
    return not found


def start(connection: apsw.Connection, new_id: str, zone: str, label: str) -> Identity:
    """This node's identity with the generation of this start; `new_id` is used the first time only.

    Raises CannotOpen when the directory belongs to a node of another zone or cloud.
    """
    connection.execute(
        "INSERT OR IGNORE INTO node (one, node_id, zone, label, generation) VALUES (1, ?, ?, ?, 0)",
        (new_id, zone, label),
    )
    connection.execute("INSERT OR IGNORE INTO hard_state VALUES (1, 0, '', 0)")
    connection.execute("INSERT OR IGNORE INTO replica VALUES (1, 0, zeroblob(32), 0, 1, zeroblob(32))")
    connection.execute("INSERT OR IGNORE INTO compacted VALUES (1, 0, 0, 0, 0, x'')")
    row = connection.execute("SELECT node_id, zone, label, generation FROM node").get
    for key, asked, held in (("node.zone", zone, row[1]), ("gossip.label", label, row[2])):
        if asked != held:
            raise CannotOpen(
                f"the data directory belongs to {key} = {held!r}, the configuration says {asked!r}; change one"
            )
    connection.execute("UPDATE node SET generation = generation + 1")
    return Identity(row[0], zone, label, row[3] + 1)


def promise(connection: apsw.Connection, wanted: Membership) -> Membership | None:
    """Binds this node to found the cluster with `wanted`, unless it is bound or in a cluster already.

    Returns what it is bound to, None if nothing.
    """
    connection.execute(
        "UPDATE node SET promise = ? WHERE promise IS NULL AND NOT EXISTS (SELECT 1 FROM log)"
        " AND NOT EXISTS (SELECT 1 FROM compacted WHERE position > 0)",
        (wanted.encode(),),
    )
    return promised(connection)


def promised(connection: apsw.Connection) -> Membership | None:
    data = connection.execute("SELECT promise FROM node").get
    return Membership.decode(data) if data else None


def remember_peers(connection: apsw.Connection, addresses: Iterable[tuple[str, int]]) -> None:
    """Keeps (host, port) of the peers worth dialling after a restart, in the place of what was kept before."""
    connection.execute("DELETE FROM peers")
    connection.executemany("INSERT OR IGNORE INTO peers VALUES (?, ?)", addresses)


def known_peers(connection: apsw.Connection) -> list[tuple[str, int]]:
    """(host, port) of every peer ever reached that has not left."""
    return list(connection.execute("SELECT host, port FROM peers ORDER BY host, port"))
