"""What a leader knows of one peer, and how much it may send ahead of the peer's answers. Sans-IO.

The intuition: a leader first *probes* (one append at a time, to find where the logs part), then *replicates*
(a pipeline of appends, bounded in messages and bytes, each sent without waiting for the one before), and falls
back to probing when an answer says that something was lost. A peer that needs what is compacted away is in
*snapshot* until it reports that it has caught up. The words are those of etcd-io/raft.
"""

from collections import deque
from dataclasses import dataclass
from enum import Enum


class Phase(Enum):
    """How a leader treats a peer."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """One peer as the leader sees it, for status pages. `inflight_bytes` are sent and unanswered."""

    phase: Phase
    match: int
    next: int
    active: bool
    inflight_messages: int
    inflight_bytes: int


class Progress:
    """One peer's place in the leader's log. `match` is proven equal and durable; `next` is what to send next.

    Invariant: match < next.
    """

    __slots__ = (
        "_inflight",
        "_inflight_bytes",
        "_max_bytes",
        "_max_messages",
        "acked_round",
        "active",
        "match",
        "next",
        "phase",
        "probing",
        "sent_commit",
        "sent_round",
        "silent",
        "snapshot_index",
        "waited",
    )

    def __init__(self, next_index: int, max_messages: int, max_bytes: int) -> None:
        self.phase = Phase.PROBE
        self.match = 0
        self.next = next_index
        self.active = True  # heard from since the last check of the quorum; a new leader gives everyone one period
        self.silent: int | None = None  # ticks since it was heard in this leadership
        self.probing = False  # a probe is on its way: do not send another until it is answered or a heartbeat is
        self.sent_round = 0  # the leader's heartbeat round when an append was last sent
        self.sent_commit = 0
        self.acked_round = 0
        self.snapshot_index = 0
        self.waited = 0  # ticks in phase SNAPSHOT without news
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._inflight: deque[tuple[int, int]] = deque()  # (last index of an append, its bytes)
        self._inflight_bytes = 0

    @property
    def paused(self) -> bool:
        """Nothing more may be sent now."""
        if self.phase is Phase.REPLICATE:
            return self.full
        return self.phase is Phase.SNAPSHOT or self.probing

    @property
    def full(self) -> bool:
        """As much is on its way as is allowed."""
        return len(self._inflight) >= self._max_messages or self._inflight_bytes >= self._max_bytes

    def heard(self) -> None:
        """The peer answered something."""
        self.active = True
        self.silent = 0

    def tick(self) -> None:
        if self.silent is not None:
            self.silent += 1

    def is_heard(self, within: int) -> bool:
        """Whether the peer answered in the last `within` ticks."""
        return self.silent is not None and self.silent <= within

    def sent(self, last_index: int, size_bytes: int) -> None:
        """An append that ends at `last_index` is on its way."""
        if self.phase is Phase.REPLICATE:
            self.next = last_index + 1
            self._inflight.append((last_index, size_bytes))
            self._inflight_bytes += size_bytes
        else:
            self.probing = True

    def accepted(self, index: int) -> bool:
        """The peer's log is proven up to `index`. True if that is news or ends a probe."""
        news = index > self.match
        if news:
            self.match = index
        self.next = max(self.next, self.match + 1)
        while self._inflight and self._inflight[0][0] <= index:
            self._inflight_bytes -= self._inflight.popleft()[1]
        if self.phase is Phase.PROBE and (news or index == self.match):
            self._become(Phase.REPLICATE)
            return True
        if self.phase is Phase.SNAPSHOT and self.match >= self.snapshot_index:
            self._become(Phase.PROBE)  # not at once REPLICATE: whether the rest is still there, a probe tells
            return True
        return news

    def rejected(self, index: int, next_index: int) -> bool:
        """The peer's log differs at `index`; retry from `next_index`. False if this answers a question long gone."""
        if self.phase is Phase.SNAPSHOT or index <= self.match:
            return False
        if self.phase is Phase.PROBE and index != self.next - 1:
            return False
        self._become(Phase.PROBE)
        self.next = max(min(index, next_index), self.match + 1)
        return True

    def await_snapshot(self, index: int) -> None:
        """What the peer needs is compacted away: it gets the state at `index` by other means."""
        self._become(Phase.SNAPSHOT)
        self.snapshot_index = index
        self.waited = 0

    def probe_again(self) -> None:
        """Forget what was sent ahead and ask anew, from what is proven."""
        self._become(Phase.PROBE)

    def status(self, within: int) -> PeerStatus:
        """As seen from outside; active is who answered in the last `within` ticks."""
        heard = self.is_heard(within)
        return PeerStatus(self.phase, self.match, self.next, heard, len(self._inflight), self._inflight_bytes)

    def _become(self, phase: Phase) -> None:
        self.phase = phase
        self.probing = False
        self.next = self.match + 1
        self._inflight.clear()
        self._inflight_bytes = 0
