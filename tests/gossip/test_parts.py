"""The small pieces by value: table, suspicion, broadcasts, contacts, throttle."""

from itertools import pairwise
from random import Random
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.broadcasts import Broadcasts
from gossip.contacts import Contacts
from gossip.errors import BadIdentity
from gossip.members import Members
from gossip.messages import Alive, Dead, Entry, ExchangeState, Left, Member, State, Suspect
from gossip.options import GossipOptions
from gossip.suspicion import Suspicion, timeout_s, wanted_confirmations
from gossip.swim import Swim
from gossip.throttle import Throttle

OPTIONS = GossipOptions(probe_interval_s=1.0, suspicion_mult=3.0)


def ident(number: int) -> str:
    return str(UUID(int=number))


def member(number: int, generation: int = 1, incarnation: int = 0, revision: int = 0, **facts: int) -> Member:
    return Member(ident(number), generation, f"z{number}", f"10.0.0.{number}", 9293, incarnation, revision, facts)


# --- suspicion


def test_small_clusters_wait_for_whom_there_is() -> None:
    assert [wanted_confirmations(OPTIONS, count) for count in (1, 2, 3, 4, 5, 100)] == [0, 0, 1, 2, 2, 2]
    assert timeout_s(OPTIONS, 2, 0) == 3.0  # nobody could confirm
    assert timeout_s(OPTIONS, 3, 1) == 3.0
    assert timeout_s(OPTIONS, 3, 0) == pytest.approx(10.5)  # not as long as where two could
    assert timeout_s(OPTIONS, 5, 0) == pytest.approx(18.0)
    assert timeout_s(OPTIONS, 5, 2) == 3.0
    assert timeout_s(OPTIONS, 100, 2) == pytest.approx(6.0)


@given(st.integers(1, 1000), st.integers(0, 5))
def test_more_confirmers_never_wait_longer(count: int, confirmed: int) -> None:
    assert timeout_s(OPTIONS, count, confirmed + 1) <= timeout_s(OPTIONS, count, confirmed)


def test_only_distinct_others_confirm() -> None:
    suspicion = Suspicion(5.0, "b")
    assert suspicion.confirmed_by("b", 2) is None
    once = suspicion.confirmed_by("c", 2)
    assert once == Suspicion(5.0, "b", frozenset("c"))
    assert once.confirmed_by("c", 2) is None
    assert once.confirmed_by("d", 1) is None
    assert Suspicion(5.0, "").confirmed_by("c", 2) == Suspicion(5.0, "c")


# --- table


def test_the_ring_visits_everybody_once_per_round() -> None:
    members = Members(member(0), Random(1), 0.0, 100)
    for number in range(1, 9):
        members.hear_alive(member(number), 0.0)
    seen = [members.next_target() for _ in range(24)]
    for start in (8, 16):
        assert len(set(seen[start : start + 8])) == 8
    members.hasten(ident(3))
    assert members.next_target() == ident(3)


@given(st.data())
def test_the_table_is_a_join_of_claims(data: st.DataObject) -> None:
    """Any order and any repetition of the same claims ends in the same belief."""
    versions = st.tuples(st.integers(1, 2), st.integers(0, 2))
    alive = st.builds(lambda v, r: Alive(member(1, v[0], v[1], r, r=r)), versions, st.integers(0, 2))
    blames = st.builds(lambda v, kind: kind(ident(1), *v, ident(2)), versions, st.sampled_from([Suspect, Dead]))
    left = versions.map(lambda v: Left(ident(1), *v))
    claims = data.draw(st.lists(alive | blames | left, max_size=8))
    shuffled = data.draw(st.permutations(claims + claims))
    beliefs = []
    for order in (claims, shuffled):
        members = Members(member(0), Random(1), 0.0, 100)
        members.hear_alive(member(1, 1, r=0), 0.0)
        members.hear_alive(
            member(1, 2, r=0), 0.0
        )  # both starts are met, or a verdict on the later could come too early
        for claim in order:
            match claim:
                case Alive(about):
                    members.hear_alive(about, 1.0)
                case Suspect():
                    members.hear_verdict(claim, State.SUSPECT, 1.0)
                case Dead():
                    members.hear_verdict(claim, State.DEAD, 1.0)
                case Left():
                    members.hear_verdict(claim, State.LEFT, 1.0)
        view = members.views[ident(1)]
        beliefs.append((view.member, view.state))
    assert beliefs[0] == beliefs[1]


def test_a_full_table_forgets_the_gone_before_it_refuses() -> None:
    members = Members(member(0), Random(1), 0.0, 3)
    members.hear_alive(member(1), 0.0)
    members.hear_alive(member(2), 0.0)
    assert members.hear_alive(member(3), 1.0) is None
    members.hear_verdict(Dead(ident(1), 1, 0, ident(2)), State.DEAD, 1.0)
    assert members.hear_alive(member(3), 1.0) is not None
    assert ident(1) not in members.views
    members.hear_verdict(Left(ident(2), 1, 0), State.LEFT, 2.0)
    members.forget_left(10.0)
    assert set(members.views) == {ident(0), ident(3)}


# --- broadcasts


def test_newer_news_replaces_older_and_a_refutation_its_accusation() -> None:
    queue = Broadcasts(1.0)
    queue.put(Suspect(ident(1), 1, 0, ident(2)))
    queue.put(Suspect(ident(1), 1, 0, ident(3)))
    assert len(queue) == 1
    queue.put(Alive(member(1, revision=1)))
    assert len(queue) == 2  # facts do not refute
    queue.put(Alive(member(1, incarnation=1)))
    assert queue.take(1000, 2, 9) == [Alive(member(1, incarnation=1))]


def test_each_is_sent_a_logarithmic_number_of_times() -> None:
    for up_count, times in ((2, 5), (3, 6), (10, 11), (100, 20)):
        queue = Broadcasts(3.0)
        queue.put(Left(ident(1), 1, 0))
        sent = 0
        while queue:
            sent += len(queue.take(1000, up_count, 9))
        assert sent == times


def test_the_least_sent_goes_first_and_the_budget_holds() -> None:
    queue = Broadcasts(3.0)
    for number in range(1, 60):
        queue.put(Left(ident(number), 1, 0))
    first = queue.take(200, 10, 64)
    second = queue.take(200, 10, 64)
    assert first
    assert not set(map(repr, first)) & set(map(repr, second))
    assert len(queue.take(10_000, 10, 5)) == 5
    assert queue.take(5, 10, 5) == []


# --- contacts


def test_dialling_slows_to_a_cap_and_never_ends() -> None:
    contacts = Contacts(OPTIONS, Random(1))
    contacts.add(("s", 1), 0.0, seed=True)
    contacts.add(("b", 1), 0.0)
    now, dials = 0.0, []
    while now < 600:
        now = contacts.due
        dials += [(now, address) for address in contacts.take_due(now)]
    for name in "sb":
        times = [when for when, address in dials if address[0] == name]
        pauses = [later - earlier for earlier, later in pairwise(times)]
        assert pauses[0] < 0.2
        assert all(OPTIONS.redial_max_s * 0.75 <= pause <= OPTIONS.redial_max_s * 1.25 for pause in pauses[10:])
        assert len(times) > 20


def test_an_answered_address_rests_until_its_member_dies() -> None:
    contacts = Contacts(OPTIONS, Random(1))
    contacts.add(("s", 1), 0.0, seed=True)
    contacts.add(("b", 1), 0.0)
    contacts.answered(("s", 1), "x", 0.0)
    contacts.answered(("b", 1), "x", 0.0)
    assert ("b", 1) not in contacts
    contacts.take_due(0.0)
    assert contacts.due > 20
    contacts.lost("x", 5.0)
    assert contacts.take_due(5.0) == [("s", 1)]


# --- throttle, and the core's own guards


def test_once_per_key_and_interval_with_bounded_memory() -> None:
    throttle = Throttle(10.0, keys_max=2)
    assert throttle.allows("a", 0.0)
    assert not throttle.allows("a", 9.9)
    assert throttle.allows("a", 10.0)
    assert throttle.allows("b", 10.0)
    assert throttle.allows("c", 10.0)
    assert throttle.allows("a", 10.1)  # forgotten, so let through: memory is bounded, not silence


def test_facts_that_do_not_fit_are_refused_and_the_old_ones_stay() -> None:
    core = Swim(OPTIONS, "blue", member(1), Random(1), 0.0)
    core.update_facts({"api": "http://a"}, 0.0)
    with pytest.raises(BadIdentity, match="own facts"):
        core.update_facts({"long": "x" * 600}, 1.0)
    core.update_facts({"other": 1}, 2.0)
    core.wake(2.0)
    assert core.me.facts == {"api": "http://a", "other": 1}
    core.update_facts({"api": None}, 5.0)
    assert core.me.facts == {"other": 1}
    assert core.update_facts({"other": 1}, 6.0) == []
    core.update_facts({"other": True}, 7.0)
    assert core.me.facts["other"] is True


def test_a_newcomer_does_not_repeat_a_large_table_that_all_others_know() -> None:
    core = Swim(OPTIONS, "blue", member(1), Random(1), 0.0)
    entries = tuple(Entry(member(number), State.ALIVE) for number in range(2, 120))
    core.merge(ExchangeState(ident(2), 1, entries), 0.0)
    assert len(core.views) == 119
    assert core.queued == 0


def test_options_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="probe_timeout_s"):
        GossipOptions(probe_timeout_s=2.0)
    with pytest.raises(ValueError, match="datagram_bytes"):
        GossipOptions(datagram_bytes=500)
    assert GossipOptions.wan().probe_interval_s > GossipOptions.lan().probe_interval_s
