"""Whether an operation is one that a correct node could have made. Sans-IO.

Operations come from the local faces and, forwarded, from other nodes. Each is checked where it enters a journal and
where it enters the log; applying checks once more and refuses what is unsound, the same on every node, so that nothing
that got into a log by whatever mistake can stop the nodes that hold it.
"""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from store.images import (
    FIELDS,
    LOCATIONS_MAX,
    MEMBER_STATUSES,
    MEMBERS_MAX,
    NAME_CHARS_MAX,
    PRESENCES,
    PROPERTIES_MAX,
    PROPERTY_CHARS_MAX,
    TAGS_MAX,
    TIMES,
    URL_CHARS_MAX,
    ZONE_CHARS_MAX,
    ZONES_MAX,
    Location,
    is_alias_name,
    is_uuid,
    seconds,
    text_problem,
)
from store.operations import (
    KEY_BYTES,
    Assign,
    Create,
    Delete,
    Drop,
    Grant,
    Operation,
    OperationError,
    Origin,
    Point,
    Retire,
    Update,
    decode,
)

TAKES = ("", "ours", "theirs", "value")
INTEGER_MAX = 2**53 - 1
OPERATION_BYTES_MAX = 1_048_576  # encoded; a log entry, a forwarded batch and a peer's message must hold it with room
JSON_DEPTH_MAX = 16  # of a request, and so of the metadata of a location
RECORD_BYTES_MAX = 262_144  # in canonical form; an update carries what it saw and what it wants, so twice this fits


def unsound(operation: Operation) -> str | None:
    """Why no correct node could have made this, or None."""
    match operation:
        case Grant(count, ceiling, above):
            fine = _is_integer(count) and _is_integer(ceiling) and (above == 0 or _is_integer(above))
            return None if fine else "a grant needs a count, a ceiling, and what it is above"
        case Assign(uuid, integer):
            return _uuid(uuid) or (None if _is_integer(integer) else "no integer to assign")
        case Delete(uuid, at, if_match, origin, successor):
            named = _uuid(successor) if successor is not None else None
            return _uuid(uuid) or _time(at) or _optional(if_match) or _origin(origin) or named
        case Retire(node, origin):
            return _uuid(node) or _origin(origin)
        case Drop(uuid, at, reason, entry, origin):
            named = _uuid(uuid) if uuid is not None else None
            return named or _time(at) or _text(reason, NAME_CHARS_MAX) or _entry(entry) or _origin(origin)
        case Point():
            return _point(operation)
        case Update():
            return _update(operation)
        case Create():
            return _create(operation)


# What was decoded may have any types, whatever the dataclasses say: hence Any.


def _create(operation: Any) -> str | None:
    if operation.integer is not None and not _is_integer(operation.integer):
        return "the integer is out of range"
    if not isinstance(operation.fields, Mapping) or not isinstance(operation.properties, Mapping):
        return "attributes must be maps"
    return (
        _uuid(operation.uuid)
        or _time(operation.at)
        or _first(_field(name, value) for name, value in operation.fields.items())
        or _properties({name: (None, value) for name, value in operation.properties.items()}, removable=False)
        or _texts(operation.tags, TAGS_MAX)
        or _locations(operation.locations)
        or _origin(operation.origin)
    )


def _update(operation: Any) -> str | None:
    for changes in (operation.fields, operation.properties):
        if not isinstance(changes, Mapping) or not all(type(c) is tuple and len(c) == 2 for c in changes.values()):
            return "changes must be maps to pairs"
    return (
        _uuid(operation.uuid)
        or _time(operation.at)
        or _first(_field(name, seen) or _field(name, wanted) for name, (seen, wanted) in operation.fields.items())
        or _properties(operation.properties, removable=True)
        or _texts(operation.tags_added, TAGS_MAX)
        or _texts(operation.tags_removed, 2 * TAGS_MAX)
        or _locations(operation.locations_added)
        or _texts(operation.locations_removed, 2 * LOCATIONS_MAX, URL_CHARS_MAX)
        or _optional(operation.if_match)
        or _members(operation.members)
        or _origin(operation.origin)
        or _presence(operation.presence)
        or _resolves(operation.resolves, operation.take)
    )


def _resolves(number: object, take: object) -> str | None:
    if type(number) is not int or not 0 <= number < 2**53:
        return "the number of a conflict is out of range"
    return None if take in TAKES and bool(number) == bool(take) else "a conflict is resolved by ours, theirs or value"


def _point(operation: Any) -> str | None:
    if not isinstance(operation.alias, str) or not is_alias_name(operation.alias):
        return "no name of an alias"
    targets = operation.targets
    if problem := _resolves(operation.resolves, operation.take):
        return problem
    if not isinstance(targets, Mapping) or not (0 if operation.resolves else 1) <= len(targets) <= ZONES_MAX:
        return "an alias needs targets, and not too many"
    for zone, change in targets.items():
        if problem := _text(zone, ZONE_CHARS_MAX):
            return f"zone {problem}"
        if type(change) is not tuple or len(change) != 2 or any(one is not None and _uuid(one) for one in change):
            return "targets must be pairs of UUIDs"
    return _time(operation.at) or _optional(operation.if_match) or _origin(operation.origin)


def _first(problems: Any) -> str | None:
    return next((problem for problem in problems if problem), None)


def _is_integer(value: object) -> bool:
    return type(value) is int and 1 <= value <= INTEGER_MAX


def _uuid(value: object) -> str | None:
    return None if isinstance(value, str) and is_uuid(value) and value == value.lower() else "the UUID is none"


def _text(value: object, chars_max: int) -> str | None:
    return text_problem(value, chars_max) if isinstance(value, str) else "a text is missing"


def _time(value: object) -> str | None:
    return None if isinstance(value, str) and seconds(value) is not None else "a time is none"


def _optional(value: object) -> str | None:
    return None if value is None else _text(value, NAME_CHARS_MAX)


def _entry(entry: Any) -> str | None:
    """What a `Drop` stands for must be what a node could have journaled: the ledger shows it."""
    try:
        dropped = decode(entry)
    except OperationError:
        return "the dropped entry is none"
    return "a drop cannot be dropped" if isinstance(dropped, Drop) else unsound(dropped)


def _origin(origin: Any) -> str | None:
    if origin is None:
        return None
    if not isinstance(origin, Origin):
        return "the origin is none"
    if type(origin.at) is not int or not 0 <= origin.at < 2**40:
        return "the time of the origin is out of range"
    if type(origin.keep_s) is not int or not 0 <= origin.keep_s < 2**40:
        return "the life of the key is out of range"
    for digest in (origin.key, origin.payload):
        if type(digest) is not bytes or len(digest) not in (0, KEY_BYTES):
            return "the key is no digest"
    return _text(origin.zone, ZONE_CHARS_MAX) or _first(
        _text(value, NAME_CHARS_MAX) for value in (origin.by, origin.request, origin.project)
    )


def _presence(zones: object) -> str | None:
    if not isinstance(zones, Mapping) or len(zones) > ZONES_MAX:
        return "presence must be a map by zone, and not too long"
    for zone, said in zones.items():
        if problem := _text(zone, ZONE_CHARS_MAX):
            return f"zone {problem}"
        if not isinstance(said, Mapping) or not set(said) <= set(PRESENCES):
            return "unknown presence"
        for sighting in said.values():
            if type(sighting) is not tuple or len(sighting) != 2:
                return "presence needs a time and a note"
            if problem := _text(sighting[0], 24) or _text(sighting[1], NAME_CHARS_MAX):
                return f"presence {problem}"
    return None


def _field(name: object, value: object) -> str | None:
    if not isinstance(name, str) or name not in FIELDS:
        return "unknown attribute"
    problem = FIELDS[name].problem(value)
    if problem is None and name in TIMES and _time(value):
        problem = "must be a time"
    return f"{name} {problem}" if problem else None


def _properties(changes: Mapping[Any, Any], *, removable: bool) -> str | None:
    if len(changes) > 2 * PROPERTIES_MAX:
        return "too many properties"
    for name, pair in changes.items():
        problem = _text(name, NAME_CHARS_MAX)
        for value in pair if removable else pair[1:]:
            problem = problem or (None if removable and value is None else _text(value, PROPERTY_CHARS_MAX))
        if problem:
            return f"property {problem}"
    return None


def _texts(values: object, most: int, chars_max: int = NAME_CHARS_MAX) -> str | None:
    if type(values) is not tuple or len(values) > most:
        return "a list of texts is missing or too long"
    return _first(_text(value, chars_max) for value in values)


def _locations(values: object) -> str | None:
    if type(values) is not tuple or len(values) > LOCATIONS_MAX:
        return "locations are missing or too many"
    for value in values:
        if not isinstance(value, Location) or not isinstance(value.metadata, Mapping):
            return "a location is none"
        if problem := _text(value.url, URL_CHARS_MAX):
            return f"location {problem}"
        if not _is_json(dict(value.metadata), JSON_DEPTH_MAX):
            return "the metadata of a location is no JSON, or nested too deep"
    return None


def _is_json(value: object, levels: int) -> bool:
    """Whether a record can hold the value: one that cannot be encoded would end every node that applies it."""
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)
    if type(value) is int:
        return -(2**63) <= value < 2**64
    if type(value) is float:
        return isfinite(value)
    if type(value) is dict and all(isinstance(name, str) for name in value):
        inner = [*value, *value.values()]
    elif type(value) is list:
        inner = value
    else:
        return value is None or type(value) is bool
    return levels > 0 and all(_is_json(one, levels - 1) for one in inner)


def _members(changes: object) -> str | None:
    if not isinstance(changes, Mapping) or len(changes) > 2 * MEMBERS_MAX:
        return "image members must be a map, and not too long"
    for project, change in changes.items():
        if problem := _text(project, NAME_CHARS_MAX):
            return f"image member {problem}"
        if type(change) is not tuple or len(change) != 2 or not all(_is_membership(one) for one in change):
            return "changes of image members must be pairs of what was seen and what is wanted"
    return None


def _is_membership(value: object) -> bool:
    if value is None:
        return True
    fits = type(value) is tuple and len(value) == 2
    return fits and value[0] in MEMBER_STATUSES and type(value[1]) is bool  # type: ignore[index]  # `fits` says so
