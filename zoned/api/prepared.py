"""A native document straight from a record's stored form, without reading the JSON. No I/O.

The canonical form (`store.images.Image.encode`) is compact JSON with sorted keys, and nearly all of a native document
stands in it as it is. Inside a JSON text every quote is escaped, so a quoted name followed by a colon can only be a
key; the marks below are unique where they are looked for. `native_document` of the decoded record says the same; a test
compares the two.
"""

from typing import Any

import orjson

from store.images import format_ami

_DELETED, _FIELDS = b'"deleted_at":', b'"deleted_at":null,"fields":{'
_INTEGER, _LOCATIONS, _PROPERTIES = b'},"integer":', b',"locations":', b',"properties":{'
_PLAIN, _PRESENCE = b',"locations":[],"members":{},"position":', b',"presence":'


def native(record: bytes) -> bytes | None:
    """The native document of a live record; None of a tombstone, or of what is not as it is known here."""
    start = record.find(_DELETED)
    fields = start + len(_FIELDS)
    integer = record.find(_INTEGER, fields)
    locations = record.find(_LOCATIONS, integer)
    properties = record.rfind(_PROPERTIES)
    if not record.startswith(_FIELDS, start) or not fields <= integer <= locations <= properties:
        return None
    number = record[integer + len(_INTEGER) : locations]
    ami = b'"%b"' % format_ami(int(number)).encode() if number != b"null" else b"null"
    middle = record[locations:properties]
    if middle.startswith(_PLAIN):
        position = middle[len(_PLAIN) : middle.index(_PRESENCE)]
        rest = b',"locations":[],"members":{},"position":' + position
    else:
        rest = b"," + orjson.dumps(_spelled(orjson.loads(b"{%b}" % middle[1:])))[1:-1]
    return b'{"ami":%b,"deleted_at":null,"integer":%b,%b%b%b' % (
        ami,
        number,
        record[fields:integer],
        rest,
        record[properties:],
    )


def _spelled(raw: dict[str, Any]) -> dict[str, Any]:
    """What is spelled otherwise in the stored form: locations and image members."""
    return {
        "locations": [{"url": url, "metadata": metadata} for url, metadata in raw["locations"]],
        "members": {
            project: {"status": status, "can_share": can_share, "since": since}
            for project, (status, can_share, since, _) in raw["members"].items()
        },
        "position": raw["position"],
    }
