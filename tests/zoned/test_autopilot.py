"""Who should vote, by value: promotion in pairs and over zones, witnesses, giving up the places of the lost."""

from collections.abc import Iterator
from typing import Any, cast

import pytest
import trio

from conf import Registry as RegistrySettings
from gossip import Member, MemberView, State
from store.entries import Membership
from zoned.autopilot import Autopilot, Candidate, Hearing, SteerRefused, added, next_step, without
from zoned.raft.progress import PeerStatus, Phase
from zoned.raft.quorum import is_sound, majority, why_not


def members(voters: str, learners: str = "", witnesses: str = "", removed: str = "") -> Membership:
    return Membership("c", tuple(voters), tuple(learners), tuple(removed), tuple(witnesses))


def nodes(well: str, ill: str = "", witnesses: str = "") -> list[Candidate]:
    """Each in a zone of its own."""
    return [Candidate(one, f"zone-{one}", one in well, one in witnesses) for one in well + ill]


def steps(membership: Membership, candidates: list[Candidate], wanted: int, hearing: Hearing) -> Iterator[Membership]:
    """Until nothing is left to do, every step one that the log would take."""
    for _ in range(50):
        after = next_step(membership, candidates, wanted, hearing)
        if after is None:
            return
        assert why_not(membership, after) is None
        membership = after
        yield membership
    raise AssertionError("no end")


def settled(membership: Membership, candidates: list[Candidate], wanted: int, lost: str = "") -> Membership:
    heard = {one.node_id for one in candidates if one.well}
    return [membership, *steps(membership, candidates, wanted, Hearing(heard, lost))][-1]


def test_votes_are_given_in_pairs() -> None:
    assert settled(members("a"), nodes("a"), 5) == members("a")
    assert settled(members("a"), nodes("ab"), 5) == members("a", "b")
    assert settled(members("a"), nodes("abc"), 5) == members("abc")
    assert settled(members("ab"), nodes("abc"), 5) == members("abc")
    assert settled(members("abc"), nodes("abcd"), 5) == members("abc", "d")
    assert settled(members("abc"), nodes("abcde"), 5) == members("abcde")
    assert settled(members("abc"), nodes("abcde"), 3) == members("abc")


def test_votes_are_spread_over_zones() -> None:
    near = [Candidate("a", "one", True), Candidate("b", "one", True), Candidate("c", "one", True)]
    far = [Candidate("x", "two", True), Candidate("y", "three", True)]
    assert settled(members("a"), near + far, 3).voters == ("a", "x", "y")


def test_a_node_that_was_removed_comes_back_only_by_an_operator() -> None:
    assert settled(members("ab", removed="c"), nodes("abc"), 3) == members("ab", removed="c")
    assert settled(added(members("ab", removed="c"), "c"), nodes("abc"), 3) == members("abc")


def test_the_log_learns_who_is_a_witness_and_who_is_none_any_more() -> None:
    assert settled(members("ab"), nodes("abw", witnesses="w"), 3) == members("abw", witnesses="w")
    assert settled(members("abw"), nodes("abw", witnesses="w"), 3) == members("abw", witnesses="w")
    assert settled(members("abw", witnesses="w"), nodes("abw"), 3) == members("abw")
    # What a node is that is not well just now, nobody can say.
    assert settled(members("abw", witnesses="w"), nodes("ab", "w"), 3) == members("abw", witnesses="w")


@pytest.mark.parametrize("wanted", [1, 3, 5, 7])
def test_witnesses_never_get_a_majority(wanted: int) -> None:
    for witnesses in ("w", "vw", "uvw", "tuvw"):
        for full in ("a", "ab", "abc", "abcd"):
            found = settled(members("a"), nodes(full + witnesses, witnesses=witnesses), wanted)
            voting = [one for one in found.voters if one in witnesses]
            assert is_sound(found)
            assert len(voting) < majority(len(found.voters))
            possible = min(wanted, len(full) + min(len(witnesses), majority(wanted) - 1))
            if possible == wanted and len(full) > 1:
                assert len(found.voters) == wanted, (full, witnesses, found)


def test_a_witness_that_was_left_alone_and_recovered_becomes_one_again() -> None:
    """By the log it is full at first: a cluster of witnesses alone cannot be."""
    assert settled(members("w"), nodes("w", witnesses="w"), 3) == members("w")
    assert settled(members("w"), nodes("wde", witnesses="w"), 3) == members("dew", witnesses="w")


def test_a_witness_counts_as_the_voter_of_its_zone() -> None:
    two = [Candidate("a", "one", True), Candidate("b", "two", True), Candidate("w", "three", True, True)]
    assert settled(members("a"), [*two, Candidate("c", "one", True)], 3) == members("abw", witnesses="w")
    same = [Candidate("a", "one", True), Candidate("b", "two", True), Candidate("w", "two", True, True)]
    found = settled(members("a"), [*same, Candidate("c", "three", True)], 3)
    assert found.voters == ("a", "c", "w")


def test_nobody_is_removed_by_itself_unless_lost() -> None:
    assert settled(members("abcde"), nodes("abc", "de"), 5) == members("abcde")


@pytest.mark.parametrize(
    ("before", "living", "lost", "wanted", "after"),
    [
        (members("abcde"), "abcd", "e", 5, members("abcde")),  # nothing gained: one may die, and no more then
        (members("abcde"), "abc", "de", 5, members("abc")),  # now one of three may die
        (members("abc"), "ab", "c", 5, members("abc")),  # a majority of five must be left
        (members("abcd"), "abc", "d", 5, members("abc")),
        (members("abc"), "abd", "c", 5, members("abd")),  # ... with who stands by
        (members("abc"), "ab", "c", 3, members("abc")),
        (members("abc"), "abd", "c", 3, members("abd")),  # another takes the place
        (members("abcde"), "abcdf", "e", 5, members("abcdf")),
        (members("abc"), "a", "bc", 3, members("abc")),  # most are lost: for a person to decide
        (members("abcd"), "ab", "cd", 3, members("abcd")),
        (members("a"), "", "a", 1, members("a")),
        (members("abc", "d"), "abc", "d", 3, members("abc")),
    ],
)
def test_the_lost_give_up_their_places(
    before: Membership, living: str, lost: str, wanted: int, after: Membership
) -> None:
    assert settled(before, nodes(living, lost), wanted, lost) == after


def test_no_voter_is_dropped_while_the_rest_would_not_be_a_reachable_majority() -> None:
    candidates, before = nodes("abc", "de"), members("abcde")
    assert next_step(before, candidates, 5, Hearing({"a", "b"}, {"d", "e"})) is None
    assert next_step(before, candidates, 5, Hearing({"a", "b", "c"}, {"d", "e"})) == members("abce")


def test_the_last_full_voters_are_not_dropped_for_witnesses() -> None:
    before = members("abvwx"[:4], witnesses="vw")  # a, b and two witnesses
    assert next_step(before, nodes("avw", "b", "vw"), 5, Hearing("avw", "b")) is None


def test_dropping_any_set_of_lost_nodes_leaves_a_working_majority() -> None:
    """Exhaustive over who is lost: never a majority, never below a majority of `wanted`, never without quorum."""
    everyone = "abcde"
    for mask in range(1 << len(everyone)):
        lost = {one for bit, one in enumerate(everyone) if mask >> bit & 1}
        living = "".join(one for one in everyone if one not in lost)
        for spare in ("", "x", "xy"):
            before = members(everyone)
            candidates = nodes(living + spare, "".join(sorted(lost)))
            for after in steps(before, candidates, 5, Hearing(set(living + spare), lost)):
                if not set(everyone) <= set(after.voters):
                    assert len(lost) <= 2
                    assert len(after.voters) >= 3
                    assert len(set(after.voters) - lost) >= majority(len(after.voters))


def test_an_operator_removes_for_good_and_only_what_can_be_missed() -> None:
    assert without(members("abw", witnesses="w"), "w", "ab", "a") == members("ab", removed="w")
    with pytest.raises(SteerRefused, match="only 1 of the 2"):
        without(members("abc"), "c", "a", "a")
    with pytest.raises(SteerRefused, match="hand it over first"):
        without(members("abc"), "a", "abc", "a")
    with pytest.raises(SteerRefused, match="takes no part"):
        without(members("abc"), "x", "abc", "a")


def test_young_learners_are_waited_for_and_old_ones_hold_no_place() -> None:
    """Learners become well only after some seconds; without patience every node would be a learner by then."""
    young = [Candidate(one, f"zone-{one}", False, coming=True) for one in "bcde"]
    assert next_step(members("a", "bcde"), [*nodes("afg"), *young], 5) is None
    assert next_step(members("a", "bcd"), [*nodes("afg"), *young[:3]], 5) == members("a", "bcdf")
    old = nodes("afg", ill="bcde")
    assert next_step(members("a", "bcde"), old, 5) == members("a", "bcdef")


# The shell, with a core that does at once what it is told, under a virtual clock.


class Core:
    """Of a registry "a" whose every change is applied at once."""

    def __init__(self, membership: Membership) -> None:
        self.node_id = "a"
        self.is_registry = True
        self.commit = 0
        self.membership = membership
        self.silent: set[str] = set()

    @property
    def progress(self) -> dict[str, PeerStatus]:
        peers = {*self.membership.voters, *self.membership.learners} - {"a"}
        return {peer: PeerStatus(Phase.REPLICATE, 0, 1, peer not in self.silent, 0, 0) for peer in peers}


class Node:
    def __init__(self, core: Core) -> None:
        self.core = core

    def change(self, wanted: Membership) -> int:
        assert why_not(self.core.membership, wanted) is None
        self.core.membership = wanted
        return 1


def seen(node_id: str, state: State = State.ALIVE, since: float = -1_000.0) -> MemberView:
    return MemberView(Member(node_id, 1, f"zone-{node_id}", "h", 1, facts={"cluster": "c"}), state, since)


async def ended_with(core: Core, views: dict[str, MemberView], after_s: float, remove_after_s: float) -> Membership:
    settings = RegistrySettings(voters=3, remove_after_s=remove_after_s)
    with trio.move_on_after(after_s):
        await Autopilot(cast(Any, Node(core)), views, settings).serve()
    return core.membership


async def test_a_voter_that_is_away_for_long_enough_gives_its_place_to_who_stands_by(autojump_clock):
    views = {one: seen(one) for one in "abd"} | {"c": seen("c", State.DEAD)}
    core = Core(members("abc"))
    core.silent = {"c"}
    assert await ended_with(core, views, 100, remove_after_s=0) == members("abc")
    assert await ended_with(core, views, 55, remove_after_s=60) == members("abc")
    assert await ended_with(core, views, 100, remove_after_s=60) == members("abd")


async def test_who_answers_or_is_up_by_gossip_is_not_away(autojump_clock):
    views = {one: seen(one) for one in "abd"} | {"c": seen("c", State.DEAD)}
    assert await ended_with(Core(members("abc")), views, 100, remove_after_s=10) == members("abc")
    core = Core(members("abc"))
    core.silent = {"c"}
    assert await ended_with(core, views | {"c": seen("c", State.SUSPECT)}, 100, remove_after_s=10) == members("abc")


async def test_a_node_that_gossip_forgot_is_away_as_well(autojump_clock):
    core = Core(members("abc"))
    core.silent = {"c"}
    assert await ended_with(core, {one: seen(one) for one in "abd"}, 100, remove_after_s=10) == members("abd")


async def test_a_new_registry_counts_the_time_anew(autojump_clock):
    views = {one: seen(one) for one in "abd"} | {"c": seen("c", State.DEAD)}
    core = Core(members("abc"))
    core.silent = {"c"}

    async def lose_the_role_for_a_while() -> None:
        await trio.sleep(50)
        core.is_registry = False
        await trio.sleep(5)
        core.is_registry = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lose_the_role_for_a_while)
        assert await ended_with(core, views, 100, remove_after_s=60) == members("abc")
        assert await ended_with(core, views, 100, remove_after_s=60) == members("abd")


async def test_a_newcomer_is_given_time(autojump_clock):
    views = {"a": seen("a"), **{one: seen(one, since=0.0) for one in "bc"}}
    core = Core(members("a"))
    assert await ended_with(core, views, 4, remove_after_s=0) == members("a")
    assert await ended_with(core, views, 30, remove_after_s=0) == members("abc")
