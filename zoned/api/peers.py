"""The peer plane's server side: Raft messages, forwarded writes, founding, the log for followers, gossip exchange.

msgpack both ways. A request of another cluster label is refused before anything else looks at it, with a sentence that
reaches the log of whoever sent it.
"""

import math
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import msgpack
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gossip import CodecError, Gossip, Starting
from store.database import Database
from store.errors import StorageFull
from store.operations import OperationError, Write, decode_write
from store.soundness import OPERATION_BYTES_MAX, unsound
from zoned import bootstrap, follow, registry, verify
from zoned.api.app import App
from zoned.autopilot import SteerRefused
from zoned.bootstrap import Donor
from zoned.peers import LABEL_HEADER, MSGPACK, RECIPIENT_HEADER
from zoned.raft.messages import MessageError, decode_batch
from zoned.replication import Replication

FORWARDED_MAX = 10_000  # writes in one message

Route_ = Callable[[Request], Awaitable[Response]]


class _Refused(Exception):
    """An answer to a peer that did something wrong. Nothing was changed."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(reason)


def _answer(body: Any) -> Response:
    return Response(msgpack.packb(body), media_type=MSGPACK)


async def _body(request: Request) -> Any:
    try:
        return msgpack.unpackb(await request.body())
    except (ValueError, msgpack.UnpackException) as error:
        raise _Refused(400, f"the body is no msgpack: {error}") from None


def _writes(packed: Any) -> tuple[str, list[Write]]:
    try:
        cluster, rows = packed
        writes = [decode_write(row) for row in rows]
    except (TypeError, ValueError, OperationError) as error:
        raise _Refused(400, f"no forwarded writes of this version: {error}") from None
    problem = next((problem for problem in (unsound(write.operation) for write in writes) if problem), None)
    if problem or any(len(row) > OPERATION_BYTES_MAX + 256 for row in rows):
        raise _Refused(400, f"a forwarded write is unsound: {problem or 'too large'}")
    if not writes or len(writes) > FORWARDED_MAX or len({write.node for write in writes}) != 1:
        raise _Refused(400, f"1 to {FORWARDED_MAX} writes of one node are forwarded at a time")
    if any(after.sequence != before.sequence + 1 for before, after in pairwise(writes)):
        raise _Refused(400, "forwarded writes must be in sequence")
    return str(cluster), writes


def make_peer_app(label: str, gossip: Gossip, replication: Replication, database: Database, donor: Donor) -> App:
    """Everything on :9293 TCP."""

    async def raft(request: Request) -> Response:
        try:
            replication.step(decode_batch(await request.body()))
        except MessageError as error:
            raise _Refused(400, f"no Raft messages of this version: {error}") from None
        return Response(None, 204)

    async def forward(request: Request) -> Response:
        cluster, writes = _writes(await _body(request))
        if cluster != replication.cluster_id:
            raise _Refused(409, f"writes of cluster {cluster or '(none)'} are not for cluster {replication.cluster_id}")
        return _answer(registry.pack(replication.accept(writes)))

    async def founding(request: Request) -> Response:
        founders = await _body(request)
        if founders is not None:
            if not isinstance(founders, list) or not all(isinstance(one, str) for one in founders):
                raise _Refused(400, "founders are a list of node IDs")
            await replication.founding.promise(founders)
        return _answer(replication.founding.stance().pack())

    async def steer(request: Request) -> Response:
        match await _body(request):
            case [str(action), str(target)]:
                try:
                    return _answer(replication.steer_here(action, target))
                except SteerRefused as error:
                    raise _Refused(409, str(error)) from None
            case _:
                raise _Refused(400, "steer with [action, node ID]")

    async def log(request: Request) -> Response:
        asked = await _body(request)
        match asked:
            case [int(after), int() | float() as wait_s] if 0 <= after < 2**53 and math.isfinite(wait_s):
                return _answer(await follow.give(database, replication.positions, after, wait_s))
        raise _Refused(400, "ask for the log with [position, seconds]")

    async def digests(request: Request) -> Response:
        bucket = await _body(request)
        if not isinstance(bucket, str) or len(bucket) > verify.BUCKET_CHARS:
            raise _Refused(400, "ask for hashes with the beginning of a UUID")
        return _answer(await verify.answer(database, bucket))

    async def snapshot(request: Request) -> Response:
        return _answer(bootstrap.pack(donor.offer()))

    async def snapshot_part(request: Request) -> Response:
        match await _body(request):
            case [str(sha256), int(offset), int(length)] if 0 <= offset < 2**53 and 0 < length < 2**53:
                return _answer(await donor.part(sha256, offset, length))
            case _:
                raise _Refused(400, "ask for a part with [sha256, offset, length]")

    async def exchange(request: Request) -> Response:
        try:
            return Response(await gossip.answer(await request.body()), media_type=MSGPACK)
        except (CodecError, Starting) as error:
            raise _Refused(503 if isinstance(error, Starting) else 400, str(error)) from None

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, _Refused)
        return PlainTextResponse(error.reason, error.status)

    async def full(request: Request, error: Exception) -> Response:
        return PlainTextResponse(str(error), 507)

    async def no_route(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return PlainTextResponse(f"{request.url.path[:200]}: {error.detail}", error.status_code)

    def guarded(handler: Route_) -> Route_:
        async def check_label(request: Request) -> Response:
            theirs = request.headers.get(LABEL_HEADER.lower(), "")
            if theirs != label:
                raise _Refused(403, f"cluster label is {label!r} here, {theirs[:64]!r} there; set gossip.label alike")
            meant = request.headers.get(RECIPIENT_HEADER.lower(), replication.me)
            if meant != replication.me:
                raise _Refused(421, f"this is node {replication.me}, not {meant[:64]}")
            return await handler(request)

        return check_label

    routes = [
        Route("/peer/v1/raft", guarded(raft), methods=["POST"]),
        Route("/peer/v1/forward", guarded(forward), methods=["POST"]),
        Route("/peer/v1/founding", guarded(founding), methods=["POST"]),
        Route("/peer/v1/log", guarded(log), methods=["POST"]),
        Route("/peer/v1/steer", guarded(steer), methods=["POST"]),
        Route("/peer/v1/digests", guarded(digests), methods=["POST"]),
        Route("/peer/v1/snapshot", guarded(snapshot), methods=["POST"]),
        Route("/peer/v1/snapshot-part", guarded(snapshot_part), methods=["POST"]),
        # Gossip frames carry the label themselves.
        Route("/peer/v1/gossip", exchange, methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {_Refused: refused, StorageFull: full, HTTPException: no_route}
    return Starlette(routes=routes, exception_handlers=handlers)
