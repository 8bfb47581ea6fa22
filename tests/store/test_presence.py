"""Observations of a zone's bytes merge in any order; what takes back wins a tie."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from store.images import PRESENCES
from store.presence import Said, holds, is_recent, kinds, merged

TIMES = st.integers(0, 3).map(lambda n: f"2026-11-22T09:00:0{n}.000Z")
SAID: st.SearchStrategy[Mapping[str, Said]] = st.dictionaries(
    st.sampled_from("ab"), st.dictionaries(st.sampled_from(PRESENCES), st.tuples(TIMES, st.sampled_from("xy")))
)


@given(SAID, SAID, SAID)
def test_observations_merge_in_any_order_and_as_often_as_they_come(one, two, three):
    def both(first: Mapping[str, Said], second: Mapping[str, Said]) -> Mapping[str, Said]:
        return merged(merged({}, first), second)

    assert both(one, two) == both(two, one)
    assert merged(both(one, two), three) == merged(merged({}, one), both(two, three))
    assert merged(merged(one, two), two) == merged(one, two)


def test_absent_takes_back_what_was_seen_until_it_is_seen_again():
    early, late, later = (f"2026-11-22T09:00:0{n}.000Z" for n in "123")
    said = {"verified": (early, "sha256"), "absent": (late, ""), "wanted": (early, "")}
    assert kinds(said) == ["wanted"]
    assert kinds({**said, "verified": (late, "sha256")}) == ["wanted"]  # at one moment: not there
    assert holds({**said, "verified": (later, "sha256")}, "verified") == later
    assert kinds({"wanted": (early, ""), "unwanted": (late, "")}) == []


def test_what_was_seen_long_ago_is_not_recent():
    seen, now = "2026-11-01T09:00:00.000Z", "2026-11-22T09:00:00.000Z"
    assert is_recent(seen, now, 21)
    assert not is_recent(seen, now, 20.9)
