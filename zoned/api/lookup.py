"""The hot lookup, answered before the router: one point read and one rendering, no ASGI, no request object.

Compute hosts ask for one record by UUID or integer, thousands of times a minute. Such a request is recognised by its
target alone; whatever is not exactly that (a query, a header that changes the answer, a record that is not there) goes
on to the application, which gives the same answer in its own time. A test compares the two.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import orjson

from store.images import Image, is_uuid, parse_reference
from zoned import clock
from zoned.api import request_id
from zoned.api.caller import Caller
from zoned.api.documents import images_document, native_document
from zoned.api.http1 import Answer, Headers
from zoned.zone import Zone

V2, NATIVE = b"/v2/images/", b"/zone/v1/images/"
ASKING = frozenset(
    (b"zone-after-position", b"zone-max-staleness", b"zone-on-stale")
)  # for freshness: the application's business
REFERENCE_BYTES_MAX = 36
JSON = (b"content-type", b"application/json")


class Moment(NamedTuple):
    """What a read that begins now can promise: the position, and the time up to which nothing is missing."""

    position: int
    fresh_at: float | None


def moment(zone: Zone) -> Moment:
    return Moment(zone.position, zone.staleness.fresh_at)


def stamps(zone: Zone, at: Moment, told_id: bytes) -> list[tuple[bytes, bytes]]:
    """The headers of every answer: where it comes from, as of when, how old it can be, and the request's ID.

    `at` is of before the data was read: what was proved since says nothing of it.
    """
    found = [(b"zone-name", zone.name.encode("latin-1")), (b"zone-position", b"%d" % at.position)]
    if zone.history:
        found.append((b"zone-history", zone.history.encode("latin-1")))
    if at.fresh_at is not None:
        found.append((b"zone-staleness", b"%.3f" % (math.ceil((clock.boot() - at.fresh_at) * 1_000) / 1_000)))
    found.append((request_id.HEADER, told_id))
    return found


def make_lookup(
    zone: Zone, tell: Callable[[Headers], Caller | None]
) -> Callable[[bytes, bytes, Headers], Answer | None]:
    """A `zoned.api.server.Lookup` for this zone: an answer, or None when the application should give it.

    `tell` says who asks, from memory, or not.
    """

    def lookup(method: bytes, target: bytes, headers: Headers) -> Answer | None:
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
        known, told_id = b"", b""
        for name, value in headers:
            if name in ASKING:
                return None
            if name == b"if-none-match":
                known += b"," + value
            elif name == request_id.HEADER:
                told_id = request_id.taken_over(value)
        at = moment(zone)
        found = zone.find(reference)
        if found is None or found.image.deleted_at is not None:
            return None
        caller = tell(headers)
        if caller is None or not caller.may_see(found.image):
            return None
        stamped = stamps(zone, at, told_id or request_id.fresh())
        tag = f'"{found.image.write}"'.encode()
        answer = [(b"zone-source", found.source.value.encode()), (b"etag", tag)]
        if known and any(one.strip().removeprefix(b"W/") in (b"*", tag) for one in known.split(b",")):
            return Answer(304, [*answer, *stamped], b"")
        return Answer(200, [*answer, JSON, *stamped], orjson.dumps(render(found.image)))

    return lookup


def _uuid(text: bytes) -> str | None:
    if len(text) != REFERENCE_BYTES_MAX:
        return None
    reference = text.decode("latin-1")
    return reference.lower() if is_uuid(reference) else None


def _reference(text: bytes) -> str | int | None:
    return parse_reference(text.decode("latin-1")) if len(text) <= REFERENCE_BYTES_MAX else None
