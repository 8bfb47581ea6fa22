"""The image record and its canonical form. Sans-IO.

A record is a set of base attributes (`FIELDS`, those of the OpenStack Images API v2), free text properties, tags,
locations, image members (projects it is shared with), and what zoned adds: the integer, the write that changed it last,
the position where that was applied.

One canonical JSON text per record (sorted keys, UTF-8) is what is stored (`store.packing`) and what the
catalogue's hash is of, so equal records have equal bytes on every node.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import orjson

Scalar = str | int | bool | None

INT32_MAX = 2_147_483_647
INT64_MAX = 9_223_372_036_854_775_807
NAME_CHARS_MAX = 255
PROPERTIES_MAX = 128
TAGS_MAX = 128
LOCATIONS_MAX = 10
MEMBERS_MAX = 128
ZONES_MAX = 128  # that one image's presence, or one alias, may speak of
ZONE_CHARS_MAX = 63
ALIAS_CHARS_MAX = 128
URL_CHARS_MAX = 4_096
PROPERTY_CHARS_MAX = 65_535

STATUSES = ("queued", "saving", "uploading", "importing", "active", "deactivated", "killed", "pending_delete")
VISIBILITIES = ("public", "private", "shared", "community")
MEMBER_STATUSES = ("pending", "accepted", "rejected")
PRESENCES = ("wanted", "unwanted", "claimed", "verified", "absent")
DISK_FORMATS = ("ami", "ari", "aki", "vhd", "vhdx", "vmdk", "raw", "qcow2", "vdi", "iso", "ploop")
CONTAINER_FORMATS = ("ami", "ari", "aki", "bare", "ovf", "ova", "docker", "compressed")


@dataclass(frozen=True, slots=True)
class Field:
    """One base attribute: its type, its default, its bounds."""

    kind: type
    default: Scalar = None
    null: bool = True
    max: int = NAME_CHARS_MAX  # characters of a text, value of a number
    choices: tuple[str, ...] = ()

    def problem(self, value: object) -> str | None:
        """What is wrong with `value`, as the end of a sentence that begins with the attribute's name."""
        if value is None:
            return None if self.null else "may not be null"
        if type(value) is not self.kind:
            return f"must be {_KINDS[self.kind]}"
        if isinstance(value, str):
            if self.choices and value not in self.choices:
                return f"must be one of {', '.join(self.choices)}"
            return text_problem(value, self.max)
        if isinstance(value, int) and not 0 <= value <= self.max:
            return f"must be between 0 and {self.max}"
        return None


_KINDS = {str: "a text", int: "an integer", bool: "true or false"}

# Types, defaults and bounds as Glance's image schema and database have them.
FIELDS: Mapping[str, Field] = MappingProxyType(
    {
        "name": Field(str),
        "status": Field(str, "queued", False, choices=STATUSES),
        "visibility": Field(str, "shared", False, choices=VISIBILITIES),
        "protected": Field(bool, False, False),
        "os_hidden": Field(bool, False, False),
        "owner": Field(str),
        "size": Field(int, max=INT64_MAX),
        "virtual_size": Field(int, max=INT64_MAX),
        "checksum": Field(str, max=32),
        "os_hash_algo": Field(str, max=64),
        "os_hash_value": Field(str, max=128),
        "min_ram": Field(int, 0, False, INT32_MAX),
        "min_disk": Field(int, 0, False, INT32_MAX),
        "disk_format": Field(str, choices=DISK_FORMATS),
        "container_format": Field(str, choices=CONTAINER_FORMATS),
        "created_at": Field(str, "", False, 20),
        "updated_at": Field(str, "", False, 20),
    }
)

TIMES = ("created_at", "updated_at")
DEFAULTS: Mapping[str, Scalar] = MappingProxyType({name: known.default for name, known in FIELDS.items()})


def text_problem(value: str, chars_max: int) -> str | None:
    if len(value) > chars_max:
        return f"must have at most {chars_max} characters, has {len(value)}"
    if "\x00" in value:
        return "may not contain a NUL"
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        return "may not contain half of a surrogate pair"
    return None


@dataclass(frozen=True, slots=True)
class Location:
    """Where a zone's object store keeps the bytes. zoned never opens the URL."""

    url: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageMember:
    """A project that a shared image is shown to: what it answered, and whether it may share on (Images API v1 only)."""

    status: str
    can_share: bool
    created_at: str
    updated_at: str


NOBODY = ("", "")
Sighting = tuple[str, str]  # (when, as `2026-11-22T09:00:00.000Z`; a note: by whom, or how)


@dataclass(frozen=True, slots=True)
class Image:
    """One record. `write` ("NODE.SEQUENCE") is the last write that changed it, and its entity tag.

    `creator` is the node that made the record: it alone may number it later. `integer` is None until a range was
    there to take it from; `deleted_at` makes it a tombstone, which may name a `successor`, a UUID. `by` is who asked
    for that write: (actor, request ID), or empty texts. `presence` is by zone, then by one of PRESENCES: what was last
    said of the bytes there.
    """

    uuid: str
    integer: int | None
    creator: str
    write: str
    position: int
    fields: Mapping[str, Scalar]
    properties: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    locations: tuple[Location, ...] = ()
    deleted_at: str | None = None
    members: Mapping[str, ImageMember] = field(default_factory=dict)
    by: tuple[str, str] = NOBODY
    presence: Mapping[str, Mapping[str, Sighting]] = field(default_factory=dict)
    successor: str | None = None

    def encode(self) -> bytes:
        """Canonical JSON, UTF-8."""
        return orjson.dumps(
            {
                "uuid": self.uuid,
                "integer": self.integer,
                "creator": self.creator,
                "write": self.write,
                "position": self.position,
                "fields": dict(self.fields),
                "properties": dict(self.properties),
                "tags": sorted(self.tags),
                "locations": [[location.url, dict(location.metadata)] for location in self.locations],
                "deleted_at": self.deleted_at,
                "members": {
                    project: [member.status, member.can_share, member.created_at, member.updated_at]
                    for project, member in self.members.items()
                },
                "by": self.by,
                "presence": {zone: dict(said) for zone, said in self.presence.items()},
                **({"successor": self.successor} if self.successor is not None else {}),
            },
            option=orjson.OPT_SORT_KEYS,
        )

    @classmethod
    def decode(cls, data: bytes) -> "Image":
        raw = orjson.loads(data)
        raw["tags"] = tuple(raw["tags"])
        raw["locations"] = tuple(Location(url, metadata) for url, metadata in raw["locations"])
        raw["members"] = {project: ImageMember(*member) for project, member in raw["members"].items()}
        raw["by"] = tuple(raw["by"])
        raw["presence"] = {
            zone: {state: tuple(sighting) for state, sighting in said.items()} for zone, said in raw["presence"].items()
        }
        return cls(**raw)


_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")


def format_ami(integer: int) -> str:
    """The EC2 name of an integer: `ami-` and eight hexadecimal digits or more."""
    return f"ami-{integer:08x}"


def parse_reference(text: str) -> str | int | None:
    """A reference as UUID (lower case) or integer: `42`, `ami-0000002a`, or a UUID; None if it is none of these."""
    if _UUID.fullmatch(text):
        return text.lower()
    if text.isascii() and text.isdigit() and len(text) <= 19:
        return _in_range(int(text))
    if text.startswith("ami-") and 8 <= len(text) - 4 <= 16:
        digits = text[4:]
        return _in_range(int(digits, 16)) if set(digits) <= set("0123456789abcdef") else None
    return None


def is_alias_name(text: str) -> bool:
    """Whether an alias may have this name: lower case, begins with a letter, and is no other kind of reference."""
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    fits = 0 < len(text) <= ALIAS_CHARS_MAX and set(text) <= allowed and text[0].isalpha()
    return fits and not text.startswith("ami-") and not is_uuid(text)


def _in_range(integer: int) -> int | None:
    return integer if integer <= INT64_MAX else None


def is_uuid(text: str) -> bool:
    """Whether `text` is a UUID in its usual form, 8-4-4-4-12 hexadecimal digits (RFC 9562, section 4)."""
    return _UUID.fullmatch(text) is not None


def uuid_bytes(text: str) -> bytes:
    """A UUID as columns have it; nothing, which no record has, for a text that is none."""
    return bytes.fromhex(text.replace("-", "")) if is_uuid(text) else b""


def uuid_text(data: bytes) -> str:
    digits = data.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


TIME_CHARS = 20


def seconds(stamp: str) -> int | None:
    """Seconds since 1970 of a time as records have it, `2026-11-22T09:00:00Z`; None for any other text."""
    return _seconds(stamp) if len(stamp) == TIME_CHARS else None


@lru_cache(maxsize=1_024)  # a time is met several times on the way of a write, and so are those of its neighbours
def _seconds(stamp: str) -> int | None:
    try:
        parsed = datetime.fromisoformat(stamp)
    except ValueError:
        return None
    return int(parsed.timestamp()) if f"{parsed.replace(tzinfo=None).isoformat()}Z" == stamp else None
