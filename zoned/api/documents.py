"""Records as JSON documents, and request bodies as operations. No I/O.

Two spellings of one record: the Images API's flat document (own properties beside base attributes) and the native one
(properties apart, so that no name can clash).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from store.images import (
    DEFAULTS,
    FIELDS,
    LOCATIONS_MAX,
    NAME_CHARS_MAX,
    PROPERTIES_MAX,
    PROPERTY_CHARS_MAX,
    TAGS_MAX,
    URL_CHARS_MAX,
    Image,
    Location,
    format_ami,
    is_uuid,
    text_problem,
)
from store.operations import Create
from store.soundness import JSON_DEPTH_MAX
from zoned import clock
from zoned.api.caller import Caller
from zoned.api.problems import Problem, bad
from zoned.api.schemas import READ_ONLY, check_attribute, check_image, check_location

# What a caller of the Images API may never set on create: READ_ONLY and these (Glance answers 403).
RESERVED = frozenset(("location", "deleted", "deleted_at"))
RESERVED_PREFIX = "os_glance"
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # in a URL they are an attempt on whoever is sent there
NOT_PROPERTIES = READ_ONLY | RESERVED | set(FIELDS) | {"id", "tags", "locations"}


def parse_json(body: bytes) -> Any:
    """Raises Problem for what is not JSON."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad(f"the body is not JSON: {error}", "bad-json") from None
    if body.count(b"{") + body.count(b"[") > JSON_DEPTH_MAX and depth(document) > JSON_DEPTH_MAX:
        raise bad(f"the body is nested more than {JSON_DEPTH_MAX} deep", "bad-json")
    return document


def parse_object(body: bytes) -> dict[str, Any]:
    """Raises Problem for what is not a JSON object."""
    value = parse_json(body)
    if not isinstance(value, dict):
        raise bad("the body must be a JSON object", "bad-json")
    return value


def images_document(image: Image) -> dict[str, Any]:
    """As the Images API v2 shows a record, with the integer as `zoned_id`."""
    document: dict[str, Any] = {name: value for name, value in image.properties.items() if is_free(name)}
    document.update(image.fields)
    document["id"] = image.uuid
    document["tags"] = list(image.tags)
    document.update(locations_document([(one.url, one.metadata) for one in image.locations]))
    document["self"] = f"/v2/images/{image.uuid}"
    document["file"] = f"/v2/images/{image.uuid}/file"
    document["schema"] = "/v2/schemas/image"
    document["zoned_id"] = image.integer
    return document


def locations_document(locations: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """What the Images API v2 says of locations, (URL, metadata) each."""
    document: dict[str, Any] = {"locations": [{"url": url, "metadata": dict(metadata)} for url, metadata in locations]}
    if locations:
        document["direct_url"] = locations[0][0]
        stores = [str(metadata["store"]) for _, metadata in locations if "store" in metadata]
        if stores:
            document["stores"] = ",".join(stores)
    return document


def is_free(name: str) -> bool:
    """Whether a property may have this name: it means nothing else."""
    return name not in NOT_PROPERTIES and not name.startswith(RESERVED_PREFIX)


def native_document(image: Image) -> dict[str, Any]:
    """As the native API shows a record."""
    return {
        "uuid": image.uuid,
        "integer": image.integer,
        "ami": format_ami(image.integer) if image.integer is not None else None,
        **image.fields,
        "properties": dict(image.properties),
        "tags": list(image.tags),
        "locations": [{"url": one.url, "metadata": dict(one.metadata)} for one in image.locations],
        "members": {
            project: {"status": member.status, "can_share": member.can_share, "since": member.created_at}
            for project, member in sorted(image.members.items())
        },
        "write": image.write,
        "position": image.position,
        "deleted_at": image.deleted_at,
    }


def member_document(image: Image, project: str) -> dict[str, Any]:
    """As the Images API v2 shows an image member."""
    member = image.members[project]
    return {
        "member_id": project,
        "image_id": image.uuid,
        "status": member.status,
        "created_at": member.created_at,
        "updated_at": member.updated_at,
        "schema": "/v2/schemas/member",
    }


def images_create(document: dict[str, Any], new_uuid: str, caller: Caller = Caller()) -> Create:  # noqa: B008  # frozen
    """A body of `POST /v2/images` as an operation. Raises Problem as Glance would refuse it."""
    fields: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    uuid, tags = document.pop("id", new_uuid), document.pop("tags", [])
    for name, value in document.items():
        if name in READ_ONLY:
            raise Problem(403, "read-only", f"Attribute '{name[:80]}' is read-only.")
        if name in RESERVED or name == "locations" or name.startswith(RESERVED_PREFIX):
            raise Problem(403, "reserved", f"Attribute '{name[:80]}' is reserved.")
        (fields if name in FIELDS else properties)[name] = value
    check_image({"id": uuid, "tags": tags, **fields, **properties})
    caller.check_visibility(fields.get("visibility"))
    if fields.setdefault("owner", caller.project) != caller.project:
        caller.check_owner(fields["owner"])
    for name, value in fields.items():
        _check_value(name, value)
    return _create(uuid, fields, properties, tags, ())


def native_create(document: dict[str, Any], new_uuid: str) -> Create:
    """A body of `POST /zone/v1/images`: every attribute may be given, as a backup worker or an import needs it."""
    known = {"uuid", "properties", "tags", "locations", *FIELDS}
    unknown = sorted(set(document) - known)
    if unknown:
        raise bad(f"unknown attribute {unknown[0]!r}; free text goes under `properties`", "unknown-attribute")
    properties = document.pop("properties", {})
    if not isinstance(properties, dict):
        raise bad("properties must be an object of texts", "bad-property")
    uuid, tags = document.pop("uuid", new_uuid), document.pop("tags", [])
    locations = parse_locations(document.pop("locations", []))
    document.setdefault("status", "active" if locations else "queued")
    for name, value in document.items():
        check_field(name, value)
    return _create(uuid, document, properties, tags, locations)


def _create(
    uuid: Any, fields: dict[str, Any], properties: dict[str, Any], tags: Any, locations: tuple[Location, ...]
) -> Create:
    if not isinstance(uuid, str) or not is_uuid(uuid):
        raise bad("the image ID must be a UUID text, as 8-4-4-4-12 hexadecimal digits", "bad-uuid")
    check_properties(properties)
    known = {name: value for name, value in fields.items() if value != DEFAULTS[name]}
    return Create(uuid.lower(), None, clock.text(clock.wall()), known, properties, check_tags(tags), locations)


def shown(value: Any) -> str:
    """A value in an error text: enough to recognise it."""
    return repr(value)[:80]


def check_field(name: str, value: Any) -> None:
    check_attribute(name, value)
    _check_value(name, value)


def _check_value(name: str, value: Any) -> None:
    """What the schema cannot say."""
    problem = FIELDS[name].problem(value)
    if problem is None and name in ("created_at", "updated_at") and clock.parse(str(value)) is None:
        problem = "must be a time as 2026-11-22T09:00:00Z"
    if problem:
        raise bad(f"Invalid value {shown(value)} for attribute {name}: {problem}", "bad-attribute")


def check_properties(properties: Mapping[str, Any]) -> None:
    if len(properties) > PROPERTIES_MAX:
        raise Problem(413, "too-many-properties", f"an image has at most {PROPERTIES_MAX} properties")
    for name, value in properties.items():
        if not is_free(name):
            raise bad(f"{name[:80]!r} is no free property: the name has a meaning of its own", "bad-property")
        check_property(name, value)


def check_property(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise bad(f"Invalid value {shown(value)} for property {name[:80]}: must be a text", "bad-property")
    problem = text_problem(value, PROPERTY_CHARS_MAX) or text_problem(name, NAME_CHARS_MAX)
    if problem or not name:
        raise bad(f"Property {name[:80]!r} {problem or 'has no name'}", "bad-property")


def check_tags(tags: Any) -> tuple[str, ...]:
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise bad("tags must be a list of texts", "bad-tag")
    distinct = tuple(sorted(set(tags)))
    if len(distinct) > TAGS_MAX:
        raise Problem(413, "too-many-tags", f"an image has at most {TAGS_MAX} tags")
    for tag in distinct:
        problem = text_problem(tag, NAME_CHARS_MAX)
        if problem or not tag:
            raise bad(f"tag {tag[:80]!r} {problem or 'is empty'}", "bad-tag")
    return distinct


def parse_locations(value: Any) -> tuple[Location, ...]:
    if not isinstance(value, list):
        raise bad("locations must be a list of {url, metadata}", "bad-location")
    if len(value) > LOCATIONS_MAX:
        raise Problem(413, "too-many-locations", f"an image has at most {LOCATIONS_MAX} locations")
    locations = tuple(parse_location(one) for one in value)
    if len({one.url for one in locations}) != len(locations):
        raise bad("a location's URL is given twice", "bad-location")
    return locations


def parse_location(value: Any) -> Location:
    """{"url": text with a scheme, "metadata": object}. The URL is kept, never opened."""
    if not isinstance(value, dict) or not set(value) <= {"url", "metadata", "validation_data"}:
        raise bad("a location is an object with url and metadata", "bad-location")
    check_location({"metadata": {}, **value})
    url, metadata = value.get("url"), value.get("metadata", {})
    if not isinstance(url, str) or "://" not in url or text_problem(url, URL_CHARS_MAX) or CONTROL.search(url):
        raise bad("a location's url must be a URL text, without control characters", "bad-location")
    if not isinstance(metadata, dict):
        raise bad("a location's metadata must be an object", "bad-location")
    return Location(url, metadata)


def depth(value: Any) -> int:
    """How deep lists and objects are nested; recursion ends just beyond the allowed depth."""

    def measure(item: Any, level: int) -> int:
        if level > JSON_DEPTH_MAX or not isinstance(item, dict | list):
            return level
        inner = item.values() if isinstance(item, dict) else item
        return max((measure(one, level + 1) for one in inner), default=level)

    return measure(value, 0)
