"""The peer plane of a running daemon that asks for certificates: who gets in, and for whom one may speak."""

import socket
import ssl
from functools import partial
from pathlib import Path

import msgpack
import pytest
import trio

from conf import parse
from tests.zoned.conftest import LABEL, config_text, serve
from zoned import certificates, clock
from zoned.api.asgi import Receive, Scope, Send
from zoned.api.http1 import HttpLimits
from zoned.api.server import serve_http
from zoned.daemon import Running
from zoned.files import write_private
from zoned.membership import establish
from zoned.peer_tls import LOOK_S, PeerTls
from zoned.peers import LABEL_HEADER, RECIPIENT_HEADER
from zoned.raft.messages import PreVote, encode_batch

OTHER = "00000000-0000-4000-8000-00000000000b"
THIRD = "00000000-0000-4000-8000-00000000000c"
Authority = tuple[bytes, bytes]


def certify(directory: Path, authority: Authority, node_id: str, label: str = LABEL) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    key = certificates.make_key()
    made = certificates.issue(*authority, certificates.request(key, label, node_id), clock.wall(), 5)
    write_private(directory / "node.pem", made + key)
    write_private(directory / "ca.pem", authority[0])
    return directory


@pytest.fixture(scope="module")
def authority() -> Authority:
    return certificates.make_authority(LABEL, clock.wall(), 10)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, authority):
    directory = tmp_path_factory.mktemp("guarded")
    text = config_text(directory / "store", 'tls = "require"\n')
    node_id = trio.run(establish, parse(text), directory / "store")
    certify(directory / "store" / "tls", authority, node_id)
    with serve(text) as running:
        yield running


def ask(running: Running, context: ssl.SSLContext | None, path: str, body: bytes) -> tuple[int, bytes]:
    """Status and body of one POST. Raises OSError (an SSLError is one) when there is no answer."""
    me = running.zone.identity.node_id
    head = f"POST /peer/v1/{path} HTTP/1.1\r\nhost: x\r\n{LABEL_HEADER}: {LABEL}\r\n{RECIPIENT_HEADER}: {me}\r\n"
    with socket.create_connection(running.peer, 20) as plain:
        sock = context.wrap_socket(plain) if context is not None else plain
        with sock:
            sock.sendall(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
            data = b""
            while piece := sock.recv(65_536):
                data += piece
    if not data:
        raise ConnectionResetError("no answer")
    return int(data.split(b" ")[1]), data.partition(b"\r\n\r\n")[2]


def client(directory: Path, node_id: str, label: str = LABEL) -> ssl.SSLContext:
    return PeerTls(directory, label, node_id, lambda: 0.0).client


def test_a_node_of_the_cluster_is_answered(guarded, tmp_path, authority):
    context = client(certify(tmp_path / "b", authority, OTHER), OTHER)
    status, body = ask(guarded, context, "snapshot", msgpack.packb(None))
    assert status == 200
    assert msgpack.unpackb(body) is not None
    large = b"x" * 300_000  # several records of TLS each way
    assert ask(guarded, context, "gossip", large)[0] == 400


def test_nobody_speaks_for_another_node(guarded, tmp_path, authority):
    context = client(certify(tmp_path / "b", authority, OTHER), OTHER)
    me = guarded.zone.identity.node_id
    claims = encode_batch([PreVote("cluster", THIRD, me, 7, 10, 3)])
    status, body = ask(guarded, context, "raft", claims)
    assert (status, body.decode()) == (403, f"the certificate is of node {OTHER}, the message of {THIRD}")
    own = encode_batch([PreVote("cluster", OTHER, me, 7, 10, 3)])
    assert ask(guarded, context, "raft", own)[0] in (200, 204)


async def test_an_open_connection_ends_with_the_authority_that_let_it_in(tmp_path, authority):
    now = 0.0
    tls = PeerTls(certify(tmp_path / "a", authority, THIRD), LABEL, THIRD, lambda: now)
    context = client(certify(tmp_path / "b", authority, OTHER), OTHER)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        serving = partial(serve_http, app, listeners, HttpLimits(), now=lambda: 0.0, security=tls)
        await nursery.start(serving)
        plain = await trio.open_tcp_stream(*listeners[0].socket.getsockname())
        with trio.fail_after(30):
            async with trio.SSLStream(plain, context, https_compatible=True) as stream:
                for _ in range(2):
                    await stream.send_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                    assert (await stream.receive_some()).startswith(b"HTTP/1.1 204")
                replacing = certificates.make_authority(LABEL, clock.wall(), 10)
                certify(tmp_path / "a", replacing, THIRD)
                now += LOOK_S
                assert tls.generation == 1
                await stream.send_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                assert await stream.receive_some() == b""
        nursery.cancel_scope.cancel()


def test_without_tls_there_is_no_answer(guarded):
    with pytest.raises(OSError):
        ask(guarded, None, "snapshot", msgpack.packb(None))


def test_without_a_certificate_there_is_no_answer(guarded):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.raises(OSError):
        ask(guarded, context, "snapshot", msgpack.packb(None))


def test_another_authority_or_cluster_gets_no_answer(guarded, tmp_path, authority):
    strange = certify(tmp_path / "strange", certificates.make_authority(LABEL, clock.wall(), 10), OTHER)
    write_private(strange / "ca.pem", authority[0] + (strange / "ca.pem").read_bytes())
    with pytest.raises(OSError):
        ask(guarded, client(strange, OTHER), "snapshot", msgpack.packb(None))
    elsewhere = certify(tmp_path / "elsewhere", authority, OTHER, "elsewhere")
    with pytest.raises(OSError):
        ask(guarded, client(elsewhere, OTHER, "elsewhere"), "snapshot", msgpack.packb(None))


def test_whoever_says_nothing_ties_up_nothing(guarded, tmp_path, authority):
    silent = [socket.create_connection(guarded.peer, 20) for _ in range(50)]
    context = client(certify(tmp_path / "b", authority, OTHER), OTHER)
    assert ask(guarded, context, "snapshot", msgpack.packb(None))[0] == 200
    for one in silent:
        one.close()
