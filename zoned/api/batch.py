"""`POST /zone/v1/images:batchGet`: many records in one answer, each as a lookup of it alone would give it."""

from typing import Any

import orjson
import trio
from starlette.requests import Request
from starlette.responses import Response

from store.catalogue import Found
from zoned.api import documents
from zoned.api.answers import JSON, by_method, look_up, zone_of
from zoned.api.caller import Caller, caller_of
from zoned.api.problems import Problem, bad, gone, not_found
from zoned.zone import Zone

REFERENCES_MAX = 1_000
REFERENCE_CHARS_MAX = 128
AT_ONCE = 64  # looked up before others get their turn


async def batch_get(request: Request) -> Response:
    """Many records by references of any kind, in the order asked for; what is missing is said item by item."""
    zone, caller = zone_of(request), caller_of(request)
    references = _references(documents.parse_object(await request.body()))
    items: list[bytes] = []
    for start in range(0, len(references), AT_ONCE):
        items += [_item(zone, caller, one) for one in references[start : start + AT_ONCE]]
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


def _item(zone: Zone, caller: Caller, reference: str) -> bytes:
    try:
        found = _visible(zone, caller, reference)
    except Problem as problem:
        if problem.status == 503:
            raise
        said = {"reference": reference, "status": problem.status, "code": problem.code, "detail": problem.detail}
        return orjson.dumps(said)
    start = b'{"reference":%b,"status":200,"source":"%b","image":' % (
        orjson.dumps(reference),
        found.source.value.encode(),
    )
    return start + orjson.dumps(documents.native_document(found.image)) + b"}"


def _visible(zone: Zone, caller: Caller, reference: str) -> Found:
    found = look_up(zone, reference, integers=True, tombstones=True, aliases=True)
    if not caller.may_see(found.image):
        raise not_found(reference, zone.position)
    if found.image.deleted_at is not None:
        raise gone(reference, found.image.deleted_at)
    return found


routes = [by_method("/images:batchGet", POST=batch_get)]
