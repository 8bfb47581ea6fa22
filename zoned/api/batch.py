"""`POST /zone/v1/images:batchGet`: many records in one answer, each as a lookup of it alone would give it."""

from collections.abc import Callable, Sequence
from typing import Any

import orjson
import trio
from starlette.requests import Request
from starlette.responses import Response

from store.catalogue import Found
from store.images import parse_reference
from zoned.api import documents, prepared
from zoned.api.answers import JSON, STALE_MARK, by_method, check_rule, seen, zone_of
from zoned.api.caller import Caller, caller_of
from zoned.api.prepared import Sight
from zoned.api.problems import Problem, bad
from zoned.zone import Zone

REFERENCES_MAX = 1_000
REFERENCE_CHARS_MAX = 128
AT_ONCE = 64  # looked up before others get their turn
AT_ONCE_MAX = 100  # references of a request that is answered in one go, some 2 ms


async def batch_get(request: Request) -> Response:
    """Many records by references of any kind, in the order asked for; what is missing is said item by item."""
    zone, caller = zone_of(request), caller_of(request)
    references = references_of(documents.parse_object(await request.body()))
    made: list[bytes] = []
    for start in range(0, len(references), AT_ONCE):
        some = references[start : start + AT_ONCE]
        for reference, item in zip(some, items(zone.find_many, Sight(caller), some), strict=True):
            made.append(item if item is not None else _looked_up(zone, caller, reference))
        await trio.lowlevel.checkpoint()
    return Response(answer(zone.position, made), media_type=JSON)


def answer(position: int, made: list[bytes]) -> bytes:
    """The body, JSON."""
    return b'{"position":%d,"items":[%b]}' % (position, b",".join(made))


def references_of(document: dict[str, Any]) -> list[str]:
    """What a request asks for. Raises Problem."""
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


def items(
    find_many: Callable[[Sequence[str | int | None]], list[Found | None]], sight: Sight, asked: Sequence[str]
) -> list[bytes | None]:
    """Items for references; None for one that takes more than bytes: an alias, missing, not all of it seen."""
    parsed = [parse_reference(one) for one in asked]
    made: list[bytes | None] = []
    for reference, found in zip(asked, find_many(parsed), strict=True):
        document = None
        if found is not None and STALE_MARK not in found.record:
            document = sight.show(found.record, prepared.native)
            source = found.source.value.encode()
        made.append(_FOUND % (orjson.dumps(reference), source, document) if document is not None else None)
    return made


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
    document = Sight(caller).body(found, prepared.native)
    return _FOUND % (orjson.dumps(reference), found.source.value.encode(), document)


def _visible(zone: Zone, caller: Caller, reference: str) -> Found:
    found = seen(zone, caller, reference, integers=True, aliases=True)
    check_rule(zone, found.image)
    return found


routes = [by_method("/images:batchGet", POST=batch_get)]
