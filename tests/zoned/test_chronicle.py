"""What is remembered of elections, by value."""

from zoned.chronicle import ELECTIONS_MAX, SAMPLES_MAX, Election, Elections, Sample, Trend


def election(at: float, node: str | None, term: int | None = None, why: str = "") -> Election:
    return Election(at, term, node, f"zone of {node}" if node else None, why)


def test_changes_are_kept_and_repetitions_are_not() -> None:
    kept = Elections()
    said = [
        election(1, None),  # nobody yet: nothing has changed
        election(2, "a", 1),
        election(3, "a", 1),
        election(4, None, 1, "no heartbeat"),
        election(5, None, 2, "another node stood"),  # a term in which nobody won
        election(6, "b", 3),
        election(7, "b", 4),  # elected again without a gap that this node saw
    ]
    for one in said:
        kept.note(one)
    assert [one.at for one in kept] == [2, 4, 6, 7]
    assert kept.count == 4
    assert kept.newest == said[-1]


def test_a_flapping_registry_takes_no_more_memory() -> None:
    kept = Elections()
    for n in range(ELECTIONS_MAX * 3):
        kept.note(election(n, "a" if n % 2 == 0 else None, n))
    assert len(list(kept)) == ELECTIONS_MAX
    assert kept.count == ELECTIONS_MAX * 3
    assert kept.newest is not None
    assert kept.newest.at == ELECTIONS_MAX * 3 - 1


def test_the_trend_forgets_the_oldest() -> None:
    trend = Trend()
    for n in range(SAMPLES_MAX + 5):
        trend.note(Sample(float(n), None, 0, 0, 1, False, 0, 0, 0, 0))
    assert [one.at for one in trend][:2] == [5.0, 6.0]
    assert len(list(trend)) == SAMPLES_MAX
