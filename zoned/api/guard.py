"""The door: finds out who asks, once, before anything else looks at a request; and what needs no image to be decided.

Routes of the Images APIs decide by image and caller (`zoned.policy`, tables `images`). What shows or steers the zone
itself is decided here by path: reading needs `zone.look`, everything else `zone.operate`. A route that is not named
here is closed to tenants until somebody opens it.
"""

import uuid

from starlette.requests import Request

from zoned.api import problems
from zoned.api.asgi import App, Receive, Scope, Send
from zoned.api.caller import CALLER, Caller
from zoned.api.problems import Problem
from zoned.auth.guesses import Guesses
from zoned.auth.identity import ANONYMOUS, Authenticator, unauthorized

# Answered to anybody: which versions there are, whether the daemon lives, what the API is.
OPEN = frozenset(("/", "/versions", "/livez", "/readyz", "/healthcheck", "/openapi.json", "/docs"))
# Native routes about images, open to tenants; each decides by image.
TENANTS = ("/zone/v1/images", "/zone/v1/ids/", "/zone/v1/aliases", "/zone/v1/watch")
NATIVE, STEERING = "/zone/", "/admin/"  # the second on the admin socket only
READING = frozenset(("GET", "HEAD", "OPTIONS"))


def check_path(caller: Caller, method: str, path: str) -> None:
    """Raises Problem for what a caller may not do whatever the image."""
    if caller.user == ANONYMOUS and not caller.roles:
        raise unauthorized("Token")
    if path.startswith((NATIVE, STEERING)) and not path.startswith(TENANTS):
        looks = method in READING and not path.startswith(STEERING)
        if not caller.may("zone.look" if looks else "zone.operate"):
            raise Problem(
                403, "forbidden", f"You are not permitted to {'see' if looks else 'change'} this zone's state."
            )


def with_caller(app: App, authenticator: Authenticator, guesses: Guesses) -> App:
    """`app` behind the door: its requests carry their caller; what is refused never reaches it."""

    async def identified(scope: Scope) -> Caller:
        known = authenticator.known(scope["headers"])
        if known is not None:
            return known
        address = scope["client"][0] if scope.get("client") else ""
        guesses.check(address)
        try:
            return await authenticator.identify(scope["headers"], scope["extensions"]["zoned"]["peer"])
        except Problem as problem:
            if problem.status == 401:
                guesses.refused(address)
            raise

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            await app(scope, receive, send)
            return
        try:
            caller = await identified(scope)
            check_path(caller, scope["method"], scope["path"])
        except Problem as problem:
            # The usual headers say where the catalogue is: nobody is told who was not let in.
            problem.headers["X-OpenStack-Request-ID"] = f"req-{uuid.uuid4()}"
            request: Request = Request(scope)
            native = scope["path"].startswith((NATIVE, STEERING))
            await (problems.native(problem) if native else problems.images(problem, request))(scope, receive, send)
            return
        await app({**scope, CALLER: caller}, receive, send)

    return wrapped
