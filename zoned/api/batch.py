"""`POST /zone/v1/images:batchGet`: many records in one answer, each as a lookup of it alone would give it."""

from typing import Any

import orjson
import trio
from starlette.requests import Request
from starlette.responses import Response

from store.catalogue import Found
from store.images import parse_reference
from zoned.api import documents, prepared
from zoned.api.answers import JSON, STALE_RULE, by_method, check_rule, seen, zone_of
from zoned.api.caller import Caller, caller_of
from zoned.api.problems import Problem, bad
from zoned.zone import Zone

REFERENCES_MAX = 1_000
REFERENCE_CHARS_MAX = 128
AT_ONCE = 64  # looked up before others get their turn
# Who may all of this, whatever the image, gets records as they are stored; for others `Caller.view` leaves things out.
_SHOWN_WHOLE = ("images.show", "images.see_locations", "images.see_location_secrets", "images.see_members")


async def batch_get(request: Request) -> Response:
    """Many records by references of any kind, in the order asked for; what is missing is said item by item."""
    zone, caller = zone_of(request), caller_of(request)
    references = _references(documents.parse_object(await request.body()))
    sees_all = all(map(caller.may, _SHOWN_WHOLE))  # whatever the image is
    items: list[bytes] = []
    for start in range(0, len(references), AT_ONCE):
        items += [_item(zone, caller, one, sees_all) for one in references[start : start + AT_ONCE]]
        await trio.lowlevel.checkpoint()
    return Response(b'{"position":%d,"items":[%b]}' % (zone.position, b",".join(items)), media_type=JSON)


def _references(document: dict[str, Any]) -> list[str]:
    asked = document.get("references")
    if not isinstance(asked, list) or set(document) != {"references"}:
        raise bad('{"references": [...]} is expected: UUIDs, integers, EC2 names or aliases', "bad-body")
    if len(asked) > REFERENCES_MAX:
        raise Problem(413, "too-many-references", f"at most {REFERENCES_MAX} references, not {len(asked)}")
    for one in asked:
        if type(one) not in (str, int) or len(str(one)) > REFERENCE_CHARS_MAX:
            detail = f"a reference is a text or an integer of at most {REFERENCE_CHARS_MAX} characters"
            raise bad(f"{detail}, not {documents.shown(one)}", "bad-reference")
    return [str(one) for one in asked]


def _item(zone: Zone, caller: Caller, reference: str, sees_all: bool) -> bytes:
    parsed = parse_reference(reference) if sees_all else None
    found = zone.find_record(parsed) if parsed is not None else None
    ruled = found is not None and _RULED in found[0]
    document = prepared.native(found[0]) if found is not None and not ruled else None
    if found is not None and document is not None:
        return _FOUND % (orjson.dumps(reference), found[1].value.encode(), document)
    return _looked_up(zone, caller, reference)


_RULED = f'"{STALE_RULE}"'.encode()  # a record that may have this property takes the longer way
_FOUND = b'{"reference":%b,"status":200,"source":"%b","image":%b}'


def _looked_up(zone: Zone, caller: Caller, reference: str) -> bytes:
    """An item that takes more: an alias, an image that not everybody sees, one that is missing."""
    try:
        found = _visible(zone, caller, reference)
    except Problem as problem:
        if problem.code == "unsynced":
            raise
        said = {"reference": reference, "status": problem.status, "code": problem.code, "detail": problem.detail}
        return orjson.dumps(said)
    document = orjson.dumps(documents.native_document(caller.view(found.image)))
    return _FOUND % (orjson.dumps(reference), found.source.value.encode(), document)


def _visible(zone: Zone, caller: Caller, reference: str) -> Found:
    found = seen(zone, caller, reference, integers=True, aliases=True)
    check_rule(zone, found.image)
    return found


routes = [by_method("/images:batchGet", POST=batch_get)]
