"""Documents straight from a record's stored form, without reading the JSON. No I/O.

The canonical form (`store.images.Image.encode`) is compact JSON with sorted keys, and nearly all of either document
stands in it as it is. Inside a JSON text every quote is escaped, so a quoted name followed by a colon can only be a
key; the marks below are unique where they are looked for. `native_document` and `images_document` of the decoded record
say the same; a test compares them.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import orjson

from store.catalogue import Found
from store.images import format_ami
from zoned.api.caller import Caller
from zoned.api.documents import images_document, locations_document, native_document

_DELETED, _FIELDS = b'"deleted_at":', b'"deleted_at":null,"fields":{'
_INTEGER, _LOCATIONS, _PROPERTIES = b'},"integer":', b',"locations":', b',"properties":{'
_NO_MEMBERS, _PRESENCE = b',"members":{},"position":', b',"presence":'
_NO_LOCATIONS, _ONE_LOCATION, _END = b',"locations":[]', b',"locations":[["', b']],"members":'
_TAGS, _UUID, _WRITE = b'},"tags":[', b'],"uuid":"', b'","write":"'
_OWNER, _PROTECTED, _VISIBILITY = b',"owner":', b',"protected":', b',"visibility":"'
_BARE = _NO_LOCATIONS + _NO_MEMBERS
UUID_CHARS = 36
# Who may all of this of an image gets its record as it is stored.
_WHOLE = ("images.show", "images.see_locations", "images.see_location_secrets", "images.see_members")


class Cut(NamedTuple):
    """A live record's canonical form, cut where documents differ from it. All are pieces of JSON."""

    fields: bytes  # the base attributes, without braces
    integer: bytes
    middle: bytes  # ,"locations":...,"members":...,"position":...,"presence":...
    rest: bytes  # ,"properties":{...},"tags":[...],"uuid":"...","write":"..."}


def cut(record: bytes) -> Cut | None:
    """None of a tombstone, or of what is not as it is known here."""
    start = record.find(_DELETED)
    fields = start + len(_FIELDS)
    integer = record.find(_INTEGER, fields)
    locations = record.find(_LOCATIONS, integer)
    properties = record.rfind(_PROPERTIES)
    if not record.startswith(_FIELDS, start) or not fields <= integer <= locations <= properties:
        return None
    return Cut(
        record[fields:integer],
        record[integer + len(_INTEGER) : locations],
        record[locations:properties],
        record[properties:],
    )


def write_of(record: bytes) -> bytes:
    """The write that changed it last: the text that stands at the end."""
    return record[record.rindex(_WRITE) + len(_WRITE) : -2]


def native(parts: Cut) -> bytes:
    """The native document."""
    number, plain = parts.integer, _plain(parts.middle)
    ami = b'"%b"' % format_ami(int(number)).encode() if number != b"null" else b"null"
    if plain is not None:
        located = b'{"url":"%b","metadata":%b}' % plain[:2] if plain.metadata else b""
        spelled = b',"locations":[%b],"members":{},"position":%b' % (located, plain.position)
    else:
        spelled = b"," + orjson.dumps(_spelled(orjson.loads(b"{%b}" % parts.middle[1:])))[1:-1]
    return b'{"ami":%b,"deleted_at":null,"integer":%b,%b%b%b' % (ami, number, parts.fields, spelled, parts.rest)


def images(parts: Cut) -> bytes:
    """The document of the Images API v2.

    Attributes stand behind the properties, so that they win over a property of the same name; none such is let in.
    """
    fields, number, middle, rest = parts
    tags, uuid_at = rest.rfind(_TAGS), rest.rfind(_UUID)
    uuid = rest[uuid_at + len(_UUID) : uuid_at + len(_UUID) + UUID_CHARS]
    properties = rest[len(_PROPERTIES) : tags]
    if middle.startswith(_NO_LOCATIONS):
        located = b'"locations":[]'
    elif (plain := _plain(middle)) is not None and b'"store":' not in plain.metadata:
        located = b'"locations":[{"url":"%b","metadata":%b}],"direct_url":"%b"' % (*plain[:2], plain.url)
    else:
        located = orjson.dumps(locations_document(orjson.loads(b"{%b}" % middle[1:])["locations"]))[1:-1]
    return (
        b'{%b%b%b,"id":"%b",%b],%b,"self":"/v2/images/%b","file":"/v2/images/%b/file","schema":"/v2/schemas/image"'
        b',"zoned_id":%b}'
    ) % (properties, b"," if properties else b"", fields, uuid, rest[tags + 2 : uuid_at], located, uuid, uuid, number)


class _Plain(NamedTuple):
    """The middle of a record with no image member, and at most one location, whose metadata hold no list."""

    url: bytes  # without quotes
    metadata: bytes  # empty: no location
    position: bytes


def _plain(middle: bytes) -> _Plain | None:
    url = metadata = b""
    at = len(_NO_LOCATIONS)
    if not middle.startswith(_NO_LOCATIONS):
        url_end = middle.find(b'"', len(_ONE_LOCATION))
        # Without a list inside, the first two brackets in front of the key are the ends of [[URL,METADATA]].
        at = middle.find(_END, url_end) + 2
        url, metadata = middle[len(_ONE_LOCATION) : url_end], middle[url_end + 2 : at - 2]
        if at < url_end or b"\\" in url or b"[" in metadata or not middle.startswith(_ONE_LOCATION):
            return None
    if not middle.startswith(_NO_MEMBERS, at):
        return None
    at += len(_NO_MEMBERS)
    return _Plain(url, metadata, middle[at : middle.index(_PRESENCE, at)])


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


class Outline:
    """What the policy looks at in a record (`zoned.policy.Owned`)."""

    __slots__ = ("_middle", "fields")

    def __init__(self, parts: Cut) -> None:
        fields, self._middle = parts.fields, parts.middle
        owner, visibility = fields.rfind(_OWNER) + len(_OWNER), fields.rfind(_VISIBILITY) + len(_VISIBILITY)
        self.fields: Mapping[str, object] = {
            "owner": orjson.loads(fields[owner : fields.index(_PROTECTED, owner)]),
            "visibility": fields[visibility:-1].decode(),
        }

    @property
    def members(self) -> Mapping[str, object]:
        if _NO_MEMBERS in self._middle and _plain(self._middle) is not None:
            return {}
        members: Mapping[str, object] = orjson.loads(b"{%b}" % self._middle[1:])["members"]
        return members


class Sight:
    """What one caller sees of records, found out once for many of them."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.is_whole = all(map(caller.may, _WHOLE))  # whatever the image

    def show(self, record: bytes, make: Callable[[Cut], bytes]) -> bytes | None:
        """The document of a record asked for by its ID.

        None when that takes more than bytes: of a tombstone, and where the caller does not see all of it.
        """
        parts = cut(record)
        if parts is None or self.is_whole:
            return make(parts) if parts is not None else None
        outline = Outline(parts)
        if not self.caller.policy.allows("images.show", self.caller, outline):
            return None
        return make(parts) if self._sees_rest(parts, outline) else None

    def body(self, found: Found, make: Callable[[Cut], bytes]) -> bytes:
        """The document of a record that the caller may see, whatever that takes."""
        seen = self.view(found.record, make)
        if seen is not None:
            return seen
        render = native_document if make is native else images_document
        return orjson.dumps(render(self.caller.view(found.image)))

    def view(self, record: bytes, make: Callable[[Cut], bytes]) -> bytes | None:
        """The same of a record in a list, which holds only what the caller may see."""
        parts = cut(record)
        if parts is None or not (self.is_whole or self._sees_rest(parts, None)):
            return None
        return make(parts)

    def _sees_rest(self, parts: Cut, outline: Outline | None) -> bool:
        """Whether nothing is to be left out of it: where its bytes are, and whom it is shared with."""
        if parts.middle.startswith(_BARE):
            return True
        seen, policy = outline or Outline(parts), self.caller.policy
        if not parts.middle.startswith(_NO_LOCATIONS):
            if not policy.allows("images.see_locations", self.caller, seen):
                return False
            may_hide = b"@" in parts.middle or b"?" in parts.middle  # without these a URL has no secrets
            if may_hide and not policy.allows("images.see_location_secrets", self.caller, seen):
                return False
        return not seen.members or policy.allows("images.see_members", self.caller, seen)
