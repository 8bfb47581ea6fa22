"""The requests that come most often, straight to who answers them.

Starlette tries one pattern of a path after another, and each of its applications, of which one lies in another here,
wraps layers of its own around a request: together more than a write costs otherwise. Where method and path say all
there is to know, none of that is needed. Everything else goes on to the application, which answers the same in its own
time.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from zoned.api.asgi import App, Receive, Scope, Send


class Direct(NamedTuple):
    """Who answers: the handler, the application that it expects to find in its request, and how errors are told."""

    handler: Callable[[Request], Awaitable[Response]]
    app: Starlette
    on_error: Mapping[type[Exception], Callable[[Request, Exception], Awaitable[Response]]]


Find = Callable[[str, str], tuple[Direct, dict[str, str]] | None]  # method and path -> who answers, path parameters


def with_direct(app: App, find: Find) -> App:
    """`app`, without the way through it for what `find` knows."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        found = find(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if found is None:
            await app(scope, receive, send)
            return
        direct, parameters = found
        request = Request({**scope, "app": direct.app, "path_params": parameters}, receive, send)
        try:
            response = await direct.handler(request)
        except tuple(direct.on_error) as error:
            response = await next(tell for kind, tell in direct.on_error.items() if isinstance(error, kind))(
                request, error
            )
        await response(request.scope, receive, send)

    return wrapped
