"""`Idempotency-Key`: a write that is asked for again is not done again, and is answered as it was the first time.

Around the application, for every route that writes. A key counts within its caller's project. While its request is
under way the same key is 409; with another payload it is 422; otherwise this node gives the very answer that it gave,
or, when it has none (another node took the request, or the daemon died before it answered), one made from the outcome
and the record as it is now. The key itself travels in the write (`store.keys`), so a repeat is also recognised in
another zone, and by whoever applies the log.

Source: draft-ietf-httpapi-idempotency-key-header-07, which leaves life time and comparison of payloads to the server.
"""

import hashlib
import zlib
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgpack
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from store.errors import StorageFull, WriterEnded
from store.images import Image
from store.keys import Answer, Known
from store.operations import KEY_BYTES, Origin
from zoned.api import documents, problems
from zoned.api.answers import reply
from zoned.api.asgi import App, Receive, Scope, Send
from zoned.api.caller import CALLER, caller_of
from zoned.api.problems import STATUSES, Problem
from zoned.origin import ORIGIN
from zoned.zone import Zone

HEADER = "idempotency-key"
REPLAYED = ("Idempotency-Replayed", "true")
KEYED = "zoned.keyed"  # in the scope: the `Origin` of a request with a key
KEY_CHARS_MAX = 255
ANSWER_BYTES_MAX = 262_144  # longer answers are not kept, but made anew
READING = ("GET", "HEAD", "OPTIONS", "TRACE")
# Beside method, path, query and body, what of a request says what it asks for.
_TELLING = ("content-type", "if-match", "x-glance-registry-purge-props")
_TELLING_PREFIX = "x-image-meta-"


def with_idempotency(app: App, zone: Zone, old: "OldStyle") -> App:
    """`app`, its writes done at most once per key; `old` is how it answers where it speaks the oldest APIs."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive) if _writes(scope) else None
        if request is None or HEADER not in request.headers:
            await app(scope, receive, send)
            return
        try:
            body = await request.body()
            origin = _keyed(zone, request, body)
        except ClientDisconnect:
            return
        except Problem as problem:
            await _spelled(problem, request)(scope, receive, send)
            return
        if origin.key in zone.keys_running:
            await _spelled(_IN_PROGRESS, request)(scope, receive, send)
            return
        kept = _Kept()
        zone.keys_running.add(origin.key)
        scope[KEYED] = origin
        try:
            answer = await _known(zone, request, origin, old)
            if answer is None:
                ORIGIN.set(origin)
                await app(scope, _once(body, receive), kept.send)
                await _keep(zone, origin, kept)
        finally:
            zone.keys_running.discard(origin.key)  # before anybody is answered, who may ask again at once
        if answer is not None:
            await answer(scope, receive, send)
        for message in kept.messages:
            await send(message)

    return wrapped


def _writes(scope: Scope) -> bool:
    """Whether a request may be a write of somebody who was let in."""
    if scope["type"] != "http" or scope["method"] in READING or CALLER not in scope:
        return False
    path: str = scope["path"]
    return not path.endswith(":batchGet") and not path.startswith("/admin/v1/backup")


_IN_PROGRESS = Problem(409, "in-progress", "the request with this Idempotency-Key is under way", {"Retry-After": "1"})


# The request.


def _keyed(zone: Zone, request: Request, body: bytes) -> Origin:
    """The origin of a request with a key. Raises Problem."""
    given = request.headers.getlist(HEADER)
    key = given[0].strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':  # a string of RFC 8941, as the draft has it; a bare one counts too
        key = key[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    if len(given) > 1 or not key or len(key) > KEY_CHARS_MAX or not key.isascii() or not key.isprintable():
        detail = f"Idempotency-Key must be one text of 1 to {KEY_CHARS_MAX} printable ASCII characters"
        raise problems.bad(detail, "bad-idempotency-key")
    caller = caller_of(request)
    scope = f"{'admin' if caller.is_admin else 'user'} {caller.project or ''}"
    keep_s = round(zone.idempotency.keep_days * 86_400)
    origin = ORIGIN.get()
    assert origin is not None, "every request has one"
    return replace(origin, key=_digest(scope, key), payload=_fingerprint(request, body), keep_s=keep_s)


def _fingerprint(request: Request, body: bytes) -> bytes:
    telling = sorted(
        (name, value)
        for name, value in request.headers.items()
        if name in _TELLING or name.replace("_", "-").startswith(_TELLING_PREFIX)
    )
    flat = [text for pair in telling for text in pair]
    return _digest(request.method, request.url.path, request.url.query, *flat, hashlib.sha256(body).hexdigest())


def _digest(*texts: str) -> bytes:
    return hashlib.sha256(b"".join(b"%d:%b" % (len(one), one) for one in (t.encode() for t in texts))).digest()[
        :KEY_BYTES
    ]


def _once(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body, which was read already, and then what `receive` gives."""
    pieces = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> MutableMapping[str, Any]:
        return pieces.pop() if pieces else await receive()

    return again


# The answer that was given.


class _Kept:
    """Holds an answer back until it is kept: whoever has it may ask again at once."""

    def __init__(self) -> None:
        self.messages: list[MutableMapping[str, Any]] = []

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        return self.messages[0]["status"] if self.messages else 0

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        return list(self.messages[0].get("headers", ()))

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])


async def _keep(zone: Zone, origin: Origin, kept: _Kept) -> None:
    """Keeps an answer that stands: what was done, or found to be so already, or refused by the log.

    What never became a write is asked anew when it comes again: nothing was changed, and it may succeed then.
    """
    is_write = any(name.lower() == b"zone-write" for name, _ in kept.headers) or zone.known_write(origin) is not None
    if not kept.status or kept.status >= 500 or not is_write or len(kept.body) > ANSWER_BYTES_MAX:
        return
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in kept.headers]
    body = zlib.compress(kept.body, 1)
    try:
        await zone.keep_answer(origin, Answer(origin.payload, kept.status, msgpack.packb(headers), body))
    except (StorageFull, WriterEnded):
        return  # an answer will be made anew


async def _known(zone: Zone, request: Request, origin: Origin, old: "OldStyle") -> Response | None:
    """The answer to a request that was made before, or to one whose key cannot be; None when it is new."""
    try:
        given = zone.answer_to(origin)
        if given is not None:
            _check_same(given.payload, origin)
            return _unpacked(given)
        write = zone.known_write(origin)
        if write is not None:
            _check_same(write.payload, origin)
            return await _remade(zone, request, await zone.settled(write, origin), old)
    except Problem as problem:
        return _spelled(problem, request)
    if zone.keys_full():
        detail = f"{zone.idempotency.keys_max} keys are kept already (idempotency.keys_max)"
        return _spelled(Problem(507, "keys-full", detail), request)
    return None


def _unpacked(given: Answer) -> Response:
    answer = Response(zlib.decompress(given.body), given.status)
    headers = [*msgpack.unpackb(given.headers), REPLAYED]
    answer.raw_headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return answer


def _check_same(payload: bytes, origin: Origin) -> None:
    if payload != origin.payload:
        raise Problem(422, "key-reused", "this Idempotency-Key belongs to another request; use a new key for this one")


# An answer made anew.


@dataclass(frozen=True, slots=True)
class OldStyle:
    """How the Images API v1, or the registry API, shows a record and says that it made one."""

    document: Callable[[Image], Mapping[str, Any]]
    created: int


async def _remade(zone: Zone, request: Request, write: Known, old: OldStyle) -> Response:
    """The answer that the route gives, from the write's outcome and the record as it is now. Raises Problem."""
    write_id = f"{write.node}.{write.sequence}"
    state = {"journaled": "buffered", "done": "committed"}.get(write.state, write.state)
    headers = {"Zone-Write": f"{write_id}; state={state}", REPLAYED[0]: REPLAYED[1]}
    if write.state not in ("journaled", "done"):
        detail = f"as before: write {write_id} ended as {write.state} ({write.code})"
        raise Problem(STATUSES.get(write.code, 409), write.code, detail, headers)
    found = zone.find(write.uuid) if write.uuid is not None else None
    if found is None:
        return Response(None, 204, headers)
    caller = caller_of(request)
    if not caller.may_see(found.image):  # it has become somebody else's since
        return Response(None, 204, headers)
    image, path, method = caller.view(found.image), request.url.path, request.method
    rest = path.partition("/images")[2].strip("/").split("/")[1:]  # what follows the image
    if path.startswith("/zone/"):
        body = {"uuid": image.uuid} if method == "DELETE" else documents.native_document(image)
        made = 201 if method == "POST" and path.endswith("/images") else 200
        return reply({**body, "state": state}, 202 if write.buffered else made, headers)
    if path.startswith("/v2"):
        return _v2(image, method, rest, await request.body(), headers)
    if rest:
        return Response(None, 204, headers)
    return reply({"image": old.document(image)}, old.created if method == "POST" else 200, headers)


def _v2(image: Image, method: str, rest: list[str], sent: bytes, headers: dict[str, str]) -> Response:
    match method, rest:
        case ("POST", []) | ("PATCH", []):
            return reply(documents.images_document(image), 201 if method == "POST" else 200, headers)
        case ("POST", ["members"]) | ("PUT", ["members", _]):
            project = str(rest[1] if rest[1:] else documents.parse_object(sent).get("member"))
            shown = documents.member_document(image, project) if project in image.members else None
            return reply(shown, 200, headers) if shown is not None else Response(None, 204, headers)
        case "POST", ["locations"]:
            return Response(None, 202, headers)
        case _:
            return Response(None, 204, headers)


def _spelled(problem: Problem, request: Request) -> Response:
    native = request.url.path.startswith(("/zone/", "/admin/"))
    return problems.native(problem) if native else problems.images(problem, request)
