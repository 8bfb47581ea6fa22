"""The log view: what is stored, what is not, and what changed while it was being stored."""

import random

import pytest

from store.entries import Entry, EntryKind, Membership
from zoned.raft.log import Compacted, ImpossibleState, MemoryStorage, RaftLog

FOUNDING = Entry(1, 1, EntryKind.MEMBERSHIP, Membership("c", ("a", "b", "c")).encode())


def entries(first: int, *terms: int) -> list[Entry]:
    return [Entry(first + i, term, EntryKind.WRITE, b"%d/%d" % (first + i, term)) for i, term in enumerate(terms)]


def fresh(*terms: int, commit: int = 0, cache: int = 1_000) -> tuple[RaftLog, MemoryStorage]:
    storage = MemoryStorage([FOUNDING, *entries(2, *terms)])
    return RaftLog(storage, commit, 0, cache, 1 << 20), storage


def store(log: RaftLog, storage: MemoryStorage) -> None:
    new, truncate_from = log.take_unstable()
    storage.write(new, truncate_from)
    log.stored(new)


def test_entries_are_read_from_storage_and_memory_alike() -> None:
    log, storage = fresh(1, 1, 2)
    log.append(entries(5, 2, 3))
    assert [log.term(i) for i in range(7)] == [0, 1, 1, 1, 2, 2, 3]
    assert [e.index for e in log.entries(2, 7, 100, 1 << 20)] == [2, 3, 4]  # stops where storage ends
    assert [e.index for e in log.entries(5, 7, 100, 1 << 20)] == [5, 6]
    assert [e.index for e in log.entries(5, 7, 100, 1)] == [5]  # at least one
    assert [e.index for e in log.entries(2, 7, 2, 1 << 20)] == [2, 3]
    store(log, storage)
    assert log.stable == storage.last_index() == 6


def test_a_conflict_replaced_in_storage_is_deleted_first() -> None:
    log, _ = fresh(1, 1, 1)
    log.truncate(3)
    log.append(entries(3, 2))
    assert log.take_unstable() == (tuple(entries(3, 2)), 3)


def test_a_truncation_alone_is_stored_too() -> None:
    log, storage = fresh(1, 1, 1)
    log.truncate(3)
    store(log, storage)
    assert storage.last_index() == log.last_index == log.stable == 2


def test_entries_replaced_while_they_were_written_are_not_stable() -> None:
    log, storage = fresh()
    log.append(entries(2, 2, 2, 2))
    new, truncate_from = log.take_unstable()
    log.truncate(3)
    log.append(entries(3, 3))
    storage.write(new, truncate_from)
    log.stored(new)
    assert log.stable == 2
    assert log.take_unstable() == (tuple(entries(3, 3)), 3)


def test_entries_replaced_and_come_back_are_stable() -> None:
    """A, then B, then A again while A is being written: A is on disk, whatever was thought in between."""
    log, storage = fresh()
    log.append(entries(2, 2, 2))
    new, truncate_from = log.take_unstable()
    log.truncate(2)
    log.append(entries(2, 3))
    log.truncate(2)
    log.append(entries(2, 2, 2))
    storage.write(new, truncate_from)
    log.stored(new)
    assert log.stable == 3
    assert log.take_unstable() == ((), None)


def test_below_commit_nothing_is_replaced() -> None:
    log, _ = fresh(1, 1, commit=2)
    with pytest.raises(ImpossibleState, match="committed up to 2"):
        log.truncate(2)
    log.truncate(3)


def test_contradicting_state_is_refused_at_the_start() -> None:
    with pytest.raises(ImpossibleState, match="contradicts"):
        RaftLog(MemoryStorage([FOUNDING]), 5, 0, 10, 10)
    with pytest.raises(ImpossibleState, match="contradicts"):
        RaftLog(MemoryStorage([FOUNDING]), 0, 1, 10, 10)


def test_the_cache_is_bounded_and_never_drops_what_is_not_stable() -> None:
    log, storage = fresh(cache=4)
    for index in range(2, 102):
        log.append(entries(index, 1))
        if index % 10 == 0:
            store(log, storage)
            assert len(log._tail) <= 8
    assert log.stable == 100
    assert [e.index for e in log.entries(100, 102, 9, 1 << 20)] in ([100], [100, 101])
    assert log.term(3) == 1


def test_membership_is_the_last_in_the_log_and_goes_back_with_it() -> None:
    log, storage = fresh()
    wider = Membership("c", ("a", "b", "c"), ("d",))
    log.append([Entry(2, 2, EntryKind.MEMBERSHIP, wider.encode())])
    assert log.membership == wider
    assert log.may_stand("a")
    assert not log.may_stand("d")
    store(log, storage)
    again = RaftLog(storage, 0, 0, 10, 1_000)
    assert (again.membership, again.membership_index) == (wider, 2)
    again.truncate(2)
    assert again.membership_index == 1
    log.append([Entry(3, 2, EntryKind.MEMBERSHIP, Membership("c", ("b", "c"), ("d",)).encode())])
    assert log.may_stand("a")  # its removal is not known to be decided
    log.commit = 3
    assert not log.may_stand("a")


def test_compacted_entries_say_so() -> None:
    log, storage = fresh(1, 1, 2, commit=4)
    storage.compact(3)
    assert log.term(3) == 1
    assert log.first_index == 4
    with pytest.raises(Compacted):
        log.term(2)
    with pytest.raises(Compacted):
        log.entries(3, 5, 10, 1_000)
    assert not log.matches(2, 1)
    assert storage.membership(4) == FOUNDING


def test_a_restored_snapshot_hides_what_storage_still_holds() -> None:
    log, storage = fresh(1, 1)
    log.restore(10, 4, FOUNDING)
    assert (log.last_index, log.last_term, log.commit, log.applied) == (10, 4, 10, 10)
    log.append(entries(11, 5))
    assert log.term(10) == 4
    with pytest.raises(Compacted):
        log.term(2)
    with pytest.raises(Compacted):
        log.entries(2, 4, 10, 1_000)
    storage.install(10, 4, FOUNDING)
    store(log, storage)
    assert storage.last_index() == 11


def test_random_histories_equal_a_plain_list() -> None:
    rng = random.Random(5)
    for _ in range(200):
        log, storage = fresh(cache=rng.choice((1, 4, 100)))
        model = [FOUNDING]
        in_flight = None
        for term in range(2, 40):
            match rng.randrange(5):
                case 0 if len(model) > 1:
                    cut = rng.randrange(2, len(model) + 1)
                    log.truncate(cut)
                    del model[cut - 1 :]
                case 1 if in_flight is None:
                    in_flight = log.take_unstable()
                case 2 if in_flight is not None:
                    storage.write(*in_flight)
                    log.stored(in_flight[0])
                    in_flight = None
                    assert [storage.entries(i, i + 1, 1)[0] for i in range(1, log.stable + 1)] == model[: log.stable]
                case _:
                    new = entries(len(model) + 1, *([term] * rng.randrange(1, 4)))
                    log.append(new)
                    model += new
            assert log.last_index == len(model)
            assert [log.term(i + 1) for i in range(len(model))] == [e.term for e in model]
