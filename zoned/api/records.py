"""More about one record, native: its history, where its bytes are and were seen, and which of its locations is near."""

import math
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from store import presence
from store.history import Change
from store.images import NAME_CHARS_MAX, PRESENCES, Image, text_problem
from store.operations import Update
from zoned import clock
from zoned.api import documents
from zoned.api.answers import by_method, record_headers, reply, visible, write, write_headers, zone_of
from zoned.api.caller import Caller, caller_of
from zoned.api.nearest import ordered
from zoned.api.problems import bad
from zoned.masking import masked_url
from zoned.zone import Zone

AHEAD_S_MAX = 60.0  # clocks of other machines may be so far ahead
BY_OWNERS = ("wanted", "unwanted")  # the others are for whoever sees the bytes


async def show_history(request: Request) -> Response:
    """Who changed what of a record, and when; the newest first. For its owner, deleted or not."""
    zone, found, caller = zone_of(request), visible(request, tombstones=True), caller_of(request)
    caller.check("images.see_history", found.image, "see the history of this image")
    changes = zone.changes_of(found.image)
    body = {
        "uuid": found.image.uuid,
        "integer": found.image.integer,
        "changes": [
            {
                "position": one.position,
                "kind": one.kind,
                "at": one.at,
                "by": one.by[0] or None,
                "request_id": one.by[1] or None,
                "write": one.write,
                "changed": _changed(one, caller, found.image),
            }
            for one in changes
        ],
        "complete": changes[-1].kind == "created",
        "position": zone.position,
    }
    return reply(body, headers=record_headers(found))


def _changed(change: Change, caller: Caller, image: Image) -> dict[str, Any]:
    """What a change changed, as the caller may see the image."""
    whole = {what: {"from": was, "to": now} for what, (was, now) in change.changed.items()}
    if not caller.may("images.see_locations", image):
        whole = {what: pair for what, pair in whole.items() if not what.startswith("locations/")}
    if not caller.may("images.see_members", image):
        whole = {what: pair for what, pair in whole.items() if not what.startswith("members/")}
    if caller.may("images.see_location_secrets", image):
        return whole
    return {masked_url(what) if what.startswith("locations/") else what: pair for what, pair in whole.items()}


async def show_presence(request: Request) -> Response:
    """What was wanted, claimed and verified of the bytes, zone by zone, and whether the image can be booted here."""
    zone, found = zone_of(request), visible(request)
    return reply(_presence(zone, found.image), headers=record_headers(found))


async def put_presence(request: Request) -> Response:
    """What is said of the bytes in one zone: `state`, with a `note` (how, by whom) and, if it was not now, `at`."""
    zone, where = zone_of(request), request.path_params["zone"]
    image = visible(request).image
    state, note, at = _said(documents.parse_object(await request.body()))
    caller = caller_of(request)
    if state in BY_OWNERS:
        caller.check("images.want", image, "say where this image is wanted")
    else:
        caller.check("images.claim", image, "say where the bytes of images are")
    if where not in image.presence and where not in {one["zone"] for one in zone.zones()}:
        raise bad(f"no zone {where[:80]!r} is known here", "bad-zone")
    at = at or _moment(image, where, state)
    said = {where: {state: (at, note)}}
    submitted = await write(zone, Update(image.uuid, clock.text(clock.wall()), presence=said))
    after = zone.find(image.uuid)
    body = {**_presence(zone, after.image if after is not None else image), "state": submitted.state}
    return reply(body, 202 if submitted.state == "buffered" else 200, write_headers(zone, submitted))


def _said(document: dict[str, Any]) -> tuple[str, str, str | None]:
    """(state, note, when). Raises Problem."""
    state, note, at = document.get("state"), document.get("note", ""), document.get("at")
    if not set(document) <= {"state", "note", "at"} or state not in PRESENCES:
        raise bad(f'{{"state": one of {", ".join(PRESENCES)}, "note": text, "at": time}} is expected', "bad-body")
    if not isinstance(note, str) or text_problem(note, NAME_CHARS_MAX):
        raise bad(f"note must be a text of at most {NAME_CHARS_MAX} characters", "bad-body")
    return str(state), note, _time(at) if at is not None else None


def _time(value: object) -> str:
    try:
        parsed = datetime.fromisoformat(str(value))
        seconds = (parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed).timestamp()
    except (ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds <= clock.wall() + AHEAD_S_MAX:
        raise bad(f"at must be a time up to now, as 2026-11-22T09:00:00Z, is {documents.shown(value)}", "bad-body")
    return clock.precise(seconds)


def _moment(image: Image, zone: str, state: str) -> str:
    """Now, and behind everything that was said of the zone before, whatever other machines' clocks say."""
    latest = max((when for when, _ in image.presence.get(zone, {}).values()), default="")
    now = clock.wall()
    if latest >= clock.precise(now):
        now = max(now, datetime.fromisoformat(latest).timestamp() + 0.0015)
    return clock.precise(now)


def _presence(zone: Zone, image: Image) -> dict[str, Any]:
    can, why = zone.bootable(image)
    return {
        "uuid": image.uuid,
        "integer": image.integer,
        "zone": zone.name,
        "bootable_here": can,
        "why": why,
        "zones": [
            {
                "zone": name,
                **{kind: presence.holds(said, kind) for kind in ("wanted", "claimed", "verified")},
                "absent": said["absent"][0] if presence.is_absent(said) else None,
                "notes": {kind: note for kind, (_, note) in sorted(said.items()) if note},
            }
            for name, said in sorted(image.presence.items())
        ],
        "position": zone.position,
    }


async def show_locations(request: Request) -> Response:
    """An image's locations, the best first as seen from this zone or from `?near=`, each with the reason why."""
    zone, found = zone_of(request), visible(request)
    caller_of(request).check("images.see_locations", found.image, "see image locations")
    near = request.query_params.get("near", zone.name)
    if near not in {one["zone"] for one in zone.zones()}:
        raise bad(f"no zone {near[:80]!r} is known here", "bad-zone")
    body = {
        "uuid": found.image.uuid,
        "near": near,
        "locations": [
            {
                "url": place.location.url,
                "metadata": dict(place.location.metadata),
                "zone": place.zone,
                "rtt_ms": place.rtt_ms,
                "presence": list(place.present),
                "why": place.why,
            }
            for place in ordered(caller_of(request).view(found.image), zone.round_trips_ms(near))
        ],
    }
    return reply(body, headers=record_headers(found))


routes = [
    by_method("/images/{reference}/history", GET=show_history),
    by_method("/images/{reference}/presence", GET=show_presence),
    by_method("/images/{reference}/presence/{zone}", PUT=put_presence),
    by_method("/images/{reference}/locations", GET=show_locations),
]
