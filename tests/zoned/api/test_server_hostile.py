"""The server with clients that mean harm or know no better: bounded, refused by name, and others unaffected."""

import errno
import resource
from dataclasses import replace
from itertools import pairwise
from typing import cast

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.zoned.api.test_server import (
    GET,
    LAST,
    LIMITS,
    echo,
    hello,
    post,
    problem_of,
    read_all,
    read_until,
    serving,
    statuses,
)
from tests.zoned.conftest import captured_logs
from zoned.api.http1 import Prepared

SMALL = replace(LIMITS, header_bytes_max=4096, target_bytes_max=1024, body_bytes_max=10_000)
ODD_SIZES = (b"", b"-5", b"+5", b" 5", b"5 ", b"0x5", b"5h", b"000000005", b"5\t", b"5\x00", b"\xb2")
HASTY = replace(SMALL, header_timeout_s=0.1, body_timeout_s=0.1, idle_timeout_s=0.1, write_timeout_s=0.1)


@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, "bad-request"),
        (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", 400, "bad-request"),
        (b"GET / HTTP/3.0\r\nHost: x\r\n\r\n", 505, "http-version-not-supported"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "bad-host"),
        (b"GET /" + b"a" * 2000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "target-too-long"),
        (b"GET /" + b"a" * 1_000_000, 414, "target-too-long"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 1_000_000, 431, "headers-too-large"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431, "too-many-headers"),
        (post(b"", b"Content-Length: 10001"), 413, "body-too-large"),
        (post(b"2711\r\n", b"Transfer-Encoding: chunked"), 413, "body-too-large"),
        (post(b"5\r\nabcdeX", b"Transfer-Encoding: chunked") + b"\r\n", 400, "bad-chunk"),
        (post(b"5\nabcde", b"Transfer-Encoding: chunked"), 400, "bad-chunk"),
        (post(b"abc", b"Content-Length: 3", b"Transfer-Encoding: chunked"), 400, "bad-request"),
        (post(b"abc", b"Transfer-Encoding: chunked, identity"), 400, "bad-request"),
        (post(b"abc", b"Transfer-Encoding: gzip, chunked"), 400, "bad-transfer-encoding"),
        (post(b"abc", b"Expect: more"), 417, "expectation-failed"),
    ],
)
async def test_bad_requests_are_refused_by_name_and_end_the_connection(said, status, code):
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    async with serving(echo, SMALL) as served:
        assert problem_of(await served.talk(said, smuggled)) == (status, code)
        assert statuses(await served.talk(LAST)) == [200]
    assert [record.status for record in served.records] == [status, 200]


@pytest.mark.parametrize(
    "said",
    [
        # Two servers in a row could read each of these differently; so none of them is read at all.
        post(b"0\r\n\r\n", b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        post(b"0\r\n\r\n", b"Transfer-Encoding: chunked", b"Content-Length: 5"),
        post(b"abc", b"Content-Length: 3", b"Content-Length: 4"),
        post(b"abc", b"Content-Length: 3", b"Content-Length: 3"),
        post(b"abc", b"Content-Length: 3, 3"),
        post(b"abc", b"Content-Length: +3"),
        post(b"abc", b"Content-Length: 0x3"),
        post(b"abc", b"Content-Length: 3 3"),
        post(b"abc", b"Content-Length : 3"),
        post(b"0\r\n\r\n", b"Transfer-Encoding : chunked"),
        post(b"0\r\n\r\n", b"Transfer-Encoding: xchunked"),
        post(b"0\r\n\r\n", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
        post(b"0\r\n\r\n", b"Transfer-Encoding:\x0bchunked"),
        post(b"0\r\n\r\n", b"X: y\r\n Transfer-Encoding: chunked"),
        post(b"0\r\n\r\n", b"X: y\rTransfer-Encoding: chunked"),
        post(b"0\r\n\r\n", b"X: y\nTransfer-Encoding: chunked"),
        *(post(size + b"\r\nhello\r\n0\r\n\r\n", b"Transfer-Encoding: chunked") for size in ODD_SIZES),
        post(b"5\r\nhello\n0\r\n\r\n", b"Transfer-Encoding: chunked"),
        post(b"5\r\nhello\r0\r\n\r\n", b"Transfer-Encoding: chunked"),
        post(b"5\r\nhello!\r\n0\r\n\r\n", b"Transfer-Encoding: chunked"),
        b"GET / HTTP/1.1\rHost: x\r\n\r\n",
        b"GET / HTTP/1.1\nHost: x\n\n",
        b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\rx HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    ],
)
async def test_what_two_servers_could_read_differently_is_refused_by_both_faces(said):
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    async with serving(
        echo, SMALL, lookup=lambda _, target, headers, client, body: Prepared(200, b"", target)
    ) as served:
        answer = await served.talk(said + smuggled)
        assert statuses(answer) == [400]
        assert b"/smuggled" not in answer


@pytest.mark.parametrize("reads_it", [True, False])
async def test_a_body_without_end_is_refused_or_cut(reads_it):
    chunk = b"400\r\n" + b"a" * 1024 + b"\r\n"
    async with serving(echo if reads_it else hello, SMALL) as served:
        said = await served.talk(post(b"", b"Transfer-Encoding: chunked"), *[chunk] * 10_000)
        assert statuses(said) == [413 if reads_it else 200]


async def test_an_application_that_answers_for_a_bad_body_is_overruled():
    """Starlette answers 500 by itself when reading fails; what the client must learn is its own mistake."""

    async def read(request):
        return PlainTextResponse(await request.body())

    app = Starlette(routes=[Route("/", read, methods=["POST"])])
    with captured_logs() as logs:
        async with serving(app, SMALL) as served:
            said = await served.talk(post(b"fffffff\r\n", b"Transfer-Encoding: chunked"))
    assert problem_of(said) == (413, "body-too-large")
    assert [line["log_level"] for line in logs] == ["info"]


async def test_a_refused_client_that_is_still_sending_is_not_reset():
    """A close with unread input would be a reset, and could destroy the answer on its way."""
    async with serving(echo, SMALL) as served, await served.connect() as stream:
        with trio.fail_after(30):
            await stream.send_all(post(b"", b"Content-Length: 3000000"))
            await read_until(stream, b"}\n")
            await stream.send_all(b"a" * 3_000_000)
            await stream.send_eof()
            assert await stream.receive_some() == b""


@pytest.mark.parametrize("said", [b"G", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_a_head_that_does_not_end_is_a_408(said):
    async with serving(hello, replace(LIMITS, header_timeout_s=0.1)) as served:
        assert problem_of(await served.talk(said)) == (408, "request-timeout")


@pytest.mark.parametrize("header", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
async def test_a_body_that_does_not_end_is_a_408(header):
    async with serving(echo, replace(LIMITS, body_timeout_s=0.1)) as served:
        assert problem_of(await served.talk(post(b"3", header))) == (408, "request-timeout")
    assert [(record.method, record.status) for record in served.records] == [("POST", 408)]


async def test_an_application_that_fails_while_it_is_ended_is_answered_once():
    async def app(scope, receive, send):
        try:
            await receive()
        finally:
            raise ValueError("in the middle of being ended")

    with captured_logs() as logs:
        async with serving(app, HASTY) as served:
            assert statuses(await served.talk(post(b"", b"Content-Length: 5"))) == [500]
    assert len(logs) == 1


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\nX: ", post(b"", b"Content-Length: 9999")])
async def test_one_byte_now_and_then_does_not_stretch_a_limit(start):
    async with serving(echo, HASTY) as served, await served.connect() as stream:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def trickle():
                    try:
                        await stream.send_all(start)
                        while True:
                            await stream.send_all(b"a")
                            await trio.sleep(0.02)
                    except trio.BrokenResourceError:
                        pass

                assert statuses(await read_all(stream)) == [408]
                nursery.cancel_scope.cancel()


async def test_an_idle_connection_is_closed_without_a_word():
    async with serving(hello, HASTY) as served:
        assert await served.talk() == b""
        assert statuses(await served.talk(GET)) == [200]


async def test_a_client_that_takes_nothing_is_closed_and_its_application_ended():
    ended = trio.Event()

    async def app(scope, receive, send):
        if scope["path"] == "/last":
            return await hello(scope, receive, send)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": b"x" * 1_000_000, "more_body": True})
        finally:
            ended.set()

    async with serving(app, HASTY) as served, await served.connect() as stream:
        await stream.send_all(GET)
        with trio.fail_after(30):
            await ended.wait()
        assert statuses(await served.talk(LAST)) == [200]


async def test_a_flood_that_reads_no_answers_is_held_by_its_own_silence():
    """Neither the questions nor the answers of such a client may gather here."""
    answered = 0

    def lookup(method, target, headers, client, body):
        nonlocal answered
        answered += 1
        return Prepared(200, b"", b"x" * 10_000)

    async with serving(hello, lookup=lookup) as served, await served.connect() as stream:
        with trio.move_on_after(0.5) as flood:
            while True:
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
        assert flood.cancelled_caught
        await trio.testing.wait_all_tasks_blocked(0.05)  # the server has seen all that it will take
        held = next(iter(served.server.connections))
        assert len(held.buffer) <= 100_000
        before = answered
        assert statuses(await served.talk(LAST)) == [200]
        assert answered == before + 1


async def test_nothing_is_added_to_an_answer_that_was_not_taken():
    def lookup(method, target, headers, client, body):
        return Prepared(200, b"", b"x" * 1_000_000)

    async with serving(hello, HASTY, lookup=lookup) as served, await served.connect() as stream:
        await stream.send_all(GET * 100)
        with trio.fail_after(30):
            while not served.server.connections:
                await trio.lowlevel.checkpoint()
            while served.server.connections:
                await trio.lowlevel.checkpoint()
        assert {record.status for record in served.records} == {200}


async def test_a_client_that_sends_ahead_while_the_application_listens_is_bounded():
    async def app(scope, receive, send):
        assert (await receive())["type"] == "http.request"
        await receive()

    async with serving(app, replace(LIMITS, grace_s=0.01)) as served, await served.connect() as stream:
        with trio.move_on_after(0.3) as flood:
            while True:
                await stream.send_all(GET * 1000)
        assert flood.cancelled_caught
        assert len(next(iter(served.server.connections)).buffer) <= 2 * 65536


async def test_idle_connections_make_room_for_new_ones():
    async with serving(hello, replace(LIMITS, connections_max=50)) as served:
        streams = [await served.connect() for _ in range(200)]
        assert statuses(await served.talk(LAST)) == [200]
        assert len(served.server.connections) <= 50
        assert set(served.limited) == {"connections_max"}
        assert await read_all(streams[0]) == b""
        await streams[-1].send_all(LAST)
        assert statuses(await read_all(streams[-1])) == [200]
        for stream in streams:
            await stream.aclose()


async def test_beyond_the_limit_of_busy_connections_is_a_503():
    async with serving(hello, replace(LIMITS, connections_max=2)) as served:
        async with await served.connect() as first, await served.connect() as second:
            for stream in (first, second):
                await stream.send_all(GET)
                await read_until(stream, b"hello /a b")
                await stream.send_all(b"GET /")  # busy from here on
            while served.server.idle:
                await trio.lowlevel.checkpoint()
            said = await served.talk()
            assert problem_of(said) == (503, "too-many-connections")
            assert served.limited == ["connections_max"]
            assert b"retry-after: 1\r\n" in said
        while served.server.connections:
            await trio.lowlevel.checkpoint()
        assert statuses(await served.talk(LAST)) == [200]


@pytest.mark.parametrize(
    ("said", "limit"),
    [
        (b"", "idle_timeout_s"),
        (b"G", "header_timeout_s"),
        (post(b"3", b"Content-Length: 5"), "body_timeout_s"),
        (post(b"", b"Content-Length: 10001"), "body_bytes_max"),
        (post(b"ffff\r\n", b"Transfer-Encoding: chunked"), "body_bytes_max"),
        (b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 1025), "target_bytes_max"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: %b\r\n\r\n" % (b"a" * 5000), "header_bytes_max"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n%b\r\n" % (b"X: y\r\n" * 200), "headers_max"),
    ],
)
async def test_a_limit_that_is_met_is_told_by_its_name(said, limit):
    limits = replace(SMALL, **{limit: 0.1}) if limit.endswith("_s") else SMALL  # type: ignore[arg-type]  # of seconds
    async with serving(echo, limits) as served:
        await served.talk(said)
        assert served.limited == [limit]


async def test_two_thousand_idle_connections_are_borne():
    # Half as many as the file descriptors that a test may usually have are ours, half the server's.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4200
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip("too few file descriptors allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        async with serving(hello, replace(LIMITS, connections_max=2000)) as served:
            streams = [await served.connect() for _ in range(2000)]
            assert statuses(await served.talk(LAST)) == [200]
            assert len(served.server.connections) <= 2000
            for stream in streams:
                await stream.aclose()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Exhausted:
    """A listener whose first accepts fail as they do when the process has no file descriptor left."""

    def __init__(self, listener: trio.SocketListener, failures: list[OSError]) -> None:
        self.listener, self.failures, self.socket = listener, failures, listener.socket

    async def accept(self):
        if self.failures:
            raise self.failures.pop()
        return await self.listener.accept()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *args):
        await self.listener.aclose()


async def test_want_of_file_descriptors_is_waited_out(autojump_clock):
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    failures = [OSError(errno.EMFILE, "too many open files"), OSError(errno.ENOBUFS, "no buffers")]
    with captured_logs() as logs:
        async with serving(hello, listeners=[cast(trio.SocketListener, Exhausted(listener, failures))]) as served:
            await trio.sleep(1)
            assert not served.server.connections
    assert [line["wait_s"] for line in logs] == [0.1, 0.1]


FRAGMENTS = [
    b"GET / HTTP/1.1\r\n",
    b"POST / HTTP/1.1\r\n",
    b"Host: x\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: x\r\nConnection: upgrade\r\n",
    b"\r\n",
    b"\r",
    b"\n",
    b"\0",
    b" ",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"hello",
    LAST,
]
shapes = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=20)), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(shapes, st.lists(st.integers(0, 200), max_size=4))
async def test_whatever_is_said_the_next_client_is_served(parts, cuts):
    data = b"".join(parts)
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in pairwise(bounds) if a < b]
    with captured_logs() as logs:
        async with serving(echo, SMALL) as served:
            said = await served.talk(*pieces, close=True)
            assert all(status in (100, 200) or 400 <= status < 500 or status in (501, 505) for status in statuses(said))
            assert statuses(await served.talk(LAST)) == [200]
    assert not [line for line in logs if line["log_level"] == "error"]
