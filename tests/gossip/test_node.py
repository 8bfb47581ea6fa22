"""The shell on real sockets: loopback UDP, and the full exchange through a client whose transport calls the peers."""

import errno
import math
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from random import Random
from typing import Any
from uuid import UUID

import dns.asyncresolver
import dns.message
import dns.rrset
import pytest
import trio

from gossip import (
    AddressTaken,
    BadIdentity,
    Change,
    CodecError,
    Event,
    Gossip,
    GossipOptions,
    IdentityTaken,
    Member,
    Refusal,
    Starting,
    State,
    WrongLabel,
    open_gossip,
)
from gossip.codec import DATAGRAM_BYTES_MAX, encode_exchange
from gossip.errors import ExchangeFailed
from gossip.exchange import PATH, Dial, exchange
from gossip.messages import Entry, ExchangeState
from gossip.node import SLICE_ENTRIES
from gossip.udp import parse_address
from zoned.posting import Poster

FAST = replace(
    GossipOptions.lan(),
    probe_interval_s=0.15,
    probe_timeout_s=0.05,
    probe_timeout_min_s=0.04,
    gossip_interval_s=0.02,
    publish_interval_s=0.05,
    exchange_interval_s=5.0,
    suspicion_mult=3.0,
    redial_max_s=0.5,
)


class Plane:
    """The peers' HTTP: requests reach the gossip bound to that port, as the daemon's application would call it."""

    def __init__(self) -> None:
        self.peers: dict[int, Gossip] = {}
        self.answer: tuple[int, bytes] | None = None
        self.asked: list[tuple[str, int]] = []  # the name that was meant, the port
        self.hang = False

    async def post(
        self, address: tuple[str, int], path: str, headers: bytes, body: bytes, bytes_max: int, *, name: str = "",
        connect_s: float = math.inf,
    ) -> tuple[int, bytes]:  # fmt: skip
        await trio.lowlevel.checkpoint()
        self.asked.append((name, address[1]))
        while self.hang:  # noqa: ASYNC110 - a test's patience
            await trio.sleep(0.01)
        peer = self.peers.get(address[1])
        if self.answer is not None:
            return self.answer
        if peer is None:
            raise ConnectionRefusedError("refused")
        assert path == PATH
        try:
            return 200, await peer.answer(body)
        except Starting as bad:
            return 503, str(bad).encode()
        except CodecError as bad:
            return 409, str(bad).encode()


def ident(number: int) -> str:
    return str(UUID(int=number))


@asynccontextmanager
async def node(
    plane: Plane, number: int, seeds: tuple[Gossip, ...] = (), label: str = "blue", generation: int = 1, **more: Any
) -> AsyncIterator[Gossip]:
    bound = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    await bound.bind(("127.0.0.1", 0))
    port = bound.getsockname()[1]
    me = Member(
        more.pop("node_id", ident(number)), generation, f"zone-{number}", *more.pop("advertise", ("127.0.0.1", port))
    )
    async with open_gossip(
        more.pop("options", FAST),
        label=label,
        me=me,
        bind_to=bound,
        seeds=[f"127.0.0.1:{seed.address[1]}" for seed in seeds],
        book=more.pop("book", ()),
        post=plane.post,
        rng=Random(number),
        **more,
    ) as gossip:
        plane.peers[port] = gossip
        try:
            yield gossip
        finally:
            del plane.peers[port]


async def until(gossip: Gossip, done: Callable[[], bool], within: float = 30.0) -> float:
    """Seconds until `done`, looked at after every notice."""
    start = trio.current_time()
    async with gossip.subscribe() as notices:
        with trio.fail_after(within):
            while not done():
                await notices.receive()
    return trio.current_time() - start


def sees(gossip: Gossip, number: int, state: State) -> Callable[[], bool]:
    return lambda: ident(number) in gossip.members and gossip.members[ident(number)].state is state


async def test_three_nodes_meet_publish_lose_one_and_say_good_bye() -> None:
    plane = Plane()
    books: list[Any] = []
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(node(plane, 1, book_changed=books.append))
        b = await stack.enter_async_context(node(plane, 2, (a,)))
        async with node(plane, 3, (a,)) as c:
            for gossip in (a, b, c):
                await until(gossip, lambda gossip=gossip: len(gossip.members) == 3)  # type: ignore[misc]
            assert set(books[-1]) == {b.address, c.address} == set(a.book())
            c.publish(api="http://c", position=7, expect=3)
            await until(a, lambda: a.members[ident(3)].facts.get("position") == 7)
            c.publish(position=8, expect=None)
            await until(b, lambda: dict(b.members[ident(3)].facts) == {"api": "http://c", "position": 8})
            assert c.me.facts == {"api": "http://c", "position": 8}
            # Answered probes are measured.
            await poll(lambda: a.members[ident(2)].rtt_s is not None)
        # The block ended without a good-bye: a crash.
        await until(a, sees(a, 3, State.DEAD))
        await until(b, sees(b, 3, State.DEAD))
        # It comes back as a newer start, on another port, and is known at once.
        async with node(plane, 3, (a,), generation=2) as c:
            assert await until(b, sees(b, 3, State.ALIVE)) < 2
            assert b.members[ident(3)].address == c.address
        await b.leave(2.0)
        await until(a, sees(a, 2, State.LEFT))
        assert b.address not in a.book()
        assert a.counts["datagrams_in"] > 10 < a.counts["datagrams_out"]


async def test_notices_are_bounded_and_the_oldest_is_dropped_and_counted() -> None:
    plane = Plane()
    async with node(plane, 1) as a:
        notices = a.subscribe(notices_max=2)
        for number in range(5):
            a._notify(Refusal(("x", number + 1), "no"))
        assert notices.dropped == 3
        assert await notices.receive() == Refusal(("x", 4), "no")
        assert await notices.receive() == Refusal(("x", 5), "no")
    with pytest.raises(trio.EndOfChannel):
        await notices.receive()


async def test_no_packet_and_no_socket_error_ends_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    plane = Plane()
    async with node(plane, 1) as a, node(plane, 2, (a,)) as b:
        await until(a, sees(a, 2, State.ALIVE))
        stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with stranger:
            for data in (
                b"",
                b"x",
                b"zg\x01\x04blue" + b"\x91" * 900,
                b"zg\x07\x04blue",
                b"\0" * 5000,
                b"zg\x01\x03red",
            ):
                stranger.sendto(data, a.address)
            oversize = b"zg\x01\x04blue" + b"\0" * DATAGRAM_BYTES_MAX
            stranger.sendto(oversize, a.address)
        await until_count(a, "dropped_oversize", 2)
        assert a.counts["dropped_garbage"] == 2
        assert a.counts["dropped_malformed"] == 1
        assert a.counts["dropped_version"] == 1
        assert a.counts["dropped_label"] == 1

        class Broken:
            family = socket.AF_INET

            def sendto(self, data: bytes, address: Any) -> int:
                raise OSError(errno.ENOBUFS, "full")

            def recvfrom(self, size: int) -> Any:
                raise OSError(errno.ECONNREFUSED, "refused")

            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

        real = a._datagrams._raw
        monkeypatch.setattr(a._datagrams, "_raw", Broken())
        assert a._datagrams.receive() == []
        a._datagrams.send(b"x", ("127.0.0.1", 1))
        a._datagrams.send(b"x", ("::1", 1))
        monkeypatch.setattr(a._datagrams, "_raw", real)
        assert a.counts["dropped_enobufs"] == 1
        assert a.counts["receive_econnrefused"] == 1
        assert a.counts["dropped_unresolved"] == 1
        b.publish(x=1)
        await until(a, lambda: a.members[ident(2)].facts.get("x") == 1)


async def until_count(gossip: Gossip, name: str, least: int) -> None:
    await poll(lambda: gossip.counts[name] >= least)


async def poll(done: Callable[[], bool]) -> None:
    """For what no notice tells."""
    with trio.fail_after(30):
        while not done():  # noqa: ASYNC110 - counters have no event
            await trio.sleep(0.01)


async def test_another_cluster_is_refused_with_both_labels_named_and_nothing_changed() -> None:
    plane = Plane()
    async with node(plane, 1) as a:
        async with node(plane, 2, (a,), label="green") as b, b.subscribe() as notices:
            with trio.fail_after(30):
                notice = await notices.receive()
            assert notice == Refusal(a.address, "status 409: cluster label 'green' does not match ours, 'blue'")
            await until_count(b, "exchanges_refused", 3)
            with trio.move_on_after(0.05):
                raise AssertionError(f"said twice: {await notices.receive()}")
        assert len(a.members) == len(b.members) == 1
        assert a.counts["exchanges_bad_label"] >= 3
        with pytest.raises(WrongLabel, match="cluster label 'red' does not match ours, 'blue'"):
            await a.answer(b"zx\x01\x03red\xc0")


async def test_bad_answers_to_an_exchange_are_counted_and_dialled_again() -> None:
    plane = Plane()
    async with node(plane, 1) as a, node(plane, 2) as b:
        plane.answer = (503, b"starting")
        a.join([b.address], [])
        await until_count(a, "exchanges_failed", 2)
        plane.answer = (200, b"<html>")
        await until_count(a, "exchanges_refused", 1)
        plane.answer = None
        await until(a, sees(a, 2, State.ALIVE))


async def test_names_are_resolved_at_every_dial_and_for_datagrams() -> None:
    plane = Plane()
    async with node(plane, 1) as a, node(plane, 2) as b:
        a.join([("localhost", b.address[1])], [])
        await until(a, sees(a, 2, State.ALIVE))
        assert plane.asked[0] == ("localhost", b.address[1])
        sent = a.counts["datagrams_out"]
        a._datagrams.send(b"first", ("localhost", b.address[1]))
        assert a.counts["dropped_unresolved"] == 1
        await poll(lambda: "localhost" in a._datagrams._resolved)
        a._datagrams.send(b"second", ("localhost", b.address[1]))
        assert a.counts["datagrams_out"] > sent
        await until_count(b, "dropped_garbage", 1)
        failed = a.counts["exchanges_failed"]
        a.join([("no-such-host.invalid", 1)], [])
        await until_count(a, "exchanges_failed", failed + 1)


async def test_a_service_names_hosts_and_ports_nearest_priority_first() -> None:
    """A real lookup, at a name server of our own that knows one service."""
    asked: list[str] = []
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        await server.bind(("127.0.0.1", 0))

        async def serve() -> None:
            while True:
                data, sender = await server.recvfrom(2000)
                query = dns.message.from_wire(data)
                asked.append(str(query.question[0].name))
                answer = dns.message.make_response(query)
                if asked[-1] == "_zoned._tcp.example.":
                    records = ["20 0 7 127.0.0.1.", "10 0 8 localhost."]
                    answer.answer.append(dns.rrset.from_text(query.question[0].name, 1, "IN", "SRV", *records))
                await server.sendto(answer.to_wire(), sender)

        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = ["127.0.0.1"], server.getsockname()[1]
        plane = Plane()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            dial = Dial(plane.post, Random(1), 2.0, resolver)
            with pytest.raises(ExchangeFailed, match="refused"):
                await exchange(dial, ("_zoned._tcp.example", 1), b"")
            assert plane.asked[0] == ("localhost", 8)
            assert plane.asked[-1] == ("127.0.0.1", 7)
            with pytest.raises(ExchangeFailed, match=r"service '_no\._tcp\.example' cannot be resolved"):
                await exchange(dial, ("_no._tcp.example", 1), b"")
            nursery.cancel_scope.cancel()


async def test_what_cannot_start_says_so() -> None:
    plane = Plane()
    async with node(plane, 1) as a:
        me = Member(ident(2), 1, "z", "127.0.0.1", 1)
        settings: dict[str, Any] = {
            "label": "blue", "me": me, "bind_to": a.address, "seeds": [], "book": [],
            "post": plane.post, "rng": Random(1),
        }  # fmt: skip
        with pytest.raises(OSError, match="in use"):
            async with open_gossip(FAST, **settings):
                raise AssertionError
        with pytest.raises(ValueError, match="'nowhere' is not host:port"):
            async with open_gossip(FAST, **{**settings, "seeds": ["nowhere"]}):
                raise AssertionError
        with pytest.raises(BadIdentity, match="zone name"):
            async with open_gossip(FAST, **{**settings, "me": replace(me, zone="")}):
                raise AssertionError


@pytest.mark.parametrize(
    ("text", "address"),
    [("a.example:9293", ("a.example", 9293)), ("10.0.0.1:1", ("10.0.0.1", 1)), ("[::1]:65535", ("::1", 65535))],
)
def test_addresses_are_read(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "a", "a:", ":1", "a:0", "a:65536", "a:-1", "a:²"])
def test_bad_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not host:port"):
        parse_address(text)


async def test_a_join_is_noticed() -> None:
    plane = Plane()
    async with node(plane, 1) as a, a.subscribe() as notices, node(plane, 2, (a,)):
        with trio.fail_after(30):
            notice = await notices.receive()
        assert isinstance(notice, Change)
        assert (notice.event, notice.view.zone) == (Event.JOINED, "zone-2")


async def test_the_exchange_goes_over_real_http_on_the_port_of_the_datagrams() -> None:
    async with node(Plane(), 1) as a, trio.open_nursery() as nursery:

        async def serve(stream: trio.SocketStream) -> None:
            async with stream:
                head, _, body = (await stream.receive_some(65536)).partition(b"\r\n\r\n")
                assert head.startswith(b"POST /peer/v1/gossip HTTP/1.1")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                while len(body) < length:
                    body += await stream.receive_some(65536)
                answer = await a.answer(body)
                await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer)

        listeners = await trio.open_tcp_listeners(a.address[1], host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        me = Member(ident(2), 1, "zone-2", "127.0.0.1", 1)
        async with (
            aclosing(Poster()) as poster,
            open_gossip(
                FAST,
                label="blue",
                me=me,
                bind_to=("127.0.0.1", 0),
                seeds=[f"localhost:{a.address[1]}"],
                book=[],
                post=poster.post,
                rng=Random(2),
            ) as b,
        ):
            await until(b, sees(b, 1, State.ALIVE))
            assert ident(2) in a.members
        nursery.cancel_scope.cancel()


# --- before a node speaks


async def test_a_copy_of_a_running_node_is_refused_and_the_older_goes_on() -> None:
    plane = Plane()
    async with node(plane, 1) as a, node(plane, 2, (a,)) as b:
        await until(a, sees(a, 2, State.ALIVE))
        with (
            trio.fail_after(30),
            pytest.RaisesGroup(pytest.RaisesExc(IdentityTaken, match="this data directory is a copy")),
        ):
            async with node(plane, 2, (a,), generation=2):
                await trio.sleep_forever()
        assert a.members[ident(2)].generation == 1
        assert a.members[ident(2)].address == b.address
        assert sees(a, 2, State.ALIVE)()


async def test_a_restart_at_another_address_is_no_copy() -> None:
    plane = Plane()
    async with node(plane, 1) as a:
        async with node(plane, 2, (a,)):
            await until(a, sees(a, 2, State.ALIVE))
        async with node(plane, 2, (a,), generation=2) as b:  # long before its old self is found dead
            await until(a, lambda: a.members[ident(2)].generation == 2)
            assert a.members[ident(2)].address == b.address


async def test_an_address_configured_twice_is_refused_at_the_second() -> None:
    plane = Plane()
    async with node(plane, 1) as a, node(plane, 2, (a,)) as b:
        await until(a, sees(a, 2, State.ALIVE))
        with trio.fail_after(30), pytest.RaisesGroup(pytest.RaisesExc(AddressTaken, match="set peers.advertise")):
            async with node(plane, 3, (a,), advertise=b.address):
                await trio.sleep_forever()
        assert ident(3) not in a.members


async def test_while_it_asks_a_start_tells_nobody_anything() -> None:
    plane = Plane()
    async with node(plane, 1) as a:
        plane.hang = True
        async with node(plane, 2, (a,), generation=2) as b:
            with pytest.raises(Starting, match="ask again"):
                await b.answer(b"zx\x01\x04blue\xc0")
            plane.hang = False
            await until(a, sees(a, 2, State.ALIVE))


# --- packets by HTTP


async def test_two_nodes_without_udp_find_lose_and_find_each_other() -> None:
    plane = Plane()
    options = replace(FAST, stream_only=True, probe_interval_s=0.3, probe_timeout_s=0.1)
    async with node(plane, 1, options=options) as a:
        async with node(plane, 2, (a,), options=options) as b:
            await until(a, sees(a, 2, State.ALIVE))
            await poll(lambda: a.members[ident(2)].acked is not None)
            b.publish(x=1)
            await until(a, lambda: a.members[ident(2)].facts.get("x") == 1)
            assert a.counts["datagrams_out"] == b.counts["datagrams_out"] == 0
            assert a.counts["streams_ok"] > 0
        await until(a, sees(a, 2, State.DEAD))
        async with node(plane, 2, (a,), generation=2, options=options):
            await until(a, sees(a, 2, State.ALIVE))


async def test_a_full_state_is_merged_in_turns() -> None:
    plane = Plane()
    async with node(plane, 1) as a:
        entries = tuple(Entry(Member(ident(n), 1, f"z{n}", "127.0.0.1", 9), State.LEFT) for n in range(10, 2010))
        body = encode_exchange("blue", ExchangeState(ident(9), 1, entries))
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            await a.answer(body)
            nursery.cancel_scope.cancel()
        assert turns >= 2000 / SLICE_ENTRIES - 3
        assert len(a.members) == 2001


async def test_nodes_know_how_far_they_are_apart() -> None:
    plane = Plane()
    async with node(plane, 1) as a, node(plane, 2, (a,)) as b, node(plane, 3, (a,)) as c:
        await poll(lambda: a.round_trip_s(ident(2)) is not None and b.round_trip_s(ident(1)) is not None)
        least_s, median_s = a.round_trip_s(ident(2)) or (9, 9)
        assert 0 < least_s <= median_s < 0.2
        await poll(lambda: c.round_trip_s(ident(1)) is not None)
        for number, one in enumerate((a, b, c)):
            one.report(position=number)
        await poll(lambda: a.estimate_s(ident(2), ident(3)) is not None)
        assert (a.estimate_s(ident(2), ident(3)) or 9) < 0.2
        assert a.estimate_s(ident(2), ident(9)) is None
        assert a.distance_s(ident(2)) == (a.round_trip_s(ident(2)) or (9,))[0]
        assert a.distance_s(ident(9)) is None
        assert {view.node_id for view in a.nearest(a.members.values())} == set(a.members)


async def test_vitals_ride_along() -> None:
    plane = Plane()
    async with node(plane, 1) as a, node(plane, 2, (a,)) as b:
        b.report(position=7, staleness_s=None)
        await poll(lambda: ident(2) in a.members and a.members[ident(2)].vitals.get("position") == 7)
        assert b.me.revision == 0
        with pytest.raises(BadIdentity, match="own vitals"):
            b.report(long="x" * 300)
