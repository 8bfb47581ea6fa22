"""What reads bytes from outside, with valid inputs to begin from and the errors that each may answer with.

Anything else that comes out (another exception, or an answer that the second opinion contradicts) is a finding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import h11
import orjson

from conf import ConfigError
from conf import parse as parse_config
from gossip import KeyringError, codec
from gossip.errors import CodecError
from gossip.keyring import SECRET_BYTES, Keyring
from gossip.messages import (
    Ack,
    Alive,
    Dead,
    Entry,
    ExchangeState,
    Facts,
    Member,
    Nack,
    Packet,
    Part,
    Ping,
    PingReq,
    State,
    Suspect,
)
from gossip.sealing import Envelope, Sealing
from store import operations
from store.entries import Entry as LogEntry
from store.entries import EntryKind
from store.images import DEFAULTS, Image
from store.operations import Create, Delete, OperationError, Update, Write
from store.soundness import unsound
from zoned import certificates, policy
from zoned.api import documents, patches
from zoned.api.http1 import ChunkedBody, HttpLimits, LengthBody, Refused, parse_head, take_head
from zoned.api.problems import Problem
from zoned.auth import tokens
from zoned.certificates import CertificateWrong
from zoned.raft import messages as raft

LABEL = "fuzz"
AT = "2026-11-22T09:00:00Z"
A, B = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"


class Disagreement(AssertionError):
    """Two readers of the same bytes do not agree."""


@dataclass(frozen=True, slots=True)
class Target:
    """One reader: `read` is given bytes, raises one of `errors` or returns."""

    name: str
    seeds: Sequence[bytes]
    read: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]


# Gossip.

_FACTS: Facts = {"position": 12, "url": "http://10.0.0.1:9292", "drain": False}
_MEMBER = Member(A, 3, "zone-a", "10.0.0.1", 9293, 7, 2, _FACTS)
_PARTS: list[Part] = [Ping(7, B), Ack(7), Nack(7), PingReq(9, B, "10.0.0.2", 9293, 500)]
_PARTS += [Alive(_MEMBER), Suspect(A, 3, 7, B), Dead(A, 3, 7, B)]


def _packets() -> list[bytes]:
    whole = Packet(A, 3, tuple(_PARTS[:3]))
    return [codec.encode_packet(LABEL, replace(whole, parts=tuple(some))) for some in (_PARTS, _PARTS[:1], _PARTS[4:])]


def _exchanges() -> list[bytes]:
    entries = tuple(Entry(replace(_MEMBER, node_id=str(UUID(int=n))), state) for n, state in enumerate(State, 1))
    return [codec.encode_exchange(LABEL, ExchangeState(A, 3, entries))]


# Raft and the write path.

_HEAD = ("cluster", A, B, 7)
_RAFT: list[raft.Message] = [
    raft.PreVote(*_HEAD, 10, 3),
    raft.Append(*_HEAD, 4, 2, 3, (LogEntry(5, 6, EntryKind.WRITE, b"x\x00"), LogEntry(6, 7, EntryKind.NOOP))),
    raft.AppendReply(*_HEAD, 9, True, 8, 2),
    raft.Heartbeat(*_HEAD, 12, 5),
    raft.SnapshotOffer(*_HEAD, 100, 6),
]
_CREATE = Create(A, 42, AT, {"name": "x", "size": 5}, {"os_distro": "debian"}, ("a", "b"), ())
_WRITES = [
    Write(B, 1, _CREATE),
    Write(B, 2, Update(A, AT, fields={"name": ("x", "y")}, tags_added=("c",))),
    Write(B, 3, Delete(A, AT)),
]


def _write(data: bytes) -> None:
    write = operations.decode_write(data)
    if unsound(write.operation) is None and operations.decode_write(operations.encode_write(write)) != write:
        raise Disagreement("a sound write does not come back equal")


# HTTP: ours may refuse more than h11 does, but what ours takes h11 must take, and read the same.

_LIMITS = HttpLimits(body_bytes_max=100_000)
_REQUESTS = [
    b"GET /v2/images?limit=2 HTTP/1.1\r\nHost: zone:9292\r\nAccept: */*\r\n\r\n",
    b"POST /v2/images HTTP/1.1\r\nHost: zone\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    b"PATCH /v2/images/x HTTP/1.1\r\nHost: z\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n3;x=y\r\nabc\r\n0\r\nX: y\r\n\r\n",
    b"HEAD /a%20b HTTP/1.0\r\n\r\n",
    b'GET http://zone/v2 HTTP/1.1\r\nHost: other\r\nX-Auth-Token: t\r\nIf-None-Match: "a.1", W/"b"\r\n\r\n',
]


def _ours(data: bytes) -> tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes, bool] | None:
    """Method, target, headers, body as far as it came, whether that is all of it; None: the head is not whole yet."""
    buffer = bytearray(data)
    head = take_head(buffer, 0, _LIMITS)
    if head is None:
        return None
    request = parse_head(head, _LIMITS)
    size = request.body_bytes
    body: LengthBody | ChunkedBody = ChunkedBody(_LIMITS) if size is None else LengthBody(size)
    return request.method, request.target, list(request.headers), body.take(buffer), body.done


def _http(data: bytes) -> None:
    found = _ours(data)
    if found is None:
        return
    method, target, headers, body, whole = found
    theirs = h11.Connection(h11.SERVER, max_incomplete_event_size=1_000_000)
    try:
        theirs.receive_data(
            data.lstrip(b"\r\n")
        )  # empty lines before a request are overread (RFC 9112, 2.2), not by h11
        request = theirs.next_event()
        pieces, ended = [], False
        while isinstance(request, h11.Request):
            event = theirs.next_event()
            if isinstance(event, h11.Data):
                pieces.append(bytes(event.data))
            else:
                ended = isinstance(event, h11.EndOfMessage)
                break
    except h11.RemoteProtocolError as error:
        if whole:
            raise Disagreement(f"h11 refuses what was taken: {error}") from None
        return
    if not isinstance(request, h11.Request):
        raise Disagreement(f"h11 sees no request: {request!r}")
    if request.method != method:
        raise Disagreement(f"method {method!r}, h11 {request.method!r}")
    if whole != ended or (whole and b"".join(pieces) != body):
        raise Disagreement(f"body {body!r} (whole: {whole}), h11 {b''.join(pieces)!r} (whole: {ended})")
    if target.startswith(b"/") and request.target.startswith(b"/") and request.target != target:
        raise Disagreement(f"target {target!r}, h11 {request.target!r}")
    headers = [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in headers]  # as h11
    if request.target.startswith(b"/") and sorted(headers) != sorted((n, v) for n, v in request.headers):
        raise Disagreement(f"headers {headers!r}, h11 {list(request.headers)!r}")


# Documents.

_IMAGE = Image(A, 42, B, f"{B}.1", 7, {**DEFAULTS, "created_at": AT, "updated_at": AT}, {"p": "v"}, ("t",), ())
_PATCHES = [
    [{"op": "replace", "path": "/name", "value": "x"}, {"op": "add", "path": "/free", "value": "y"}],
    [{"op": "remove", "path": "/p"}, {"op": "replace", "path": "/tags", "value": ["a", "b"]}],
    [{"op": "add", "path": "/locations/-", "value": {"url": "http://o/1", "metadata": {}}}],
]


def _patch(data: bytes) -> None:
    for media_type in (patches.V21, patches.V20, patches.STANDARD):
        try:
            patches.changes(_IMAGE, patches.parse(documents.parse_json(data), media_type), AT, None)
        except Problem as problem:
            if not 400 <= problem.status < 500:
                raise Disagreement(f"status {problem.status}") from None


def _image(data: bytes) -> None:
    for make in (documents.images_create, documents.native_create):
        try:
            made = make(documents.parse_object(data), A)
        except Problem as problem:
            if not 400 <= problem.status < 500:
                raise Disagreement(f"status {problem.status}") from None
        else:
            problem_found = unsound(made)
            if problem_found is not None:
                raise Disagreement(f"taken at the door, refused at apply: {problem_found}")


def _text(read: Callable[[str], Any]) -> Callable[[bytes], object]:
    return lambda data: read(data.decode("utf-8", errors="replace"))


def _policy(text: str) -> object:
    return policy.parse(text, policy.DEFAULT)


_CONFIG = b"""[node]
zone = "alpha"
[http]
listen = "127.0.0.1:9292"
idle_timeout_s = 5
[peers]
listen = "127.0.0.1:9293"
seeds = ["127.0.0.1:9393"]
[registry]
expect = 3
"""
_TOKENS = tokens.entry_text("w", "t", "p", ["member"], 1_900_000_000.0).encode()


_CERTIFICATE = b"""-----BEGIN CERTIFICATE-----
MIIB5TCCAYygAwIBAgIUG3dWVAY2zjxzfnYiiJpEXHjdhtwwCgYIKoZIzj0EAwIw
FTETMBEGA1UEAwwKem9uZWQgZnV6ejAeFw0yNjA5MjExMzEzMjBaFw0yNjA5MjYx
NDEzMjBaMC8xLTArBgNVBAMMJDAwMDAwMDAwLTAwMDAtNDAwMC04MDAwLTAwMDAw
MDAwMDAwYTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABH+qF2ZYWNWKBFASCtwF
x9sdm6TScLQlDiTUcpdmnPuvu28eelmXjeuIRr+yhjFxSojThwe/sXZTJXka0cs2
v/ejgZ8wgZwwDAYDVR0TAQH/BAIwADAOBgNVHQ8BAf8EBAMCB4AwHQYDVR0lBBYw
FAYIKwYBBQUHAwEGCCsGAQUFBwMCMDwGA1UdEQQ1MDOGMXpvbmVkOi8vZnV6ei8w
MDAwMDAwMC0wMDAwLTQwMDAtODAwMC0wMDAwMDAwMDAwMGEwHwYDVR0jBBgwFoAU
fY7gtR/wEADJBTtSltfALi6yLXswCgYIKoZIzj0EAwIDRwAwRAIgeO3cGWwQiuCm
OKtMXKZzMJrHpcysFHw7tDp0kcXcGkoCICK0Zl9e/5/2+XmiBgPldzFqH5lsCQI+
IcwaESQEhz9Z
-----END CERTIFICATE-----
"""  # made once, so that a finding can be seen again


def targets() -> list[Target]:
    """Every target, each with its valid inputs."""
    ring = Keyring.fresh(b"k" * SECRET_BYTES)
    envelope = Envelope(LABEL, Sealing.REQUIRE, ring)
    sealed = [envelope.close(one, A, bytes(12)) for one in _packets()]
    return [
        Target("datagram", _packets(), lambda data: codec.decode_packet(LABEL, data), (CodecError,)),
        Target("sealed datagram", sealed, envelope.open, (CodecError,)),
        Target("keyring", [ring.encode()], Keyring.decode, (KeyringError,)),
        Target("exchange", _exchanges(), lambda data: codec.decode_exchange(LABEL, data), (CodecError,)),
        Target("raft", [raft.encode_batch(_RAFT)], raft.decode_batch, (raft.MessageError,)),
        Target("write", [operations.encode_write(one) for one in _WRITES], _write, (OperationError,)),
        Target("http", _REQUESTS, _http, (Refused,)),
        Target("patch", [orjson.dumps(one) for one in _PATCHES], _patch, ()),
        Target("image", [orjson.dumps({"name": "x", "tags": ["a"], "min_ram": 5, "os_distro": "d"})], _image, ()),
        Target("config", [_CONFIG], _text(parse_config), (ConfigError,)),
        Target("tokens", [_TOKENS], _text(tokens.parse), (tokens.TokensWrong,)),
        Target("policy", [b'[images]\nshow = ["admin"]\n'], _text(_policy), (policy.PolicyWrong,)),
        Target("certificate", [_CERTIFICATE], certificates.named, (CertificateWrong,)),
    ]
