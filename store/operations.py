"""What a write asks for, and what applying it makes of a record. Sans-IO.

`perform` is the one place where outcomes are decided: every node calls it with the same record and the same write at
the same position and gets the same answer. The origin calls it too, on its own view, to show its own unapplied writes.

Changes to different fields always both survive: tags, locations and image members change as sets, properties and
fields one by one. What is said of the bytes in a zone (presence) never conflicts: the later word counts.
For one field changed on two sides the order of the log decides, unless the later write was answered as *buffered*
while the field moved under it: then the committed value stays and the outcome is a conflict that keeps both values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any

import msgpack

from store import presence
from store.images import DEFAULTS, NOBODY, Image, ImageMember, Location, Scalar, Sighting, is_uuid

Change = tuple[Scalar, Scalar]  # (value the writer saw, value it asks for); None for a property: absent
Membership = tuple[str, bool]  # an image member's (status, can_share)
MemberChange = tuple[Membership | None, Membership | None]  # (what the writer saw, what it asks for); None: no member


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asked for a write, where and when, and by what a repeat of the request is known again.

    `by` is a name for people, `project` what its caller acts for, empty for none. `at` is in seconds since 1970 by the
    clock of `zone`. `key` and `payload` are digests of the caller's Idempotency-Key and of the request, KEY_BYTES each,
    empty without a key, which counts for `keep_s`.
    """

    zone: str
    by: str
    at: int
    request: str = ""  # the ID that the answer to the request carries
    key: bytes = b""
    payload: bytes = b""
    keep_s: int = 0
    project: str = ""


KEY_BYTES = 16


@dataclass(frozen=True, slots=True)
class Create:
    """A new record. Idempotent by UUID: the same again is done again, something else is refused."""

    uuid: str
    integer: int | None
    at: str
    fields: Mapping[str, Scalar]
    properties: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    locations: tuple[Location, ...] = ()
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """Changes to a record. `if_match` is the write that the client's copy came from, or None.

    A location that is both removed and added keeps its place and gets the new metadata. `members` is by project,
    `presence` by zone. `resolves` is the number of the conflict that this settles, 0 for none; `take` says for whom
    (`store.conflicts`).
    """

    uuid: str
    at: str
    fields: Mapping[str, Change] = field(default_factory=dict)
    properties: Mapping[str, Change] = field(default_factory=dict)
    tags_added: tuple[str, ...] = ()
    tags_removed: tuple[str, ...] = ()
    locations_added: tuple[Location, ...] = ()
    locations_removed: tuple[str, ...] = ()
    if_match: str | None = None
    members: Mapping[str, MemberChange] = field(default_factory=dict)
    origin: Origin | None = None
    presence: Mapping[str, Mapping[str, Sighting]] = field(default_factory=dict)
    resolves: int = 0
    take: str = ""


@dataclass(frozen=True, slots=True)
class Delete:
    """Leaves a tombstone. Wins over concurrent updates. `successor`: the UUID of the image to use instead."""

    uuid: str
    at: str
    if_match: str | None = None
    origin: Origin | None = None
    successor: str | None = None


@dataclass(frozen=True, slots=True)
class Assign:
    """The integer for a record that was made while its node had none left; filled in by the journal."""

    uuid: str
    integer: int | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """Asks for a range of `count` integers for the writing node, all above `above`, none above `ceiling`.

    What lies between the counter and `above` is never granted to anybody: images may bring such integers along.
    """

    count: int
    ceiling: int
    above: int = 0


@dataclass(frozen=True, slots=True)
class Retire:
    """Burns what is left of the ranges of a node that does not return. Nothing of them is ever granted again."""

    node: str
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class Drop:
    """Stands in the place of a waiting write that an operator took out: the sequence has no gap, and it is recorded.

    `entry` is the encoded operation that was dropped, `uuid` its image if it has one.
    """

    uuid: str | None
    at: str
    reason: str
    entry: bytes
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """Changes to which images an alias names: by zone, "" for every zone not named (`store.aliases`).

    `resolves` and `take` as of `Update`.
    """

    alias: str
    at: str
    targets: Mapping[str, Change]
    if_match: str | None = None
    origin: Origin | None = None
    resolves: int = 0
    take: str = ""


ImageOperation = Create | Update | Delete | Assign | Drop
Operation = ImageOperation | Grant | Retire | Point
_CODES: tuple[type, ...] = (Create, Update, Delete, Assign, Grant, Retire, Drop, Point)
_CODES_BY_NUMBER: dict[int, Any] = dict(enumerate(_CODES))


@dataclass(frozen=True, slots=True)
class Write:
    """One journal row: the node's `sequence`-th write (from 1, no gaps). `buffered`: so its client was answered.

    `ahead`: it may take effect before its node's earlier writes (`store.urgent`).
    """

    node: str
    sequence: int
    operation: Operation
    buffered: bool = False
    ahead: bool = False

    @property
    def id(self) -> str:
        return f"{self.node}.{self.sequence}"


class State(Enum):
    """How a write ended."""

    DONE = "done"
    CONFLICT = "conflict"
    REFUSED = "refused"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a write; the same on every node. `code` is stable, `detail` one sentence for a person.

    `lost` holds, for a conflict, (what, committed value, this write's value) of each change that was not taken.
    """

    state: State
    code: str = ""
    detail: str = ""
    uuid: str | None = None
    integer: int | None = None
    lost: tuple[tuple[str, Any, Any], ...] = ()


class OperationError(Exception):
    """Bytes that are no operation of this version. Nothing was changed."""


def encode(operation: Operation) -> bytes:
    """msgpack: [code, the dataclass's values in order]."""
    packed: bytes = msgpack.packb(
        [_CODES.index(type(operation)), [_plain(operation, f.name) for f in fields(operation)]]
    )
    return packed


def decode(data: bytes) -> Operation:
    """Raises OperationError for anything that `encode` of this version did not make."""
    try:
        code, values = msgpack.unpackb(data)
        kind = _CODES_BY_NUMBER[code]
        named = dict(zip((item.name for item in fields(kind)), values, strict=True))
        operation: Operation = kind(**{name: _rich(kind, name, value) for name, value in named.items()})
        return operation
    except (ValueError, TypeError, KeyError, AttributeError, msgpack.UnpackException) as error:
        raise OperationError(f"not an operation of this version: {error}") from None


def _rich(kind: type, name: str, value: Any) -> Any:
    """What msgpack made plain, as the dataclass has it: tuples where it has tuples, and nowhere else."""
    if name in ("locations", "locations_added"):
        return tuple(Location(url, metadata) for url, metadata in value)
    if (kind is Update and name in ("fields", "properties")) or name == "targets":
        return {key: tuple(change) for key, change in value.items()}
    if name == "origin":
        return Origin(*value) if value is not None else None
    if name == "presence":
        return {zone: {state: tuple(one) for state, one in said.items()} for zone, said in value.items()}
    if name == "members":
        return {
            project: tuple(tuple(one) if isinstance(one, list) else one for one in change)
            for project, change in value.items()
        }
    return tuple(value) if isinstance(value, list) else value


def _plain(operation: Operation, name: str) -> Any:
    value = getattr(operation, name)
    if isinstance(value, Origin):
        return [getattr(value, f.name) for f in fields(value)]
    if name in ("locations", "locations_added"):
        return [(location.url, dict(location.metadata)) for location in value]
    if name == "presence":
        return {zone: dict(said) for zone, said in value.items()}
    return dict(value) if isinstance(value, Mapping) else value


def subject(operation: Operation) -> str | None:
    """The UUID of the image that an operation is about; None when it is about none."""
    return None if isinstance(operation, Grant | Retire | Point) else operation.uuid


def switches_off(operation: Operation) -> bool:
    """Whether an image is to be served no more: it is deleted or deactivated."""
    if isinstance(operation, Update):
        return "status" in operation.fields and operation.fields["status"][1] == "deactivated"
    return isinstance(operation, Delete)


def rides_ahead(operation: Operation) -> bool:
    """Whether a write overtakes what waits in its node's journal for other images: it deactivates an image.

    Deleting does not: that is daily business, and what overtakes must stay the exception.
    """
    return isinstance(operation, Update) and switches_off(operation)


def encode_write(write: Write) -> bytes:
    flags = write.buffered | write.ahead << 1
    packed: bytes = msgpack.packb([write.node, write.sequence, flags, encode(write.operation)])
    return packed


def decode_write(data: bytes) -> Write:
    """Raises OperationError for anything but a write of this version."""
    try:
        node, sequence, flags, operation = msgpack.unpackb(data)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise OperationError(f"not a write of this version: {error}") from None
    if type(node) is not str or {type(sequence), type(flags)} != {int} or type(operation) is not bytes:
        raise OperationError("not a write of this version: wrong types")
    if not is_uuid(node) or not 1 <= sequence < 2**53:
        raise OperationError("not a write of this version: no node's sequence")
    return Write(node, sequence, decode(operation), bool(flags & 1), bool(flags & 2))


def origin_of(operation: Operation) -> Origin | None:
    return None if isinstance(operation, Assign | Grant) else operation.origin


def by_of(operation: Operation) -> tuple[str, str]:
    """(who, request ID), as records have it."""
    origin = origin_of(operation)
    return (origin.by, origin.request) if origin is not None else NOBODY


def perform(image: Image | None, write: Write, position: int) -> tuple[Image | None, Outcome]:
    """The record after `write` at `position`, and the outcome. The record is unchanged unless the outcome says so."""
    operation = write.operation
    assert not isinstance(operation, Grant | Retire | Point), "ranges and aliases are no matter of a record"
    match operation:
        case Drop():
            return image, dropped(operation)
        case Update() if operation.take == "ours" and image is not None:
            return image, _done(image)  # even of one that was deleted
        case Create():
            return _create(image, write, operation, position)
        case Update() | Delete() | Assign() if image is None:
            return None, Outcome(State.REFUSED, "not-found", f"no image {operation.uuid}", operation.uuid)
        case Update() | Delete() | Assign() if image.deleted_at is not None:
            if isinstance(operation, Delete):
                return image, _done(image)
            return image, Outcome(
                State.REFUSED, "gone", f"image {image.uuid} was deleted at {image.deleted_at}", image.uuid
            )
        case Update() | Delete() if operation.if_match not in (None, image.write):
            detail = f"image {image.uuid} was changed by another write since the version named in If-Match"
            return image, Outcome(State.REFUSED, "changed", detail, image.uuid, image.integer)
        case Update():
            return _update(image, write, operation, position)
        case Delete():
            return _delete(image, write, operation, position)
        case Assign():
            if image.integer is not None:
                return image, _done(image)
            image = replace(image, integer=operation.integer, write=write.id, position=position, by=by_of(operation))
            return image, _done(image)


def dropped(operation: Drop) -> Outcome:
    by = operation.origin.by if operation.origin is not None else "nobody"
    return Outcome(State.DROPPED, "dropped", f"dropped by {by}: {operation.reason}", operation.uuid)


def _done(image: Image) -> Outcome:
    return Outcome(State.DONE, uuid=image.uuid, integer=image.integer)


def _create(image: Image | None, write: Write, operation: Create, position: int) -> tuple[Image, Outcome]:
    made = Image(
        uuid=operation.uuid,
        integer=operation.integer,
        creator=write.node,
        write=write.id,
        position=position,
        fields={**DEFAULTS, "created_at": operation.at, "updated_at": operation.at, **operation.fields},
        properties=operation.properties,
        tags=tuple(sorted(set(operation.tags))),
        locations=operation.locations,
        by=by_of(operation),
    )
    if image is None:
        return made, _done(made)
    if image.deleted_at is not None:
        detail = f"image {image.uuid} was deleted at {image.deleted_at}; a UUID is never used again"
        return image, Outcome(State.REFUSED, "gone", detail, image.uuid)
    if same_content(image, made):
        return image, _done(image)
    if write.buffered:
        # Two zones made it without knowing of each other, and both were answered: what does not clash survives.
        return _update(image, write, _as_change(operation), position)
    detail = f"image {image.uuid} exists with other content"
    return image, Outcome(State.REFUSED, "exists", detail, image.uuid, image.integer)


def _as_change(operation: Create) -> Update:
    """A create as a change of the record that says nothing yet."""
    return Update(
        operation.uuid,
        operation.at,
        fields={name: (DEFAULTS[name], value) for name, value in operation.fields.items() if name in DEFAULTS},
        properties={name: (None, value) for name, value in operation.properties.items()},
        tags_added=operation.tags,
        locations_added=operation.locations,
        origin=operation.origin,
    )


def same_content(one: Image, other: Image) -> bool:
    """Whether two records say the same, whoever wrote them and whenever."""
    when = ("created_at", "updated_at")
    fields_one, fields_other = ({k: v for k, v in i.fields.items() if k not in when} for i in (one, other))
    return (fields_one, dict(one.properties), one.tags, one.locations) == (
        fields_other,
        dict(other.properties),
        other.tags,
        other.locations,
    )


# What an update may have without changing the image.
_ASIDE: Mapping[str, Any] = {
    "if_match": None,
    "origin": None,
    "resolves": 0,
    "take": "",
    "members": {},
    "presence": {},
}


def _update(image: Image, write: Write, operation: Update, position: int) -> tuple[Image, Outcome]:
    lost: list[tuple[str, Any, Any]] = []
    new_fields = take(image.fields, operation.fields, write.buffered, "", lost)
    new_properties = take(image.properties, operation.properties, write.buffered, "properties/", lost)
    tags = (set(image.tags) | set(operation.tags_added)) - set(operation.tags_removed)
    if replace(operation, **_ASIDE) != Update(operation.uuid, operation.at):
        new_fields["updated_at"] = operation.at  # sharing an image, or storing it, does not change the image
    changed = replace(
        image,
        write=write.id,
        position=position,
        fields=new_fields,
        properties={name: value for name, value in new_properties.items() if value is not None},
        tags=tuple(sorted(tags)),
        locations=_locations_after(image.locations, operation),
        members=_members_after(image.members, operation, write.buffered, lost),
        by=by_of(operation),
        presence=presence.merged(image.presence, operation.presence),
    )
    if not lost:
        return changed, _done(changed)
    detail = "changed by others meanwhile: " + ", ".join(what for what, _, _ in lost)
    return changed, Outcome(State.CONFLICT, "conflict", detail, image.uuid, image.integer, tuple(lost))


def _locations_after(current: tuple[Location, ...], operation: Update) -> tuple[Location, ...]:
    """As a set by URL: what is there already stays, unless the same update also removes it."""
    removed, known = set(operation.locations_removed), {location.url for location in current}
    renewed = {location.url: location for location in operation.locations_added if location.url in removed & known}
    kept = [
        renewed.get(location.url, location)
        for location in current
        if location.url in renewed or location.url not in removed
    ]
    return (*kept, *(location for location in operation.locations_added if location.url not in known))


def _members_after(
    current: Mapping[str, ImageMember], operation: Update, buffered: bool, lost: list[tuple[str, Any, Any]]
) -> dict[str, ImageMember]:
    """Each project by itself. Adding one that is there keeps its answer; one that was removed does not come back."""
    result = dict(current)
    for project, (seen, wanted) in operation.members.items():
        member = result.get(project)
        now = (member.status, member.can_share) if member is not None else None
        if wanted is None:
            result.pop(project, None)
        elif member is None and seen is None:
            result[project] = ImageMember(*wanted, created_at=operation.at, updated_at=operation.at)
        elif member is None or (buffered and seen is not None and now not in (seen, wanted)):
            lost.append((f"members/{project}", now, wanted))
        elif seen is not None:
            result[project] = replace(member, status=wanted[0], can_share=wanted[1], updated_at=operation.at)
    return result


def take(
    current: Mapping[str, Any],
    changes: Mapping[str, Change],
    buffered: bool,
    prefix: str,
    lost: list[tuple[str, Any, Any]],
) -> dict[str, Any]:
    """`current` with `changes`, each taken unless it is a conflict; those go to `lost`."""
    result = dict(current)
    for name, (seen, wanted) in changes.items():
        now = current.get(name)
        if buffered and now not in (seen, wanted):
            lost.append((prefix + name, now, wanted))
        else:
            result[name] = wanted
    return result


def _delete(image: Image, write: Write, operation: Delete, position: int) -> tuple[Image, Outcome]:
    if image.fields["protected"]:
        detail = f"image {image.uuid} is protected; set protected to false first"
        return image, Outcome(State.REFUSED, "protected", detail, image.uuid, image.integer)
    dated = {**image.fields, "updated_at": operation.at}
    gone = replace(
        image,
        write=write.id,
        position=position,
        fields=dated,
        deleted_at=operation.at,
        by=by_of(operation),
        successor=operation.successor,
    )
    return gone, _done(gone)
