"""One peer as its leader sees it."""

from zoned.raft.progress import Phase, Progress


def replicating() -> Progress:
    progress = Progress(next_index=11, max_messages=3, max_bytes=100)
    progress.sent(12, 10)
    assert progress.accepted(12)
    return progress


def test_a_probe_waits_for_its_answer() -> None:
    progress = Progress(next_index=11, max_messages=3, max_bytes=100)
    progress.sent(12, 10)
    assert progress.paused
    assert progress.next == 11  # not optimistic: the answer may say that the logs differ
    assert progress.accepted(12)
    assert (progress.phase, progress.match, progress.next) == (Phase.REPLICATE, 12, 13)


def test_the_pipeline_is_bounded_in_messages_and_bytes() -> None:
    progress = replicating()
    for last in (13, 14):
        assert progress.status(10).inflight_messages == last - 13
        progress.sent(last, 10)
    progress.sent(15, 10)
    assert progress.status(10).inflight_messages == 3
    progress.accepted(14)
    progress.sent(20, 1_000)
    assert progress.status(10).inflight_messages == 2
    assert progress.paused
    assert progress.status(10).inflight_bytes == 1_010


def test_a_rejection_leads_back_to_probing_but_only_a_fresh_one() -> None:
    progress = replicating()
    progress.sent(13, 10)
    assert not progress.rejected(12, 5)  # proven already: the answer is older than the proof
    assert progress.rejected(13, 99)
    assert (progress.phase, progress.next) == (Phase.PROBE, 13)
    assert not progress.rejected(7, 3)  # not the question that is open


def test_a_hint_never_leads_below_what_is_proven() -> None:
    progress = replicating()
    progress.sent(20, 10)
    assert progress.rejected(20, 1)
    assert progress.next == 13


def test_a_snapshot_ends_with_the_first_answer_beyond_it() -> None:
    progress = replicating()
    progress.await_snapshot(50)
    assert progress.paused
    assert not progress.rejected(30, 1)
    progress.accepted(49)
    assert progress.phase is Phase.SNAPSHOT
    assert progress.accepted(50)
    assert (progress.phase, progress.next) == (Phase.PROBE, 51)
