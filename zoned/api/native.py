"""The native API, `/zone/v1`: records by UUID or integer, receipts, IDs, zones, status; and `/livez`, `/readyz`.

Errors are problem+json with a stable code. 404 means "never existed as of that position", 410 "deleted", 503 "ask
again".
"""

from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from store.images import format_ami
from store.listing import NEWEST, Query, place
from store.operations import Delete
from zoned import clock
from zoned.api import documents, prepared, problems
from zoned.api.answers import (
    JSON,
    by_method,
    if_match,
    is_not_modified,
    query_integer,
    record_headers,
    reply,
    runway_header,
    seen,
    visible,
    write,
    write_headers,
    zone_of,
)
from zoned.api.caller import Asked, caller_of
from zoned.api.filters import viewer
from zoned.api.prepared import Sight
from zoned.api.problems import Problem, bad
from zoned.origin import new_uuid
from zoned.receipts import STEPS, Told
from zoned.zone import Zone

LIST_DEFAULT = 100
LIST_MAX = 1_000
WAIT_MAX_S = 60.0


async def show(request: Request) -> Response:
    found = visible(request)
    if is_not_modified(request, found):
        return Response(None, 304, record_headers(found))
    body = Sight(caller_of(request)).body(found, prepared.native)
    return Response(body, headers=record_headers(found), media_type=JSON)


async def index(request: Request) -> Response:
    zone = zone_of(request)
    limit = query_integer(request, "limit", LIST_DEFAULT, 1, LIST_MAX)
    after, caller = None, caller_of(request)
    marker = request.query_params.get("marker")
    if marker is not None:
        # One that was deleted meanwhile still has its place.
        after = place(seen(zone, caller, marker, integers=True, tombstones=True).image, NEWEST)
    page = await zone.page(Query(limit, after=after, hidden=None, viewer=viewer(caller, "all")))
    return reply(
        {
            "images": [documents.native_document(caller.view(found.image)) for found in page.found],
            "next": page.found[-1].image.uuid if page.more else None,
            "position": zone.position,
            "complete": zone.is_synced,
        }
    )


async def register(request: Request) -> Response:
    """Registers an image. 201 when committed, 202 when buffered; the same content again is the same image again."""
    zone, caller = zone_of(request), caller_of(request)
    caller.check_creates()
    document = documents.parse_object(await request.body())
    document.setdefault("owner", caller.project)
    operation = documents.native_create(document, new_uuid())
    caller.check_visibility(operation.fields.get("visibility"))
    caller.check_owner(operation.fields.get("owner"))
    caller.check_locations(Asked(operation.fields), operation.locations)
    submitted = await write(zone, operation)
    assert submitted.image is not None
    headers = {
        "Location": f"/zone/v1/writes/{submitted.write_id}",
        **write_headers(zone, submitted),
        **runway_header(zone),
    }
    body = {**documents.native_document(caller.view(submitted.image)), "state": submitted.state}
    return reply(body, 202 if submitted.state == "buffered" else 201, headers)


async def delete(request: Request) -> Response:
    """Leaves a tombstone; `successor` says which image to use instead."""
    zone, found = zone_of(request), visible(request)
    caller_of(request).check("images.delete", found.image, "delete this image")
    named = request.query_params.get("successor")
    successor = seen(zone, caller_of(request), named, integers=True, aliases=True).image.uuid if named else None
    if successor == found.image.uuid:
        raise bad("an image cannot be its own successor", "bad-query")
    at = clock.text(clock.wall())
    submitted = await write(zone, Delete(found.image.uuid, at, if_match(request), successor=successor))
    body = {"uuid": found.image.uuid, "state": submitted.state}
    return reply(body, 202 if submitted.state == "buffered" else 200, write_headers(zone, submitted))


async def show_id(request: Request) -> Response:
    """The mapping both ways, for a UUID, an integer or an EC2 name; tombstones keep theirs."""
    zone, image = zone_of(request), visible(request, tombstones=True).image
    integer = image.integer
    return reply(
        {
            "uuid": image.uuid,
            "integer": integer,
            "ami": format_ami(integer) if integer is not None else None,
            "deleted_at": image.deleted_at,
            "successor": image.successor,
            "granted": zone.granted(integer) if integer is not None else None,
        }
    )


async def ids(request: Request) -> Response:
    return reply(await zone_of(request).ids_outlook())


async def zones(request: Request) -> Response:
    return reply({"zones": zone_of(request).zones()})


async def status(request: Request) -> Response:
    return reply(zone_of(request).status())


async def writes(request: Request) -> Response:
    zone = zone_of(request)
    waiting = request.query_params.get("state") == "journaled"
    receipts = await zone.last_receipts(query_integer(request, "limit", LIST_DEFAULT, 1, LIST_MAX), waiting)
    told = [await zone.receipts.tell(receipt, look=False) for receipt in receipts]
    return reply({"writes": [_receipt(zone, one) for one in told], "journal": zone.journal_status()})


async def show_write(request: Request) -> Response:
    """A receipt; `wait=30s` waits until it is committed, or as far as `until` says."""
    zone, write_id = zone_of(request), request.path_params["write_id"]
    until = request.query_params.get("until", "committed")
    if until not in STEPS:
        raise bad(f"until must be one of {', '.join(STEPS)}, is {until[:40]!r}", "bad-query")
    wait_s = _seconds(request.query_params.get("wait", "0"))
    receipt = zone.receipts.find(write_id)
    told = await zone.receipts.wait(receipt.sequence, until, wait_s) if receipt is not None else None
    if told is None:
        raise Problem(404, "not-found", f"this node keeps no receipt {write_id[:80]}; ask the node that gave it")
    return reply(_receipt(zone, told))


def _seconds(text: str) -> float:
    number = text.removesuffix("s")
    if not number.isascii() or not number.isdigit() or len(number) > 4 or int(number) > WAIT_MAX_S:
        raise bad(f"wait must be 0 to {WAIT_MAX_S:.0f} seconds, as 30s, is {text[:40]!r}", "bad-query")
    return float(number)


def _receipt(zone: Zone, told: Told) -> dict[str, Any]:
    receipt = told.receipt
    document = {**asdict(receipt), "state": told.state, "at": clock.text(receipt.at)}
    document["finished_at"] = clock.text(receipt.finished_at) if receipt.finished_at is not None else None
    return {
        "id": zone.write_id(receipt.sequence),
        **document,
        "shared": [{"node_id": node, "zone": zone.receipts.zone_of(node)} for node in told.shared],
        "seen": {name: clock.text(at) for name, at in sorted(told.seen.items())},
        "unseen": list(told.unseen),
    }


async def livez(request: Request) -> Response:
    """The event loop turns; nothing else is claimed."""
    return PlainTextResponse("ok\n")


async def readyz(request: Request) -> Response:
    """The local store answers and this node is not draining. Never: whether a registry is reachable."""
    zone = zone_of(request)
    zone.check_store()
    if zone.draining:
        raise Problem(503, "draining", "this node is draining; use another node of the zone")
    return PlainTextResponse("ready\n")


async def on_problem(request: Request, error: Exception) -> Response:
    """Expected errors of these routes."""
    return problems.native(problems.from_error(error))


routes = [
    by_method("/images", POST=register, GET=index),
    by_method("/images/{reference}", GET=show, DELETE=delete),
    by_method("/ids", GET=ids),
    by_method("/ids/{reference}", GET=show_id),
    by_method("/zones", GET=zones),
    by_method("/status", GET=status),
    by_method("/writes", GET=writes),
    by_method("/writes/{write_id}", GET=show_write),
]
