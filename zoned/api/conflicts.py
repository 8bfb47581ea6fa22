"""The conflict ledger over HTTP: what concurrent writes did not get, and how a person resolved it.

An entry is the same on every node. Resolving is a write like any other: it is journaled, ordered, recorded with who and
when, and can itself meet a change that was made meanwhile.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from store.conflicts import ALIAS, Conflict, field_of, resolving, resolving_alias
from store.operations import Point, Update
from zoned import clock
from zoned.api import documents
from zoned.api.answers import by_method, look_up, query_integer, reply, write, write_headers, zone_of
from zoned.api.caller import caller_of
from zoned.api.problems import Problem, bad
from zoned.masking import masked_within
from zoned.zone import Zone

LIST_DEFAULT, LIST_MAX = 100, 1_000
TAKES = ("ours", "theirs", "value")


def document(found: Conflict) -> dict[str, Any]:
    resolved = None
    if found.take is not None:
        resolved = {
            "take": found.take,
            "at": found.resolved_at,
            "by": found.resolved_by,
            "zone": found.resolved_zone,
            "write": found.resolved_write,
            "note": found.note,
        }
    return {
        "id": found.number,
        "state": "open" if found.take is None else "resolved",
        "uuid": found.uuid,
        "what": found.what,
        "ours": {"value": found.committed, "write": found.committed_write},
        "theirs": {
            "value": found.wanted,
            "write": f"{found.node}.{found.sequence}",
            "zone": found.zone,
            "by": found.by,
            "at": found.at,
        },
        "position": found.position,
        "resolved": resolved,
    }


def _shown(request: Request, found: Conflict) -> dict[str, Any]:
    """With the credentials in locations only for those who may also settle it."""
    whole = document(found)
    if caller_of(request).may("zone.operate"):
        return whole
    masked: dict[str, Any] = masked_within(whole)
    return masked


def _check(request: Request, action: str) -> None:
    """Values in the ledger may be of any project's images."""
    caller_of(request).check(action, None, "see or settle conflicts")


async def index(request: Request) -> Response:
    """Newest first: open ones, or with `state=all` resolved ones too; `before` is an ID, for the next page."""
    _check(request, "zone.look")
    zone, state = zone_of(request), request.query_params.get("state", "open")
    if state not in ("open", "all"):
        raise bad(f"state must be open or all, is {state[:40]!r}", "bad-query")
    limit = query_integer(request, "limit", LIST_DEFAULT, 1, LIST_MAX)
    before = query_integer(request, "before", 2**62, 1, 2**62)
    found = await zone.conflicts(limit, state == "open", before)
    return reply(
        {
            "conflicts": [_shown(request, one) for one in found],
            "open": zone.conflicts_open(),
            "next": found[-1].number if len(found) == limit else None,
        }
    )


def _conflict(request: Request) -> Conflict:
    text = request.path_params["id"]
    found = zone_of(request).conflict(int(text)) if text.isascii() and text.isdigit() and len(text) <= 18 else None
    if found is None:
        raise Problem(404, "not-found", f"no conflict {text[:80]}")
    return found


async def show(request: Request) -> Response:
    _check(request, "zone.look")
    return reply(_shown(request, _conflict(request)))


async def resolve(request: Request) -> Response:
    """Settles an open entry: `{"take": "ours"}`, `"theirs"`, or `"value"` with a `value`. 202 while it waits."""
    _check(request, "zone.operate")
    zone, found = zone_of(request), _conflict(request)
    asked = documents.parse_object(await request.body())
    take = asked.get("take")
    if take not in TAKES or ("value" in asked) is not (take == "value"):
        raise bad('say {"take": "ours"}, {"take": "theirs"}, or {"take": "value", "value": ...}', "bad-body")
    if found.take is not None:
        done = f"conflict {found.number} was resolved by {found.resolved_by} at {found.resolved_at}: {found.take}"
        raise Problem(409, "resolved", done)
    try:
        settling = _settling(zone, found, take, asked.get("value"))
    except (TypeError, KeyError, IndexError):
        raise bad(f"that is no value for {found.what}", "bad-body") from None
    submitted = await write(zone, settling)
    now = zone.conflict(found.number) or found
    status = 202 if submitted.state == "buffered" else 200
    return reply({**document(now), "write": submitted.write_id}, status, write_headers(zone, submitted))


def _settling(zone: Zone, found: Conflict, take: str, value: Any) -> Update | Point:
    """The write that settles an entry. Raises Problem; TypeError and the like for a value that cannot be."""
    at, (kind, name) = clock.text(clock.wall()), field_of(found.what)
    if kind == ALIAS:
        if value is not None:
            value = look_up(zone, str(value), integers=True).image.uuid
        return resolving_alias(found, zone.alias(name.partition("/")[0]), at, take, value)
    record = zone.find(found.uuid) if found.uuid is not None else None
    if record is None:
        raise Problem(404, "not-found", f"no image {found.uuid}")
    return resolving(found, record.image, at, take, value)


routes = [
    by_method("/conflicts", GET=index),
    by_method("/conflicts/{id}", GET=show),
    by_method("/conflicts/{id}/resolve", POST=resolve),
]
