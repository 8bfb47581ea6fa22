"""The audit over HTTP: who did what, in the order of the log. For auditors and administrators (policy `zone.audit`)."""

from starlette.requests import Request
from starlette.responses import Response

from zoned.api.answers import by_method, query_integer, reply, zone_of
from zoned.api.caller import caller_of

LIST_DEFAULT, LIST_MAX = 100, 1_000


async def index(request: Request) -> Response:
    """Lines in order, behind the position `after`, or the newest without it. Lines of old entries are not kept."""
    caller_of(request).check("zone.audit", None, "see the audit")
    zone, asked = zone_of(request), request.query_params
    limit = query_integer(request, "limit", LIST_DEFAULT, 1, LIST_MAX)
    after = query_integer(request, "after", 0, 0, 2**53 - 1) if "after" in asked else None
    lines = await zone.audit_lines(after, limit)
    return reply({"lines": [one.document() for one in lines], "position": zone.position})


routes = [by_method("/audit", GET=index)]
