"""Names for images that move: `debian-stable` is one image in most zones and a newer one where that is tried out.

An alias points to an image per zone, and with the zone "" to one in every zone that is not named. It is promoted zone
by zone, and keeps what it pointed to before, so that it can be rolled back. The zones' pointers are changed one by one
like the properties of an image: pointers of different zones never conflict.

`point` decides; the rest are plain functions of a connection.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import apsw
import orjson

from store import catalogue
from store.images import NOBODY, Image
from store.operations import Outcome, Point, State, Write, by_of, decode, take

EVERYWHERE = ""
EARLIER_MAX = 20  # what an alias pointed to before is kept so often
ALIASES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Earlier:
    """What an alias pointed to, up to the write after `write`."""

    targets: Mapping[str, str]
    write: str
    at: str
    by: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Alias:
    """A name and the UUIDs it stands for, by zone; without any it is unset. `earlier`: the latest last."""

    name: str
    targets: Mapping[str, str]
    write: str
    position: int
    at: str
    by: tuple[str, str] = NOBODY
    earlier: tuple[Earlier, ...] = ()

    def target(self, zone: str) -> str | None:
        """The UUID that the name stands for in a zone."""
        return self.targets.get(zone, self.targets.get(EVERYWHERE))

    def encode(self) -> bytes:
        """Canonical JSON, UTF-8."""
        earlier = [[dict(one.targets), one.write, one.at, one.by] for one in self.earlier]
        values = [self.name, dict(self.targets), self.write, self.position, self.at, self.by, earlier]
        return orjson.dumps(values, option=orjson.OPT_SORT_KEYS)

    @classmethod
    def decode(cls, data: bytes) -> "Alias":
        name, targets, write, position, at, by, earlier = orjson.loads(data)
        kept = tuple(Earlier(was, by_write, when, tuple(who)) for was, by_write, when, who in earlier)
        return cls(name, targets, write, position, at, tuple(by), kept)


def point(alias: Alias | None, write: Write, operation: Point, position: int) -> tuple[Alias | None, Outcome]:
    """The alias after `write`, and the outcome; the rules of `store.operations.perform`."""
    if operation.if_match is not None and operation.if_match != (alias.write if alias else None):
        detail = f"alias {operation.alias} was changed by another write since the version named in If-Match"
        return alias, Outcome(State.REFUSED, "changed", detail)
    lost: list[tuple[str, Any, Any]] = []
    before = alias.targets if alias else {}
    taken = take(before, operation.targets, write.buffered, f"aliases/{operation.alias}/", lost)
    targets = {zone: uuid for zone, uuid in taken.items() if uuid is not None}
    if targets != before:
        moved = Alias(operation.alias, targets, write.id, position, operation.at, by_of(operation))
        if alias is not None:
            last = Earlier(alias.targets, alias.write, alias.at, alias.by)
            moved = replace(moved, earlier=(*alias.earlier, last)[-EARLIER_MAX:])
        alias = moved
    if not lost:
        return alias, Outcome(State.DONE)
    detail = "changed by others meanwhile: " + ", ".join(what for what, _, _ in lost)
    return alias, Outcome(State.CONFLICT, "conflict", detail, lost=tuple(lost))


def foresee(connection: apsw.Connection, write: Write, operation: Point, position: int) -> tuple[Alias | None, Outcome]:
    """As `point`, in this node's view; refused when a target is no live image, or there are too many aliases."""
    for uuid in {wanted for _, wanted in operation.targets.values() if wanted is not None}:
        found = catalogue.find(connection, str(uuid))
        if refused := _refused(str(uuid), found.image if found else None):
            return None, refused
    return point(find(connection, operation.alias, write.node), write, operation, position)


def apply(
    connection: apsw.Connection, running: catalogue.Running, write: Write, operation: Point, position: int
) -> Outcome:
    """Applies a committed write; the same on every node."""
    for uuid in sorted({str(wanted) for _, wanted in operation.targets.values() if wanted is not None}):
        record = catalogue.committed(connection, uuid)
        if refused := _refused(uuid, Image.decode(record) if record is not None else None):
            return refused
    old = _committed(connection, operation.alias)
    if old is None and connection.execute("SELECT count(*) FROM aliases").get >= ALIASES_MAX:
        return Outcome(State.REFUSED, "too-many", f"there are {ALIASES_MAX} aliases already")
    before = Alias.decode(old) if old is not None else None
    alias, outcome = point(before, write, operation, position)
    if alias is not None and alias is not before:
        new = alias.encode()
        connection.execute("INSERT OR REPLACE INTO aliases VALUES (?, ?)", (alias.name, new))
        running.move(old, new)
    return outcome


def _refused(uuid: str, image: Image | None) -> Outcome | None:
    if image is None:
        return Outcome(State.REFUSED, "not-found", f"no image {uuid} to point an alias to")
    if image.deleted_at is not None:
        return Outcome(State.REFUSED, "gone", f"image {uuid} was deleted at {image.deleted_at}")
    return None


def committed(connection: apsw.Connection, name: str) -> Alias | None:
    """The alias in the catalogue, without this node's own unapplied writes."""
    record = _committed(connection, name)
    return Alias.decode(record) if record is not None else None


def _committed(connection: apsw.Connection, name: str) -> bytes | None:
    record: bytes | None = connection.execute("SELECT record FROM aliases WHERE name = ?", (name,)).get
    return record


def journal_key(name: str) -> str:
    """What the journal files an alias's writes under, in the place of an image's UUID."""
    return f"alias:{name}"


def find(connection: apsw.Connection, name: str, me: str) -> Alias | None:
    """The alias as this node's own unapplied writes leave it; None when there never was one."""
    record = _committed(connection, name)
    alias = Alias.decode(record) if record is not None else None
    rows = connection.execute(
        "SELECT sequence, operation FROM journal WHERE uuid = ? ORDER BY sequence", (journal_key(name),)
    )
    for sequence, data in rows:
        operation = decode(data)
        if not isinstance(operation, Point):
            continue  # an operator took it out
        alias, _ = point(
            alias, Write(me, sequence, operation, buffered=True), operation, alias.position if alias else 0
        )
    return alias


def page(connection: apsw.Connection, me: str, after: str, limit: int) -> list[Alias]:
    """Aliases that are set, by name, behind the name `after`."""
    names = connection.execute(
        "SELECT name FROM aliases WHERE name > ?1 UNION SELECT substr(uuid, 7) FROM journal"
        " WHERE uuid > 'alias:' || ?1 AND uuid < 'alias;' ORDER BY 1",
        (after,),
    )
    found: list[Alias] = []
    for (name,) in names:
        alias = find(connection, name, me)
        if alias is not None and alias.targets:
            found.append(alias)
            if len(found) == limit:
                break
    return found
