"""The hot lookup, answered before the router: one point read and one rendering, no ASGI, no request object.

Compute hosts ask for one record by UUID or integer, thousands of times a minute. Such a request is recognised by its
target alone; whatever is not exactly that (a query, a header that changes the answer, a record that is not there) goes
on to the application, which gives the same answer in its own time. A test compares the two.
"""

import math
import re
from collections.abc import Callable
from typing import NamedTuple, Protocol

import orjson
from starlette.requests import Request

from store.catalogue import Found
from store.images import Image, parse_reference
from zoned import clock
from zoned.api import problems, request_id
from zoned.api.answers import STALE_RULE
from zoned.api.caller import Caller
from zoned.api.documents import images_document, native_document
from zoned.api.http1 import Headers, Prepared
from zoned.api.problems import Problem
from zoned.auth.rates import Rates, too_often

V2, NATIVE = b"/v2/images/", b"/zone/v1/images/"
ASKING = frozenset(
    (b"zone-after-position", b"zone-history", b"zone-max-staleness", b"zone-on-stale")
)  # for freshness: the application's business
REFERENCE_BYTES_MAX = 36


class Readable(Protocol):
    """What is looked up in: a `zoned.zone.Zone`, or a worker's view of the same store."""

    @property
    def name(self) -> str: ...
    @property
    def position(self) -> int: ...
    @property
    def fresh_at(self) -> float | None: ...
    @property
    def history(self) -> str: ...
    def find(self, reference: str | int) -> Found | None: ...


class Moment(NamedTuple):
    """What a read that begins now can promise: the position, and the time up to which nothing is missing."""

    position: int
    fresh_at: float | None


def moment(zone: Readable) -> Moment:
    return Moment(zone.position, zone.fresh_at)


def stamps(zone: Readable, at: Moment, told_id: bytes) -> Headers:
    """The headers of every answer: where it comes from, as of when, how old it can be, and the request's ID.

    `at` is of before the data was read: what was proved since says nothing of it.
    """
    found = [(b"zone-name", zone.name.encode("latin-1")), (b"zone-position", b"%d" % at.position)]
    history = zone.history
    if history:
        found.append((b"zone-history", history.encode("latin-1")))
    if at.fresh_at is not None:
        found.append((b"zone-staleness", b"%.3f" % (math.ceil((clock.boot() - at.fresh_at) * 1_000) / 1_000)))
    found.append((request_id.HEADER, told_id))
    return found


def make_lookup(
    zone: Readable,
    tell: Callable[[Headers], Caller | None],
    count: Callable[[bool, bytes, int, str], None] | None = None,
    rates: Rates | None = None,
) -> Callable[[bytes, bytes, Headers, str], Prepared | None]:
    """A `zoned.api.server.Lookup` for this zone: an answer, or None when the application should give it.

    `tell` says who asks, from memory, or not. `count` hears of each answer: native or not, method, status, source.
    Whoever asks too often by `rates` is refused here: passing that on would cost more than answering.
    """

    def lookup(method: bytes, target: bytes, headers: Headers, client: str) -> Prepared | None:
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
        if found is None or found.image.deleted_at is not None or STALE_RULE in found.image.properties:
            return None
        caller = tell(headers)
        if caller is None or not caller.may_see(found.image):
            return None
        source, tag = found.source.value, f'"{found.image.write}"'.encode()
        stamped = b"".join([b"%b: %b\r\n" % header for header in stamps(zone, at, told_id or request_id.fresh())])
        lines = b"zone-source: %b\r\netag: %b\r\n%b" % (source.encode(), tag, stamped)
        if rates is not None and (wait_s := rates.take(caller, client)) > 0:
            answer = _refusal(too_often(wait_s), headers, render is native_document, stamped)
            source = "none"
        elif known and any(one.strip().removeprefix(b"W/") in (b"*", tag) for one in known.split(b",")):
            answer = Prepared(304, lines, b"")
        else:
            body = orjson.dumps(render(caller.view(found.image)))
            answer = Prepared(200, b"content-type: application/json\r\n" + lines, body)
        if count is not None:
            count(render is native_document, method, answer.status, source)
        return answer

    return lookup


def _refusal(problem: Problem, headers: Headers, is_native: bool, lines: bytes) -> Prepared:
    """A problem as the application would answer with it."""
    request: Request = Request({"type": "http", "headers": headers})
    told = problems.native(problem) if is_native else problems.images(problem, request)
    mine = b"".join(b"%b: %b\r\n" % one for one in told.raw_headers if one[0] != b"content-length")
    return Prepared(problem.status, mine + lines, bytes(told.body))


UUID = re.compile(rb"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")


def _uuid(text: bytes) -> str | None:
    return text.decode().lower() if UUID.fullmatch(text) else None


def _reference(text: bytes) -> str | int | None:
    return parse_reference(text.decode("latin-1")) if len(text) <= REFERENCE_BYTES_MAX else None
