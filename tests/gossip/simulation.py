"""A seeded cluster on bare cores: virtual time, one heap of events, no sockets and no clock.

Every datagram passes through the codec. The network loses, delays, doubles and cuts; processes pause (their packets
wait, as they do in a socket buffer), crash and come back as a newer start, at another address if wished.
"""

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from random import Random
from typing import Any
from uuid import UUID

from gossip.codec import decode_exchange, decode_packet, encode_exchange, encode_packet
from gossip.effects import ON_STREAM, Change, Copied, Effect, Exchange, Notify, Send
from gossip.members import Event
from gossip.messages import Address, Entry, ExchangeState, Member, Packet, State
from gossip.options import GossipOptions
from gossip.swim import STREAM_FACT, Swim

LABEL = "sim"
PORT = 9293
CHECK_S = 0.01  # how exactly a moment is found


@cache
def node_id(number: int) -> str:
    return str(UUID(int=number + 1))


@dataclass
class Network:
    """Probabilities and seconds; `cut` holds directed pairs of node numbers that do not hear each other."""

    loss: float = 0.0
    double: float = 0.0
    delay_s: tuple[float, float] = (0.0005, 0.002)


@dataclass
class Death:
    """A verdict of death that `by` came to believe about `about`; `innocent` when it was running then."""

    when: float
    by: int
    about: int
    innocent: bool


class Cluster:
    """`size` nodes with node 0 as everybody's seed, unless `seeds` says otherwise."""

    def __init__(
        self,
        size: int,
        seed: int,
        options: GossipOptions | None = None,
        network: Network | None = None,
        core: Callable[..., Swim] = Swim,
        seeds: Sequence[int] = (0,),
    ) -> None:
        self.options = options or GossipOptions.lan()
        self.network = network or Network()
        self.rng = Random(seed)
        self.now = 1000.0
        self.cut: set[tuple[int, int]] = set()
        self.udp_cut: set[tuple[int, int]] = set()
        self.dropped: Callable[[Packet], bool] = lambda packet: False
        self.paused: dict[int, list[Callable[[], None]]] = {}
        self.cores: dict[int, Swim] = {}
        self.addresses: dict[int, Address] = {}
        self.deaths: list[Death] = []
        self.events: Counter[str] = Counter()
        self.sent: Counter[int] = Counter()
        self.bytes: Counter[int] = Counter()
        self.posts: Counter[int] = Counter()
        self.exchanges = 0
        self._numbers: dict[Address, int] = {}
        self._generation: Counter[int] = Counter()
        self._armed: dict[int, float] = {}
        self._ahead: Counter[int] = Counter()
        self._answers: list[Packet] = []
        self._core = core
        self._seeds = seeds
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        for number in range(size):
            self.start(number)

    # --- what a test does -----------------------------------------------------------------------------------------

    def start(
        self, number: int, host: str | None = None, book: Iterable[Address] = (), copy_of: int | None = None
    ) -> None:
        self._generation[number] += 1
        identity = number if copy_of is None else copy_of
        address = (host or f"10.0.0.{number}", PORT)
        me = Member(node_id(identity), self._generation[number], f"zone-{number}", *address)
        if self.options.stream_only:
            me = replace(me, facts={STREAM_FACT: True})
        self.addresses[number] = address
        self._numbers[address] = number
        core = self._core(self.options, LABEL, me, Random(self.rng.random()), self.clock(number))
        self.cores[number] = core
        seeds = [(f"10.0.0.{seed}", PORT) for seed in self._seeds]
        self._do(number, core.join(seeds, self.clock(number), book=tuple(book)))

    def kill(self, *numbers: int) -> None:
        for number in numbers:
            self.cores.pop(number)
            self.paused.pop(number, None)

    def pause(self, *numbers: int) -> None:
        for number in numbers:
            self.paused[number] = []

    def acquaint(self) -> None:
        """Everybody knows everybody, without the traffic of joining."""
        entries = tuple(Entry(core.me, State.ALIVE) for core in self.cores.values())
        for number, core in self.cores.items():
            others = ExchangeState(node_id((number + 1) % len(self.cores)), 1, entries)
            core.merge(others, self.clock(number))
            core._queue.clear()
            self._arm(number)

    def resume(self, *numbers: int, timers_first: bool = False) -> None:
        """The paused go on: first with what waits in their sockets, as our shell does, or first with their timers."""
        for number in numbers:
            waiting = self.paused.pop(number)
            core = self.cores[number]
            if timers_first and core.deadline <= self.clock(number):
                self._do(number, core.wake(self.clock(number)))
            for arrive in waiting[-500:]:
                arrive()
            self._arm(number)

    def jump(self, number: int, seconds: int) -> None:
        """This node's monotonic clock leaps ahead, as after a suspend that nobody else noticed."""
        self._ahead[number] += seconds
        self._arm(number)

    def clock(self, number: int) -> float:
        """What the node's own clock shows."""
        return self.now + self._ahead[number]

    def partition(self, *sides: Sequence[int]) -> None:
        for one, other in itertools.permutations(sides, 2):
            self.cut.update(itertools.product(one, other))

    def heal(self) -> None:
        self.cut.clear()

    def publish(self, number: int, **facts: Any) -> None:
        self._do(number, self.cores[number].update_facts(facts, self.clock(number)))

    def leave(self, number: int) -> None:
        self._do(number, self.cores[number].leave(self.clock(number)))

    def run(self, seconds: float) -> None:
        self.run_until(lambda: False, seconds)

    def run_until(self, done: Callable[[], bool], within: float) -> float:
        """Seconds until `done`, or `within` when it did not come about."""
        start = checked = self.now
        if done():
            return 0.0
        while self.now < checked + CHECK_S or not done():
            checked = checked if self.now < checked + CHECK_S else self.now
            if not self._heap or self._heap[0][0] > start + within:
                self.now = start + within
                return within
            self.now, _, act = heapq.heappop(self._heap)
            act()
        return self.now - start

    # --- what a test asks -----------------------------------------------------------------------------------------

    def believes(self, observer: int, about: int) -> State | None:
        view = self.cores[observer].views.get(node_id(about))
        return None if view is None else view.state

    def all_believe(self, about: int, state: State) -> bool:
        return all(self.believes(number, about) is state for number in self.cores if number != about)

    def is_whole(self) -> bool:
        """Everybody running sees exactly the running alive, as they describe themselves."""
        running = {node_id(number): core.me for number, core in self.cores.items()}
        return all(
            {view.node_id: view.member for view in core.views.values() if view.state is State.ALIVE} == running
            for core in self.cores.values()
        )

    def false_deaths(self) -> int:
        return sum(death.innocent for death in self.deaths)

    # --- the machine ----------------------------------------------------------------------------------------------

    def _at(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (when, next(self._order), act))

    def _arm(self, number: int) -> None:
        core = self.cores[number]
        due = max(core.deadline - self._ahead[number], self.now)
        self._armed[number] = due
        self._at(due, lambda: self._wake(number, core, due))

    def _wake(self, number: int, core: Swim, due: float) -> None:
        if self.cores.get(number) is not core or number in self.paused or self._armed[number] != due:
            return
        now = max(self.clock(number), core.deadline)  # no less for the rounding of a sum
        effects = core.wake(now)
        assert core.deadline > now, "a core that wants to be woken at once again would spin"
        self._do(number, effects)

    def _do(self, number: int, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(address, packet, stream):
                    if stream:
                        self._post(number, address, packet)
                    elif address == ON_STREAM:
                        self._answers.append(packet)
                    else:
                        self._send(number, address, packet)
                case Exchange(address):
                    self._exchange(number, address)
                case Notify(Change(event, view)):
                    self.events[event.value] += 1
                    if event is Event.DIED:
                        about = UUID(view.node_id).int - 1
                        self.deaths.append(Death(self.now, number, about, about in self.cores))
                case Notify(Copied()):
                    self.events[f"copied {number}"] += 1
                case Notify():
                    self.events["other"] += 1
        self._arm(number)

    def _reached(self, address: Address) -> int | None:
        number = self._numbers.get(address)
        return number if number in self.cores and self.addresses[number] == address else None

    def _delay(self) -> float:
        return self.rng.uniform(*self.network.delay_s)

    def _send(self, number: int, address: Address, packet: Packet) -> None:
        self.sent[number] += 1
        data = encode_packet(LABEL, packet)
        assert len(data) <= self.options.datagram_bytes, packet
        self.bytes[number] += len(data)
        if self.dropped(packet):
            return
        copies = 2 if self.rng.random() < self.network.double else 1
        for _ in range(copies):
            if self.rng.random() >= self.network.loss:
                sender = self.addresses[number]
                self._at(self.now + self._delay(), partial(self._arrive, number, sender, address, data))

    def _arrive(self, source: int, sender: Address, address: Address, data: bytes) -> None:
        number = self._reached(address)
        if number is None or (source, number) in self.cut | self.udp_cut:
            return
        if number in self.paused:
            self.paused[number].append(partial(self._arrive, source, sender, address, data))
            return
        self._do(number, self.cores[number].receive(decode_packet(LABEL, data), sender, self.clock(number)))

    def _post(self, number: int, address: Address, packet: Packet) -> None:
        """A packet by HTTP: neither lost nor doubled, and answered to the sender alone."""
        core = self.cores[number]
        data = encode_packet(LABEL, packet)
        self.posts[number] += 1

        def arrive() -> None:
            target = self._reached(address)
            if target is None or target in self.paused or (number, target) in self.cut or (target, number) in self.cut:
                return
            self._answers = []
            self._do(target, self.cores[target].receive(decode_packet(LABEL, data), ON_STREAM, self.clock(target)))
            answers = self._answers
            self._at(self.now + self._delay(), lambda: back(answers))

        def back(answers: list[Packet]) -> None:
            if self.cores.get(number) is core and number not in self.paused:
                for answer in answers:
                    self._do(number, core.receive(answer, address, self.clock(number)))

        self._at(self.now + self._delay(), arrive)

    def _exchange(self, number: int, address: Address) -> None:
        core = self.cores.get(number)
        self.exchanges += 1
        self._at(self.now + self._delay(), lambda: self._answer(number, core, address))

    def _answer(self, number: int, core: Swim | None, address: Address) -> None:
        target = self._reached(address)
        if core is None or self.cores.get(number) is not core or target is None or target in self.paused:
            return
        if (number, target) in self.cut or (target, number) in self.cut:
            return
        state = _copy(core.exchange_state(self.clock(number)))
        self._do(target, self.cores[target].merge(state, self.clock(target)))
        answer = _copy(self.cores[target].exchange_state(self.clock(target)))
        self._at(self.now + self._delay(), lambda: self._merge(number, core, address, answer))

    def _merge(self, number: int, core: Swim, address: Address, answer: ExchangeState) -> None:
        if self.cores.get(number) is core and number not in self.paused:
            self._do(number, core.merge(answer, self.clock(number), address))


def _copy(state: ExchangeState) -> ExchangeState:
    return decode_exchange(LABEL, encode_exchange(LABEL, state))


def calm(options: GossipOptions, **changes: Any) -> GossipOptions:
    """The same options with some changed."""
    return replace(options, **changes)
