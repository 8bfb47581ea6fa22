"""Counting."""

from dataclasses import replace

import pytest

from store.entries import Membership
from zoned.raft.quorum import Tally, agreed, decode_membership, is_sound, majority, tally, why_not


def members(voters: str, learners: str = "") -> Membership:
    return Membership("c", tuple(voters), tuple(learners))


def test_majorities_of_the_same_voters_always_overlap() -> None:
    for voters in range(1, 10):
        assert 2 * majority(voters) > voters


def test_agreed_is_what_a_majority_has_reached() -> None:
    assert agreed([5]) == 5
    assert agreed([5, 3]) == 3
    assert agreed([9, 5, 1]) == 5
    assert agreed([9, 5, 4, 1]) == 4
    assert agreed([]) == 0


def test_tally() -> None:
    voters = tuple("abc")
    assert tally(voters, {"a": True}) is Tally.PENDING
    assert tally(voters, {"a": True, "b": True}) is Tally.WON
    assert tally(voters, {"a": True, "b": False}) is Tally.PENDING
    assert tally(voters, {"b": False, "c": False}) is Tally.LOST
    assert tally(voters, {"a": True, "x": True, "y": True}) is Tally.PENDING
    assert tally((), {"a": True}) is Tally.LOST


@pytest.mark.parametrize(
    ("current", "wanted", "reason"),
    [
        (members("abc"), members("abc", "d"), None),
        (members("abc", "d"), members("abcd"), None),
        (members("abc"), members("ab", "c"), None),
        (members("abc"), members("ab"), None),
        (members("abc"), members("abcd"), "learner first"),
        (members("abc"), members("abd"), "2 nodes"),
        (members("abc"), members("abc"), "0 nodes"),
        (members("a"), members("", "a"), "sound"),
        (members("ab"), members("aab"), "sound"),
        (members("ab"), members("ab", "a"), "sound"),
        (members("ab"), Membership("other", ("a", "b"), ("c",)), "sound"),
    ],
)
def test_one_node_moves_one_step(current: Membership, wanted: Membership, reason: str | None) -> None:
    answer = why_not(current, wanted)
    assert answer is None if reason is None else answer is not None and reason in answer


def test_senseless_memberships_are_none() -> None:
    for data in (b"", b"\xc1", b"\x80", b"\x01", b"\x93\x01\x02\x03", members("aa").encode(), members("").encode()):
        assert decode_membership(data) is None
    assert decode_membership(members("ab", "c").encode()) == members("ab", "c")


@pytest.mark.parametrize(("voters", "witnesses", "sound"), [
    ("ab", "b", True), ("abc", "c", True), ("abc", "bc", False), ("abcd", "cd", True), ("abcde", "de", True),
    ("abcde", "cde", False), ("a", "a", False), ("ab", "x", False), ("ab", "bb", False),
])  # fmt: skip
def test_every_majority_has_a_voter_that_is_no_witness(voters: str, witnesses: str, sound: bool) -> None:
    assert is_sound(replace(members(voters), witnesses=tuple(witnesses))) is sound


def test_a_learner_may_be_a_witness_whatever_the_number() -> None:
    assert is_sound(replace(members("a", "wx"), witnesses=("w", "x")))


def test_becoming_a_witness_is_one_step_of_one_node() -> None:
    three = members("abc")
    assert why_not(three, replace(three, witnesses=("c",))) is None
    assert why_not(replace(three, witnesses=("c",)), three) is None
    assert "2 nodes" in str(why_not(replace(three, witnesses=("c",)), replace(three, witnesses=("b",))))
    assert "2 nodes" in str(why_not(replace(three, witnesses=("c",)), members("ab", "d")))
    assert "alone would be a majority" in str(why_not(three, replace(three, witnesses=("b", "c"))))
    assert decode_membership(replace(three, witnesses=("b", "c")).encode()) is None
