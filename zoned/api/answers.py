"""What native and Images API routes share: bodies in, records and writes out."""

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from store.catalogue import Found
from store.images import Image, is_alias_name, parse_reference
from store.operations import Operation
from zoned.api import problems
from zoned.api.caller import Caller, caller_of
from zoned.api.problems import STATUSES, Problem
from zoned.proxy import Submitted
from zoned.zone import Zone

JSON = "application/json"


def reply(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(document), status, headers, JSON)


Endpoint = Callable[[Request], Awaitable[Response]]


class MethodRoute(Route):
    """A route that knows who answers which method (for the OpenAPI document)."""

    handlers: Mapping[str, Endpoint]


def by_method(path: str, **handlers: Endpoint) -> MethodRoute:
    """One route for a path, so that a 405 names every method that works there. HEAD is answered as GET by default."""

    async def dispatch(request: Request) -> Response:
        handler = handlers.get(request.method) or handlers["GET"]
        return await handler(request)

    route = MethodRoute(path, dispatch, methods=list(handlers))
    route.handlers = handlers
    return route


def check_no_body(request: Request) -> None:
    """Raises Problem when there is a body, where none means anything."""
    if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
        raise problems.bad("a body is not expected here", "bad-body")


def zone_of(request: Request) -> Zone:
    zone: Zone = request.app.state.zone
    return zone


def look_up(zone: Zone, reference: str, *, integers: bool, tombstones: bool = False, aliases: bool = False) -> Found:
    """The record. Raises Problem: 404 never existed, 410 deleted (unless asked for), 503 this zone cannot know yet.

    A UUID always names one; integers and EC2 names, and aliases, do where that is asked for.
    """
    parsed = parse_reference(reference)
    if parsed is None and aliases and is_alias_name(reference):
        alias = zone.alias(reference)
        parsed = alias.target(zone.name) if alias is not None else None
    found = zone.find(parsed) if parsed is not None and (integers or isinstance(parsed, str)) else None
    if found is None:
        raise problems.not_found(reference, zone.position) if zone.is_synced else problems.unsynced()
    if found.image.deleted_at is not None and not tombstones:
        raise problems.gone(reference, found.image.deleted_at, found.image.successor)
    return found


# A property by which an image says how old, in seconds, a zone's knowledge may be that still serves it.
STALE_RULE = "zoned_stale_max_s"
STALE_MARK = f'"{STALE_RULE}"'.encode()  # in the stored form of every record that has it, and of few others


def check_rule(zone: Zone, image: Image) -> None:
    """Raises Problem 503 when this zone may be too far behind for this image: it may have been switched off since."""
    said = image.properties.get(STALE_RULE)
    if said is None:
        return
    most_s = int(said) if said.isascii() and said.isdigit() and len(said) <= 9 else 0
    bound_s = zone.staleness.bound_s
    if bound_s is not None and bound_s <= most_s:
        return
    known = f"may be {bound_s:.0f} s behind" if bound_s is not None else "cannot say how far behind it is"
    detail = f"this zone {known}, and image {image.uuid} says {STALE_RULE} {said[:20]}; ask a zone that has a registry"
    raise Problem(503, "stale", detail, {"Retry-After": str(problems.RETRY_AFTER_S)})


def seen(
    zone: Zone, caller: Caller, reference: str, *, integers: bool, tombstones: bool = False, aliases: bool = False
) -> Found:
    """As `look_up`; a record that the caller may not see was never there, deleted or not: "gone" would tell of it."""
    found = look_up(zone, reference, integers=integers, tombstones=True, aliases=aliases)
    if not caller.may_see(found.image):
        raise problems.not_found(reference, zone.position)
    if found.image.deleted_at is not None and not tombstones:
        raise problems.gone(reference, found.image.deleted_at, _successor(zone, caller, found.image))
    return found


def _successor(zone: Zone, caller: Caller, image: Image) -> str | None:
    next_one = zone.find(image.successor) if image.successor is not None else None
    return image.successor if next_one is not None and caller.may_see(next_one.image) else None


def visible(request: Request, *, tombstones: bool = False) -> Found:
    """The record that a native path names. Raises Problem: one that the caller may not see was never there."""
    zone, reference = zone_of(request), request.path_params["reference"]
    found = seen(zone, caller_of(request), reference, integers=True, tombstones=tombstones, aliases=True)
    check_rule(zone, found.image)
    return found


def record_headers(found: Found) -> dict[str, str]:
    return {"Zone-Source": found.source.value, "ETag": f'"{found.image.write}"'}


def is_not_modified(request: Request, found: Found) -> bool:
    """If-None-Match names the version that the client has (RFC 9110, section 13.1.2)."""
    asked = request.headers.get("if-none-match", "").split(",")
    return any(tag.strip().removeprefix("W/") in ("*", f'"{found.image.write}"') for tag in asked)


def if_match(request: Request) -> str | None:
    """The write that If-Match names, None without the header. Raises Problem for what is no entity tag of ours."""
    asked = request.headers.get("if-match")
    if asked is None or asked.strip() == "*":
        return None
    tag = asked.strip()
    if len(tag) < 3 or tag[0] != '"' or tag[-1] != '"' or '"' in tag[1:-1]:
        raise problems.bad(
            'If-Match must be one entity tag in quotes, as the ETag of an answer, or "*"', "bad-if-match"
        )
    return tag[1:-1]


async def write(zone: Zone, operation: Operation) -> Submitted:
    """Submits, and raises Problem if the outcome is known already and is not good."""
    submitted = await zone.submit(operation)
    receipt = submitted.receipt
    if receipt is not None and receipt.state in ("refused", "conflict", "dropped"):
        raise Problem(STATUSES.get(receipt.code, 409), receipt.code, receipt.detail, write_headers(zone, submitted))
    return submitted


def write_headers(zone: Zone, submitted: Submitted) -> dict[str, str]:
    return {"Zone-Write": f"{submitted.write_id}; state={submitted.state}"}


def runway_header(zone: Zone) -> dict[str, str]:
    """How many days this zone's integers last; left out while nothing was ever taken."""
    days = zone.runway_days()
    return {"Zone-Id-Runway-Days": str(math.floor(days))} if days is not None else {}


def query_integer(request: Request, name: str, default: int, low: int, high: int) -> int:
    """A whole number from the query, cut to `high`. Raises Problem below `low` or for text."""
    return integer_of(request.query_params, name, default, low, high)


def integer_of(asked: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    """The same, from what was asked."""
    text = asked.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) < low:
        raise problems.bad(f"{name} param must be an integer of at least {low}, is {text[:40]!r}", "bad-query")
    return min(int(text), high)
