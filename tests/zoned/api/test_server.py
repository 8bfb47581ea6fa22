"""The server with well-meaning clients, on real sockets: what ASGI promises, keep-alive, streaming, and its end."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import orjson
import pytest
import trio
import trio.testing
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route

from tests.zoned.conftest import captured_logs
from zoned.api.exchange import ClientGone, Receive, Scope, Send
from zoned.api.http1 import HttpLimits, Prepared, RequestRecord
from zoned.api.server import AsgiApp, HttpServer, Lookup, serve_http

# Short where a test waits for the limit itself, long (in LIMITS) where reaching it would be a failure.
LIMITS = HttpLimits(body_bytes_max=100_000, grace_s=5.0)
GET = b"GET /a%20b?c=d HTTP/1.1\r\nHost: zone\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: zone\r\nConnection: close\r\n\r\n"


class Served:
    """A running server on a free port, and what it told."""

    def __init__(
        self,
        listeners: Sequence[trio.SocketListener],
        server: HttpServer,
        records: list[RequestRecord],
        scope: trio.CancelScope,
    ) -> None:
        self.port = listeners[0].socket.getsockname()[1]
        self.server = server
        self.records = records
        self.scope = scope  # cancelling it shuts the server down
        self.limited: list[str] = []

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def talk(self, *pieces: bytes, close: bool = False) -> bytes:
        """Send the pieces; everything the server says until it closes."""
        with trio.fail_after(30):
            async with await self.connect() as stream:
                try:
                    for piece in pieces:
                        await stream.send_all(piece)
                    if close:
                        await stream.send_eof()
                except trio.BrokenResourceError:
                    pass  # refused before all of it was sent
                return await read_all(stream)


async def read_all(stream: trio.SocketStream) -> bytes:
    said = b""
    try:
        async for data in stream:
            said += data
    except trio.BrokenResourceError:
        pass  # a reset after what was said
    return said


async def read_until(stream: trio.SocketStream, end: bytes) -> bytes:
    """What the server says, up to and with `end`."""
    said = b""
    with trio.fail_after(30):
        while not said.endswith(end):
            data = await stream.receive_some()
            assert data, said
            said += data
    return said


@asynccontextmanager
async def serving(
    app: AsgiApp,
    limits: HttpLimits = LIMITS,
    listeners: Sequence[trio.SocketListener] | None = None,
    lookup: Lookup | None = None,
) -> AsyncIterator[Served]:
    records: list[RequestRecord] = []
    limited: list[str] = []
    listeners = listeners or await trio.open_tcp_listeners(0, host="127.0.0.1")
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            run = partial(
                serve_http,
                app,
                listeners,
                limits,
                now=lambda: 784111777.9,
                lookup=lookup,
                on_request=records.append,
                on_limit=limited.append,
            )
            server = await nursery.start(run)
            served = Served(listeners, server, records, scope)
            served.limited = limited
            yield served
            scope.cancel()


def head_and_body(said: bytes) -> tuple[list[bytes], bytes]:
    head, _, body = said.partition(b"\r\n\r\n")
    return head.lower().split(b"\r\n"), body


def statuses(said: bytes) -> list[int]:
    """The statuses of answers in a row (none of our bodies contains such a line)."""
    return [int(part[:3]) for part in said.split(b"HTTP/1.1 ")[1:]]


def problem_of(said: bytes) -> tuple[int, str]:
    head, body = head_and_body(said)
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    told = orjson.loads(body)
    assert told["type"] == "about:blank"
    assert "\n" not in told["detail"]
    return told["status"], told["code"]


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"hello " + scope["path"].encode()})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the body; with nothing if the client is gone before its end."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def post(body: bytes, *headers: bytes) -> bytes:
    lines = b"".join(header + b"\r\n" for header in (b"Host: zone", b"Connection: close", *headers))
    return b"POST / HTTP/1.1\r\n" + lines + b"\r\n" + body


async def test_the_scope_is_what_asgi_says():
    scopes = []

    async def app(scope, receive, send):
        scopes.append(scope)
        await hello(scope, receive, send)

    async with serving(app) as served:
        head, body = head_and_body(await served.talk(GET + LAST))
    assert head[0] == b"http/1.1 200 ok"
    assert b"server: zoned" in head
    assert b"date: sun, 06 nov 1994 08:49:37 gmt" in head  # the example of RFC 9110
    assert body.startswith(b"hello /a b")
    scope = scopes[0]
    assert scope["type"] == "http"
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.4"}
    assert (scope["method"], scope["scheme"], scope["http_version"], scope["root_path"]) == ("GET", "http", "1.1", "")
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b", b"/a%20b", b"c=d")
    assert scope["headers"] == [(b"host", b"zone")]
    assert scope["client"][0] == "127.0.0.1"
    assert scope["server"] == ("127.0.0.1", served.port)
    ids = [scope["extensions"]["zoned"]["request_id"] for scope in scopes]
    assert len(set(ids)) == 2
    assert [(record.method, record.path, record.status) for record in served.records] == [
        ("GET", "/a b", 200),
        ("GET", "/last", 200),
    ]
    assert served.records[0].client == "127.0.0.1"
    assert served.records[0].sent_bytes == len(b"hello /a b")


async def test_a_unix_socket_tells_who_asks(tmp_path):
    seen = {}

    async def app(scope, receive, send):
        seen.update(scope)
        await hello(scope, receive, send)

    path = str(tmp_path / "socket")
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(path)
    sock.listen()
    async with serving(app, listeners=[trio.SocketListener(sock)]), await trio.open_unix_socket(path) as stream:
        await stream.send_all(LAST)
        assert statuses(await read_all(stream)) == [200]
    assert seen["client"] is None
    assert seen["server"] == (path, None)
    peer = seen["extensions"]["zoned"]["peer"]
    assert (peer.pid, peer.uid, peer.gid) == (os.getpid(), os.getuid(), os.getgid())


async def test_http_1_0_closes_unless_asked_otherwise():
    async with serving(hello) as served:
        assert statuses(await served.talk(b"GET / HTTP/1.0\r\n\r\n")) == [200]
        kept = await served.talk(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + b"GET / HTTP/1.0\r\n\r\n")
        assert statuses(kept) == [200, 200]
        assert b"connection: keep-alive" in kept


async def test_pipelined_requests_are_answered_in_order():
    def lookup(method, target, headers, client, body):
        return Prepared(200, b"", b"found " + target) if target.startswith(b"/found") else None

    ways = [b"/found/%d" % i if i % 3 else b"/%d" % i for i in range(200)]
    flood = b"".join(b"GET " + way + b" HTTP/1.1\r\nHost: x\r\n\r\n" for way in ways)
    async with serving(hello, lookup=lookup) as served:
        said = await served.talk(flood + LAST)
    wanted = [(b"found " if way.startswith(b"/found") else b"hello ") + way for way in [*ways, b"/last"]]
    assert [part.partition(b"\r\n\r\n")[2] for part in said.split(b"HTTP/1.1 200 OK\r\n")[1:]] == wanted
    assert len(served.records) == 201


async def test_the_lookup_answers_head_and_304_without_a_body():
    def lookup(method, target, headers, client, body):
        return (
            Prepared(304, b'etag: "1"\r\n', b"") if (b"if-none-match", b'"1"') in headers else Prepared(200, b"", b"it")
        )

    async with serving(hello, lookup=lookup) as served:
        head = b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"
        said = await served.talk(head, LAST.replace(b"Host", b'If-None-Match: "1"\r\nHost'))
    first, second = said.split(b"HTTP/1.1 ")[1:]
    assert b"content-length: 2\r\n" in first
    assert first.endswith(b"\r\n\r\n")
    assert second.startswith(b"304")
    assert b"content-length" not in second


async def test_a_head_request_gets_no_body_and_no_false_length():
    async with serving(hello) as served:
        head, body = head_and_body(await served.talk(LAST.replace(b"GET", b"HEAD")))
    assert b"content-length: 11" in head
    assert body == b""


@pytest.mark.parametrize("pieces", [[b"5\r\nhello\r\n0\r\n\r\n"], [b"5\r", b"\nhe", b"llo\r\n", b"0\r\n\r", b"\n"]])
async def test_chunked_bodies_arrive_whole(pieces):
    async with serving(echo) as served:
        said = await served.talk(post(b"", b"Transfer-Encoding: chunked"), *pieces)
    assert head_and_body(said)[1] == b"hello"


async def test_a_large_body_arrives_whole():
    body = bytes(range(256)) * 390
    async with serving(echo) as served:
        said = await served.talk(post(body, b"Content-Length: %d" % len(body)))
    assert head_and_body(said)[1] == body


async def test_100_continue_is_said_when_the_application_wants_the_body():
    async with serving(echo) as served, await served.connect() as stream:
        await stream.send_all(post(b"", b"Content-Length: 5", b"Expect: 100-continue"))
        assert await read_until(stream, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await stream.send_all(b"hello")
        assert (await read_all(stream)).endswith(b"hello")


async def test_100_continue_is_not_said_for_a_body_nobody_reads():
    async with serving(hello) as served:
        said = await served.talk(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", close=True
        )
    assert statuses(said) == [200]
    assert b"connection: close" in said  # whether the body will come is not known, so nothing can follow


async def test_an_unread_small_body_does_not_end_the_connection():
    unread = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\nGET / HTTP/1.1"
    async with serving(hello) as served:
        assert statuses(await served.talk(unread + LAST)) == [200, 200]


async def test_streams_are_chunked_or_end_with_the_connection():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b"one", b"", b"two"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    async with serving(app) as served:
        assert (await served.talk(LAST)).endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
        assert (await served.talk(b"GET / HTTP/1.0\r\n\r\n")).endswith(b"\r\n\r\nonetwo")
        assert (await served.talk(LAST.replace(b"GET", b"HEAD"))).endswith(b"\r\n\r\n")


async def test_pieces_leave_as_they_are_sent():
    go_on = trio.Event()

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"two"})

    async with serving(app) as served, await served.connect() as stream:
        await stream.send_all(LAST)
        await read_until(stream, b"3\r\none\r\n")
        go_on.set()
        await read_until(stream, b"3\r\ntwo\r\n0\r\n\r\n")


async def test_starlette_runs_and_reads_bodies():
    async def show(request):
        return JSONResponse({"path": request.path_params["name"], "body": (await request.body()).decode()})

    async def stream(request):
        return StreamingResponse(iter_pieces())

    async def iter_pieces() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    app = Starlette(routes=[Route("/show/{name}", show, methods=["POST"]), Route("/stream", stream)])
    async with serving(app) as served:
        asked = b"POST /show/me HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"
        said = await served.talk(asked + LAST.replace(b"/last", b"/stream"))
    assert b'{"path":"me","body":"hi"}' in said
    assert said.endswith(b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n")


async def test_a_client_that_leaves_is_told_to_the_application():
    told = trio.Event()

    async def app(scope, receive, send):
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"
        told.set()

    async with serving(app) as served:
        async with await served.connect() as stream:
            await stream.send_all(LAST)
        with trio.fail_after(30):
            await told.wait()
            while not served.records:
                await trio.lowlevel.checkpoint()
    assert [record.status for record in served.records] == [0]


async def test_sending_to_a_client_that_left_raises_and_ends_nothing():
    raised = trio.Event()

    async def app(scope, receive, send):
        if scope["path"] == "/last":
            return await hello(scope, receive, send)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
        except ClientGone:
            raised.set()
            raise

    async with serving(app) as served:
        async with await served.connect() as stream:
            await stream.send_all(GET)
            await stream.receive_some()
        with trio.fail_after(30):
            await raised.wait()
        assert statuses(await served.talk(LAST)) == [200]


async def test_receive_returns_once_the_answer_is_complete():
    messages = []

    async def app(scope, receive, send):
        async def listen():
            messages.append((await receive())["type"])
            messages.append((await receive())["type"])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await hello(scope, receive, send)

    async with serving(app) as served:
        assert statuses(await served.talk(GET + LAST)) == [200, 200]
    assert messages == ["http.request", "http.disconnect"] * 2


async def test_a_failing_application_is_one_500_and_one_log_line():
    async def app(scope, receive, send):
        if scope["path"] == "/last":
            return await hello(scope, receive, send)
        raise ValueError("secret")

    with captured_logs() as logs:
        async with serving(app) as served:
            said = await served.talk(GET + LAST)
    assert statuses(said) == [500, 200]
    assert b"secret" not in said
    (line,) = logs
    assert (line["event"], line["log_level"], str(line["exc_info"])) == ("request failed", "error", "secret")
    assert line["request_id"].encode() in said


FAULTY = {
    "silence": [],
    "no body": [{"type": "http.response.start", "status": 200, "headers": []}],
    "body first": [{"type": "http.response.body", "body": b""}],
    "unknown": [{"type": "websocket.accept"}],
    "split header": [
        {"type": "http.response.start", "status": 200, "headers": [(b"x", b"a\r\nb: c")]},
        {"type": "http.response.body", "body": b"x"},
    ],
    "too long": [
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]},
        {"type": "http.response.body", "body": b"xx"},
    ],
    "too short": [
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]},
        {"type": "http.response.body", "body": b"xx"},
    ],
}


@pytest.mark.parametrize("messages", FAULTY.values(), ids=FAULTY.keys())
async def test_an_answer_that_is_none_is_a_500(messages):
    async def app(scope, receive, send):
        for message in messages:
            await send(message)

    with captured_logs() as logs:
        async with serving(app) as served:
            assert statuses(await served.talk(LAST)) == [500]
    assert len(logs) == 1


async def test_a_failing_or_faulty_lookup_is_a_500():
    def lookup(method, target, headers, client, body):
        if target == b"/last":
            return Prepared(200, b"x: \n\r\n", b"")
        raise ValueError("secret")

    with captured_logs() as logs:
        async with serving(hello, lookup=lookup) as served:
            assert statuses(await served.talk(GET + LAST)) == [500, 500]
    assert len(logs) == 2


async def test_a_half_sent_answer_looks_cut():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("secret")

    with captured_logs():
        async with serving(app) as served:
            said = await served.talk(GET + GET)
    assert statuses(said) == [200]
    assert said.endswith(b"4\r\nhalf\r\n")


async def test_the_end_lets_requests_finish_and_closes_idle_connections():
    entered, go_on = trio.Event(), trio.Event()

    async def app(scope, receive, send):
        if scope["path"] == "/last":
            entered.set()
            await go_on.wait()
        await hello(scope, receive, send)

    async with serving(app) as served:
        idle, busy = await served.connect(), await served.connect()
        async with idle, busy:
            await idle.send_all(GET)
            await read_until(idle, b"hello /a b")
            await busy.send_all(LAST.replace(b"Connection: close\r\n", b""))
            with trio.fail_after(30):
                await entered.wait()
                served.scope.cancel()
                with trio.CancelScope(shield=True):
                    assert await read_all(idle) == b""
                    with pytest.raises(OSError):
                        await served.connect()
                    go_on.set()
                    said = await read_all(busy)
    assert said.endswith(b"hello /last")
    assert b"connection: close" in said


async def test_a_connection_accepted_in_the_moment_of_the_end_is_still_answered():
    async with serving(hello) as served, await served.connect() as stream:
        with trio.fail_after(30):
            while not served.server.connections:  # noqa: ASYNC110  # the kernel tells nobody
                await trio.sleep(0.001)
            served.scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
                await stream.send_all(LAST.replace(b"Connection: close\r\n", b""))
                said = await read_all(stream)
    assert said.endswith(b"hello /last")


async def test_a_connection_that_never_asks_does_not_hold_up_the_end():
    with trio.fail_after(30):
        async with serving(hello, replace(LIMITS, grace_s=60.0)) as served, await served.connect() as stream:
            while not served.server.connections:  # noqa: ASYNC110  # the kernel tells nobody
                await trio.sleep(0.001)
            served.scope.cancel()
            with trio.CancelScope(shield=True):
                assert await read_all(stream) == b""


async def test_the_end_waits_no_longer_than_the_grace():
    entered = trio.Event()

    async def app(scope, receive, send):
        entered.set()
        await trio.sleep_forever()

    with captured_logs() as logs, trio.fail_after(30):
        async with serving(app, replace(LIMITS, grace_s=0.05)) as served, await served.connect() as stream:
            await stream.send_all(GET)
            await entered.wait()
            served.scope.cancel()
    assert [line["event"] for line in logs] == ["requests cut at the end of the grace"]


async def test_plain_text_by_starlette_survives_a_date_and_server_header_of_its_own():
    async def show(request):
        return PlainTextResponse("x", headers={"server": "other", "date": "never"})

    async with serving(Starlette(routes=[Route("/last", show)])) as served:
        head, _ = head_and_body(await served.talk(LAST))
    assert sum(line.startswith((b"server:", b"date:")) for line in head) == 2
    assert b"server: zoned" in head


async def test_cancelled_in_the_moment_of_its_start_it_ends_at_once():
    """The connections' nursery is shielded: were it left half started, nobody would ever drain it."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.cancel()
            nursery.start_soon(partial(serve_http, never, listeners, HttpLimits(), now=lambda: 0.0))


async def never(scope, receive, send):
    raise AssertionError("nobody asks")
