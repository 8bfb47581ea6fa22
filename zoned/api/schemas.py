"""The JSON Schema documents of the Images API v2, and the checks that are made of these very documents. No I/O.

Attributes come from `store.images.FIELDS`, so a document cannot promise what the store would refuse. What JSON Schema
cannot say (a NUL, half of a surrogate pair, how many tags in all) is checked besides.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import fastjsonschema

from store.images import (
    FIELDS,
    LOCATIONS_MAX,
    MEMBER_STATUSES,
    NAME_CHARS_MAX,
    URL_CHARS_MAX,
    Field,
)
from zoned.api.problems import Problem, bad

UUID_PATTERN = "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$"
_TYPES = {str: "string", int: "integer", bool: "boolean"}
_TOLD = {
    "name": "Descriptive name for the image",
    "status": "Status of the image",
    "visibility": "Scope of image accessibility",
    "protected": "If true, image will not be deletable.",
    "os_hidden": "If true, image will not appear in default image list response.",
    "owner": "Owner of the image",
    "size": "Size of image file in bytes",
    "virtual_size": "Virtual size of image in bytes",
    "checksum": "md5 hash of image contents.",
    "os_hash_algo": "Algorithm to calculate the os_hash_value",
    "os_hash_value": "Hexdigest of the image contents using the algorithm specified by the os_hash_algo",
    "min_ram": "Amount of ram (in MB) required to boot image.",
    "min_disk": "Amount of disk space (in GB) required to boot image.",
    "disk_format": "Format of the disk",
    "container_format": "Format of the container",
    "created_at": "Date and time of image registration",
    "updated_at": "Date and time of the last image modification",
}
READ_ONLY = frozenset(
    {
        *("created_at", "updated_at", "status", "checksum", "size", "virtual_size", "os_hash_algo", "os_hash_value"),
        *("direct_url", "self", "file", "schema", "stores", "zoned_id"),
    }
)


def _attribute(name: str, known: Field) -> dict[str, Any]:
    kind: Any = ["null", _TYPES[known.kind]] if known.null else _TYPES[known.kind]
    document: dict[str, Any] = {"type": kind, "description": _TOLD[name]}
    if name in READ_ONLY:
        document["readOnly"] = True
    if known.choices:
        document["enum"] = [*((None,) if known.null else ()), *known.choices]
    elif known.kind is str:
        document["maxLength"] = known.max
    elif known.kind is int:
        document |= {"minimum": 0, "maximum": known.max}
    return document


def _text(description: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "description": description, **more}


LOCATION: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "url": {"type": "string", "maxLength": URL_CHARS_MAX},
        "metadata": {"type": "object"},
        "validation_data": {
            "type": "object",
            "description": "Values to be used to populate the corresponding image properties.",
            "additionalProperties": False,
            "properties": {
                "checksum": {"type": "string", "minLength": 32, "maxLength": 32},
                "os_hash_algo": {"type": "string", "maxLength": 64},
                "os_hash_value": {"type": "string", "maxLength": 128},
            },
            "required": ["os_hash_algo", "os_hash_value"],
        },
    },
    "required": ["url", "metadata"],
}

IMAGE: Mapping[str, Any] = {
    "name": "image",
    "properties": {
        "id": _text("An identifier for the image", pattern=UUID_PATTERN),
        **{name: _attribute(name, known) for name, known in FIELDS.items()},
        "tags": {
            "type": "array",
            "description": "List of strings related to the image",
            "items": {"type": "string", "maxLength": NAME_CHARS_MAX},
        },
        "locations": {
            "type": "array",
            "description": "A set of URLs to access the image file kept in external store",
            "items": LOCATION,
            "maxItems": LOCATIONS_MAX,
        },
        "direct_url": _text("URL to access the image file kept in external store", readOnly=True),
        "self": _text("An image self url", readOnly=True),
        "file": _text("An image file url", readOnly=True),
        "schema": _text("An image schema url", readOnly=True),
        "stores": _text("Zones that keep the image's bytes, separated by commas", readOnly=True),
        "zoned_id": {
            "type": ["null", "integer"],
            "description": "The image's integer, unique in all zones; null until one is there",
            "readOnly": True,
        },
    },
    "additionalProperties": {"type": "string"},
    "links": [
        {"rel": "self", "href": "{self}"},
        {"rel": "enclosure", "href": "{file}"},
        {"rel": "describedby", "href": "{schema}"},
    ],
}

MEMBER: Mapping[str, Any] = {
    "name": "member",
    "properties": {
        "member_id": _text("An identifier for the image member (tenantId)"),
        "image_id": _text("An identifier for the image", pattern=UUID_PATTERN),
        "created_at": _text("Date and time of image member creation"),
        "updated_at": _text("Date and time of last modification of image member"),
        "status": _text("The status of this image member", enum=list(MEMBER_STATUSES)),
        "schema": {"type": "string", "readOnly": True},
    },
}

TASK: Mapping[str, Any] = {
    "name": "task",
    "properties": {
        "id": _text("An identifier for the task", pattern=UUID_PATTERN),
        "type": _text("The type of task represented by this content", enum=["import"]),
        "status": _text("The current status of this task", enum=["pending", "processing", "success", "failure"]),
        "owner": _text("An identifier for the owner of this task"),
        "message": {"type": ["null", "string"], "description": "Human-readable informative message"},
        "created_at": _text("Datetime when this resource was created"),
        "updated_at": _text("Datetime when this resource was updated"),
        "expires_at": {"type": ["null", "string"], "description": "Datetime when this resource would be removed"},
        "self": _text("The URL of the task", readOnly=True),
        "schema": _text("The URL of this document", readOnly=True),
        "input": {"type": ["null", "object"], "description": "The parameters required by task, JSON blob"},
        "result": {"type": ["null", "object"], "description": "The result of current task, JSON blob"},
    },
}


def _list_of(name: str, items: Mapping[str, Any], paged: bool) -> dict[str, Any]:
    properties: dict[str, Any] = {name: {"type": "array", "items": items}, "schema": {"type": "string"}}
    links = [{"rel": "describedby", "href": "{schema}"}]
    if paged:
        properties |= {"first": {"type": "string"}, "next": {"type": "string"}}
        links = [{"rel": "first", "href": "{first}"}, {"rel": "next", "href": "{next}"}, *links]
    return {"name": name, "properties": properties, "links": links}


DOCUMENTS: Mapping[str, Mapping[str, Any]] = {
    "image": IMAGE,
    "images": _list_of("images", IMAGE, paged=True),
    "member": MEMBER,
    "members": _list_of("members", MEMBER, paged=False),
    "task": TASK,
    "tasks": _list_of("tasks", TASK, paged=True),
}

Check = Callable[[Any], Any]


# What can be checked: whole images, one location, one attribute.
_CHECKED: Mapping[str, Mapping[str, Any]] = {**IMAGE["properties"], "image": IMAGE, "location": LOCATION}


@functools.cache
def _compiled(name: str) -> Check:
    """The check of one of them, made when first needed: all together take 25 ms, which a start has no time for."""
    document = _CHECKED[name]
    kind = {"type": "object"} if "properties" in document else {}
    check: Check = fastjsonschema.compile({**kind, **document})
    return check


def check_image(document: Mapping[str, Any]) -> None:
    """A whole image as the served document describes it. Raises Problem."""
    _check(_compiled("image"), document, "image")


def check_attribute(name: str, value: Any) -> None:
    """One attribute. Raises Problem."""
    _check(_compiled(name), value, "image", name)


def check_location(value: Any) -> None:
    _check(_compiled("location"), value, "image", "locations")


def _check(check: Check, value: Any, schema: str, name: str = "") -> None:
    try:
        check(value)
    except fastjsonschema.JsonSchemaValueException as error:
        what = (name + str(error.message).removeprefix("data")).lstrip(".")
        code = "bad-location" if name == "locations" else "bad-attribute"
        raise bad(f"Provided object does not match schema '{schema}': {what[:300]}", code) from None


def document(name: str) -> Mapping[str, Any]:
    """Raises Problem for a name that no document has."""
    if name not in DOCUMENTS:
        raise Problem(404, "no-route", "The resource could not be found.")
    return DOCUMENTS[name]
