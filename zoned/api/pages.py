"""`GET /v2/images` as a question to the catalogue, and its answer. No I/O."""

from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlencode

import orjson
from starlette.datastructures import QueryParams

from store.catalogue import Found
from store.listing import Page, Query, place
from zoned.api import filters, prepared
from zoned.api.caller import Caller
from zoned.api.prepared import Sight
from zoned.api.problems import bad

Find = Callable[[str], Found | None]


def question(asked: QueryParams, caller: Caller, find: Find) -> Query:
    """Raises Problem for what cannot be answered."""
    query = filters.parse(asked, caller)
    marker = asked.get("marker")
    if marker is None:
        return query
    found = find(marker.lower())
    if found is None or found.image.deleted_at is not None or not caller.may_see(found.image):
        raise bad(f"Image {marker[:80]} could not be found: the marker must be the ID of an image.", "bad-marker")
    return replace(query, after=place(found.image, query.order))


def answer(asked: QueryParams, caller: Caller, page: Page) -> bytes:
    """The body, JSON."""
    sight = Sight(caller)
    shown = [sight.body(found, prepared.images) for found in page.found]
    more = b""
    if page.more and page.found:
        more = b',"next":%b' % orjson.dumps(_link(asked, page.found[-1].image.uuid))
    first = orjson.dumps(_link(asked, None))
    return b'{"images":[%b],"first":%b,"schema":"/v2/schemas/images"%b}' % (b",".join(shown), first, more)


def _link(asked: QueryParams, marker: str | None) -> str:
    query = [(name, value) for name, value in asked.multi_items() if name != "marker"]
    if marker is not None:
        query.append(("marker", marker))
    return "/v2/images" + (f"?{urlencode(query)}" if query else "")
