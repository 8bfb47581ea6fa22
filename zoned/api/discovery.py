"""What a client asks before it asks for images: versions, schemas, what can be imported, which stores there are.

`/` answers 300 with the versions, and so does every path that begins with nothing known, as Glance does.
"""

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from zoned.api import schemas
from zoned.api.answers import by_method, reply, zone_of
from zoned.api.caller import caller_of
from zoned.api.problems import Problem

CURRENT = "v2.17"
SUPPORTED = ("v2.15", "v2.9", "v2.7", "v2.6", "v2.5", "v2.4", "v2.3", "v2.2", "v2.1", "v2.0")
# Every spelling of the version in a path; those without a list entry are accepted all the same.
ALIASES = tuple(f"/v2.{minor}" for minor in range(18))


ACCEPTED = "application/vnd.openstack.images-"
_VERSION = re.compile(re.escape(ACCEPTED) + r"(v[12](?:\.\d{1,2})?)")


def accepted_version(accept: str) -> str | None:
    """The version that an Accept header asks for in the place of a path that begins with one."""
    found = _VERSION.match(accept)
    return found[1] if found else None


def base_url(request: Request) -> str:
    """Scheme and host as the client sees them."""
    host = request.headers.get("host")
    return f"{request.scope['scheme']}://{host or request.url.netloc}"


def versions(request: Request) -> dict[str, Any]:
    links = [{"rel": "self", "href": f"{base_url(request)}/v2/"}]
    listed = [(CURRENT, "CURRENT"), *((one, "SUPPORTED") for one in SUPPORTED)]
    return {"versions": [{"id": version, "status": status, "links": links} for version, status in listed]}


async def root(request: Request) -> Response:
    return reply(versions(request), 300)


async def list_versions(request: Request) -> Response:
    return reply(versions(request))


async def healthcheck(request: Request) -> Response:
    zone_of(request).check_store()
    return PlainTextResponse("OK")


async def slash(request: Request) -> Response:
    """Glance sends `/v2` to `/v2/`, where there is nothing; clients only look at the first answer."""
    return Response(None, 302, {"Location": f"{base_url(request)}{request.scope['path']}/"})


async def schema(request: Request) -> Response:
    return reply(schemas.document(request.path_params["name"]))


async def import_methods(request: Request) -> Response:
    """None: bytes go to a zone's object store, and only their location is registered here."""
    value = {"description": "Import methods available.", "type": "array", "value": []}
    return reply({"import-methods": value})


async def stores(request: Request) -> Response:
    """Zones in the place of stores: a location's metadata names one of them."""
    zone = zone_of(request)
    names = sorted({str(one["zone"]) for one in zone.zones()})
    found: list[dict[str, Any]] = [{"id": name, "read-only": "true"} for name in names]
    for one in found:
        if one["id"] == zone.name:
            one["default"] = "true"
    return reply({"stores": found})


async def stores_detail(request: Request) -> Response:
    if not caller_of(request).may("zone.look"):
        raise Problem(403, "forbidden", "You are not authorized to complete this action.")
    return await stores(request)


async def usage(request: Request) -> Response:
    return reply({"usage": {}})


routes = [
    by_method("/schemas/{name}", GET=schema),
    by_method("/info/import", GET=import_methods),
    by_method("/info/stores", GET=stores),
    by_method("/info/stores/detail", GET=stores_detail),
    by_method("/info/usage", GET=usage),
]
