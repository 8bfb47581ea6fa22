"""`GET /zone/v1/risk`: which images are lost when one zone burns down."""

from starlette.requests import Request
from starlette.responses import Response

from store import presence
from store.images import Image
from store.listing import NEWEST, Query, place
from zoned.api.answers import by_method, query_integer, reply, seen, zone_of
from zoned.api.caller import caller_of
from zoned.api.problems import Problem

LIMIT_MAX = 1_000


def zones_of(image: Image) -> set[str]:
    """The zones that hold an image's bytes: by its locations, but for those known to be absent, and by presence."""
    named = (one.metadata.get("zone", one.metadata.get("store")) for one in image.locations)
    told = {str(name) for name in named if name}
    absent = {zone for zone, said in image.presence.items() if presence.is_absent(said)}
    held = {
        zone
        for zone, said in image.presence.items()
        if presence.holds(said, "claimed") or presence.holds(said, "verified")
    }
    return (told - absent) | held


async def risk(request: Request) -> Response:
    """Active images whose bytes are in at most one zone, newest first; `zone` asks for those of one zone.

    One call looks at `limit` records; `next` is the marker of the next, and `looked_at` counts the active ones.
    """
    zone, caller = zone_of(request), caller_of(request)
    if not caller.sees_everything:  # names and owners of everybody's images
        raise Problem(403, "forbidden", "You are not permitted to see every image.")
    limit = query_integer(request, "limit", LIMIT_MAX, 1, LIMIT_MAX)
    marker, only = request.query_params.get("marker"), request.query_params.get("zone")
    after = place(seen(zone, caller, marker, integers=True, tombstones=True).image, NEWEST) if marker else None
    page = await zone.page(Query(limit, after=after, hidden=None, visibility="all"))
    active = [one.image for one in page.found if one.image.fields["status"] == "active"]
    found = [(image, zones_of(image)) for image in active]
    images = [
        {
            "uuid": image.uuid,
            "integer": image.integer,
            "name": image.fields["name"],
            "owner": image.fields["owner"],
            "size": image.fields["size"],
            "zone": next(iter(zones), None),
        }
        for image, zones in found
        if len(zones) <= 1 and only in (None, *zones)
    ]
    more = page.found[-1].image.uuid if page.more and page.found else None
    return reply({"images": images, "looked_at": len(active), "next": more, "position": zone.position})


routes = [by_method("/risk", GET=risk)]
