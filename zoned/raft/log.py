"""The replicated log as the core sees it: what is stored, what is not yet, and where the two part. Sans-IO.

The truth about the log is in memory the moment a message is handled; the disk follows one `Ready` later. So
there are two frontiers: `last_index`, the end of the log as this node would argue about it, and `stable`, the end of
the prefix that is *equal on disk*. Storage may hold more than `stable`: entries that a newer leader has replaced
and that the next Ready deletes.

The recent tail is kept in memory (everything above `stable` has to be, the rest is a bounded cache), so that
replicating to healthy peers never reads the disk.
"""

from collections.abc import Sequence
from typing import Protocol

from store.entries import Entry, EntryKind, Membership
from zoned.raft.quorum import decode_membership

ENTRY_OVERHEAD_BYTES = 32  # counted for every entry in every byte bound, so that empty entries are not free


class RaftError(Exception):
    """Base of what the Raft core raises."""


class ImpossibleState(RaftError):
    """What Raft proves cannot happen has happened: a broken disk, lost data, a bug. The process must end; the
    store is as the last finished Ready left it."""


class Compacted(RaftError):
    """The log no longer holds this index. Nothing was changed."""


class LogStorage(Protocol):
    """What is on disk, read synchronously. Written only through `Ready`."""

    def first_index(self) -> int:
        """Index of the first entry still held; 1 if nothing was ever compacted, also when the log is empty."""

    def last_index(self) -> int:
        """Index of the last entry held; `first_index() - 1` when there is none."""

    def term(self, index: int) -> int:
        """Term of the entry at `index`, first_index - 1 <= index <= last_index; 0 for index 0.

        Raises `Compacted` below that.
        """

    def entries(self, lo: int, hi: int, max_bytes: int) -> Sequence[Entry]:
        """Entries lo <= index < hi in order, as many as fit in `max_bytes` of data but at least one.

        Raises `Compacted` if `lo` is below `first_index`.
        """

    def membership(self, at_most: int) -> Entry | None:
        """The newest MEMBERSHIP entry with index <= `at_most`, kept also when the log around it is compacted."""


def size_of(entry: Entry) -> int:
    """What an entry counts in every byte bound."""
    return len(entry.data) + ENTRY_OVERHEAD_BYTES


class RaftLog:
    """Stored log plus unstored tail. Indices are the paper's: the first entry is 1, index 0 has term 0."""

    def __init__(self, storage: LogStorage, commit: int, applied: int, cache_max_entries: int, cache_max_bytes: int):
        self._storage = storage
        self._cache_max_entries = cache_max_entries
        self._cache_max_bytes = cache_max_bytes
        self._stored_last = storage.last_index()  # end of what storage holds once the Ready in flight is written
        self.last_index = self._stored_last
        self.last_term = storage.term(self.last_index)
        self.stable = self._stored_last
        self.commit = commit
        self.applied = applied
        self._tail: list[Entry] = []
        self._tail_bytes = 0
        self._memberships: list[tuple[int, Membership]] = []
        self._floor = (0, 0)  # (index, term) of a restored snapshot: storage holds it only once the Ready is written
        if not applied <= commit <= self.last_index:
            raise ImpossibleState(
                f"stored state contradicts itself: applied {applied}, commit {commit}, last index {self.last_index}"
            )
        self._load_memberships()

    @property
    def membership(self) -> Membership | None:
        """Who takes part, by the last such entry in the log, committed or not (thesis, section 4.1)."""
        return self._memberships[-1][1] if self._memberships else None

    @property
    def membership_index(self) -> int:
        """Index of the entry that `membership` comes from; 0 if there is none."""
        return self._memberships[-1][0] if self._memberships else 0

    def may_stand(self, node_id: str) -> bool:
        """Whether `node_id` may be needed to lead: a voter now, or until a change that is not known to be committed.

        A leader that has appended its own removal and lost touch can be the only one with the longest log; if it
        did not stand again, nobody could ever be elected (thesis, section 4.2.2).
        """
        while len(self._memberships) > 1 and self._memberships[1][0] <= self.commit:
            del self._memberships[0]
        return any(node_id in membership.voters for _, membership in self._memberships)

    @property
    def first_index(self) -> int:
        return max(self._storage.first_index(), self._floor[0] + 1)

    def term(self, index: int) -> int:
        """Term at `index` <= last_index; raises `Compacted` if it is gone."""
        if index == self.last_index:
            return self.last_term
        offset = index - self._tail_first
        if offset >= 0:
            return self._tail[offset].term
        floor, floor_term = self._floor
        if index > floor:
            return self._storage.term(index)
        if index < floor:
            raise Compacted(f"entry {index} is in the snapshot at {floor}")
        return floor_term if floor else self._storage.term(index)

    def matches(self, index: int, term: int) -> bool:
        """Whether this log holds an entry of `term` at `index`; a compacted index does not tell, so False."""
        if index > self.last_index:
            return False
        try:
            return self.term(index) == term
        except Compacted:
            return False

    def entries(self, lo: int, hi: int, max_entries: int, max_bytes: int) -> tuple[Entry, ...]:
        """Entries from `lo`, below `hi`, within both bounds but at least one; may stop early where storage ends."""
        hi = min(hi, lo + max_entries)
        offset = lo - self._tail_first
        if offset >= 0:
            found: Sequence[Entry] = self._tail[offset : hi - self._tail_first]
        elif lo <= self._floor[0]:
            raise Compacted(f"entry {lo} is in the snapshot at {self._floor[0]}")
        else:
            found = self._storage.entries(lo, min(hi, self._tail_first), max_bytes)
            if not found or found[0].index != lo:
                raise ImpossibleState(f"the stored log lacks entry {lo}, which it should hold")
        total = 0
        for taken, entry in enumerate(found):
            total += size_of(entry)
            if total > max_bytes and taken:
                return tuple(found[:taken])
        return tuple(found)

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries that follow the last one."""
        for entry in entries:
            if entry.kind is EntryKind.MEMBERSHIP:
                membership = decode_membership(entry.data)
                if membership is None:
                    raise ImpossibleState(f"membership entry {entry.index} cannot be read")
                self._memberships.append((entry.index, membership))
            self._tail_bytes += size_of(entry)
        self._tail.extend(entries)
        self.last_index = entries[-1].index
        self.last_term = entries[-1].term

    def truncate(self, index: int) -> None:
        """Drop the entry at `index` and all after it: a newer leader has others there."""
        if index <= self.commit:
            raise ImpossibleState(f"asked to replace entry {index}, but the log is committed up to {self.commit}")
        first = self._tail_first
        last_term = self.term(index - 1)
        keep = max(0, index - first)
        self._tail_bytes -= sum(size_of(entry) for entry in self._tail[keep:])
        del self._tail[keep:]
        self.last_index = index - 1
        self.last_term = last_term
        self.stable = min(self.stable, index - 1)
        while self._memberships and self._memberships[-1][0] >= index:
            self._memberships.pop()

    def last_at_most(self, index: int, term: int, floor: int, steps: int) -> tuple[int, int]:
        """The largest i <= index whose term is <= `term`, and its term; stops at `floor` or after `steps`.

        Only a hint: a place too low costs a round trip, never correctness.
        """
        index = min(index, self.last_index)
        try:
            while index > floor and steps > 0:
                found = self.term(index)
                if found <= term:
                    return index, found
                index -= 1
                steps -= 1
            return index, self.term(index)
        except Compacted:
            return index, 0

    def take_unstable(self) -> tuple[tuple[Entry, ...], int | None]:
        """What the next Ready has to store, and from which index storage must delete first (None: nothing)."""
        entries = tuple(self._tail[self.stable + 1 - self._tail_first :]) if self.stable < self.last_index else ()
        truncate_from = self.stable + 1 if self._stored_last > self.stable else None
        self._stored_last = self.last_index
        return entries, truncate_from

    def stored(self, entries: Sequence[Entry]) -> None:
        """These are on disk now. Only those still in the log with the same term count as stable.

        By log matching, if the last of them is unchanged then so are all before it.
        """
        for entry in reversed(entries):
            if self.matches(entry.index, entry.term):
                self.stable = max(self.stable, entry.index)
                break
        self._trim()

    def restore(self, index: int, term: int, membership: Entry) -> None:
        """Begin anew from a snapshot: the log is empty and ends at (index, term), all of it committed and applied."""
        decoded = decode_membership(membership.data)
        if decoded is None or membership.index > index:
            raise ImpossibleState(f"the snapshot at {index} has no membership that can be read")
        self._tail.clear()
        self._tail_bytes = 0
        self._memberships = [(membership.index, decoded)]
        self.last_index = self.stable = self.commit = self.applied = self._stored_last = index
        self.last_term = term
        self._floor = (index, term)

    @property
    def _tail_first(self) -> int:
        return self.last_index - len(self._tail) + 1

    def _trim(self) -> None:
        """Drop cached entries beyond the bounds, oldest first, never one that is not yet stable."""
        if len(self._tail) <= 2 * self._cache_max_entries and self._tail_bytes <= self._cache_max_bytes:
            return
        droppable = self.stable + 1 - self._tail_first
        drop = 0
        while drop < droppable and (
            len(self._tail) - drop > self._cache_max_entries or self._tail_bytes > self._cache_max_bytes
        ):
            self._tail_bytes -= size_of(self._tail[drop])
            drop += 1
        del self._tail[:drop]

    def _load_memberships(self) -> None:
        """The last committed membership and every later one, so that a truncation can go back."""
        at_most = self.last_index
        while at_most > 0:
            entry = self._storage.membership(at_most)
            if entry is None:
                break
            membership = decode_membership(entry.data)
            if membership is None:
                raise ImpossibleState(f"stored membership entry {entry.index} cannot be read")
            self._memberships.insert(0, (entry.index, membership))
            if entry.index <= self.commit:
                break
            at_most = entry.index - 1


class MemoryStorage:
    """A `LogStorage` in memory, and the model of what a shell does with a Ready. For tests and simulations."""

    def __init__(self, entries: Sequence[Entry] = ()) -> None:
        self._entries = list(entries)
        self._before = 0  # index before the first entry held
        self._before_term = 0
        self._membership: Entry | None = None  # the newest one at or below `_before`

    def first_index(self) -> int:
        return self._before + 1

    def last_index(self) -> int:
        return self._before + len(self._entries)

    def term(self, index: int) -> int:
        if index < self._before:
            raise Compacted(f"entry {index} is compacted")
        return self._before_term if index == self._before else self._entries[index - self._before - 1].term

    def entries(self, lo: int, hi: int, max_bytes: int) -> Sequence[Entry]:
        if lo <= self._before:
            raise Compacted(f"entry {lo} is compacted")
        return self._entries[lo - self._before - 1 : hi - self._before - 1]

    def membership(self, at_most: int) -> Entry | None:
        for entry in reversed(self._entries[: max(0, at_most - self._before)]):
            if entry.kind is EntryKind.MEMBERSHIP:
                return entry
        return self._membership

    def write(self, entries: Sequence[Entry], truncate_from: int | None) -> None:
        """Delete from `truncate_from`, then append, as the shell's one transaction does."""
        if truncate_from is not None:
            del self._entries[truncate_from - self._before - 1 :]
        if entries and entries[0].index != self.last_index() + 1:
            raise ImpossibleState(f"entry {entries[0].index} would not follow {self.last_index()}")
        self._entries.extend(entries)

    def install(self, index: int, term: int, membership: Entry) -> None:
        """Begin anew from a snapshot."""
        self._entries = []
        self._before, self._before_term, self._membership = index, term, membership

    def compact(self, index: int) -> None:
        """Forget entries up to and including `index`, keeping its term and the membership in force there."""
        self._membership = self.membership(index)
        self._before_term = self.term(index)
        del self._entries[: index - self._before]
        self._before = index
