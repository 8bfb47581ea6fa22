"""Planted faults: the simulation's own test is that it finds each of them.

Every mutant is a core (or a disk) with one rule of Raft broken, the profile under which it is looked for, and the
number of seeds within which it must be found. `killed_by` is a seed known to kill it, so that the test need not search.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from store.entries import Entry, EntryKind
from tests.sim.world import Fault
from zoned.raft.core import Raft
from zoned.raft.log import RaftLog
from zoned.raft.messages import Append, AppendReply, Heartbeat, PreVote, Vote, VoteReply
from zoned.raft.quorum import agreed
from zoned.raft.ready import Role


class VotesTwice(Raft):
    def _on_vote(self, message: Vote) -> None:
        self._vote = ""
        super()._on_vote(message)


class NoUpToDateCheck(Raft):
    def _up_to_date(self, last_index: int, last_term: int) -> bool:
        return True


class CommitsOldTerms(Raft):
    def _commit_by_count(self) -> None:
        log = self._log
        index = agreed(log.stable if v == self._id else self._progress[v].match for v in self._voters)
        if index > log.commit:
            self._commit_to(index)
            self._unsent = True


class NoNoop(Raft):
    """Nothing of an older term can be committed until a client happens to write."""

    def _append_own(self, items: Sequence[tuple[EntryKind, bytes]]) -> None:
        if items != [(EntryKind.NOOP, b"")]:
            super()._append_own(items)


class CountsItselfUnsynced(Raft):
    def _commit_by_count(self) -> None:
        log = self._log
        index = agreed(log.last_index if v == self._id else self._progress[v].match for v in self._voters)
        if index > log.commit and log.term(index) == self._term:
            self._commit_to(index)
            self._unsent = True

    def _append_own(self, items: Sequence[tuple[EntryKind, bytes]]) -> None:
        super()._append_own(items)
        self._commit_by_count()


class CommitsBeyondProof(Raft):
    def _on_append(self, message: Append) -> None:
        super()._on_append(message)
        commit = min(message.commit, self._log.last_index)
        if commit > self._log.commit:
            self._commit_to(commit)


class HeartbeatBeyondMatch(Raft):
    """The leader's heartbeats carry its whole commit index, and the follower believes as much as it can."""

    def _send_heartbeat(self, peer: str, progress: Any, round_: int) -> None:
        progress.sent_commit = self._log.commit
        self._urgent.append(Heartbeat(self.cluster_id, self._id, peer, self._term, self._log.commit, round_))

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

    def _campaign(self, *, pre: bool) -> None:
        super()._campaign(pre=pre)
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


class NoCheckQuorum(Raft):
    """Pre-vote alone: a leader that hears nobody keeps everybody quiet."""

    def _quorum_active(self) -> bool:
        return True


class NeverAnswersStale(Raft):
    """Pre-vote without telling old terms: a node with a higher term and a shorter log stays out for ever."""

    def _answer_stale(self, message: Any) -> None:
        pass


class NeverNudges(Raft):
    """Losses at the end of the pipeline are never looked for."""

    def _on_heartbeat_reply(self, message: Any) -> None:
        progress = self._progress.get(message.sender)
        if progress is not None:
            progress.active = True


class PreVoteRaisesTerm(Raft):
    def _enter_term_of(self, message: Any) -> bool:
        if isinstance(message, PreVote):
            self._follow(message.term, None)
            return True
        return super()._enter_term_of(message)


class LeaseRefusesTheLeader(Raft):
    """hashicorp/raft#605: a leader that lost touch is refused because there is a leader, namely itself."""

    def _in_lease(self, sender: str) -> bool:
        return self._leader_id is not None


class RejectsWithoutStep(Raft):
    """A rejected append is simply tried again where it was."""

    def _on_append_reply(self, message: AppendReply) -> None:
        if message.rejected and (progress := self._progress.get(message.sender)) is not None:
            progress.active = True
            return
        super()._on_append_reply(message)


class SteppedDownInSilence(Raft):
    """A deposed leader keeps leading: it ignores higher terms in replies."""

    def _enter_term_of(self, message: Any) -> bool:
        if self._role is Role.LEADER:
            return False
        return super()._enter_term_of(message)


@dataclass(frozen=True, slots=True)
class Mutant:
    """`seeds`: it must be found among so many; `killed_by`: the first seed that does."""

    fault: Fault
    profile: str
    seeds: int
    killed_by: int


def _core(core: type[Raft], profile: str = "swarm", seeds: int = 100, killed_by: int = 0) -> Mutant:
    return Mutant(Fault(core=core), profile, seeds, killed_by)


MUTANTS: dict[str, Mutant] = {
    "votes-twice": _core(VotesTwice),
    "no-up-to-date-check": _core(NoUpToDateCheck),
    "commits-old-terms": _core(CommitsOldTerms, "churn"),
    "no-noop": _core(NoNoop),
    "counts-itself-unsynced": _core(CountsItselfUnsynced),
    "commits-beyond-proof": _core(CommitsBeyondProof),
    "heartbeat-beyond-match": _core(HeartbeatBeyondMatch),
    "truncates-always": _core(TruncatesAlways),
    "skips-previous-check": _core(SkipsPreviousCheck),
    "counts-replaced-as-stable": _core(CountsReplacedAsStable),
    "answers-unstable": _core(AnswersUnstable),
    "leads-on-unsynced-vote": _core(LeadsOnUnsyncedVote),
    "grants-unsynced-vote": _core(GrantsUnsyncedVote),
    "keeps-vote-across-terms": _core(KeepsVoteAcrossTerms),
    "no-check-quorum": _core(NoCheckQuorum),
    "never-answers-stale": _core(NeverAnswersStale),
    "never-nudges": _core(NeverNudges),
    "pre-vote-raises-term": _core(PreVoteRaisesTerm),
    "lease-refuses-the-leader": _core(LeaseRefusesTheLeader),
    "rejects-without-step": _core(RejectsWithoutStep),
    "deposed-leader-goes-on": _core(SteppedDownInSilence),
    "answers-before-sync": Mutant(Fault(answers_before_sync=True), "swarm", 100, 0),
    "forgets-vote": Mutant(Fault(forgets_vote=True), "swarm", 100, 0),
    "forgets-term": Mutant(Fault(forgets_term=True), "swarm", 100, 0),
}
