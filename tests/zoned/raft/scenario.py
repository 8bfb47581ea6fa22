"""Scenarios as etcd-io/raft tells them: a command, `----`, and what it led to, word for word.

A cluster whose network delivers only when told to and whose disks write only when told to, so that any race can be
written down. The transcript shows every message as it is sent, every Ready as it is taken, every notice.
To rewrite all transcripts after an intended change, and then read the diff:
`REWRITE_SCENARIOS=1 pytest tests/zoned/raft/test_scenarios.py`.
"""

import random
from collections.abc import Callable

from store.entries import Entry, EntryKind, HardState, Membership
from zoned.raft import messages as wire
from zoned.raft.core import Raft
from zoned.raft.log import MemoryStorage, RaftError
from zoned.raft.messages import Message
from zoned.raft.ready import RaftOptions, Ready, Snapshot

ROUNDS_MAX = 200


class Node:
    def __init__(self, node_id: str, founding: Entry | None, options: RaftOptions) -> None:
        self.id = node_id
        self.storage = MemoryStorage([founding] if founding is not None else [])
        self.state = HardState()
        self.applied = 0
        self.options = options
        self.raft: Raft | None = None
        self.in_flight: Ready | None = None
        self.start()

    def start(self) -> None:
        self.in_flight = None
        self.raft = Raft(self.id, self.storage, self.state, self.applied, self.options, random.Random(self.id))

    @property
    def core(self) -> Raft:
        assert self.raft is not None, f"{self.id} is down"
        return self.raft


class Scenario:
    """`run(line)` performs one command and returns its transcript."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.network: list[Message] = []
        self.cut: set[tuple[str, str]] = set()
        self.out: list[str] = []

    def run(self, line: str) -> str:
        self.out = []
        name, *arguments = line.split()
        command: Callable[..., None] = getattr(self, f"do_{name.replace('-', '_')}")
        try:
            command(*arguments)
        except RaftError as error:
            self.say(f"{type(error).__name__}: {error}")
        for node in self.nodes.values():
            self.collect(node)
        return "\n".join(self.out) or "ok"

    def say(self, text: str) -> None:
        self.out.append(text)

    # Set-up.

    def do_nodes(self, *words: str) -> None:
        """`nodes a b c witness:w learner:d new:e heartbeat_ticks=2 ...`"""
        options = {key: int(value) for key, _, value in (w.partition("=") for w in words) if value}
        ids = [word for word in words if "=" not in word]
        parts = [(node_id, part) for part, _, node_id in (word.rpartition(":") for word in ids)]
        voters = tuple(node_id for node_id, part in parts if part in ("", "witness"))
        learners = tuple(node_id for node_id, part in parts if part == "learner")
        witnesses = tuple(node_id for node_id, part in parts if part == "witness")
        membership = Membership("c", voters, learners, witnesses=witnesses)
        founding = Entry(1, 1, EntryKind.MEMBERSHIP, membership.encode())
        raft_options = RaftOptions(cluster_id="c", **options)
        for node_id, part in parts:
            founds = part in ("", "witness")
            self.nodes[node_id] = Node(node_id, founding if founds else None, raft_options)

    # Time and wishes.

    def do_tick(self, node_id: str, times: str = "1") -> None:
        for node in self.chosen(node_id):
            for _ in range(int(times)):
                node.core.tick()
                self.collect(node)

    def do_campaign(self, node_id: str) -> None:
        """Its election timeout is over."""
        core = self.nodes[node_id].core
        core._elapsed = core._timeout + core._options.election_ticks  # a witness's comes later
        core.tick()

    def do_silence(self, *node_ids: str) -> None:
        """For these nodes, the shortest election timeout has passed without a word from the leader."""
        for node_id in node_ids:
            core = self.nodes[node_id].core
            core._elapsed = core._options.election_ticks

    def do_propose(self, node_id: str, *texts: str) -> None:
        indices = self.nodes[node_id].core.propose([(EntryKind.WRITE, text.encode()) for text in texts])
        self.say(f"{node_id} proposed {', '.join(map(str, indices))}")

    def do_read(self, node_id: str) -> None:
        self.say(f"{node_id} ticket {self.nodes[node_id].core.read_index()}")

    def do_transfer(self, node_id: str, target: str) -> None:
        self.nodes[node_id].core.transfer(target)

    def do_change(self, node_id: str, voters: str, learners: str = "", witnesses: str = "") -> None:
        """`change a a,b,c d w`: voters, learners, and who of them are witnesses; `-` for nobody."""
        lists = [tuple(filter(None, text.strip("-").split(","))) for text in (voters, learners, witnesses)]
        wanted = Membership("c", lists[0], lists[1], witnesses=lists[2])
        self.say(f"{node_id} proposed {self.nodes[node_id].core.change(wanted)}")

    # Disks.

    def do_take(self, node_id: str) -> None:
        """The shell takes a Ready and begins to write it."""
        for node in self.chosen(node_id):
            self.take(node)

    def do_finish(self, node_id: str) -> None:
        """The write of the Ready in flight ends; its messages leave."""
        for node in self.chosen(node_id):
            self.finish(node)

    def do_write(self, node_id: str) -> None:
        for node in self.chosen(node_id):
            if self.take(node):
                self.finish(node)

    def do_crash(self, node_id: str, *how: str) -> None:
        """A Ready in flight is lost, or, with `landed`, is on disk but nothing of it was said."""
        node = self.nodes[node_id]
        if "landed" in how and node.in_flight is not None:
            self.land(node, node.in_flight)
        node.raft = node.in_flight = None

    def do_restart(self, node_id: str) -> None:
        self.nodes[node_id].start()

    def do_compact(self, node_id: str, index: str) -> None:
        self.nodes[node_id].storage.compact(int(index))

    def do_fetch(self, node_id: str, source_id: str) -> None:
        source = self.nodes[source_id]
        membership = source.storage.membership(source.applied)
        assert membership is not None
        snapshot = Snapshot(source.applied, source.storage.term(source.applied), membership)
        self.say(f"{node_id} restore {snapshot.index}: {self.nodes[node_id].core.restore(snapshot)}")

    # Network.

    def do_deliver(self, *links: str) -> None:
        """All that is under way now, or only `a->b` ...; what comes of it stays under way."""
        moving, self.network = self.network, []
        for message in moving:
            link = f"{message.sender}->{message.recipient}"
            if links and link not in links:
                self.network.append(message)
            else:
                self.deliver(message)

    def do_drop(self, *links: str) -> None:
        kept = [m for m in self.network if links and f"{m.sender}->{m.recipient}" not in links]
        self.say(f"dropped {len(self.network) - len(kept)}")
        self.network = kept

    def do_cut(self, *links: str) -> None:
        """`a` cuts a node off; `a->b` cuts one way."""
        for link in links:
            if "->" in link:
                sender, recipient = link.split("->")
                self.cut.add((sender, recipient))
            else:
                self.cut |= {pair for other in self.nodes for pair in ((link, other), (other, link))}

    def do_heal(self) -> None:
        self.cut.clear()

    def do_stabilize(self, *words: str) -> None:
        """Write and deliver until nothing moves. `quiet`: without the transcript."""
        kept = list(self.out)
        for _ in range(ROUNDS_MAX):
            moved = False
            for node in self.nodes.values():
                if node.raft is not None:
                    self.collect(node)
                    if self.take(node):
                        moved = True
                        self.finish(node)
            if self.network:
                moved = True
                self.do_deliver()
            if not moved:
                break
        else:
            raise AssertionError("no end")
        if "quiet" in words:
            self.out = kept

    # Looking.

    def do_status(self) -> None:
        for node in self.nodes.values():
            if node.raft is None:
                self.say(f"{node.id} down")
                continue
            core = node.raft
            mark = " registry" if core.is_registry else ""
            self.say(
                f"{node.id} {core.role.value} term {core.term} leader {core.leader_id or '-'} commit {core.commit}"
                f" applied {core.applied} last {core.last_index}{mark}"
            )

    def do_log(self, node_id: str) -> None:
        log = self.nodes[node_id].core._log
        self.say(f"{node_id} stable {log.stable}: " + " ".join(f"{i}/{log.term(i)}" for i in self.held(node_id)))

    def do_progress(self, node_id: str) -> None:
        for peer, status in self.nodes[node_id].core.progress.items():
            self.say(f"{peer} {status.phase.value} match {status.match} next {status.next}")

    # The parts.

    def held(self, node_id: str) -> range:
        log = self.nodes[node_id].core._log
        return range(log.first_index, log.last_index + 1)

    def chosen(self, node_id: str) -> list[Node]:
        up = [node for node in self.nodes.values() if node.raft is not None]
        return up if node_id == "all" else [self.nodes[node_id]]

    def take(self, node: Node) -> bool:
        ready = node.core.ready()
        if ready is None:
            return False
        node.in_flight = ready
        parts = []
        if ready.snapshot is not None:
            parts.append(f"snapshot {ready.snapshot.index}/{ready.snapshot.term}")
        if ready.hard_state is not None:
            state = ready.hard_state
            parts.append(f"state {state.term},{state.vote or '-'},{state.commit}")
        if ready.truncate_from is not None:
            parts.append(f"delete from {ready.truncate_from}")
        if ready.entries:
            parts.append("write " + show_entries(ready.entries))
        if ready.committed:
            parts.append("apply " + show_entries(ready.committed))
        self.say(f"{node.id} ready{'' if ready.must_sync else ' unsynced'}: {'; '.join(parts) or 'messages'}")
        return True

    def land(self, node: Node, ready: Ready) -> None:
        if ready.snapshot is not None:
            node.storage.install(ready.snapshot.index, ready.snapshot.term, ready.snapshot.membership)
            node.applied = ready.snapshot.index
        node.storage.write(ready.entries, ready.truncate_from)
        node.state = ready.hard_state or node.state
        if ready.committed:
            node.applied = ready.committed[-1].index

    def finish(self, node: Node) -> None:
        ready, node.in_flight = node.in_flight, None
        assert ready is not None, f"{node.id} writes nothing"
        self.land(node, ready)
        for message in ready.messages:
            self.post(message)
        node.core.advance(ready)
        self.collect(node)

    def collect(self, node: Node) -> None:
        if node.raft is None:
            return
        for notice in node.raft.notices():
            fields = ", ".join(str(getattr(notice, name)) for name in notice.__slots__)
            self.say(f"{node.id} * {type(notice).__name__}({fields})")
        for message in node.raft.urgent():
            self.post(message)
        for read in node.raft.reads():
            self.say(f"{node.id} * read {read.ticket} at {read.index}")

    def post(self, message: Message) -> None:
        lost = (message.sender, message.recipient) in self.cut
        self.say(show(message) + (" LOST" if lost else ""))
        if not lost:
            self.network.append(message)

    def deliver(self, message: Message) -> None:
        node = self.nodes[message.recipient]
        if (message.sender, message.recipient) in self.cut or node.raft is None:
            return
        node.raft.step(message)
        self.collect(node)


def show_entries(entries: tuple[Entry, ...]) -> str:
    texts = {EntryKind.NOOP: "noop", EntryKind.MEMBERSHIP: "members"}
    return "[" + " ".join(f"{e.index}/{e.term}:{texts.get(e.kind) or e.data.decode()}" for e in entries) + "]"


def show(message: Message) -> str:
    head = f"{message.sender}->{message.recipient} {type(message).__name__} t{message.term}"
    match message:
        case wire.Append(prev_index=prev, prev_term=term, commit=commit, entries=entries):
            return f"{head} after {prev}/{term} commit {commit} {show_entries(entries)}"
        case wire.AppendReply(index=index, rejected=True, hint_index=hint, hint_term=term):
            return f"{head} rejects {index}, try {hint}/{term}"
        case wire.AppendReply(index=index):
            return f"{head} has {index}"
        case wire.Heartbeat(commit=commit, round=round_):
            return f"{head} commit {commit} round {round_}"
        case wire.HeartbeatReply(round=round_):
            return f"{head} round {round_}"
        case wire.PreVote(last_index=last, last_term=term) | wire.Vote(last_index=last, last_term=term):
            return f"{head} log {last}/{term}"
        case wire.PreVoteReply(granted=granted) | wire.VoteReply(granted=granted):
            return f"{head} {'yes' if granted else 'no'}"
        case wire.SnapshotOffer(index=index, index_term=term):
            return f"{head} at {index}/{term}"
        case wire.TimeoutNow():
            return head
