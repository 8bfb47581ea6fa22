"""What must never be seen, whatever the faults. Each check is made at the moment that could break it.

All are cheap (constant time an event), because by log matching the last entry vouches for all before it.
"""

from store.entries import Entry
from zoned.raft.log import MemoryStorage


class Violation(AssertionError):
    """The simulation saw what Raft forbids."""


class Checkers:
    """The omniscient observer: it sees every disk and every answer, the nodes see only their own."""

    def __init__(self) -> None:
        self.history: list[Entry] = []  # what has been applied by anybody, by index; the order of all writes
        self.applied_in: dict[int, int] = {}  # term of the node that first applied it -> largest such index
        self.leaders: dict[int, str] = {}
        self.votes: dict[tuple[int, str], str] = {}
        self.written: dict[tuple[int, int], tuple[int, bytes]] = {}  # (index, term) -> (term before, data)
        self.acked_max = 0  # largest index that a client was told of
        self.acked = 0
        self.reads = 0

    def became_leader(self, term: int, node_id: str, storage: MemoryStorage) -> None:
        """Election safety, leader completeness."""
        other = self.leaders.setdefault(term, node_id)
        if other != node_id:
            raise Violation(f"election safety: {other} and {node_id} both lead term {term}")
        needed = max((index for applied_term, index in self.applied_in.items() if applied_term < term), default=0)
        if needed > storage.last_index() or not self._holds(storage, self.history[:needed]):
            raise Violation(f"leader completeness: {node_id} leads term {term} without entry {needed}")

    def vote_granted(self, term: int, voter: str, candidate: str) -> None:
        """One vote a term."""
        other = self.votes.setdefault((term, voter), candidate)
        if other != candidate:
            raise Violation(f"{voter} voted for {other} and for {candidate} in term {term}")

    def entries_written(self, entries: tuple[Entry, ...], before: int) -> None:
        """Log matching: an index and a term name one entry, and one entry before it."""
        for entry in entries:
            seen = self.written.setdefault((entry.index, entry.term), (before, entry.data))
            if seen != (before, entry.data):
                raise Violation(f"log matching: two different entries ({entry.index}, term {entry.term})")
            before = entry.term

    def applied(self, node_id: str, term: int, entry: Entry) -> None:
        """State-machine safety: everybody applies the same entry at the same index, without gaps."""
        history = self.history
        if entry.index <= len(history):
            if history[entry.index - 1] != entry:
                raise Violation(f"state-machine safety: {node_id} applied {entry}, before: {history[entry.index - 1]}")
        elif entry.index == len(history) + 1:
            history.append(entry)
            self.applied_in[term] = max(self.applied_in.get(term, 0), entry.index)
        else:
            raise Violation(f"{node_id} applied {entry.index}, but nobody has applied {len(history) + 1}")

    def acknowledged(self, entry: Entry, acked_before: int) -> None:
        """Real-time order: what was invoked after an answer comes after what was answered."""
        if entry.index <= acked_before:
            raise Violation(f"real-time order: {entry.index} was proposed after {acked_before} was acknowledged")
        self.acked_max = max(self.acked_max, entry.index)
        self.acked += 1

    def committed(self, node_id: str, index: int, term: int, disks: list[MemoryStorage]) -> None:
        """A leader's commit index is on the disks of a majority of voters at that very moment."""
        durable = sum(1 for disk in disks if disk.last_index() >= index and self._same(disk, index, term))
        if durable * 2 <= len(disks):
            raise Violation(f"durability: {node_id} calls {index} committed, {durable} of {len(disks)} disks have it")

    def read(self, node_id: str, index: int | None, acked_before: int) -> None:
        """A read sees everything acknowledged before it was asked for."""
        if index is not None:
            self.reads += 1
            if index < acked_before:
                raise Violation(f"stale read: {node_id} gave {index}, {acked_before} was acknowledged before")

    def final(self, node_id: str, storage: MemoryStorage, applied: int, due: int) -> None:
        """After the cure: nothing acknowledged is missing (up to `due`), and the whole log is the common history."""
        if applied < due:
            raise Violation(f"lost: {node_id} ended at {applied}, clients were told of {due}")
        if not self._holds(storage, self.history[:applied]):
            raise Violation(f"{node_id} ended with another log than the common history")

    def _same(self, disk: MemoryStorage, index: int, term: int) -> bool:
        return index < disk.first_index() or disk.term(index) == term

    def _holds(self, storage: MemoryStorage, history: list[Entry]) -> bool:
        first = storage.first_index()
        wanted = history[first - 1 :]
        return list(storage.entries(first, len(history) + 1, 1 << 60)) == wanted if wanted else True
