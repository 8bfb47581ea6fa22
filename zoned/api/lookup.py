"""The hot lookup, answered before the router: one point read and one rendering, no ASGI, no request object.

Compute hosts ask for one record by UUID or integer, thousands of times a minute. Such a request is recognised by its
target alone; whatever is not exactly that (a query, a header that changes the answer, a record that is not there) goes
on to the application, which gives the same answer in its own time. A test compares the two.
"""

import math
import re
import uuid
from collections.abc import Callable
from typing import NamedTuple, Protocol

import orjson

from store.catalogue import Found
from store.images import Image, parse_reference
from zoned import clock
from zoned.api.documents import images_document, native_document
from zoned.api.http1 import Headers, Prepared

V2, NATIVE = b"/v2/images/", b"/zone/v1/images/"
# Headers that take rights away or ask for freshness: the application's business.
TELLING = frozenset(
    (
        *(b"x-project-id", b"x-tenant-id", b"x-roles"),
        *(b"zone-after-position", b"zone-max-staleness", b"zone-on-stale"),
    )
)
REFERENCE_BYTES_MAX = 36


class Readable(Protocol):
    """What is looked up in: a `zoned.zone.Zone`, or a worker's view of the same store."""

    @property
    def name(self) -> str: ...
    @property
    def position(self) -> int: ...
    @property
    def fresh_at(self) -> float | None: ...
    def find(self, reference: str | int) -> Found | None: ...


class Moment(NamedTuple):
    """What a read that begins now can promise: the position, and the time up to which nothing is missing."""

    position: int
    fresh_at: float | None


def moment(zone: Readable) -> Moment:
    return Moment(zone.position, zone.fresh_at)


class Stamps:
    """The header lines of every answer: where it comes from, as of when, how old it can be, and a request ID.

    `at` is of before the data was read: what was proved since says nothing of it.
    """

    def __init__(self, name: str) -> None:
        self._name = name.encode("latin-1")
        self._prefix = b"req-" + str(uuid.uuid4())[:24].encode()
        self._requests = 0

    def headers(self, at: Moment) -> Headers:
        found = [(b"zone-name", self._name), (b"zone-position", b"%d" % at.position)]
        if at.fresh_at is not None:
            found.append((b"zone-staleness", _bound(at.fresh_at)))
        found.append((b"x-openstack-request-id", self._request_id()))
        return found

    def lines(self, at: Moment) -> bytes:
        """The same, each with its CRLF."""
        return b"".join([b"%b: %b\r\n" % header for header in self.headers(at)])

    def _request_id(self) -> bytes:
        """A UUID's form, as OpenStack's tools expect it: random for each process, then a count."""
        self._requests += 1
        return b"%b%012x" % (self._prefix, self._requests)


def _bound(fresh_at: float) -> bytes:
    return b"%.3f" % (math.ceil((clock.boot() - fresh_at) * 1_000) / 1_000)


def make_lookup(zone: Readable) -> Callable[[bytes, bytes, Headers], Prepared | None]:
    """A `zoned.api.server.Lookup` for this zone: an answer, or None when the application should give it."""
    stamps = Stamps(zone.name)

    def lookup(method: bytes, target: bytes, headers: Headers) -> Prepared | None:
        if target.startswith(V2):
            reference: str | int | None = _uuid(target[len(V2) :])
            render: Callable[[Image], object] = images_document
        elif target.startswith(NATIVE):
            reference = _reference(target[len(NATIVE) :])
            render = native_document
        else:
            return None
        if reference is None:
            return None
        known = b""
        for name, value in headers:
            if name in TELLING:
                return None
            if name == b"if-none-match":
                known += b"," + value
        at = moment(zone)
        found = zone.find(reference)
        if found is None or found.image.deleted_at is not None:
            return None
        tag = f'"{found.image.write}"'.encode()
        lines = b"zone-source: %b\r\netag: %b\r\n" % (found.source.value.encode(), tag)
        if known and any(one.strip().removeprefix(b"W/") in (b"*", tag) for one in known.split(b",")):
            return Prepared(304, lines + stamps.lines(at), b"")
        body = orjson.dumps(render(found.image))
        return Prepared(200, b"%bcontent-type: application/json\r\n%b" % (lines, stamps.lines(at)), body)

    return lookup


UUID = re.compile(rb"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")


def _uuid(text: bytes) -> str | None:
    return text.decode().lower() if UUID.fullmatch(text) else None


def _reference(text: bytes) -> str | int | None:
    return parse_reference(text.decode("latin-1")) if len(text) <= REFERENCE_BYTES_MAX else None
