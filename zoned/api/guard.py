"""The door: finds out who asks, once, before anything else looks at a request; and what needs no image to be decided.

Routes of the Images APIs decide by image and caller (`zoned.policy`, tables `images`). What shows or steers the zone
itself is decided here by path: reading needs `zone.look`, everything else `zone.operate`. A route that is not named
here is closed to tenants until somebody opens it.
"""

import uuid
from functools import partial

from starlette.requests import Request

from zoned.api import problems, ui
from zoned.api.asgi import App, Receive, Scope, Send
from zoned.api.caller import AGAIN, CALLER, Caller
from zoned.api.problems import Problem
from zoned.auth.guesses import Guesses
from zoned.auth.identity import Authenticator, token_of
from zoned.auth.rates import Rates

# Answered to anybody: which versions there are, whether the daemon lives, what the API is, the page without its data.
OPEN = frozenset(("/", "/versions", "/livez", "/readyz", "/healthcheck", "/openapi.json", "/docs", *ui.PATHS))
# Native routes about images, open to tenants; each decides by image.
TENANTS = ("/zone/v1/images", "/zone/v1/ids/", "/zone/v1/aliases", "/zone/v1/watch")
NATIVE, STEERING, METRICS = "/zone/", "/admin/", "/metrics"  # the second on the admin socket only
READING = frozenset(("GET", "HEAD", "OPTIONS"))


def check_path(caller: Caller, method: str, path: str) -> None:
    """Raises Problem for what a caller may not do whatever the image."""
    if path.startswith((NATIVE, STEERING, METRICS)) and not path.startswith(TENANTS):
        looks = method in READING and not path.startswith(STEERING)
        if not caller.may("zone.look" if looks else "zone.operate"):
            raise Problem(
                403, "forbidden", f"You are not permitted to {'see' if looks else 'change'} this zone's state."
            )


def is_open(scope: Scope, paths: frozenset[str]) -> bool:
    """Whether anybody may ask this. "/" with an Accept that names a version is a request of that version's API."""
    if scope["path"] not in paths:
        return False
    return scope["path"] != "/" or not any(
        name == b"accept" and b"application/vnd." in value.lower() for name, value in scope["headers"]
    )


def with_caller(
    app: App,
    authenticator: Authenticator,
    guesses: Guesses | None,
    open_paths: frozenset[str] = OPEN,
    rates: Rates | None = None,
) -> App:
    """`app` behind the door: its requests carry their caller; what is refused never reaches it.

    Without `guesses` refusals are not counted: on a Unix socket there is no address to count by. Without `rates`
    nobody is refused for asking often.
    """

    async def identified(scope: Scope) -> Caller:
        headers = scope["headers"]
        known = authenticator.known(headers)
        if known is not None:
            return known
        address = scope["client"][0] if scope.get("client") else ""
        counted = guesses if address and token_of(headers) is not None else None
        if counted is not None and not authenticator.remembers(headers):
            counted.check(address)
        try:
            return await authenticator.identify(headers, scope.get("extensions", {}).get("zoned", {}).get("peer"))
        except Problem as problem:
            if problem.status == 401 and counted is not None:
                counted.refused(address)
            raise

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        if is_open(scope, open_paths):
            known = authenticator.known(scope["headers"])  # without a caller nothing of the catalogue is said
            await app({**scope, CALLER: known} if known is not None else scope, receive, send)
            return
        try:
            caller = await identified(scope)
            if rates is not None:
                rates.check(caller, scope["client"][0] if scope.get("client") else "")
            check_path(caller, scope["method"], scope["path"])
        except Problem as problem:
            # The usual headers say where the catalogue is: nobody is told who was not let in.
            problem.headers["X-OpenStack-Request-ID"] = f"req-{uuid.uuid4()}"
            request: Request = Request(scope)
            native = scope["path"].startswith((NATIVE, STEERING, METRICS))
            await (problems.native(problem) if native else problems.images(problem, request))(scope, receive, send)
            return
        await app({**scope, CALLER: caller, AGAIN: partial(identified, scope)}, receive, send)

    return wrapped
