"""Reads answered before the router: records by ID, short lists, many records at once; no ASGI, no request object.

Compute hosts ask for one record by UUID or integer, thousands of times a minute. Such a request is recognised by its
target alone; whatever is not exactly that (a header that changes the answer, a record that is not there, a list that
is much work) goes on to the application, which gives the same answer in its own time. A test compares the two.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from starlette.datastructures import QueryParams
from starlette.requests import Request

from store.catalogue import Found
from store.images import parse_reference
from store.listing import Page, Query
from zoned import clock
from zoned.api import batch, documents, pages, prepared, problems, request_id
from zoned.api.answers import STALE_MARK
from zoned.api.caller import Caller
from zoned.api.http1 import Headers, Prepared
from zoned.api.prepared import Sight
from zoned.api.problems import Problem
from zoned.auth.rates import Rates, too_often

V2, NATIVE = b"/v2/images/", b"/zone/v1/images/"
LIST, BATCH = b"/v2/images", b"/zone/v1/images:batchGet"
# For freshness or durability: the application's business.
ASKING = frozenset(
    (b"zone-after-position", b"zone-history", b"zone-max-staleness", b"zone-on-stale", b"zone-durability")
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
    @property
    def history(self) -> str: ...
    def find(self, reference: str | int) -> Found | None: ...
    def find_many(self, references: Sequence[str | int | None]) -> list[Found | None]: ...
    def quick_page(self, query: Query) -> Page | None: ...


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
        found.append((b"zone-staleness", staleness(at.fresh_at)))
    found.append((request_id.HEADER, told_id))
    return found


def staleness(fresh_at: float) -> bytes:
    """Seconds since then, rounded up: a bound."""
    return b"%.3f" % (math.ceil((clock.boot() - fresh_at) * 1_000) / 1_000)


class _Asked(NamedTuple):
    """What the headers of a request say."""

    versions: bytes  # of If-None-Match; empty without
    told_id: bytes
    caller: Caller
    headers: Headers
    client: str


class HotReads:
    """A `zoned.api.server.Lookup` for this zone: an answer, or None when the application should give it."""

    def __init__(
        self,
        zone: Readable,
        tell: Callable[[Headers], Caller | None],
        count: Callable[[bool, bytes, int, str], None] | None = None,
        rates: Rates | None = None,
    ) -> None:
        """`tell` says who asks, from memory, or not. `count` hears of each answer: native or not, method, status,
        source (of a lookup). Whoever asks too often by `rates` is refused here: passing that on would cost more than
        answering.
        """
        self._zone = zone
        self._tell = tell
        self._count = count
        self._rates = rates
        self._stood: tuple[int, str] = (-1, "")
        self._standing = b""

    def __call__(self, method: bytes, target: bytes, headers: Headers, client: str, body: bytes) -> Prepared | None:
        if not self._zone.position:
            return None  # the application says that what it knows is not all
        if method == b"POST":
            return self._many(headers, client, body) if target == BATCH else None
        if target.startswith(V2):
            uuid = target[len(V2) :]
            return self._one(method, uuid.decode().lower(), headers, client, False) if UUID.fullmatch(uuid) else None
        if target.startswith(NATIVE):
            reference = _reference(target[len(NATIVE) :])
            return self._one(method, reference, headers, client, True) if reference is not None else None
        path, _, query = target.partition(b"?")
        return self._page(method, query, headers, client) if path == LIST else None

    def _one(
        self, method: bytes, reference: str | int, headers: Headers, client: str, is_native: bool
    ) -> Prepared | None:
        asked = self._asked(headers, client)
        if asked is None:
            return None
        at = moment(self._zone)
        found = self._zone.find(reference)
        if found is None or STALE_MARK in found.record:
            return None
        make = prepared.native if is_native else prepared.images
        sight = Sight(asked.caller)
        document = sight.show(found.record, make)
        if document is None:
            if found.image.deleted_at is not None or not asked.caller.may_see(found.image):
                return None
            document = sight.body(found, make)
        return self._shown(method, found, asked, is_native, at, document)

    def _shown(
        self, method: bytes, found: Found, asked: _Asked, is_native: bool, at: Moment, document: bytes
    ) -> Prepared:
        source, tag = found.source.value, b'"%b"' % prepared.write_of(found.record)
        stamped = self._lines(at, asked.told_id)
        lines = b"zone-source: %b\r\netag: %b\r\n%b" % (source.encode(), tag, stamped)
        known = asked.versions
        if known and any(one.strip().removeprefix(b"W/") in (b"*", tag) for one in known.split(b",")):
            answer = Prepared(304, lines, b"", source)
        else:
            answer = Prepared(200, JSON_LINE + lines, document, source)
        return self._counted(answer, is_native, method, asked, stamped)

    def _page(self, method: bytes, query: bytes, headers: Headers, client: str) -> Prepared | None:
        """A list that is little work."""
        asked = self._asked(headers, client)
        if asked is None or b"consistent" in query or self._is_over(asked):
            return None
        at = moment(self._zone)
        wanted = QueryParams(query.decode("latin-1"))
        try:
            page = self._zone.quick_page(pages.question(wanted, asked.caller, self._zone.find))
        except Problem:
            return None
        if page is None:
            return None
        lines = self._lines(at, asked.told_id)
        answer = Prepared(200, JSON_LINE + lines, pages.answer(wanted, asked.caller, page))
        return self._counted(answer, False, method, asked, lines)

    def _many(self, headers: Headers, client: str, body: bytes) -> Prepared | None:
        """Records by many references, all of them plain."""
        asked = self._asked(headers, client)
        if asked is None or self._is_over(asked):
            return None
        try:
            references = batch.references_of(documents.parse_object(body))
        except Problem:
            return None
        if len(references) > batch.AT_ONCE_MAX:
            return None
        at = moment(self._zone)
        made = [item for item in batch.items(self._zone.find_many, Sight(asked.caller), references) if item is not None]
        if len(made) < len(references):
            return None
        lines = self._lines(at, asked.told_id)
        answer = Prepared(200, JSON_LINE + lines, batch.answer(at.position, made))
        return self._counted(answer, True, b"POST", asked, lines)

    def _is_over(self, asked: _Asked) -> bool:
        """Whether the caller will be refused: before work that costs more than to pass the request on."""
        return self._rates is not None and self._rates.is_over(asked.caller, asked.client)

    def _counted(self, answer: Prepared, is_native: bool, method: bytes, asked: _Asked, lines: bytes) -> Prepared:
        """What is answered in the end; only what is not left to the application counts for the caller's rate."""
        if self._rates is not None and (wait_s := self._rates.take(asked.caller, asked.client)) > 0:
            refusal = _refusal(too_often(wait_s), asked.headers, is_native, lines)
            answer = refusal._replace(source="none" if answer.source else "")
        if self._count is not None:
            self._count(is_native, method, answer.status, answer.source)
        return answer

    def _asked(self, headers: Headers, client: str) -> _Asked | None:
        versions, told_id = b"", b""
        for name, value in headers:
            if name in ASKING:
                return None
            if name == b"if-none-match":
                versions += b"," + value
            elif name == request_id.HEADER:
                told_id = request_id.taken_over(value)
        caller = self._tell(headers)
        return _Asked(versions, told_id, caller, headers, client) if caller is not None else None

    def _lines(self, at: Moment, told_id: bytes) -> bytes:
        """`stamps` as they go on the wire."""
        zone = self._zone
        stands = (at.position, zone.history)
        if stands != self._stood:
            lines = stamps(zone, Moment(at.position, None), b"")[:-1]
            self._stood, self._standing = stands, b"".join([b"%b: %b\r\n" % header for header in lines])
        told = b"%b: %b\r\n" % (request_id.HEADER, told_id or request_id.fresh())
        if at.fresh_at is None:
            return self._standing + told
        return b"%bzone-staleness: %b\r\n%b" % (self._standing, staleness(at.fresh_at), told)


def _refusal(problem: Problem, headers: Headers, is_native: bool, lines: bytes) -> Prepared:
    """A problem as the application would answer with it."""
    request: Request = Request({"type": "http", "headers": headers})
    told = problems.native(problem) if is_native else problems.images(problem, request)
    mine = b"".join(b"%b: %b\r\n" % one for one in told.raw_headers if one[0] != b"content-length")
    return Prepared(problem.status, mine + lines, bytes(told.body))


JSON_LINE = b"content-type: application/json\r\n"
UUID = re.compile(rb"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")


def _reference(text: bytes) -> str | int | None:
    return parse_reference(text.decode("latin-1")) if len(text) <= REFERENCE_BYTES_MAX else None
