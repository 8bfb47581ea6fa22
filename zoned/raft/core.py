"""Raft: who leads, and which entries are decided for ever. Sans-IO.

The intuition. Time is cut into *terms*; in each term every node votes at most once, so at most one node leads. The
leader alone adds entries; an entry that a majority has on disk, once one of the leader's own term is among them, is
*committed*: every later leader needs a vote from that majority, and nobody votes for a shorter log than its own.

The shell feeds `step`, `tick` and `propose`, and serves two outlets of different weight:

- `urgent()`: messages that vouch for nothing unsynced. Send them at once, also while a Ready is being written: a
  heartbeat that waits for a disk sync looks like a dead leader. Leader appends are among them: a leader's term is
  on disk before it leads, and its entries count for its own majority only once they are on disk too.
- `ready()`: what to write in one transaction (hard state, log, effects of `committed`), and the messages that may leave
  only after it. At most one is in flight; meanwhile the core goes on in memory, and `advance` counts as stable
  only what is still in the log by then.

Pre-vote and check-quorum always work together: pre-vote alone lets a half-cut leader block everyone for ever,
check-quorum alone lets a returning node topple a healthy leader. The former leader's own request is never refused
because "there is a leader": it is the leader, and it is asking (hashicorp/raft#605).

Sources: Ongaro and Ousterhout 2014; Ongaro's thesis (sections 3, 4, 6, 9.6, 10.2); etcd-io/raft, whose words are used.
"""

import random
from collections import deque
from collections.abc import Mapping, Sequence

from store.entries import Entry, EntryKind, HardState, Membership
from zoned.raft.leader import HINT_STEPS_MAX, Leader
from zoned.raft.log import ImpossibleState, LogStorage, RaftLog
from zoned.raft.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    Message,
    PreVote,
    PreVoteReply,
    SnapshotOffer,
    TimeoutNow,
    Vote,
    VoteReply,
)
from zoned.raft.progress import PeerStatus
from zoned.raft.quorum import Tally, decode_membership, tally
from zoned.raft.ready import (
    BecameLeader,
    Campaigning,
    LeaderChanged,
    Notice,
    NotLeader,
    RaftOptions,
    Read,
    Ready,
    Reason,
    Role,
    Snapshot,
    SnapshotWanted,
    SteppedDown,
    Suspicious,
)

NOTICES_MAX = 256  # kept until drained; older ones are dropped, since they only inform


class Raft:
    """One node of one cluster. Not thread-safe; every method returns at once."""

    leader_class: type[Leader] = Leader

    def __init__(
        self,
        node_id: str,
        storage: LogStorage,
        hard_state: HardState,
        applied: int,
        options: RaftOptions,
        rng: random.Random,
    ) -> None:
        """`storage`, `hard_state` and `applied` are what the last transaction before the start left."""
        self._id = node_id
        self._options = options
        self._rng = rng
        self._log = RaftLog(storage, hard_state.commit, applied, options.cache_max_entries, options.cache_max_bytes)
        # A founder's log begins with an entry of term 1 that nobody was elected for: the first election is for 2.
        self._term = max(hard_state.term, self._log.last_term)
        self._vote = hard_state.vote if self._term == hard_state.term else ""
        self._written = hard_state  # what storage holds once the Ready in flight is written
        self._durable_term = hard_state.term
        self._role = Role.FOLLOWER
        self._leader_id: str | None = None
        self._votes: dict[str, bool] = {}
        self._leader: Leader | None = None  # exactly while leading
        self._elapsed = 0  # ticks since the leader was heard; while leading, since the quorum was checked
        self._urgent: list[Message] = []
        self._after_sync: list[Message] = []
        self._in_flight: Ready | None = None
        self._fetched: Snapshot | None = None
        self._tickets = 0
        self._reads: list[Read] = []
        self._notices: deque[Notice] = deque(maxlen=NOTICES_MAX)
        self._timeout = 0
        self._draw_timeout()
        if self._voters == (node_id,):
            self._timeout = 1  # nobody to wait for

    # What a shell or a status page wants to know.

    @property
    def node_id(self) -> str:
        return self._id

    @property
    def cluster_id(self) -> str:
        membership = self._log.membership
        return membership.cluster_id if membership is not None else self._options.cluster_id

    @property
    def role(self) -> Role:
        return self._role

    @property
    def term(self) -> int:
        return self._term

    @property
    def leader_id(self) -> str | None:
        return self._leader_id

    @property
    def commit(self) -> int:
        return self._log.commit

    @property
    def applied(self) -> int:
        return self._log.applied

    @property
    def last_index(self) -> int:
        return self._log.last_index

    @property
    def is_registry(self) -> bool:
        """Leads, and has applied an entry of its own term: its state includes everything ever acknowledged."""
        return self._leader is not None and self._log.applied >= self._leader.own_first

    @property
    def membership(self) -> Membership | None:
        """By the last such entry in the log; None on a node that has not received any."""
        return self._log.membership

    @property
    def progress(self) -> Mapping[str, PeerStatus]:
        """Every peer's place in the log; empty unless leading."""
        if self._leader is None:
            return {}
        within = self._options.election_ticks
        return {peer: progress.status(within) for peer, progress in self._leader.progress.items()}

    # The inlets.

    def step(self, message: Message) -> None:
        """Take a message from a peer. Stale, foreign and senseless ones are dropped; nothing a peer sends raises,
        unless it would overwrite what is committed (`ImpossibleState`)."""
        if message.recipient != self._id or message.sender == self._id or message.cluster_id != self.cluster_id:
            return
        if not message.cluster_id:
            return  # a node that has not been told its cluster belongs to none
        if message.term > self._term:
            if not self._enter_term_of(message):
                return
        elif message.term < self._term:
            self._answer_stale(message)
            return
        self._dispatch(message)

    @property
    def quiet_ticks(self) -> int:
        """So many ticks from now on would only be counted, if nothing else happens: they may be given at once."""
        if self._leader is not None:
            return 0
        return max(0, self._patience - self._elapsed - 1)

    def tick(self, count: int = 1) -> None:
        """So many units of time have passed; more than one only of `quiet_ticks`."""
        self._elapsed += count
        if self._leader is not None:
            if self._elapsed >= self._options.election_ticks:
                self._elapsed = 0
                if not self._leader.quorum_active():
                    self._follow(self._term, None, Reason.QUORUM_LOST)
                    return
            self._leader.tick()
        elif self._elapsed >= self._patience and self._log.may_stand(self._id):
            self._campaign(pre=True)

    def propose(self, items: Sequence[tuple[EntryKind, bytes]]) -> range:
        """Append `items` to the log if this node leads; returns their indices. Not yet decided: wait until applied.

        An index may still come to hold another entry, if leadership changes first.
        Raises `NotLeader`, or `Busy` when too much is uncommitted.
        """
        if any(kind is EntryKind.MEMBERSHIP for kind, _ in items):
            raise ValueError("membership entries are not for propose()")
        return self._leading().propose(items)

    def change(self, wanted: Membership) -> int:
        """Propose another membership, in force as soon as it is in a log; returns its index.

        Raises `NotLeader`, or `Refused` with the reason: not one step away from the present one, another change not
        yet applied, no entry of this term applied.
        """
        return self._leading().change(wanted)

    def transfer(self, target: str) -> None:
        """Hand leadership to the voter `target`; no proposals are taken meanwhile. Raises `NotLeader`, `Refused`."""
        self._leading().transfer(target)

    def read_index(self) -> int:
        """Ask for a linearizable read; returns a ticket that comes back from `reads()`. Raises `NotLeader`, `Busy`.

        No clock is trusted: a majority confirms, after the request, that this node still leads (thesis, section 6.4).
        """
        leader = self._leading()
        self._tickets += 1
        leader.read(self._tickets)
        return self._tickets

    def restore(self, snapshot: Snapshot) -> bool:
        """A fetched state is ready to be put in place; the next Ready says when. False if it is of no use any more."""
        if snapshot.index <= self._log.commit:
            return False
        self._fetched = snapshot
        return True

    # The outlets.

    def urgent(self) -> list[Message]:
        """Messages to send at once, whatever the disk is doing; each is returned once."""
        if self._leader is not None:
            self._leader.flush()
        messages = self._urgent[:]
        self._urgent.clear()  # the same list for ever: the leader writes to it
        return messages

    def ready(self) -> Ready | None:
        """The next round of work; None if there is none, or the previous one has not been advanced."""
        if self._in_flight is not None:
            return None
        if self._leader is not None:
            self._leader.flush()
        log, options = self._log, self._options
        snapshot = self._take_fetched()
        hard_state = HardState(self._term, self._vote, log.commit)
        changed = hard_state != self._written
        committed: tuple[Entry, ...] = ()
        if log.applied < log.commit:
            lo, hi = log.applied + 1, log.commit + 1
            committed = log.entries(lo, hi, options.committed_max_entries, options.committed_max_bytes)
        entries, truncate_from = log.take_unstable()
        if not (changed or entries or committed or self._after_sync or truncate_from is not None):
            return None
        promised = hard_state.term != self._written.term or hard_state.vote != self._written.vote
        self._in_flight = Ready(
            hard_state=hard_state if changed else None,
            truncate_from=truncate_from,
            entries=entries,
            messages=tuple(self._after_sync),
            committed=committed,
            must_sync=promised or bool(entries) or truncate_from is not None or snapshot is not None,
            snapshot=snapshot,
        )
        self._after_sync = []
        self._written = hard_state
        return self._in_flight

    def advance(self, ready: Ready) -> None:
        """`ready` is written, applied, and its messages are sent."""
        if ready is not self._in_flight:
            raise ImpossibleState("advance() with a Ready that is not in flight")
        self._in_flight = None
        if ready.hard_state is not None:
            self._durable_term = ready.hard_state.term
        self._log.stored(ready.entries)
        if ready.committed:
            self._log.applied = ready.committed[-1].index
        if self._leader is not None:
            self._leader.count()
            self._leave_if_removed(self._leader)
        elif self._role is Role.CANDIDATE and self._durable_term == self._term and self._id not in self._votes:
            self._count_vote(self._id, granted=True)  # its own vote counts once it is on disk, as anybody's

    def reads(self) -> list[Read]:
        """Reads that were decided since the last call."""
        if self._leader is not None and self._leader.confirmed_reads:
            self._reads += [Read(ticket, index) for ticket, index in self._leader.confirmed_reads]
            self._leader.confirmed_reads.clear()
        reads, self._reads = self._reads, []
        return reads

    def notices(self) -> list[Notice]:
        """What happened since the last call, oldest first; for logs and metrics."""
        notices = list(self._notices)
        self._notices.clear()
        return notices

    # Terms and roles.

    @property
    def _voters(self) -> tuple[str, ...]:
        membership = self._log.membership
        return membership.voters if membership is not None else ()

    def _in_lease(self, sender: str) -> bool:
        """Whether a live leader stands against an election that `sender` asks for."""
        return (
            self._leader_id is not None and self._leader_id != sender and self._elapsed < self._options.election_ticks
        )

    def _enter_term_of(self, message: Message) -> bool:
        """Deal with a term above ours; False if the message is to be ignored."""
        match message:
            case PreVote():
                return not self._in_lease(message.sender)  # nobody enters a term for a mere question
            case PreVoteReply(granted=True):
                return True  # the term is the one that we asked about
            case Vote(transfer=transfer):
                if not transfer and self._in_lease(message.sender):
                    return False
                self._follow(message.term, None)
            case Append() | Heartbeat() | SnapshotOffer():
                self._follow(message.term, message.sender)
            case PreVoteReply() | VoteReply() | AppendReply() | HeartbeatReply() | TimeoutNow():
                self._follow(message.term, None)
        return True

    def _answer_stale(self, message: Message) -> None:
        """Tell the sender of an old term what the term is, where silence could leave it or us stuck for ever.

        We may have a higher term than a live leader (after a campaign nobody heard of): refusing its appends
        makes it step down, and an election then includes us.
        """
        head = (self.cluster_id, self._id, message.sender, self._term)
        match message:
            case Append() | Heartbeat() | SnapshotOffer():
                self._urgent.append(AppendReply(*head, 0, rejected=True))
            case PreVote():
                self._urgent.append(PreVoteReply(*head, granted=False))
            case Vote():
                self._urgent.append(VoteReply(*head, granted=False))
            case PreVoteReply() | VoteReply() | AppendReply() | HeartbeatReply() | TimeoutNow():
                pass

    def _dispatch(self, message: Message) -> None:
        match message:
            case Append():
                if self._hear(message.sender):
                    self._on_append(message)
            case AppendReply():
                if self._leader is not None:
                    self._leader.on_append_reply(message)
                    self._leave_if_removed(self._leader)
            case Heartbeat():
                if self._hear(message.sender):
                    self._on_heartbeat(message)
            case HeartbeatReply():
                if self._leader is not None:
                    self._leader.on_heartbeat_reply(message)
            case PreVote():
                self._on_pre_vote(message)
            case Vote():
                self._on_vote(message)
            case PreVoteReply():
                self._on_pre_vote_reply(message)
            case VoteReply():
                if self._role is Role.CANDIDATE:
                    self._count_vote(message.sender, granted=message.granted)
            case SnapshotOffer():
                if self._hear(message.sender):
                    self._on_snapshot_offer(message)
            case TimeoutNow():
                if self._leader_id == message.sender and self._log.may_stand(self._id):
                    self._campaign(pre=False, transfer=True)

    def _follow(self, term: int, leader_id: str | None, reason: Reason = Reason.HIGHER_TERM) -> None:
        """Become a follower in `term`, of `leader_id` if known."""
        if self._leader is not None:
            self._notices.append(SteppedDown(self._term, reason))
            self._reads = [*self.reads(), *(Read(ticket, None) for ticket in self._leader.abandoned_reads())]
        if term > self._term:
            self._enter(term, vote="")
        self._role = Role.FOLLOWER
        self._reset()
        self._set_leader(leader_id)

    def _enter(self, term: int, vote: str) -> None:
        """A higher term. What was to be promised in a lower one and is not on disk yet is not promised any more."""
        self._term = term
        self._vote = vote
        self._after_sync.clear()

    def _reset(self) -> None:
        """What every change of role or term forgets."""
        self._votes = {}
        self._leader = None
        self._elapsed = 0
        self._draw_timeout()

    def _draw_timeout(self) -> None:
        ticks = self._options.election_ticks
        self._timeout = self._rng.randrange(ticks, 2 * ticks)

    @property
    def _patience(self) -> int:
        """After so many ticks without a leader this node stands. A witness stands last, for it leads only when nobody
        else can; but it stands, for it may be the only one left that has the newest entries."""
        membership = self._log.membership
        is_witness = membership is not None and self._id in membership.witnesses
        return self._timeout + (self._options.election_ticks if is_witness else 0)

    def _set_leader(self, leader_id: str | None) -> None:
        if leader_id != self._leader_id:
            self._leader_id = leader_id
            self._notices.append(LeaderChanged(self._term, leader_id))

    def _hear(self, sender: str) -> bool:
        """A leader of this term speaks: follow it. False if it cannot be one."""
        if self._role is Role.LEADER or (self._leader_id is not None and self._leader_id != sender):
            self._notices.append(Suspicious(sender, f"leads term {self._term}, as {self._leader_id} does"))
            return False
        if self._role is not Role.FOLLOWER:
            self._follow(self._term, sender)
        self._elapsed = 0
        self._set_leader(sender)
        return True

    # Elections.

    def _campaign(self, *, pre: bool, transfer: bool = False) -> None:
        """Ask everyone for votes; `pre` only sounds them out, in words that change nothing."""
        self._reset()
        self._set_leader(None)
        if pre:
            self._role = Role.PRE_CANDIDATE
        else:
            self._role = Role.CANDIDATE
            self._enter(self._term + 1, vote=self._id)
        asked_term = self._term + 1 if pre else self._term
        self._notices.append(Campaigning(asked_term, pre))
        log = self._log
        for peer in self._voters:
            head = (self.cluster_id, self._id, peer, asked_term)
            if peer == self._id:
                continue
            if pre:
                self._urgent.append(PreVote(*head, log.last_index, log.last_term))
            else:
                self._after_sync.append(Vote(*head, log.last_index, log.last_term, transfer))
        if pre:
            self._count_vote(self._id, granted=True)

    def _count_vote(self, voter: str, *, granted: bool) -> None:
        self._votes.setdefault(voter, granted)
        outcome = tally(self._voters, self._votes)
        if outcome is Tally.LOST:
            self._follow(self._term, None)
        elif outcome is Tally.WON and self._role is Role.PRE_CANDIDATE:
            self._campaign(pre=False)
        elif outcome is Tally.WON:
            self._lead()

    def _up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a log that ends so holds everything this one could have helped to commit."""
        return (last_term, last_index) >= (self._log.last_term, self._log.last_index)

    def _on_pre_vote(self, message: PreVote) -> None:
        """A question about a term above ours is answered by the log; about ours, with our term, to catch up with."""
        granted = message.term > self._term and self._up_to_date(message.last_index, message.last_term)
        term = message.term if granted else self._term
        self._urgent.append(PreVoteReply(self.cluster_id, self._id, message.sender, term, granted))

    def _on_pre_vote_reply(self, message: PreVoteReply) -> None:
        asked = self._term + 1 if message.granted else self._term
        if self._role is Role.PRE_CANDIDATE and message.term == asked:
            self._count_vote(message.sender, granted=message.granted)

    def _on_vote(self, message: Vote) -> None:
        free = self._vote == message.sender or (not self._vote and self._leader_id is None)
        granted = free and self._up_to_date(message.last_index, message.last_term)
        reply = VoteReply(self.cluster_id, self._id, message.sender, self._term, granted)
        if granted:
            self._vote = message.sender
            self._elapsed = 0
            self._after_sync.append(reply)
        else:
            self._urgent.append(reply)

    def _lead(self) -> None:
        self._reset()
        self._role = Role.LEADER
        self._set_leader(self._id)
        self._notices.append(BecameLeader(self._term))
        self._leader = self.leader_class(
            self._id, self.cluster_id, self._term, self._log, self._options, self._urgent, self._notices
        )

    def _leading(self) -> Leader:
        if self._leader is None:
            raise NotLeader(self._leader_id)
        return self._leader

    def _leave_if_removed(self, leader: Leader) -> None:
        if leader.removed:
            leader.hand_on()
            self._follow(self._term, None, Reason.REMOVED)

    # Following.

    def _on_heartbeat(self, message: Heartbeat) -> None:
        if message.commit > self._log.last_index:
            what = f"counts on entry {message.commit}, but this log ends at {self._log.last_index}: was data lost?"
            self._notices.append(Suspicious(message.sender, what))
        elif message.commit > self._log.commit:
            self._log.commit = message.commit
        if message.round:
            self._urgent.append(HeartbeatReply(self.cluster_id, self._id, message.sender, self._term, message.round))

    def _on_append(self, message: Append) -> None:
        if not _well_formed(message):
            self._notices.append(Suspicious(message.sender, "append with gaps, future terms or unreadable membership"))
            return
        log = self._log
        head = (self.cluster_id, self._id, message.sender, self._term)
        if message.prev_index >= log.commit and not log.matches(message.prev_index, message.prev_term):
            hint = log.last_at_most(message.prev_index, message.prev_term, log.commit, HINT_STEPS_MAX)
            self._urgent.append(AppendReply(*head, message.prev_index, True, *hint))
            return
        proven = self._merge(message.entries, message.prev_index)
        log.commit = max(log.commit, min(message.commit, proven))
        self._acknowledge(message.sender, proven)

    def _acknowledge(self, leader_id: str, index: int) -> None:
        """Tell the leader that this log equals its own up to `index`: now if that much is on disk, else after it is."""
        reply = AppendReply(self.cluster_id, self._id, leader_id, self._term, index)
        installing = self._in_flight is not None and self._in_flight.snapshot is not None
        vouched = index <= self._log.stable and self._durable_term == self._term and not installing
        (self._urgent if vouched else self._after_sync).append(reply)

    def _on_snapshot_offer(self, message: SnapshotOffer) -> None:
        log = self._log
        if message.index > log.commit:
            if not log.matches(message.index, message.index_term):
                self._notices.append(SnapshotWanted(message.sender, message.index, message.index_term))
                return
            log.commit = message.index  # it is all here already
        self._acknowledge(message.sender, log.commit)

    def _take_fetched(self) -> Snapshot | None:
        """Put a fetched state in force, between two Readys. What the log proves to hold already is not thrown away."""
        snapshot, self._fetched = self._fetched, None
        if snapshot is None or snapshot.index <= self._log.commit or self._leader is not None:
            return None  # of no use any more; a leader has it all, or is about to learn that it leads no more
        if self._log.matches(snapshot.index, snapshot.term):
            self._log.commit = snapshot.index
            return None
        self._log.restore(snapshot.index, snapshot.term, snapshot.membership)
        if self._leader_id is not None:
            head = (self.cluster_id, self._id, self._leader_id, self._term)
            self._after_sync.append(AppendReply(*head, snapshot.index))
        return snapshot

    def _merge(self, entries: Sequence[Entry], prev_index: int) -> int:
        """Take in entries that follow `prev_index`; returns up to where the log now provably equals the leader's.

        What is already there stays, whatever its age: a late append must not undo a later one. Only an entry that
        truly differs is replaced, together with everything after it.
        """
        log = self._log
        for offset, entry in enumerate(entries):
            if entry.index <= log.last_index:
                if log.matches(entry.index, entry.term) or entry.index < log.first_index:
                    continue
                log.truncate(entry.index)
            log.append(entries[offset:])
            break
        # Committed entries need no proof: whoever leads this term has them.
        return max(prev_index + len(entries), log.commit)


def _well_formed(message: Append) -> bool:
    """Entries follow on each other, with terms that never fall nor exceed the leader's."""
    term = message.prev_term
    for index, entry in enumerate(message.entries, message.prev_index + 1):
        if entry.index != index or not term <= entry.term <= message.term or entry.term < 1:
            return False
        if entry.kind is EntryKind.MEMBERSHIP and decode_membership(entry.data) is None:
            return False
        term = entry.term
    return message.prev_index >= 0
