"""Requests over kept connections, against real sockets that answer well, badly, too much or not at all."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import pytest
import trio

from zoned.posting import Poster, PostFailed

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LIMIT = 1_000

Serve = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def server(serve: Serve) -> AsyncIterator[tuple[tuple[str, int], list[int]]]:
    """The address, and one number per connection that was accepted."""
    accepted: list[int] = []

    async def each(stream: trio.SocketStream) -> None:
        accepted.append(len(accepted))
        async with stream:
            await serve(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, each, 0)
        yield ("127.0.0.1", listeners[0].socket.getsockname()[1]), accepted
        nursery.cancel_scope.cancel()


def answering(*answers: bytes) -> Serve:
    """One answer per request of each connection, then closed."""

    async def serve(stream: trio.SocketStream) -> None:
        for answer in answers:
            if not await stream.receive_some():
                return
            await stream.send_all(answer)

    return serve


async def test_a_connection_is_kept_and_a_closed_one_is_replaced():
    async with aclosing(Poster()) as poster, server(answering(OK, OK)) as (address, accepted):
        with trio.fail_after(30):
            for _ in range(5):
                assert await poster.post(address, "/x", b"a: b\r\n", b"body", LIMIT) == (200, b"ok")
        # Each connection serves two; the third request finds the first one closed and is sent again.
        assert len(accepted) == 3


async def test_the_request_is_one_that_any_server_understands():
    seen = b""

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal seen
        seen = await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")

    async with aclosing(Poster()) as poster, server(serve) as (address, _):
        assert await poster.post(address, "/p", b"a: b\r\n", b"body", LIMIT, name="example.org") == (404, b"")
        assert not poster._kept
    port = address[1]
    assert seen == f"POST /p HTTP/1.1\r\nhost: example.org:{port}\r\ncontent-length: 4\r\na: b\r\n\r\nbody".encode()


async def test_chunks_are_put_together():
    chunks = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    async with aclosing(Poster()) as poster, server(answering(chunks)) as (address, _):
        assert await poster.post(address, "/", b"", b"", LIMIT) == (200, b"abc")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "closed before the whole answer"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", "closed before the whole answer"),
        (b"SSH-2.0-nothing\r\n", "Expected HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n" + b"x" * 99_999, "longer than 1000 bytes"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"x" * 99_999, "longer than 1000 bytes"),
    ],
)
async def test_a_bad_answer_is_one_error_and_no_kept_connection(answer: bytes, reason: str):
    async with aclosing(Poster()) as poster, server(answering(answer)) as (address, accepted):
        with trio.fail_after(30), pytest.raises(PostFailed, match=reason):
            await poster.post(address, "/", b"", b"", LIMIT)
        assert len(accepted) == 1
        assert not poster._kept


async def test_what_follows_an_answer_ends_its_connection():
    async with aclosing(Poster()) as poster, server(answering(OK + OK)) as (address, _):
        assert await poster.post(address, "/", b"", b"", LIMIT) == (200, b"ok")
        assert not poster._kept


async def test_an_unusable_address_is_an_oserror():
    for address in (("127.0.0.1", 1), ("no-such-host.invalid", 9), ("x" * 70 + ".invalid", 9), ("a..b", 9)):
        with pytest.raises(OSError):
            await Poster().post(address, "/", b"", b"", LIMIT)


async def test_a_cancelled_request_closes_its_connection():
    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with aclosing(Poster()) as poster, server(silent) as (address, accepted):
        with trio.move_on_after(0.05) as scope:
            await poster.post(address, "/", b"", b"", LIMIT)
        assert scope.cancelled_caught
        assert not poster._kept
        assert len(accepted) <= 1


async def test_connecting_has_its_own_bound():
    async def never(address: tuple[str, int], name: str) -> trio.abc.Stream:
        await trio.sleep_forever()
        raise AssertionError

    with trio.fail_after(30), pytest.raises(PostFailed, match="no connection within"):
        await Poster(never).post(("127.0.0.1", 1), "/", b"", b"", LIMIT, connect_s=0.01)


async def test_what_was_let_in_before_is_not_asked_again():
    """Of another generation, as after a change of authorities: even one that was asked at the time."""
    generation = [1]
    asked, answer = trio.Event(), trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        while await stream.receive_some():
            asked.set()
            await answer.wait()
            await stream.send_all(OK)

    async with aclosing(Poster(generation=lambda: generation[0])) as poster, server(serve) as (address, accepted):
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(poster.post, address, "/", b"", b"", LIMIT)
                await asked.wait()
                generation[0] = 2
                answer.set()
            assert not poster._kept
            for _ in range(3):
                assert await poster.post(address, "/", b"", b"", LIMIT) == (200, b"ok")
            assert len(accepted) == 2
            generation[0] = 3
            assert await poster.post(address, "/", b"", b"", LIMIT) == (200, b"ok")
            assert len(accepted) == 3
            assert [one.target[2] for one in poster._kept] == [3]
