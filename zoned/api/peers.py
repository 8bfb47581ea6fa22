"""The peer plane's server side: Raft messages, forwarded writes, founding, the log for followers, gossip exchange.

msgpack both ways. A request of another cluster label is refused before anything else looks at it, with a sentence that
reaches the log of whoever sent it.
"""

import math
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import msgpack
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from structlog.contextvars import bound_contextvars

from gossip import CodecError, Gossip, Starting
from store.database import Database
from store.errors import StorageFull
from store.operations import OperationError, Write, decode_write
from store.soundness import OPERATION_BYTES_MAX, unsound
from zoned import bootstrap, clock, follow, registry, sharing, verify
from zoned.api.asgi import App
from zoned.api.direct import Direct, with_direct
from zoned.api.http1 import Headers, Prepared
from zoned.api.server import Lookup
from zoned.autopilot import SteerRefused
from zoned.bootstrap import Donor
from zoned.peers import LABEL_HEADER, MSGPACK, RECIPIENT_HEADER, REQUEST_ID_HEADER
from zoned.raft.log import RaftError
from zoned.raft.messages import MessageError, decode_batch, encode_batch
from zoned.replication import Replication
from zoned.sharing import Sharing
from zoned.staleness import Staleness

FORWARDED_MAX = 10_000  # writes in one message
OVERHEAD_BYTES_MAX = 4_096  # of one write beside its operation; of one that was dropped, reason and origin too
REQUEST_IDS_CHARS = 4_096  # of the users' requests that a peer's request is for, in log lines

RAFT = b"/peer/v1/raft"
MSGPACK_LINE = f"content-type: {MSGPACK}\r\n".encode()

logger = structlog.get_logger()

Handler = Callable[[Request], Awaitable[Response]]


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


def _check_sender(request: Request, claimed: str) -> None:
    """Nobody speaks for another node: where certificates are asked for, what they name counts."""
    shown = request.scope["extensions"]["zoned"]["node"]
    if shown and shown != claimed:
        raise _Refused(403, f"the certificate is of node {shown}, the message of {claimed[:64]}")


def _writes(packed: Any) -> tuple[str, list[Write]]:
    try:
        cluster, rows = packed
        writes = [decode_write(row) for row in rows]
    except (TypeError, ValueError, OperationError) as error:
        raise _Refused(400, f"no forwarded writes of this version: {error}") from None
    problem = next((problem for problem in (unsound(write.operation) for write in writes) if problem), None)
    if problem or any(len(row) > OPERATION_BYTES_MAX + OVERHEAD_BYTES_MAX for row in rows):
        raise _Refused(400, f"a forwarded write is unsound: {problem or 'too large'}")
    if not writes or len(writes) > FORWARDED_MAX or len({write.node for write in writes}) != 1:
        raise _Refused(400, f"1 to {FORWARDED_MAX} writes of one node are forwarded at a time")
    if any(after.sequence <= before.sequence or after.ahead is not before.ahead for before, after in pairwise(writes)):
        raise _Refused(400, "forwarded writes must be in sequence, and all ride ahead or none")
    return str(cluster), writes


class PeerFace:
    """The handlers, on what they act upon."""

    def __init__(
        self,
        label: str,
        gossip: Gossip,
        replication: Replication,
        staleness: Staleness,
        database: Database,
        donor: Donor,
        sharing: Sharing,
    ) -> None:
        self._label = label
        self._gossip = gossip
        self._staleness = staleness
        self._replication = replication
        self._database = database
        self._donor = donor
        self._sharing = sharing
        self._me = replication.me.encode()

    def guarded(self, handler: Handler) -> Handler:
        """`handler` for requests of this cloud's nodes that mean this node."""

        async def check(request: Request) -> Response:
            ours, theirs = self._label, request.headers.get(LABEL_HEADER.lower(), "")
            if theirs != ours:
                raise _Refused(403, f"cluster label is {ours!r} here, {theirs[:64]!r} there; set gossip.label alike")
            meant = request.headers.get(RECIPIENT_HEADER.lower(), self._replication.me)
            if meant != self._replication.me:
                raise _Refused(421, f"this is node {self._replication.me}, not {meant[:64]}")
            asked_for = request.headers.get(REQUEST_ID_HEADER.lower())
            with bound_contextvars(**({"request_id": asked_for[:REQUEST_IDS_CHARS]} if asked_for else {})):
                return await handler(request)

        return check

    async def raft(self, request: Request) -> Response:
        try:
            messages = decode_batch(await request.body())
        except MessageError as error:
            raise _Refused(400, f"no Raft messages of this version: {error}") from None
        for message in messages:
            _check_sender(request, message.sender)
        answer = self._replication.answer(messages)
        return Response(encode_batch(answer), media_type=MSGPACK) if answer else Response(None, 204)

    def at_once(self, _method: bytes, target: bytes, headers: Headers, _client: str, body: bytes) -> Prepared | None:
        """A `zoned.api.server.Lookup`: Raft messages, of which there are many in a cluster at rest, without a task.

        None: the application says what is wrong. Not where certificates are asked for: who sends is not looked at.
        """
        if target != RAFT:
            return None
        told = dict(headers)
        meant = told.get(RECIPIENT_HEADER.lower().encode())
        if told.get(LABEL_HEADER.lower().encode(), b"").decode("latin-1") != self._label or meant != self._me:
            return None
        try:
            messages = decode_batch(body)
        except MessageError:
            return None
        answer = self._replication.answer(messages)
        return Prepared(200, MSGPACK_LINE, encode_batch(answer) if answer else b"")

    async def forward(self, request: Request) -> Response:
        cluster, writes = _writes(await _body(request))
        if cluster != self._replication.cluster_id:
            raise _Refused(
                409, f"writes of cluster {cluster or '(none)'} are not for cluster {self._replication.cluster_id}"
            )
        answer = self._replication.accept(writes)
        logger.debug("writes forwarded here", writes=len(writes), answer=type(answer).__name__)
        return _answer(registry.pack(answer))

    async def founding(self, request: Request) -> Response:
        founders = await _body(request)
        if founders is not None:
            if not isinstance(founders, list) or not all(isinstance(one, str) for one in founders):
                raise _Refused(400, "founders are a list of node IDs")
            await self._replication.founding.promise(founders)
        return _answer(self._replication.founding.stance().pack())

    async def steer(self, request: Request) -> Response:
        match await _body(request):
            case [str(cluster), str(action), str(target)]:
                self._check_cluster(cluster)
                try:
                    return _answer(self._replication.steer_here(action, target))
                except SteerRefused as error:
                    raise _Refused(409, str(error)) from None
            case _:
                raise _Refused(400, "steer with [cluster ID, action, node ID]")

    def _check_cluster(self, theirs: object) -> None:
        """A cluster that was given up, or another one under the same label, has no business here."""
        ours = self._replication.cluster_id
        if theirs != ours:
            raise _Refused(409, f"this is cluster {ours or '(none)'}, not {str(theirs)[:64] or '(none)'}")

    async def membership(self, request: Request) -> Response:
        self._check_cluster(await _body(request))
        found = self._replication.committed_membership()
        return _answer([found.index, found.data] if found is not None else None)

    async def read_index(self, request: Request) -> Response:
        match await _body(request):
            case [str(cluster), bool(patient)]:
                self._check_cluster(cluster)
                try:
                    if patient and self._replication.registry_term is None:
                        return _answer(await self._staleness.position_since(clock.boot()))
                    return _answer(await self._replication.read_index_here(patient=patient))
                except RaftError as error:
                    raise _Refused(409, str(error)) from None
            case _:
                raise _Refused(400, "ask for a read index with [cluster ID, patient]")

    async def log(self, request: Request) -> Response:
        asked = await _body(request)
        match asked:
            case [int(after), int() | float() as wait_s] if 0 <= after < 2**53 and math.isfinite(wait_s):
                return _answer(await follow.give(self._database, self._replication.positions, after, wait_s))
        raise _Refused(400, "ask for the log with [position, seconds]")

    async def journal(self, request: Request) -> Response:
        match await _body(request):
            case [str(cluster), str(asker), int() | float() as wait_s, dict(wanted), list(without)] if (
                math.isfinite(wait_s)
                and all(type(node) is str and type(sequence) is int for node, sequence in wanted.items())
                and all(type(node) is str for node in without)
            ):
                self._check_cluster(cluster or None)
                _check_sender(request, asker)
                return _answer(sharing.pack(await self._sharing.give(asker, wanted, set(without), wait_s)))
            case _:
                raise _Refused(
                    400, "ask for journals with [cluster ID, node ID, seconds, {node ID: sequence}, [node ID]]"
                )

    async def digests(self, request: Request) -> Response:
        bucket = await _body(request)
        if type(bucket) is int and not 0 <= bucket < 2**53:
            raise _Refused(400, "ask for the audit's chain with a position")
        if type(bucket) is not int and (not isinstance(bucket, str) or (bucket and not verify.is_bucket(bucket))):
            raise _Refused(400, "ask for hashes with the beginning of a UUID")
        return _answer(await verify.answer(self._database, bucket))

    async def snapshot(self, request: Request) -> Response:
        return _answer(bootstrap.pack(self._donor.offer()))

    async def snapshot_part(self, request: Request) -> Response:
        match await _body(request):
            case [str(sha256), int(offset), int(length)] if 0 <= offset < 2**53 and 0 < length < 2**53:
                return _answer(await self._donor.part(sha256, offset, length))
            case _:
                raise _Refused(400, "ask for a part with [sha256, offset, length]")

    async def exchange(self, request: Request) -> Response:
        try:
            return Response(await self._gossip.answer(await request.body()), media_type=MSGPACK)
        except (CodecError, Starting) as error:
            raise _Refused(503 if isinstance(error, Starting) else 400, str(error)) from None


async def _on_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, _Refused)
    return PlainTextResponse(error.reason, error.status)


async def _on_full(request: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), 507)


async def _on_no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse(f"{request.url.path[:200]}: {error.detail}", error.status_code)


def make_peer_app(
    label: str,
    gossip: Gossip,
    replication: Replication,
    staleness: Staleness,
    database: Database,
    donor: Donor,
    sharing: Sharing,
) -> tuple[App, Lookup]:
    """Everything on :9293 TCP, and what of it is answered without a task."""
    face = PeerFace(label, gossip, replication, staleness, database, donor, sharing)
    handlers: dict[str, Handler] = {
        "raft": face.raft,
        "forward": face.forward,
        "founding": face.founding,
        "log": face.log,
        "journal": face.journal,
        "read-index": face.read_index,
        "membership": face.membership,
        "steer": face.steer,
        "digests": face.digests,
        "snapshot": face.snapshot,
        "snapshot-part": face.snapshot_part,
    }
    routes = [Route(f"/peer/v1/{name}", face.guarded(handler), methods=["POST"]) for name, handler in handlers.items()]
    # Gossip frames carry the label themselves.
    routes.append(Route("/peer/v1/gossip", face.exchange, methods=["POST"]))
    on_errors: dict[Any, Any] = {_Refused: _on_refused, StorageFull: _on_full, HTTPException: _on_no_route}
    app = Starlette(routes=routes, exception_handlers=on_errors)
    directly = {f"/peer/v1/{name}": Direct(face.guarded(handler), app, on_errors) for name, handler in handlers.items()}

    def find(method: str, path: str) -> tuple[Direct, dict[str, str]] | None:
        return (directly[path], {}) if method == "POST" and path in directly else None

    return with_direct(app, find), face.at_once
