"""Requests handed on by a worker arrive as if the client had come to the daemon itself."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace

import orjson
import pytest
import trio

from tests.zoned.api.test_server import (
    GET,
    LAST,
    LIMITS,
    Served,
    echo,
    hello,
    post,
    problem_of,
    read_all,
    read_until,
    serving,
)
from tests.zoned.api.test_server import statuses as statuses_of
from tests.zoned.conftest import captured_logs
from zoned.api.exchange import Receive, Scope, Send
from zoned.api.forward import Forward, from_workers
from zoned.api.http1 import HttpLimits
from zoned.api.server import AsgiApp
from zoned.workers import inner_limits, open_inner


@asynccontextmanager
async def handing_on(app: AsgiApp, limits: HttpLimits = LIMITS) -> AsyncIterator[tuple[Served, Served]]:
    """(the worker's face, the daemon's inner face)."""
    inner = open_inner()
    name = inner.socket.getsockname()
    async with serving(from_workers(app), inner_limits(limits), [inner]) as daemon:
        with closing(Forward(name)) as forward:
            async with serving(forward, limits) as worker:
                yield worker, daemon


async def tell(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what it was told about the request."""
    body = orjson.dumps(
        {
            "method": scope["method"],
            "target": f"{scope['raw_path'].decode()}?{scope['query_string'].decode()}",
            "headers": {name.decode(): value.decode() for name, value in scope["headers"]},
            "client": scope["client"],
            "server": scope["server"],
            "peer": scope["extensions"]["zoned"]["peer"],
        }
    )
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"1")]})
    await send({"type": "http.response.body", "body": body})


def told(said: bytes) -> dict[str, object]:
    document: dict[str, object] = orjson.loads(said.partition(b"\r\n\r\n")[2])
    return document


async def test_the_daemon_sees_the_client_and_no_trace_of_the_worker():
    said = b"GET /a%20b?c=d HTTP/1.1\r\nHost: zone\r\nX-A: 1\r\nConnection: close, x-hop\r\n\r\n"
    async with handing_on(tell) as (worker, _), await worker.connect() as stream:
        here = stream.socket.getsockname()
        await stream.send_all(said)
        found = told(await read_until(stream, b"}"))
    assert (found["method"], found["target"]) == ("GET", "/a%20b?c=d")
    assert found["headers"] == {"host": "zone", "x-a": "1"}
    assert found["client"] == list(here)
    assert found["server"] == ["127.0.0.1", worker.port]
    assert found["peer"] is None


async def test_a_client_cannot_say_who_it_is():
    async with handing_on(tell) as (worker, _):
        found = told(await worker.talk(LAST.replace(b"Host", b"Zoned-Client: 10.0.0.1 1\r\nZoned-Server: x 2\r\nHost")))
    client, headers = found["client"], found["headers"]
    assert isinstance(client, list)
    assert client[0] == "127.0.0.1"
    assert headers == {"host": "zone"}


async def test_http_1_0_without_a_host_is_handed_on():
    async with handing_on(tell) as (worker, _):
        assert statuses_of(await worker.talk(b"GET / HTTP/1.0\r\n\r\n")) == [200]


@pytest.mark.parametrize(
    "request_",
    [
        post(b"hello", b"Content-Length: 5"),
        post(b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", b"Transfer-Encoding: chunked"),
        post(b"x" * 90_000, b"Content-Length: 90000"),
    ],
)
async def test_bodies_pass_both_ways(request_):
    wanted = b"x" * 90_000 if b"90000" in request_ else b"hello"
    async with handing_on(echo) as (worker, daemon):
        said = await worker.talk(request_.replace(b"Connection: close\r\n", b"") + LAST)
        assert statuses_of(said)[-2:] == [200, 200]
        assert wanted in said
        assert len(daemon.server.connections) == 1, "one connection was used for both"


async def test_a_stream_passes_piece_by_piece_and_ends_with_its_client():
    ended = trio.Event()

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        ended.set()

    async with handing_on(app) as (worker, _), await worker.connect() as stream:
        await stream.send_all(GET)
        await read_until(stream, b"5\r\nfirst\r\n")
        await stream.aclose()
        with trio.fail_after(30):
            await ended.wait()


async def test_head_and_204_pass_without_a_body():
    async def app(scope, receive, send):
        status = 200 if scope["method"] == "HEAD" else 204
        headers = [(b"content-length", b"11")] if status == 200 else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async with handing_on(app) as (worker, _):
        said = await worker.talk(GET.replace(b"GET", b"HEAD") + LAST)
    assert statuses_of(said) == [200, 204]
    assert b"content-length: 11\r\n" in said.split(b"HTTP/1.1 ")[1]


async def test_refusals_of_the_worker_and_of_the_daemon_are_the_same():
    limits = replace(LIMITS, body_bytes_max=10_000)
    for request_ in (post(b"", b"Content-Length: 10001"), post(b"2711\r\n", b"Transfer-Encoding: chunked")):
        async with handing_on(echo, limits) as (worker, _):
            assert problem_of(await worker.talk(request_)) == (413, "body-too-large")
            assert statuses_of(await worker.talk(LAST)) == [200]


async def test_without_a_daemon_the_answer_is_503():
    async with serving(Forward(b"\0nobody listens here")) as worker:
        said = await worker.talk(LAST)
    assert statuses_of(said) == [503]
    assert b"retry-after: 1\r\n" in said


async def test_a_daemon_that_dies_before_its_answer_is_503_and_in_it_a_cut():
    begun = trio.Event()

    async def app(scope, receive, send):
        if scope["path"] == "/last":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        begun.set()
        await trio.sleep_forever()

    for request_, wanted in ((GET, b"503"), (LAST, b"200")):
        begun = trio.Event()
        async with handing_on(app) as (worker, daemon), await worker.connect() as stream:
            await stream.send_all(request_)
            await begun.wait()
            said = await read_until(stream, b"half") if request_ == LAST else b""
            for connection in daemon.server.connections:
                connection.scope.cancel()
            with captured_logs() as logs, trio.fail_after(30):
                said += await read_all(stream) if request_ == LAST else await stream.receive_some()
        assert said.startswith(b"HTTP/1.1 " + wanted)
        assert any(line["log_level"] == "error" for line in logs) == (request_ == LAST)  # a cut answer is worth a line


async def test_another_user_is_refused_on_the_inner_socket(monkeypatch):
    inner = open_inner()
    async with serving(from_workers(hello), LIMITS, [inner]):
        stream = trio.SocketStream(trio.socket.socket(trio.socket.AF_UNIX))
        await stream.socket.connect(inner.socket.getsockname())
        monkeypatch.setattr("zoned.api.forward.os.getuid", lambda: 4_294_967_294)
        await stream.send_all(GET)
        assert statuses_of(await stream.receive_some()) == [403]
        await stream.aclose()
