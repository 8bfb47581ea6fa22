"""Seals, keys and signatures: the pieces by value, then nodes on real sockets."""

import socket
from contextlib import AsyncExitStack
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from gossip import Credentials, GossipOptions, Keyring, KeyringError, Member, Role, Sealing, Security, State, node
from gossip.codec import decode_exchange, encode_exchange, encode_packet
from gossip.credentials import node_id_of
from gossip.errors import BadSeal, CodecError, Malformed, NotSealed, Oversize, Replayed, UnknownKey, WrongLabel
from gossip.messages import Alive, Dead, Entry, ExchangeState, Left, Packet, Ping, Suspect
from gossip.sealing import SEALED_BYTES, Envelope, ReplayWindow, nonce_of
from gossip.swim import Swim
from tests.gossip.test_node import Plane, ident, poll, sees, until
from tests.gossip.test_node import node as running

ONE, TWO, THREE = (bytes([number]) * 32 for number in (1, 2, 3))
NONCE = b"n" * 12
FRAME = encode_packet("blue", Packet(ident(1), 1, (Ping(7, ident(2)),)))


def envelope(keyring: Keyring | None, sealing: Sealing = Sealing.REQUIRE, label: str = "blue") -> Envelope:
    return Envelope(label, sealing, keyring)


# --- keyring


def test_a_rotation_step_by_step() -> None:
    ring = Keyring.fresh(ONE)
    old = ring.primary.key_id
    ring = ring.install(TWO)
    new = ring.keys[1].key_id
    assert [key.role for key in ring.keys] == [Role.PRIMARY, Role.ACCEPTED]
    with pytest.raises(KeyringError, match="use another one first"):
        ring.remove(old)
    ring = ring.use(new)
    assert ring.primary.key_id == new
    ring = ring.remove(old)
    assert [key.role for key in ring.keys] == [Role.RETIRED, Role.PRIMARY]
    ring = ring.revoke(old)
    assert [key.key_id for key in ring.keys] == [new]
    assert ring.version == 5
    assert Keyring.decode(ring.encode()) == ring
    assert ring.beats(Keyring.fresh(ONE))
    assert not Keyring.fresh(ONE).beats(ring)


def test_changes_that_cannot_be_are_refused() -> None:
    ring = Keyring.fresh(ONE)
    with pytest.raises(KeyringError, match="installed already"):
        ring.install(ONE)
    with pytest.raises(KeyringError, match="32 bytes, this has 5"):
        ring.install(b"short")
    with pytest.raises(KeyringError, match="there is no key 'abc'"):
        ring.use("abc")
    for number in range(2, 9):
        ring = ring.install(bytes([number]) * 32)
    with pytest.raises(KeyringError, match="8 keys are installed"):
        ring.install(bytes([9]) * 32)
    assert repr(ONE) not in repr(ring)


def test_of_two_changes_made_at_once_the_same_wins_everywhere() -> None:
    one, other = Keyring.fresh(ONE).install(TWO), Keyring.fresh(ONE).install(THREE)
    assert one.beats(other) != other.beats(one)


@given(
    st.binary(max_size=300) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(repr).map(str.encode)
)
def test_any_bytes_are_a_keyring_or_a_keyring_error(data: bytes) -> None:
    for text in (data, b'{"version": 1, "keys": ' + data + b"}", b'{"version": 1, "keys": [' + data + b"]}"):
        with pytest.raises(KeyringError):
            Keyring.decode(text)


# --- seals


def test_what_is_sealed_opens_with_the_same_key_alone() -> None:
    ring = Keyring.fresh(ONE)
    sealed = envelope(ring).close(FRAME, ident(1), NONCE)
    assert len(sealed) <= len(FRAME) + SEALED_BYTES
    opened = envelope(ring.install(TWO)).open(sealed)
    assert (opened.frame, opened.source, opened.sequence) == (FRAME, ident(1), 1)
    assert nonce_of(sealed) == opened.nonce == NONCE
    with pytest.raises(UnknownKey, match="not in the keyring here"):
        envelope(Keyring.fresh(TWO)).open(sealed)
    with pytest.raises(UnknownKey):
        envelope(None, Sealing.OFF).open(sealed)
    with pytest.raises(WrongLabel, match="'blue' does not match ours, 'red'"):
        envelope(ring, label="red").open(sealed)
    with pytest.raises(Oversize):
        envelope(ring).open(sealed + b"\0" * 7 * 1024 * 1024)


@given(st.data())
def test_no_bit_of_a_sealed_frame_may_change(data: st.DataObject) -> None:
    ring = Keyring.fresh(ONE)
    sealed = bytearray(envelope(ring).close(FRAME, ident(1), NONCE))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CodecError):
        envelope(ring).open(bytes(sealed))


@given(st.binary(max_size=200))
def test_any_bytes_behind_a_header_are_refused_by_name(data: bytes) -> None:
    for prefix in (b"zs", b"zs\x01\x04blue", b"zs\x01\x04blue" + Keyring.fresh(ONE).primary.raw_id):
        with pytest.raises(CodecError):
            envelope(Keyring.fresh(ONE)).open(prefix + data)


def test_an_answer_fits_no_other_question() -> None:
    ring = Keyring.fresh(ONE)
    asker, answerer = envelope(ring), envelope(ring)
    question = asker.close(FRAME, ident(1), NONCE)
    answer = answerer.close(FRAME, ident(2), b"m" * 12, answerer.open(question))
    assert asker.open(answer, nonce_of(question)).source == ident(2)
    with pytest.raises(BadSeal):
        asker.open(answer, b"o" * 12)


def test_a_retired_key_opens_full_states_only() -> None:
    ring = Keyring.fresh(ONE).install(TWO)
    ring = ring.use(ring.keys[1].key_id).remove(ring.keys[0].key_id)
    sleeper = envelope(Keyring.fresh(ONE))
    with pytest.raises(UnknownKey, match="retired"):
        envelope(ring).open(sleeper.close(FRAME, ident(1), NONCE))
    state = encode_exchange("blue", ExchangeState(ident(1), 1, ()))
    opened = envelope(ring).open(sleeper.close(state, ident(1), NONCE))
    assert opened.key is not None
    assert opened.key.role is Role.RETIRED


def test_on_the_way_from_plain_to_sealed_neighbouring_steps_understand_each_other() -> None:
    ring = Keyring.fresh(ONE)
    steps = [envelope(ring, sealing) for sealing in Sealing]
    for number, step in enumerate(steps):
        for other in steps[max(0, number - 1) : number + 2]:
            assert other.open(step.close(FRAME, ident(1), NONCE)).frame == FRAME
    with pytest.raises(NotSealed, match=r"gossip\.sealing"):
        steps[3].open(FRAME)


def test_each_sequence_number_passes_once() -> None:
    window = ReplayWindow()
    for sequence in (1, 3, 2, 5000, 4500):
        window.check("a", 1, sequence, 1)
    for sequence in (1, 2, 5000, 4500, 3900):
        with pytest.raises(Replayed):
            window.check("a", 1, sequence, 1)
    window.check("a", 9, 10**18, 1)  # somebody claims a later start ...
    window.check("a", 1, 5001, 1)  # ... and locks nobody out
    with pytest.raises(Replayed):
        window.check("a", 1, 5002, 2)  # its own word: that start is over


@given(st.lists(st.integers(1, 60), max_size=80))
def test_the_window_is_a_set(sequences: list[int]) -> None:
    window, seen = ReplayWindow(), set()
    for sequence in sequences:
        try:
            window.check("a", 1, sequence, 0)
            assert sequence not in seen
        except Replayed:
            assert sequence in seen
        seen.add(sequence)


# --- signatures


def credentials(number: int) -> Credentials:
    return Credentials(bytes([number]) * 32, "blue")


def described(number: int, **more: Any) -> Member:
    me = Member(credentials(number).node_id, 1, f"z{number}", f"10.0.0.{number}", 9293, **more)
    return credentials(number).sign(me)


def knowing(*numbers: int, me: int = 1) -> Swim:
    own = replace(described(me), public=b"", signature=b"")
    core = Swim(GossipOptions(), "blue", own, Random(1), 0.0, credentials(me))
    entries = tuple(Entry(described(number), State.ALIVE) for number in numbers)
    core.merge(ExchangeState(credentials(2).node_id, 1, entries), 0.0)
    return core


def test_an_id_is_the_hash_of_its_key() -> None:
    assert node_id_of(credentials(1).public) == credentials(1).node_id != credentials(2).node_id
    assert credentials(1).is_genuine(described(1))
    assert not credentials(1).is_genuine(replace(described(1), node_id=credentials(2).node_id))
    assert not Credentials(bytes(32), "red").is_genuine(described(1))


@pytest.mark.parametrize(
    "changes",
    [{"generation": 9}, {"incarnation": 9}, {"revision": 9}, {"zone": "evil"}, {"host": "evil"}, {"port": 1},
     {"facts": {"api": "http://evil"}}, {"signature": b""}, {"public": credentials(3).public}],
)  # fmt: skip
def test_nobody_speaks_for_another(changes: dict[str, Any]) -> None:
    core = knowing(2, 3)
    forged = replace(described(2), **changes)
    packet = Packet(credentials(3).node_id, 1, (Alive(forged),))
    core.receive(packet, ("10.0.0.3", 9293), 1.0)
    core.merge(ExchangeState(credentials(3).node_id, 1, (Entry(forged, State.ALIVE),)), 1.0)
    assert core.views[described(2).node_id].member == described(2)
    assert core.forged >= (changes != {"revision": 0})
    stranger = replace(described(4), zone="evil")
    for state in State:
        core.merge(ExchangeState(credentials(3).node_id, 1, (Entry(stranger, state),)), 1.0)
    assert stranger.node_id not in core.views


def test_no_accusation_outranks_what_the_accused_said_itself() -> None:
    core = knowing(2, 3)
    about = credentials(2).node_id
    for verdict in (Suspect(about, 1, 2**62, ident(9)), Dead(about, 5, 0, ident(9)), Left(about, 1, 2**62)):
        core.receive(Packet(credentials(3).node_id, 1, (verdict,)), ("10.0.0.3", 9293), 1.0)
    core.receive(Packet(credentials(3).node_id, 1, (Left(about, 1, 0),)), ("10.0.0.3", 9293), 1.0)
    assert core.views[about].state is State.ALIVE
    mine = Dead(core.me.node_id, 1, 2**63 - 1, ident(9))
    core.receive(Packet(credentials(3).node_id, 1, (mine,)), ("10.0.0.3", 9293), 1.0)
    assert core.me.incarnation == 0
    core.receive(Packet(credentials(3).node_id, 1, (Dead(core.me.node_id, 1, 0, ident(9)),)), ("x", 1), 1.0)
    assert core.me.incarnation == 1
    assert credentials(1).is_genuine(core.me)


def test_a_good_bye_is_believed_when_it_is_signed_and_can_be_passed_on() -> None:
    core, other = knowing(2, 3), knowing(1, 2, me=4)
    left = Left(described(2).node_id, 1, 0, credentials(2).sign_left(described(2)))
    core.receive(Packet(credentials(3).node_id, 1, (left,)), ("10.0.0.3", 9293), 1.0)
    assert core.views[left.node_id].state is State.LEFT
    other.merge(core.exchange_state(1.0), 1.0)
    assert other.views[left.node_id].state is State.LEFT
    newcomer = knowing(me=5)
    newcomer.merge(core.exchange_state(1.0), 1.0)
    assert newcomer.views[left.node_id].state is State.LEFT
    assert (core.forged, other.forged, newcomer.forged) == (0, 0, 0)
    core.leave(2.0)
    other.merge(core.exchange_state(2.0), 2.0)
    assert other.views[core.me.node_id].state is State.LEFT


# --- nodes


def secured(ring: Keyring | None, sealing: Sealing = Sealing.REQUIRE, **more: Any) -> dict[str, Any]:
    return {"security": Security(sealing=sealing, keyring=ring, **more)}


async def test_a_stranger_without_the_key_changes_nothing_and_learns_nothing() -> None:
    plane = Plane()
    ring = Keyring.fresh(ONE)
    async with running(plane, 1, **secured(ring)) as a, running(plane, 2, (a,), **secured(ring)) as b:
        await until(a, sees(a, 2, State.ALIVE))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.setblocking(False)
            lie = Packet(ident(2), 1, (Dead(ident(2), 1, 0, ident(2)), Ping(1, ident(1))))
            plain = encode_packet("blue", lie)
            stranger.sendto(plain, a.address)
            stranger.sendto(envelope(Keyring.fresh(TWO)).close(plain, ident(2), NONCE), a.address)
            again = b._close(encode_packet("blue", Packet(ident(2), 1, (Ping(5, ident(1)),))))
            stranger.sendto(again, a.address)
            stranger.sendto(again, a.address)
            await poll(lambda: a.counts["dropped_replay"] == 1)
            assert a.counts["dropped_plain"] == a.counts["dropped_key"] == 1
            answer = stranger.recv(2000)  # to the replayed ping of a true member, and unreadable
            assert answer[:2] == b"zs"
            with pytest.raises(BlockingIOError):
                stranger.recv(2000)
        for body in (encode_exchange("blue", ExchangeState(ident(9), 1, ())), plain, b"zs\x01\x04blue"):
            with pytest.raises(CodecError):
                await a.answer(body)
        assert len(a.members) == 2
        assert sees(a, 2, State.ALIVE)()


async def test_a_rotation_reaches_everybody_at_once_and_a_sleeper_later() -> None:
    plane = Plane()
    ring = Keyring.fresh(ONE)
    kept: list[Keyring] = []
    async with AsyncExitStack() as stack:
        a, b, c = [
            await stack.enter_async_context(
                running(plane, number, (), generation=1, **secured(ring, keys_changed=kept.append))
            )
            for number in (1, 2, 3)
        ]
        for one in (b, c):
            one.join([a.address], [])
            await until(a, sees(a, 2 if one is b else 3, State.ALIVE))
        first = ring.primary.key_id
        a.change_keys(ring.install(TWO))
        await poll(lambda: b.keyring == c.keyring == a.keyring)
        plane.hang = True  # nothing passes by HTTP: c sleeps through the rest, as far as keys go
        asleep = c.keyring
        for change in ("use", "remove"):
            assert a.keyring is not None
            a._envelope.keyring = getattr(a.keyring, change)(a.keyring.keys[change == "use"].key_id)
        b._envelope.keyring = a.keyring
        a._salt()
        b._salt()
        assert c.keyring == asleep
        plane.hang = False
        await poll(lambda: c.keyring == a.keyring)
        assert kept[-1] == a.keyring
        assert a.keyring is not None
        assert a.keyring.primary.key_id != first
        await poll(lambda: all(sees(one, n, State.ALIVE)() for one in (a, b, c) for n in (1, 2, 3)))


async def test_who_missed_a_whole_rotation_catches_up_by_its_retired_key_and_not_by_a_revoked_one() -> None:
    ring = Keyring.fresh(ONE).install(TWO)
    old, new = ring.keys
    rotated = ring.use(new.key_id).remove(old.key_id)
    plane = Plane()
    async with running(plane, 1, **secured(rotated)) as a:
        async with running(plane, 2, (a,), **secured(Keyring.fresh(ONE))) as b:
            await until(a, sees(a, 2, State.ALIVE))
            assert b.keyring == rotated
        a._take(rotated.revoke(old.key_id))
        async with running(plane, 3, (a,), **secured(Keyring.fresh(ONE))) as c, c.subscribe() as notices:
            with trio.fail_after(30):
                refusal = await notices.receive()
            assert "which is not in the keyring here" in str(refusal)
            assert ident(3) not in a.members
        body = envelope(Keyring.fresh(ONE)).close(
            encode_exchange("blue", ExchangeState(ident(9), 1, ())), ident(9), NONCE
        )
        with pytest.raises(UnknownKey):
            await a.answer(body)


async def test_the_answer_to_a_retired_key_is_the_keyring_and_no_member() -> None:
    ring = Keyring.fresh(ONE).install(TWO)
    rotated = ring.use(ring.keys[1].key_id).remove(ring.keys[0].key_id)
    plane = Plane()
    async with running(plane, 1, **secured(rotated)) as a:
        sleeper = envelope(Keyring.fresh(ONE))
        told = Entry(Member(ident(9), 1, "z", "h", 1), State.ALIVE)
        question = sleeper.close(encode_exchange("blue", ExchangeState(ident(9), 1, (told,))), ident(9), NONCE)
        answer = sleeper.open(await a.answer(question), nonce_of(question))
        state = decode_exchange("blue", answer.frame)
        assert (state.entries, Keyring.decode(state.keyring)) == ((), rotated)
        assert len(a.members) == 1


async def test_a_running_cluster_goes_from_plain_to_sealed_without_losing_anybody() -> None:
    plane = Plane()
    ring = Keyring.fresh(ONE)
    async with running(plane, 1, **secured(ring, Sealing.ACCEPT)) as a:
        for step, sealing in enumerate((Sealing.OFF, Sealing.ACCEPT, Sealing.SEND), 1):
            more = secured(None if sealing is Sealing.OFF else ring, sealing)
            async with running(plane, 2, (a,), generation=step, **more) as b:
                await until(a, lambda step=step: ident(2) in a.members and a.members[ident(2)].generation == step)  # type: ignore[misc]
                await poll(lambda b=b: a.members[ident(2)].acked is not None and b.members[ident(1)].acked is not None)  # type: ignore[misc]
        a._envelope.sealing = Sealing.SEND
        async with running(plane, 2, (a,), generation=4, **secured(ring)):
            await until(a, lambda: a.members[ident(2)].generation == 4)
            await poll(lambda: a.members[ident(2)].acked is not None)
            assert a.members[ident(2)].state is State.ALIVE


async def test_a_node_signs_and_refuses_the_unsigned() -> None:
    plane = Plane()
    own = [credentials(number) for number in (1, 2)]
    signed: list[dict[str, Any]] = [{"security": Security(credentials=one), "node_id": one.node_id} for one in own]
    async with running(plane, 1, **signed[0]) as a, running(plane, 2, (a,), **signed[1]) as b, running(plane, 3, (a,)):
        await until(a, lambda: own[1].node_id in a.members)
        assert credentials(1).is_genuine(b.me)
        await poll(lambda: a.forged > 0)
        assert ident(3) not in a.members
        await b.leave(2.0)
        await until(a, lambda: a.members[own[1].node_id].state is State.LEFT)


def test_a_sender_must_be_the_one_on_the_seal() -> None:
    ring = Keyring.fresh(ONE)
    gossip: Any = object.__new__(node.Gossip)
    gossip._label = "blue"
    with pytest.raises(Malformed, match="sender"):
        gossip._read(envelope(ring).open(envelope(ring).close(FRAME, ident(5), NONCE)))
