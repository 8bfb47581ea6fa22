"""Scenario files: one core on a bench, driven by lines and written down as lines.

A file is a list of cases: commands, `----`, what the core did, an empty line. `#` starts a comment. The node under test
is `a`; members are single letters at `LETTER:9293`. Commands:

    new [size ...]          a fresh core at time 0 that knows the letters given, all alive
    recv FROM[/GEN] PART; PART ...    a datagram; parts as they are printed
    merge FROM LETTER=STATE/GEN.INC ...     a full state from a dial of FROM
    wake                    go to the deadline and wake
    run T                   wake at every deadline until time T
    sleep S                 time passes, nobody wakes the core
    join X ... | leave | publish NAME=NUMBER
    views                   print the table

Run the tests with GOSSIP_REWRITE=1 to write the transcripts anew, and read the difference.
"""

import math
from dataclasses import replace
from random import Random
from uuid import UUID

from gossip.effects import Change, Effect, Exchange, Notify, Refusal, Send, Superseded
from gossip.messages import (
    Ack,
    Address,
    Alive,
    Claim,
    Dead,
    Digest,
    Entry,
    ExchangeState,
    Left,
    Member,
    Nack,
    Packet,
    Part,
    Ping,
    PingReq,
    State,
    Suspect,
    Vitals,
)
from gossip.options import GossipOptions
from gossip.swim import Swim

PORT = 9293
# Round numbers, and no chatter that a scenario does not ask for.
OPTIONS = replace(
    GossipOptions(),
    probe_interval_s=1.0,
    probe_timeout_s=0.4,
    suspicion_mult=4.0,
    exchange_interval_s=1e6,
    retransmit_mult=0.5,
)


def node_id(letter: str) -> str:
    return str(UUID(int=ord(letter)))


def letter(of: str) -> str:
    return chr(UUID(of).int)


def member(name: str, generation: int = 1, incarnation: int = 0, revision: int = 0) -> Member:
    return Member(node_id(name), generation, f"zone-{name}", name, PORT, incarnation, revision)


def versioned(text: str) -> tuple[str, int, int]:
    """`b` or `b/2.1`: node b, generation 2 (else 1), incarnation 1 (else 0)."""
    name, _, version = text.partition("/")
    generation, _, incarnation = version.partition(".")
    return name, int(generation or 1), int(incarnation or 0)


def read_part(text: str) -> Part:
    kind, *words = text.split()
    fields = dict(word.split("=") for word in words if "=" in word)
    if kind in ("ack", "nack"):
        return (Ack if kind == "ack" else Nack)(int(words[0]))
    name, generation, incarnation = versioned(words[1] if kind in ("ping", "ping-req") else words[0])
    match kind:
        case "ping":
            return Ping(int(words[0]), node_id(name))
        case "ping-req":
            return PingReq(int(words[0]), node_id(name), name, PORT, int(fields["budget"]))
        case "alive":
            return Alive(member(name, generation, incarnation, int(fields.get("revision", 0))))
        case "suspect":
            return Suspect(node_id(name), generation, incarnation, node_id(fields["by"]))
        case "dead":
            return Dead(node_id(name), generation, incarnation, node_id(fields["by"]))
        case "left":
            return Left(node_id(name), generation, incarnation)
    raise ValueError(text)


def show_part(part: Part, seq: int) -> str:
    match part:
        case Ping(number, target):
            return f"ping {number - seq} {letter(target)}"
        case Ack(number):
            return f"ack {number if number < 1000 else number - seq}"
        case PingReq(number, target, _, _, budget_ms):
            return f"ping-req {number - seq} {letter(target)} budget={budget_ms}"
        case Nack(number):
            return f"nack {number}"
        case Vitals(node_id_, _, beat, values):
            return f"vitals {letter(node_id_)} {beat} {dict(values)}"
        case Digest(value, is_quiet):
            return f"digest {value} {is_quiet}"
        case _:
            return show_claim(part)


def show_claim(claim: Claim) -> str:
    match claim:
        case Alive(about):
            facts = "".join(f" {name}={value!r}" for name, value in about.facts.items())
            revision = f" revision={about.revision}" if about.revision else ""
            return f"alive {letter(about.node_id)}/{about.generation}.{about.incarnation}{revision}{facts}"
        case Suspect(about_id, generation, incarnation, accuser):
            return f"suspect {letter(about_id)}/{generation}.{incarnation} by={letter(accuser)}"
        case Dead(about_id, generation, incarnation, accuser):
            return f"dead {letter(about_id)}/{generation}.{incarnation} by={letter(accuser)}"
        case Left(about_id, generation, incarnation):
            return f"left {letter(about_id)}/{generation}.{incarnation}"


class Bench:
    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[str] = []
        self.new()

    def new(self, *others: str) -> None:
        self.now = 0.0
        self.core = Swim(OPTIONS, "bench", member("a"), Random(7), 0.0)
        self.seq = self.core._seq
        entries = tuple(Entry(member(name), State.ALIVE) for name in others)
        if entries:
            self.core.merge(ExchangeState(node_id(others[0]), 1, entries), 0.0)
            self.core._queue.clear()
            self.core._gossip_due = math.inf

    def command(self, line: str) -> list[str]:
        self.lines = []
        name, *words = line.split()
        rest = line.removeprefix(name).strip()
        match name:
            case "new":
                self.new(*words)
            case "recv":
                source, generation, _ = versioned(words[0])
                parts = tuple(read_part(text) for text in rest.removeprefix(words[0]).split(";"))
                parts = tuple(self.absolute(part) for part in parts)
                packet = Packet(node_id(source), generation, parts)
                self.show(self.core.receive(packet, (source, PORT), self.now))
            case "merge":
                self.show(self.core.merge(self.state(words), self.now, (words[0], PORT)))
            case "wake":
                self.now = max(self.now, self.core.deadline)
                self.show(self.core.wake(self.now))
            case "run":
                while self.core.deadline <= float(words[0]):
                    self.now = max(self.now, self.core.deadline)
                    self.show(self.core.wake(self.now))
                self.now = float(words[0])
            case "sleep":
                self.now += float(words[0])
            case "join":
                self.show(self.core.join([(word, PORT) for word in words], self.now))
            case "leave":
                self.show(self.core.leave(self.now))
            case "publish":
                self.show(self.core.update_facts({word[0]: int(word[2:]) for word in words}, self.now))
            case "views":
                self.views()
            case _:
                raise ValueError(line)
        return self.lines

    def absolute(self, part: Part) -> Part:
        """Acks and nacks in a file count from the core's first sequence number."""
        return replace(part, seq=part.seq + self.seq) if isinstance(part, Ack | Nack) else part

    def state(self, words: list[str]) -> ExchangeState:
        source, generation, _ = versioned(words[0])
        entries = []
        for word in words[1:]:
            name, _, told = word.partition("=")
            state, _, version = told.partition("/")
            entries.append(Entry(member(*versioned(f"{name}/{version}")), State[state.upper()]))
        return ExchangeState(node_id(source), generation, tuple(entries))

    def views(self) -> None:
        for view in sorted(self.core.views.values(), key=lambda view: view.node_id):
            about = view.member
            version = f"{about.generation}.{about.incarnation}"
            self.lines.append(f"{letter(about.node_id)}/{version} {view.state.name.lower()} since {view.since:.2f}")
        self.lines.append(f"health {self.core.health}")

    def show(self, effects: list[Effect]) -> None:
        for effect in effects:
            self.lines.append(f"{self.now:.2f} {self.shown(effect)}")

    def shown(self, effect: Effect) -> str:
        match effect:
            case Send(address, packet, stream):
                return f"{'=' if stream else '-'}> {host(address)}: " + "; ".join(
                    show_part(part, self.seq) for part in packet.parts if not isinstance(part, Digest)
                )
            case Exchange(address):
                return f"exchange with {host(address)}"
            case Notify(Change(event, view)):
                return f"{letter(view.node_id)} {event.value}"
            case Notify(Superseded(generation)):
                return f"superseded by generation {generation}"
            case Notify(Refusal(address, reason)):
                return f"{host(address)} refused: {reason}"
            case Notify(other):
                raise ValueError(other)


def host(address: Address) -> str:
    return address[0]


def play(text: str) -> str:
    """The same file with the transcripts of now."""
    bench = Bench()
    written: list[str] = []
    for case in text.strip().split("\n\n"):
        commands = case.split("\n----")[0].strip("\n")
        written.append(commands + "\n----\n")
        for line in commands.split("\n"):
            if line and not line.startswith("#"):
                written.extend(shown + "\n" for shown in bench.command(line))
        written.append("\n")
    return "".join(written).rstrip("\n") + "\n"
