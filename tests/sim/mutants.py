"""Planted faults: the simulation's own test is that it finds each of them.

Every mutant is a core (or a disk) with one rule of Raft broken, the profile under which it is looked for, and the
number of seeds within which it must be found. `killed_by` is a seed known to kill it, so that the test need not search.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from store.entries import Entry, EntryKind, Membership
from tests.sim.freshness import Freshness
from tests.sim.world import Fault, Host
from zoned.raft.core import Raft
from zoned.raft.leader import Leader
from zoned.raft.log import RaftLog
from zoned.raft.messages import Append, AppendReply, Heartbeat, PreVote, TimeoutNow, Vote, VoteReply
from zoned.raft.progress import Progress
from zoned.raft.quorum import agreed, majority, why_not
from zoned.raft.ready import Refused, Role, Snapshot


class VotesTwice(Raft):
    def _on_vote(self, message: Vote) -> None:
        self._vote = ""
        super()._on_vote(message)


class NoUpToDateCheck(Raft):
    def _up_to_date(self, last_index: int, last_term: int) -> bool:
        return True


class CommitsOldTerms(Leader):
    def count(self) -> None:
        index = agreed(map(self._durable, self.voters))
        if index > self._log.commit:
            self._commit_to(index)


class NoNoop(Leader):
    """Nothing of an older term can be committed until a client happens to write."""

    def _append_own(self, items: Sequence[tuple[EntryKind, bytes]]) -> None:
        if items != [(EntryKind.NOOP, b"")]:
            super()._append_own(items)


class CountsItselfUnsynced(Leader):
    def _durable(self, voter: str) -> int:
        return self._log.last_index if voter == self._id else super()._durable(voter)

    def _append_own(self, items: Sequence[tuple[EntryKind, bytes]]) -> None:
        super()._append_own(items)
        self.count()


class CommitsBeyondProof(Raft):
    def _on_append(self, message: Append) -> None:
        super()._on_append(message)
        self._log.commit = max(self._log.commit, min(message.commit, self._log.last_index))


class _WholeCommit(Leader):
    def _send_heartbeat(self, peer: str, progress: Progress, round_: int) -> None:
        progress.sent_commit = self._log.commit
        self._outbox.append(Heartbeat(self._cluster_id, self._id, peer, self._term, self._log.commit, round_))


class HeartbeatBeyondMatch(Raft):
    """The leader's heartbeats carry its whole commit index, and the follower believes as much as it can."""

    leader_class = _WholeCommit

    def _on_heartbeat(self, message: Heartbeat) -> None:
        commit = min(message.commit, self._log.last_index)
        h = message
        super()._on_heartbeat(Heartbeat(h.cluster_id, h.sender, h.recipient, h.term, commit, h.round))


class TruncatesAlways(Raft):
    def _merge(self, entries: Sequence[Entry], prev_index: int) -> int:
        log = self._log
        if prev_index >= log.commit and prev_index < log.last_index:
            log.truncate(prev_index + 1)
        return super()._merge(entries, prev_index)


class SkipsPreviousCheck(Raft):
    """An append is taken wherever it fits, without asking whether the logs agree just before it."""

    def _on_append(self, message: Append) -> None:
        if self._log.commit <= message.prev_index <= self._log.last_index:
            m = message
            term = self._log.term(m.prev_index)
            message = Append(m.cluster_id, m.sender, m.recipient, m.term, m.prev_index, term, m.commit, m.entries)
        super()._on_append(message)


class _CountsAllStored(RaftLog):
    def stored(self, entries: Sequence[Entry]) -> None:
        if entries:
            self.stable = max(self.stable, min(entries[-1].index, self.last_index))


class CountsReplacedAsStable(Raft):
    """Entries written while a newer leader replaced them count as if they were the new ones (an ABA race)."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._log.__class__ = _CountsAllStored


class AnswersUnstable(Raft):
    """A follower acknowledges entries that are still on their way to its disk."""

    def _on_append(self, message: Append) -> None:
        super()._on_append(message)
        early = [m for m in self._after_sync if isinstance(m, AppendReply)]
        self._urgent += early


class LeadsOnUnsyncedVote(Raft):
    """A candidate counts its own vote, and asks for others, before its vote is on disk."""

    def _campaign(self, *, pre: bool, transfer: bool = False) -> None:
        super()._campaign(pre=pre, transfer=transfer)
        if not pre and self._role is Role.CANDIDATE:
            self._urgent += self._after_sync
            self._after_sync = []
            self._count_vote(self._id, granted=True)


class GrantsUnsyncedVote(Raft):
    def _on_vote(self, message: Vote) -> None:
        super()._on_vote(message)
        self._urgent += [m for m in self._after_sync if isinstance(m, VoteReply)]


class KeepsVoteAcrossTerms(Raft):
    """A vote once given is never forgotten: whoever got it is refused nothing, and everybody else everything."""

    def _follow(self, term: int, leader_id: str | None, *rest: Any) -> None:
        vote = self._vote
        super()._follow(term, leader_id, *rest)
        self._vote = vote or self._vote


class NoCheckQuorum(Leader):
    """Pre-vote alone: a leader that hears nobody keeps everybody quiet."""

    def quorum_active(self) -> bool:
        return True


class NeverAnswersStale(Raft):
    """Pre-vote without telling old terms: a node with a higher term and a shorter log stays out for ever."""

    def _answer_stale(self, message: Any) -> None:
        pass


class NeverNudges(Leader):
    """Losses at the end of the pipeline are never looked for."""

    def _nudge(self, peer: str, progress: Progress) -> None:
        pass


class PreVoteRaisesTerm(Raft):
    def _enter_term_of(self, message: Any) -> bool:
        if isinstance(message, PreVote):
            self._follow(message.term, None)
            return True
        return super()._enter_term_of(message)


class RejectsWithoutStep(Leader):
    """A rejected append is simply tried again where it was."""

    def on_append_reply(self, message: AppendReply) -> None:
        if message.rejected and (progress := self.progress.get(message.sender)) is not None:
            progress.active = True
            return
        super().on_append_reply(message)


class ReadsWithoutRound(Leader):
    """A leader answers reads from its own commit index, without asking whether it still leads."""

    def read(self, ticket: int) -> None:
        super().read(ticket)
        self._reads.pop()
        self.confirmed_reads.append((ticket, self._log.commit))


class ReadsBeforeOwnTerm(Leader):
    """A new leader answers reads before it knows what its predecessors committed."""

    def read(self, ticket: int) -> None:
        self._reads.append((ticket, self._log.commit, self._round + 1))
        self.unsent = True


class ReadsOnEarlierRound(Leader):
    """Replies to heartbeats sent before the request count as confirmation."""

    def read(self, ticket: int) -> None:
        super().read(ticket)
        ticket, index, round_ = self._reads.pop()
        self._reads.append((ticket, index, round_ - 1))


class ChangesFreely(Leader):
    """Membership changes are taken at any time, however many are pending, also before an own-term entry."""

    def change(self, wanted: Membership) -> int:
        if self.transferee is not None or why_not(self._log.membership or wanted, wanted) is not None:
            raise Refused("not even the mutant does that")
        self._append_own([(EntryKind.MEMBERSHIP, wanted.encode())])
        self._sync_progress()
        return self._log.last_index


class CountsItselfAlways(Leader):
    """A leader that is on its way out goes on counting its own disk."""

    def count(self) -> None:
        voters = {*self.voters, self._id}
        index = sorted(map(self._durable, voters), reverse=True)[majority(len(self.voters)) - 1]
        if index > self._log.commit and self._log.term(index) == self._term:
            self._commit_to(index)


class LearnersVoteInQuorum(Leader):
    """Learners' disks count towards the majority as if they were voters'."""

    def count(self) -> None:
        membership = self._log.membership
        everybody = (*membership.voters, *membership.learners) if membership is not None else ()
        index = sorted(map(self._durable, everybody), reverse=True)[majority(len(self.voters)) - 1]
        if index > self._log.commit and self._log.term(index) == self._term:
            self._commit_to(index)


class AcknowledgesSnapshotEarly(Raft):
    """A snapshot is acknowledged before it is on disk."""

    def _take_fetched(self) -> Snapshot | None:
        snapshot = super()._take_fetched()
        if snapshot is not None:
            self._urgent += [m for m in self._after_sync if isinstance(m, AppendReply)]
        return snapshot


class InstallsOldSnapshots(Raft):
    """A snapshot is put in place even if the log has everything in it, and more."""

    def _take_fetched(self) -> Snapshot | None:
        snapshot, self._fetched = self._fetched, None
        if snapshot is None or self._leader is not None or snapshot.index <= self._log.applied:
            return None
        self._log.restore(snapshot.index, snapshot.term, snapshot.membership)
        return snapshot


class RollsBackCommit(Raft):
    """Who turns follower forgets what it called committed and has not applied yet (CCF#5674)."""

    def _follow(self, term: int, leader_id: str | None, *rest: Any) -> None:
        self._log.commit = self._log.applied
        super()._follow(term, leader_id, *rest)


class NeverEndsTransfer(Leader):
    """A leader that hands over to a node which is gone waits for it for ever, and takes no proposals."""

    def tick(self) -> None:
        self._transfer_elapsed = 0
        super().tick()


class _HandsOverAtOnce(Leader):
    def _try_transfer(self) -> None:
        if self.transferee is not None:
            self._outbox.append(TimeoutNow(self._cluster_id, self._id, self.transferee, self._term))


class TrustsTransfer(Raft):
    """Who stands because the leader said so is elected whatever its log; and the leader says so at once."""

    leader_class = _HandsOverAtOnce

    def _on_vote(self, message: Vote) -> None:
        if message.transfer:
            m, log = message, self._log
            message = Vote(m.cluster_id, m.sender, m.recipient, m.term, log.last_index, log.last_term, transfer=True)
        super()._on_vote(message)


class WitnessKeepsLeading(Leader):
    def _give_way(self) -> None:
        pass


class WitnessNeverStands(Raft):
    """Not even when it alone has the newest entries."""

    def tick(self, count: int = 1) -> None:
        membership = self.membership
        if self._leader is None and membership is not None and self._id in membership.witnesses:
            self._elapsed = 0
        super().tick(count)


class WitnessVotesFreely(Raft):
    """A witness takes itself for a mere voice, and votes for whoever asks first."""

    def _up_to_date(self, last_index: int, last_term: int) -> bool:
        membership = self.membership
        is_witness = membership is not None and self._id in membership.witnesses
        return is_witness or super()._up_to_date(last_index, last_term)


class FreshFromTheAnswer(Freshness):
    """A node counts its freshness from when the registry answered, not from when it asked."""

    def answered(self, host: Host, asked_at: float, index: int) -> None:
        super().answered(host, self.asked_at(), index)


class FreshBeforeApplied(Freshness):
    """A node takes itself for fresh before it has applied what the registry named."""

    def answered(self, host: Host, asked_at: float, index: int) -> None:
        super().answered(host, asked_at, 0)


@dataclass(frozen=True, slots=True)
class Mutant:
    """`seeds`: it must be found among so many; `killed_by`: the first seed that does."""

    fault: Fault
    profile: str
    seeds: int
    killed_by: int


def _core(core: type[Raft] | type[Leader], profile: str = "swarm", seeds: int = 100, killed_by: int = 0) -> Mutant:
    raft = core if issubclass(core, Raft) else type(f"RaftWith{core.__name__}", (Raft,), {"leader_class": core})
    return Mutant(Fault(core=raft), profile, seeds, killed_by)


MUTANTS: dict[str, Mutant] = {
    "votes-twice": _core(VotesTwice, "swarm", killed_by=2),
    "no-up-to-date-check": _core(NoUpToDateCheck, "swarm", killed_by=5),
    "commits-old-terms": _core(CommitsOldTerms, "churn", killed_by=14),
    "no-noop": _core(NoNoop, "swarm", killed_by=0),
    "counts-itself-unsynced": _core(CountsItselfUnsynced, "swarm", killed_by=0),
    "commits-beyond-proof": _core(CommitsBeyondProof, "swarm", killed_by=14),
    "heartbeat-beyond-match": _core(HeartbeatBeyondMatch, "swarm", killed_by=6),
    "truncates-always": _core(TruncatesAlways, "swarm", killed_by=0),
    "skips-previous-check": _core(SkipsPreviousCheck, "swarm", killed_by=21),
    "counts-replaced-as-stable": _core(CountsReplacedAsStable, "churn", killed_by=65),
    "answers-unstable": _core(AnswersUnstable, "swarm", killed_by=0),
    "leads-on-unsynced-vote": _core(LeadsOnUnsyncedVote, "ballots", 200, killed_by=190),
    "grants-unsynced-vote": _core(GrantsUnsyncedVote, "ballots", killed_by=6),
    "keeps-vote-across-terms": _core(KeepsVoteAcrossTerms, "swarm", killed_by=0),
    "no-check-quorum": _core(NoCheckQuorum, "swarm", killed_by=6),
    "never-answers-stale": _core(NeverAnswersStale, "ballots", 150, killed_by=5),
    "never-nudges": _core(NeverNudges, "swarm", killed_by=1),
    "pre-vote-raises-term": _core(PreVoteRaisesTerm, "swarm", killed_by=0),
    "rejects-without-step": _core(RejectsWithoutStep, "swarm", killed_by=0),
    "reads-without-round": _core(ReadsWithoutRound, "swarm", killed_by=29),
    "reads-before-own-term": _core(ReadsBeforeOwnTerm, "swarm", killed_by=0),
    "reads-on-earlier-round": _core(ReadsOnEarlierRound, "swarm", 200, killed_by=137),
    "changes-freely": _core(ChangesFreely, "moves", 100, killed_by=16),
    "counts-itself-always": _core(CountsItselfAlways, "moves", killed_by=1),
    "learners-count": _core(LearnersVoteInQuorum, "swarm", killed_by=0),
    "acknowledges-snapshot-early": _core(AcknowledgesSnapshotEarly, "moves", killed_by=52),
    "installs-old-snapshots": _core(InstallsOldSnapshots, "swarm", 100, killed_by=85),
    "rolls-back-commit": _core(RollsBackCommit, "swarm", killed_by=8),
    "never-ends-transfer": _core(NeverEndsTransfer, "swarm", killed_by=11),
    "trusts-transfer": _core(TrustsTransfer, "swarm", killed_by=19),
    "witness-keeps-leading": _core(WitnessKeepsLeading, "swarm", killed_by=0),
    "witness-never-stands": _core(WitnessNeverStands, "swarm", killed_by=8),
    "witness-votes-freely": _core(WitnessVotesFreely, "swarm", killed_by=8),
    "fresh-from-the-answer": Mutant(Fault(freshness=FreshFromTheAnswer), "swarm", 100, 0),
    "fresh-before-applied": Mutant(Fault(freshness=FreshBeforeApplied), "swarm", 100, 0),
    "tears-transactions": Mutant(Fault(tears=True), "swarm", 100, 1),
    "heartbeats-wait": Mutant(Fault(heartbeats_wait=True), "calm", 20, 3),
    "answers-before-sync": Mutant(Fault(answers_before_sync=True), "swarm", 100, 0),
    "forgets-vote": Mutant(Fault(forgets_vote=True), "ballots", 100, 7),
    "forgets-term": Mutant(Fault(forgets_term=True), "swarm", 100, 5),
}
