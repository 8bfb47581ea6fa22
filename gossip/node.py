"""The gossip shell: one socket, one loop, one core.

The loop waits until something arrives or the core's deadline passes, feeds the core, does what it says, and waits
again. Everything that may block (a full exchange, a name) runs beside it in the same nursery and hands its result to
the core, after which the loop's alarm is set anew. No bad packet and no socket error ends a task; each is counted.
"""

import math
import secrets
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from random import Random
from types import MappingProxyType

import structlog
import trio

from gossip.caution import Asking, check_alone
from gossip.codec import (
    decode_exchange,
    decode_packet,
    encode_exchange,
    encode_packet,
    is_packet,
    join_frames,
    open_exchange,
    read_entries,
    split_frames,
)
from gossip.coordinates import AT, Coordinate
from gossip.credentials import Credentials
from gossip.effects import ON_STREAM, Change, Copied, Effect, Exchange, Notice, Notify, Refusal, Send, Superseded, Why
from gossip.errors import (
    CodecError,
    ExchangeFailed,
    KeyringError,
    Malformed,
    Starting,
    UnknownKey,
    WrongLabel,
    WrongVersion,
)
from gossip.exchange import Dial, Post, Refused, exchange
from gossip.keyring import Keyring, Role
from gossip.members import MemberView
from gossip.messages import Address, Entry, ExchangeState, FactValue, Member, Packet, Ping
from gossip.options import GossipOptions
from gossip.sealing import NONCE_BYTES, SEALED_BYTES, Envelope, Opened, ReplayWindow, Sealing, nonce_of
from gossip.swim import Swim
from gossip.throttle import Throttle
from gossip.udp import Datagrams, adopt, bind, parse_address

REFUSAL_INTERVAL_S = 60.0
KEY_INTERVAL_S = 1.0  # between dials of those whose datagrams we have no key for
SLICE_ENTRIES = 128  # of a full state merged at a time, some milliseconds; then others have their turn
STREAMS_MAX = 64  # packets under way by HTTP

BookChanged = Callable[[tuple[Address, ...]], None]
KeysChanged = Callable[[Keyring], None]

log = structlog.get_logger()


class Subscription(trio.abc.ReceiveChannel[Notice]):
    """Notices in order, at most `notices_max` waiting; then the oldest is dropped and counted in `dropped`. Whoever
    sees the count grow looks at `Gossip.members` again: notices are hints, the table is the truth.
    """

    def __init__(self, notices_max: int, forget: Callable[["Subscription"], None]) -> None:
        self.dropped = 0
        self._waiting: deque[Notice] = deque(maxlen=notices_max)
        self._forget = forget
        self._lot = trio.lowlevel.ParkingLot()
        self._closed = False

    def put(self, notice: Notice) -> None:
        self.dropped += len(self._waiting) == self._waiting.maxlen
        self._waiting.append(notice)
        self._lot.unpark()

    def end(self) -> None:
        """No more will come; what waits can still be read."""
        self._closed = True
        self._lot.unpark_all()

    async def receive(self) -> Notice:
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            if self._closed:
                raise trio.EndOfChannel
            await self._lot.park()
        return self._waiting.popleft()

    async def aclose(self) -> None:
        self._forget(self)
        self.end()
        await trio.lowlevel.checkpoint()


@dataclass(frozen=True, slots=True)
class Security:
    """How members know each other: `credentials` sign what we say of ourselves (and all must), the keyring seals what
    is sent, as far as `sealing` says. `keys_changed` is called with every new keyring, to be kept on disk.
    """

    credentials: Credentials | None = None
    sealing: Sealing = Sealing.OFF
    keyring: Keyring | None = None
    keys_changed: KeysChanged | None = None


INSECURE = Security()


class Gossip:
    """What the daemon holds while gossip is open. Made by `open_gossip`. Call it from the trio thread only.

    `counts` are datagrams and exchanges by outcome: `datagrams_in`, `datagrams_out`, `dropped_<reason>`,
    `exchanges_ok`, `exchanges_failed`, `exchanges_refused`, `exchanges_skipped`, `exchanges_answered`,
    `exchanges_bad_<reason>`; `streams_ok`, `streams_failed`, `streams_skipped` and
    `streams_answered` for packets by HTTP; `members_<event>` for what happened to members; `copies_seen`.
    """

    def __init__(
        self,
        core: Swim,
        label: str,
        security: Security,
        datagrams: Datagrams,
        counts: Counter[str],
        dialling: "Dialling",
        clock: Callable[[], float],
        book_changed: BookChanged | None,
    ) -> None:
        self.counts = counts
        self._core = core
        self._label = label
        self._envelope = Envelope(label, security.sealing, security.keyring)
        self._keys_changed = security.keys_changed
        self._window = ReplayWindow()
        self._asked_key = Throttle(KEY_INTERVAL_S)
        self._salt()
        self._datagrams = datagrams
        self._dialling = dialling
        self._clock = clock
        self._book_changed = book_changed
        self._book_version = core.address_version
        self._subscriptions: list[Subscription] = []
        self._warned = Throttle(REFUSAL_INTERVAL_S)
        self._has_left = trio.Event()
        self._joined = False
        self._answers: list[Packet] | None = None  # what goes back on the request being answered
        self._expected: tuple[str, trio.Event] | None = None  # before joining: the ack that we wait for
        self.members: Mapping[str, MemberView] = MappingProxyType(core.views)

    @property
    def me(self) -> Member:
        """How we describe ourselves now."""
        return self._core.me

    @property
    def address(self) -> Address:
        """Where our socket is bound."""
        return self._datagrams.address

    def mute(self, muted: bool) -> None:
        """Cuts the socket off, or lets it speak again; whoever drills a partition cuts the HTTP side by itself."""
        self._datagrams.muted = muted

    @property
    def health(self) -> int:
        """Local health score; 0 is well."""
        return self._core.health

    @property
    def forged(self) -> int:
        """Claims dropped because those whom they are about had not signed them."""
        return self._core.forged

    @property
    def queued(self) -> int:
        """Broadcasts waiting."""
        return self._core.queued

    def book(self) -> tuple[Address, ...]:
        """Addresses worth dialling after a restart."""
        return tuple(self._core.addresses())

    def why(self, node_id: str) -> Why | None:
        """What stands behind our belief about this member."""
        return self._core.why(node_id)

    def nearest(self, views: Iterable[MemberView]) -> list[MemberView]:
        """These members, the nearest first: measured where we probe them, else estimated; who is nowhere last."""
        by_id = {view.node_id: view for view in views}
        order = self._core.distances.nearest((node_id, view.vitals.get(AT)) for node_id, view in by_id.items())
        return [by_id[node_id] for node_id in order]

    def round_trip_s(self, node_id: str) -> tuple[float, float] | None:
        """Least and median of the last round trips to this member; None if there was none."""
        least_s, median_s = self._core.distances.least_s(node_id), self._core.distances.median_s(node_id)
        return (least_s, median_s) if least_s is not None and median_s is not None else None

    def distance_s(self, node_id: str) -> float | None:
        """The round trip to this member: the least of the last, else as coordinates predict it, else None."""
        least_s = self._core.distances.least_s(node_id)
        return least_s if least_s is not None else self.estimate_s(self.me.node_id, node_id)

    def estimate_s(self, one: str, other: str) -> float | None:
        """The round trip between two members as their coordinates predict it; None if one is nowhere yet."""
        found = [self.members[node_id].vitals.get(AT) for node_id in (one, other) if node_id in self.members]
        here = [Coordinate.unpack(at) for at in found]
        if len(here) < 2 or here[0] is None or here[1] is None:
            return None
        return here[0].distance_s(here[1])

    async def survey(self, timeout_s: float) -> dict[str, dict[str, Entry] | None]:
        """What every member that is up believes of everybody, by their IDs; None of who did not answer in time."""
        views = [view for view in self.members.values() if view.is_up]
        found: dict[str, dict[str, Entry] | None] = {view.node_id: None for view in views}
        found[self.me.node_id] = _rows(self._core.exchange_state(self._clock()))

        async def ask(node_id: str, address: Address) -> None:
            try:
                state = await self._pull(address)
            except (ExchangeFailed, CodecError):
                return
            if state.source == node_id:
                found[node_id] = _rows(state)

        with trio.move_on_after(timeout_s):
            async with trio.open_nursery() as nursery:
                for view in views:
                    if view.node_id != self.me.node_id:
                        nursery.start_soon(ask, view.node_id, view.address)
        return found

    def publish(self, **facts: FactValue | None) -> None:
        """Change own facts; None withdraws one. Raises `BadIdentity` when they would not fit; then nothing changed."""
        self._do(self._core.update_facts(facts, self._clock()))

    def report(self, **vitals: FactValue | None) -> None:
        """Say what changes all the time, all of it at once: known to others within some probe intervals, at no cost.
        None is left out. Raises `BadIdentity` when they would not fit; then nothing changed.
        """
        self._core.update_vitals({name: value for name, value in vitals.items() if value is not None})

    def subscribe(self, notices_max: int = 256) -> Subscription:
        """A channel of notices from now on; close it, or leave it with `async with`."""
        subscription = Subscription(notices_max, self._forget)
        self._subscriptions.append(subscription)
        return subscription

    async def answer(self, body: bytes) -> bytes:
        """Answer what a peer sent by HTTP, a full state or a single packet. Raises a `CodecError` whose text is fit to
        be sent back, and `Starting` until we have joined ourselves.
        """
        if not self._joined:
            raise Starting("this node is starting; ask again in a second")
        try:
            opened = self._envelope.open(body)
            if is_packet(opened.frame):
                return self._answer_packet(opened)
            if opened.key is None or opened.key.role is not Role.RETIRED:
                await self._merge(opened, None)
        except CodecError as bad:
            self.counts[f"exchanges_bad_{bad.reason}"] += 1
            raise
        self.counts["exchanges_answered"] += 1
        return self.state(opened)

    async def leave(self, timeout_s: float) -> None:
        """Say good-bye and wait until it was said often enough, at most `timeout_s`. Probes are answered meanwhile."""
        self._do(self._core.leave(self._clock()))
        with trio.move_on_after(timeout_s):
            await self._has_left.wait()

    # --- the loop -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        while True:
            await self._datagrams.wait(self._core.deadline - self._clock() if self._joined else math.inf)
            for data, sender in self._datagrams.receive():
                self._receive(data, sender)
            now = self._clock()
            if self._joined and self._core.deadline <= now:
                self._do(self._core.wake(now))

    def join(self, seeds: Sequence[Address], book: Sequence[Address]) -> None:
        self._joined = True
        self._do(self._core.join(seeds, self._clock(), book=book))

    def end(self) -> None:
        for subscription in self._subscriptions:
            subscription.end()

    def _receive(self, data: bytes, sender: Address, question: bytes = b"") -> None:
        try:
            opened = self._envelope.open(data, question)
            packet = self._read(opened)
        except CodecError as bad:
            self.counts[f"dropped_{bad.reason}"] += 1
            if isinstance(bad, WrongLabel | WrongVersion):
                self._refused(sender, str(bad))
            if isinstance(bad, UnknownKey):
                self._lack_key(sender)
            return
        if self._joined:
            self._do(self._core.receive(packet, sender, self._clock()))
            return
        if self._expected is not None and packet.source == self._expected[0]:
            self._expected[1].set()

    def _read(self, opened: Opened) -> Packet:
        packet = decode_packet(self._label, opened.frame)
        if opened.source is not None:
            if packet.source != opened.source:
                raise Malformed("sender")
            known = self.members.get(packet.source)
            newest = known.generation if known is not None and packet.source != self.me.node_id else 0
            self._window.check(packet.source, packet.generation, opened.sequence, newest)
        return packet

    def _lack_key(self, sender: Address) -> None:
        """A member seals with a key that we do not have: perhaps we slept through a rotation. Its full state has it."""
        if self._joined and self._asked_key.allows("key", self._clock()) and sender in self._core.addresses():
            self._dialling.start(self, sender)

    def _answer_packet(self, opened: Opened) -> bytes:
        packet = self._read(opened)
        self.counts["streams_answered"] += 1
        self._answers = []
        try:
            self._do(self._core.receive(packet, ON_STREAM, self._clock()))
            return join_frames([self._close(encode_packet(self._label, one), opened) for one in self._answers])
        finally:
            self._answers = None

    def _close(self, frame: bytes, answers: Opened | None = None) -> bytes:
        return self._envelope.close(frame, self.me.node_id, secrets.token_bytes(NONCE_BYTES), answers)

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(address, packet, stream):
                    self._transmit(address, packet, stream)
                case Notify(notice):
                    self._notify(notice)
                case Exchange(address):
                    self._dialling.start(self, address)
        if self._joined:
            self._rearm()
        if self._core.has_left:
            self._has_left.set()
        self._keep_book()

    def _rearm(self) -> None:
        self._datagrams.waiting.deadline = trio.current_time() + max(0.0, self._core.deadline - self._clock())

    def _transmit(self, address: Address, packet: Packet, stream: bool) -> None:
        if address == ON_STREAM:
            if self._answers is not None:
                self._answers.append(packet)
            return
        data = self._close(encode_packet(self._label, packet))
        if stream:
            self._dialling.send(self, address, data)
        else:
            self._datagrams.send(data, address)

    def _keep_book(self) -> None:
        if self._book_version != self._core.address_version:
            self._book_version = self._core.address_version
            if self._book_changed is not None:
                self._book_changed(self.book())

    def _notify(self, notice: Notice) -> None:
        match notice:
            case Change(event, view):
                self.counts[f"members_{event.value}"] += 1
                log.info("member " + event.value, node=view.node_id, member_zone=view.zone, address=view.address)
            case Superseded(generation):
                log.error("newer start of this node seen", generation=generation, ours=self._core.me.generation)
            case Copied(address):
                self.counts["copies_seen"] += 1
                log.error(
                    "another process runs as this node; stop one of them and give it an empty data directory",
                    at=address,
                )
            case Refusal(address, reason):
                log.warning("peer refused", address=address, reason=reason)
        for subscription in self._subscriptions:
            subscription.put(notice)

    # --- full exchanges -------------------------------------------------------------------------------------------

    def state(self, answers: Opened | None = None) -> bytes:
        """Our full state, for a peer or in answer to one's; to whoever came with a retired key, the keyring alone."""
        state = self._core.exchange_state(self._clock())
        key = answers.key if answers is not None else None
        if key is not None and key.role is Role.RETIRED:
            state = replace(state, entries=())
        keyring = self._envelope.keyring
        if keyring is not None and (key is not None or (answers is None and self._envelope.seals)):
            state = replace(state, keyring=keyring.encode())
        return self._close(encode_exchange(self._label, state), answers)

    def question(self) -> bytes:
        """A full state that tells nothing: who gets it answers, and learns only that we ask."""
        nothing = ExchangeState(self.me.node_id, self.me.generation, ())
        return self._close(encode_exchange(self._label, nothing))

    async def merged(self, address: Address, body: bytes, question: bytes) -> None:
        """The answer of a peer that we dialled with what bears the nonce `question`."""
        try:
            await self._merge(self._envelope.open(body, question), address)
        except CodecError as bad:
            self.refused(address, str(bad))
        else:
            self.counts["exchanges_ok"] += 1

    def answered(self, address: Address, body: bytes, question: bytes) -> None:
        """The answer to a packet that we sent by HTTP."""
        self.counts["streams_ok"] += 1
        for frame in split_frames(body):
            self._receive(frame, address, question)

    async def _merge(self, opened: Opened, contact: Address | None) -> None:
        source, generation, values, keyring = open_exchange(self._label, opened.frame)
        if opened.source is not None and opened.source != source:
            raise Malformed("sender")
        if keyring and opened.key is not None:
            self._adopt(keyring)
        for start in range(0, max(1, len(values)), SLICE_ENTRIES):
            more = start + SLICE_ENTRIES < len(values)
            state = ExchangeState(source, generation, read_entries(values[start : start + SLICE_ENTRIES]))
            self._do(self._core.merge(state, self._clock(), contact, more=more))
            if more:
                await trio.lowlevel.checkpoint()

    # --- keys -----------------------------------------------------------------------------------------------------

    @property
    def sealing(self) -> Sealing:
        return self._envelope.sealing

    @property
    def keyring(self) -> Keyring | None:
        return self._envelope.keyring

    def change_keys(self, keyring: Keyring) -> None:
        """Use this keyring, made from ours by one of its methods, and pass it on to everybody at once."""
        self._take(keyring)
        self._do(self._core.call_all(self._clock()))

    def _adopt(self, raw: bytes) -> None:
        mine = self._envelope.keyring
        try:
            theirs = Keyring.decode(raw)
        except KeyringError:
            raise Malformed("keyring") from None
        if mine is not None and theirs.beats(mine):
            self._take(theirs)

    def _take(self, keyring: Keyring) -> None:
        self._envelope.keyring = keyring
        self._salt()
        log.info("keyring changed", version=keyring.version, primary=keyring.primary.key_id)
        if self._keys_changed is not None:
            self._keys_changed(keyring)

    def _salt(self) -> None:
        keyring = self._envelope.keyring
        self._core.salt = keyring.fingerprint if keyring is not None and self._envelope.seals else 0

    # --- refusals -------------------------------------------------------------------------------------------------

    def refused(self, address: Address, reason: str) -> None:
        self.counts["exchanges_refused"] += 1
        self._refused(address, reason)

    def _refused(self, address: Address, reason: str) -> None:
        if self._warned.allows(address, self._clock()):
            self._notify(Refusal(address, reason))

    async def check_alone(self, contacts: Sequence[Address]) -> None:
        """Raises `NotAlone`; see `caution`."""
        await check_alone(self.me, contacts, Asking(self._pull, self._ping), self._core.options.caution_s)

    async def _pull(self, address: Address) -> ExchangeState:
        question = self.question()
        opened = self._envelope.open(await self._dialling.ask(address, question), nonce_of(question))
        return decode_exchange(self._label, opened.frame)

    async def _ping(self, address: Address, node_id: str) -> bool:
        self._expected = node_id, trio.Event()
        self._transmit(address, Packet(self.me.node_id, self.me.generation, (Ping(0, node_id),)), False)
        await self._expected[1].wait()
        return True

    def _forget(self, subscription: Subscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)


def _rows(state: ExchangeState) -> dict[str, Entry]:
    return {entry.member.node_id: entry for entry in state.entries}


class Dialling:
    """Full exchanges under way: one per address, a bounded number in all, each bounded in time."""

    def __init__(self, options: GossipOptions, post: Post, nursery: trio.Nursery, rng: Random) -> None:
        self._options = options
        self._dial = Dial(post, rng, options.exchange_timeout_s)
        self._nursery = nursery
        self._under_way: set[Address] = set()
        self._streams = 0

    async def ask(self, address: Address, body: bytes) -> bytes:
        return await exchange(self._dial, address, body)

    def send(self, gossip: Gossip, address: Address, data: bytes) -> None:
        """One packet by HTTP; a loss is a loss, as of a datagram."""
        if self._streams >= STREAMS_MAX:
            gossip.counts["streams_skipped"] += 1
            return
        self._streams += 1
        self._nursery.start_soon(self._send, gossip, address, data)

    async def _send(self, gossip: Gossip, address: Address, data: bytes) -> None:
        try:
            with trio.fail_after(self._options.probe_interval_s):
                answer = await exchange(self._dial, address, data)
        except (ExchangeFailed, trio.TooSlowError):
            gossip.counts["streams_failed"] += 1
        else:
            gossip.answered(address, answer, nonce_of(data))
        finally:
            self._streams -= 1

    def start(self, gossip: Gossip, address: Address) -> None:
        if address in self._under_way:
            return
        if len(self._under_way) >= self._options.exchanges_max:
            gossip.counts["exchanges_skipped"] += 1
            return
        self._under_way.add(address)
        self._nursery.start_soon(self._run, gossip, address)

    async def _run(self, gossip: Gossip, address: Address) -> None:
        try:
            with trio.fail_after(self._options.exchange_timeout_s):
                state = gossip.state()
                body = await exchange(self._dial, address, state)
        except Refused as bad:
            gossip.refused(address, str(bad))
        except (ExchangeFailed, trio.TooSlowError):
            # Dialled again by the core's own plan; an unreachable peer is no news here, its death is one there.
            gossip.counts["exchanges_failed"] += 1
        else:
            await gossip.merged(address, body, nonce_of(state))
        finally:
            self._under_way.discard(address)


@asynccontextmanager
async def open_gossip(
    options: GossipOptions,
    *,
    label: str,
    me: Member,
    bind_to: Address | trio.socket.SocketType,
    seeds: Sequence[str],
    book: Sequence[Address],
    post: Post,
    rng: Random,
    clock: Callable[[], float] = trio.current_time,
    book_changed: BookChanged | None = None,
    security: Security = INSECURE,
) -> AsyncIterator[Gossip]:
    """Take part in gossip as `me` until the block ends (to the others a crash, unless `leave` was called).

    `seeds` are `host:port` (ValueError if not), dialled for ever; `book` what `Gossip.book` once said; `book_changed`
    is called with the new book whenever it changes. Raises OSError when the socket cannot be bound and `BadIdentity`
    when `me` would not fit a datagram; nothing was sent then. While the block runs already, it is asked around whether
    this node is the only one of its kind, and `NotAlone` ends the block if not (with `caution_s` = 0 nobody is asked).
    As in every trio nursery, what the block raises arrives in an ExceptionGroup.
    """
    addresses = [parse_address(text) for text in seeds]
    if security.sealing is not Sealing.OFF:
        options = replace(options, seal_bytes=SEALED_BYTES)
    core = Swim(options, label, me, rng, clock(), security.credentials)
    raw = await bind(*bind_to) if isinstance(bind_to, tuple) else adopt(bind_to)
    counts: Counter[str] = Counter()
    contacts = [address for address in dict.fromkeys((*addresses, *book)) if address != me.address]
    # Closed last: a task may still be waiting on it while the nursery is being cancelled.
    with closing(raw):
        async with trio.open_nursery() as nursery:
            datagrams = Datagrams(raw, nursery, counts)
            dialling = Dialling(options, post, nursery, rng)
            gossip = Gossip(core, label, security, datagrams, counts, dialling, clock, book_changed)

            async def enter() -> None:
                await gossip.check_alone(contacts)
                gossip.join(addresses, book)

            try:
                nursery.start_soon(gossip.run)
                if contacts and options.caution_s > 0:
                    nursery.start_soon(enter)
                else:
                    gossip.join(addresses, book)
                yield gossip
            finally:
                nursery.cancel_scope.cancel()
                gossip.end()
