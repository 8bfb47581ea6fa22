"""What a node does only while it leads one term: bring every peer to its log, and count. Sans-IO.

A `Leader` is made when an election is won and thrown away when the term ends, so nothing of one leadership can leak
into the next. It writes messages to the core's urgent outlet: its term is on disk (it was voted for), and all it says
of its own entries is where they are in its log; its own disk is counted like anybody's, by what is stable there.
"""

from collections import deque
from collections.abc import Sequence

from store.entries import Entry, EntryKind, Membership
from zoned.raft.log import ENTRY_OVERHEAD_BYTES, Compacted, RaftLog, size_of
from zoned.raft.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    Message,
    SnapshotOffer,
    TimeoutNow,
)
from zoned.raft.progress import Phase, Progress
from zoned.raft.quorum import agreed, majority, why_not
from zoned.raft.ready import Busy, Notice, RaftOptions, Refused, Suspicious, TransferFailed

HINT_STEPS_MAX = 1_024  # entries looked at for one conflict hint
READS_MAX = 10_000  # read-index requests that wait for their round
GIVE_WAY_AGAIN = 4  # election timeouts after a failed attempt to hand over, in which a witness leads on


class Leader:
    """One leadership. `unsent` says that `flush` may have something to send."""

    def __init__(
        self,
        node_id: str,
        cluster_id: str,
        term: int,
        log: RaftLog,
        options: RaftOptions,
        outbox: list[Message],
        notices: deque[Notice],
    ) -> None:
        self._id = node_id
        self._cluster_id = cluster_id
        self._term = term
        self._log = log
        self._options = options
        self._outbox = outbox
        self._notices = notices
        self.progress: dict[str, Progress] = {}
        self.own_first = log.last_index + 1  # index of the no-op
        self.unsent = True
        self.transferee: str | None = None
        self._transfer_elapsed = 0
        self._keeps = 0  # ticks before a witness tries again to hand over
        self._round = 0
        self._heartbeat_elapsed = 0
        self._uncommitted: deque[tuple[int, int]] = deque()  # (last index, bytes) of each proposal
        self._uncommitted_bytes = 0
        self._reads: deque[tuple[int, int, int]] = deque()  # (ticket, index, round that must be confirmed)
        self.confirmed_reads: list[tuple[int, int]] = []
        self._sync_progress()
        self._append_own([(EntryKind.NOOP, b"")])
        self._broadcast_heartbeat()

    @property
    def voters(self) -> tuple[str, ...]:
        membership = self._log.membership
        return membership.voters if membership is not None else ()

    @property
    def witnesses(self) -> tuple[str, ...]:
        membership = self._log.membership
        return membership.witnesses if membership is not None else ()

    @property
    def removed(self) -> bool:
        """Whether it is decided that this node is no voter any more: its leadership is over."""
        return self._id not in self.voters and self._log.commit >= self._log.membership_index

    # Proposals.

    def propose(self, items: Sequence[tuple[EntryKind, bytes]]) -> range:
        """Append; returns the indices. Raises `Busy`."""
        if self.transferee is not None:
            raise Busy(f"leadership is being handed over to {self.transferee}")
        size = sum(len(data) + ENTRY_OVERHEAD_BYTES for _, data in items)
        if self._uncommitted_bytes and self._uncommitted_bytes + size > self._options.uncommitted_max_bytes:
            raise Busy(f"{self._uncommitted_bytes} bytes are uncommitted, {size} more would be too many")
        first = self._log.last_index + 1
        if items:
            self._append_own(items)
            self._uncommitted.append((self._log.last_index, size))
            self._uncommitted_bytes += size
        return range(first, self._log.last_index + 1)

    def change(self, wanted: Membership) -> int:
        """Append another membership, one node away from the present one; in force at once. Raises `Refused`.

        An own-term entry must be applied first (Ongaro, raft-dev 2015): otherwise two leaders, each with a change
        the other has never seen, could count disjoint majorities.
        """
        current = self._log.membership
        reason = "the log holds no membership" if current is None else why_not(current, wanted)
        if self._log.applied < self.own_first:
            reason = "no entry of this term is applied yet"
        elif self._log.membership_index > self._log.applied:
            reason = f"the change at {self._log.membership_index} is not applied yet"
        elif self.transferee is not None:
            reason = f"leadership is being handed over to {self.transferee}"
        if reason is not None:
            raise Refused(reason)
        self._append_own([(EntryKind.MEMBERSHIP, wanted.encode())])
        self._sync_progress()
        return self._log.last_index

    def transfer(self, target: str) -> None:
        """Hand over to `target` as soon as it has the whole log. Raises `Refused`."""
        if target == self._id or target not in self.voters:
            raise Refused(f"{target} is not another voter")
        if target in self.witnesses:
            raise Refused(f"{target} is a witness")
        self.transferee = target
        self._transfer_elapsed = 0
        self._try_transfer()

    def read(self, ticket: int) -> None:
        """Find an index at or after everything acknowledged so far, and prove that no later leader has gone further."""
        if self._log.commit < self.own_first:
            raise Busy("no entry of this term is committed yet")
        if len(self._reads) >= READS_MAX:
            raise Busy(f"{READS_MAX} reads are waiting")
        self._reads.append((ticket, self._log.commit, self._round + 1))
        self.unsent = True

    def abandoned_reads(self) -> list[int]:
        """Tickets that will never be confirmed, because this leadership is over."""
        return [ticket for ticket, _, _ in self._reads]

    # Time.

    def tick(self) -> None:
        self._heartbeat_elapsed += 1
        if self._heartbeat_elapsed >= self._options.heartbeat_ticks:
            self._heartbeat_elapsed = 0
            self._broadcast_heartbeat()
        for progress in self.progress.values():
            progress.tick()
            if progress.phase is Phase.SNAPSHOT:
                progress.waited += 1
                if progress.waited >= self._options.election_ticks:
                    progress.probe_again()  # the offer may be lost, or the peer has given up
                    self.unsent = True
        if self.transferee is not None:
            self._transfer_elapsed += 1
            if self._transfer_elapsed > self._options.election_ticks:
                self._notices.append(TransferFailed(self._term, self.transferee))
                self.transferee = None
                self._keeps = GIVE_WAY_AGAIN * self._options.election_ticks
        elif self._keeps:
            self._keeps -= 1
        elif self._id in self.witnesses:
            self._give_way()

    def _give_way(self) -> None:
        """A witness leads because nobody else could: it hands over to the first voter that has nearly everything.

        Until then it serves as registry, so that writes go on while others catch up, be it by a snapshot.
        """
        heard = [
            voter
            for voter in self.voters
            if voter not in self.witnesses and self.progress[voter].is_heard(self._options.election_ticks)
        ]
        heir = max(heard, key=lambda voter: self.progress[voter].match, default=None)
        if heir is not None and self.progress[heir].match + self._options.append_max_entries >= self._log.last_index:
            self.transfer(heir)

    def quorum_active(self) -> bool:
        """Whether a majority was heard since the last call; begins the next period."""
        voters = self.voters
        heard = sum(1 for voter in voters if voter == self._id or self.progress[voter].active)
        for progress in self.progress.values():
            progress.active = False
        return heard >= majority(len(voters))

    # Counting.

    def count(self) -> None:
        """Commit what a majority of voters has on disk, if it is of this term (figure 8 of the paper).

        This node counts like any other: by what its own disk holds.
        """
        index = agreed(self._durable(voter) for voter in self.voters)
        if index > self._log.commit and self._log.term(index) == self._term:
            self._commit_to(index)

    def _durable(self, voter: str) -> int:
        return self._log.stable if voter == self._id else self.progress[voter].match

    def _commit_to(self, index: int) -> None:
        self._log.commit = index
        self.unsent = True
        while self._uncommitted and self._uncommitted[0][0] <= index:
            self._uncommitted_bytes -= self._uncommitted.popleft()[1]

    def _confirm_reads(self) -> None:
        confirmed = agreed(
            self._round if voter == self._id else self.progress[voter].acked_round for voter in self.voters
        )
        while self._reads and self._reads[0][2] <= confirmed:
            ticket, index, _ = self._reads.popleft()
            self.confirmed_reads.append((ticket, index))

    # Replies.

    def on_append_reply(self, message: AppendReply) -> None:
        progress = self.progress.get(message.sender)
        if progress is None:
            return
        progress.heard()
        if message.index > self._log.last_index:
            self._notices.append(Suspicious(message.sender, f"acknowledges entry {message.index}, which is not there"))
        elif message.rejected:
            hint, _ = self._log.last_at_most(message.hint_index, message.hint_term, progress.match, HINT_STEPS_MAX)
            self.unsent |= progress.rejected(message.index, hint + 1)
        elif progress.accepted(message.index):
            self.unsent = True
            self.count()
            if self.transferee == message.sender:
                self._try_transfer()
        elif not progress.paused:
            self.unsent = True  # the pipeline has room again

    def on_heartbeat_reply(self, message: HeartbeatReply) -> None:
        progress = self.progress.get(message.sender)
        if progress is None:
            return
        progress.heard()
        progress.acked_round = max(progress.acked_round, min(message.round, self._round))
        if self._reads:
            self._confirm_reads()
        if progress.match < self._log.last_index and message.round > progress.sent_round:
            self._nudge(message.sender, progress)

    def _nudge(self, peer: str, progress: Progress) -> None:
        """The peer answers a heartbeat sent after the last append, and still lacks entries: the append may be lost."""
        if progress.phase is Phase.PROBE:
            progress.probing = False
            self.unsent = True
        elif progress.phase is Phase.REPLICATE:
            self._send_append(peer, progress, empty=True)

    # Sending.

    def flush(self) -> None:
        """Turn what peers lack into messages. Late on purpose: proposals made in between share an append."""
        if not self.unsent:
            return
        self.unsent = False
        log = self._log
        if self._reads and self._reads[-1][2] > self._round:
            self._broadcast_heartbeat()
        for peer, progress in self.progress.items():
            # A probe goes out also when there is nothing after it: a new learner has everything yet to be asked for.
            while not progress.paused and (
                progress.next <= log.last_index or (progress.phase is Phase.PROBE and progress.match < log.last_index)
            ):
                self._send_append(peer, progress)
            if progress.sent_commit < min(log.commit, progress.match):
                self._send_heartbeat(peer, progress, 0)  # clients wait for this at the peer: do not let them

    def hand_on(self) -> None:
        """Last words of a leader that is no voter any more: the commit, and a nudge to the best successor."""
        self.flush()
        best = max(self.voters, key=lambda voter: (self.progress[voter].match, voter not in self.witnesses))
        self._outbox.append(TimeoutNow(self._cluster_id, self._id, best, self._term))

    def _sync_progress(self) -> None:
        """Have a `Progress` for exactly the members of the last membership, this node excepted."""
        membership = self._log.membership
        members = (*membership.voters, *membership.learners) if membership is not None else ()
        options = self._options
        self.progress = {
            peer: self.progress.get(peer)
            or Progress(self._log.last_index + 1, options.inflight_max_messages, options.inflight_max_bytes)
            for peer in members
            if peer != self._id
        }

    def _append_own(self, items: Sequence[tuple[EntryKind, bytes]]) -> None:
        first = self._log.last_index + 1
        self._log.append([Entry(first + i, self._term, kind, data) for i, (kind, data) in enumerate(items)])
        self.unsent = True

    def _broadcast_heartbeat(self) -> None:
        self._round += 1
        for peer, progress in self.progress.items():
            self._send_heartbeat(peer, progress, self._round)
        self._confirm_reads()  # a single voter has nobody to ask
        if self.transferee is not None:
            self._try_transfer()  # what was sent before may be lost

    def _send_heartbeat(self, peer: str, progress: Progress, round_: int) -> None:
        progress.sent_commit = min(self._log.commit, progress.match)
        message = Heartbeat(self._cluster_id, self._id, peer, self._term, progress.sent_commit, round_)
        self._outbox.append(message)

    def _send_append(self, peer: str, progress: Progress, *, empty: bool = False) -> None:
        log, options = self._log, self._options
        prev_index = progress.next - 1
        entries: tuple[Entry, ...] = ()
        try:
            prev_term = log.term(prev_index)
            end = log.last_index + 1
            if not empty and progress.next < end:
                entries = log.entries(progress.next, end, options.append_max_entries, options.append_max_bytes)
        except Compacted:
            self._offer_snapshot(peer, progress)
            return
        message = Append(self._cluster_id, self._id, peer, self._term, prev_index, prev_term, log.commit, entries)
        last = prev_index + len(entries)
        progress.sent_commit = max(progress.sent_commit, min(log.commit, last))
        progress.sent_round = self._round
        if not empty:
            progress.sent(last, sum(map(size_of, entries)))
        self._outbox.append(message)

    def _offer_snapshot(self, peer: str, progress: Progress) -> None:
        index = self._log.applied
        progress.await_snapshot(index)
        offer = SnapshotOffer(self._cluster_id, self._id, peer, self._term, index, self._log.term(index))
        self._outbox.append(offer)

    def _try_transfer(self) -> None:
        target = self.transferee
        if target is not None and self.progress[target].match == self._log.last_index:
            self._outbox.append(TimeoutNow(self._cluster_id, self._id, target, self._term))
