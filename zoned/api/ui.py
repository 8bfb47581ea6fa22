"""The page `/ui/`: files of the package, served as they are. Everything that it shows it asks for itself.

The files say nothing of the zone, so anybody may have them; the routes that they ask decide by the caller's token. They
load nothing from elsewhere, and the headers see to it that they cannot.
"""

import hashlib
from functools import cache
from importlib import resources
from pathlib import PurePath

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from zoned.api.problems import Problem

KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FIRST = "index.html"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked again each time, and 304: an upgraded daemon has an upgraded page
}
_FOLDER = resources.files("zoned").joinpath("ui")
NAMES = frozenset(one.name for one in _FOLDER.iterdir() if PurePath(one.name).suffix in KINDS)
PATHS = frozenset(("/ui", "/ui/", *(f"/ui/{name}" for name in NAMES)))


@cache
def _file(name: str) -> tuple[bytes, str]:
    """A file and its entity tag."""
    data = _FOLDER.joinpath(name).read_bytes()
    return data, f'"{hashlib.sha256(data).hexdigest()[:16]}"'


async def _show(request: Request) -> Response:
    name = request.path_params.get("name", FIRST)
    if name not in NAMES:
        raise Problem(404, "no-route", f"the page has no file {name[:80]!r}")
    data, tag = _file(name)
    headers = {**HEADERS, "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(None, 304, headers)
    return Response(data, 200, headers, KINDS[PurePath(name).suffix])


async def _slash(request: Request) -> Response:
    return RedirectResponse("ui/", 308)


routes: list[BaseRoute] = [Route("/ui", _slash), Route("/ui/", _show), Route("/ui/{name}", _show)]
