"""Whole clusters on bare cores. Each promise is checked over several seeds; the mutants at the end show it can fail."""

from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import pytest

from gossip.effects import Effect, Exchange
from gossip.messages import Alive, ExchangeState, State
from gossip.options import GossipOptions
from gossip.swim import Swim
from tests.gossip.simulation import Cluster, Network, node_id

ROUGH = Network(loss=0.1, double=0.05, delay_s=(0.001, 0.1))
WIDE = Network(loss=0.01, delay_s=(0.02, 0.15))


def formed(size: int, seed: int, **changes: Any) -> Cluster:
    cluster = Cluster(size, seed, **changes)
    cluster.run_until(cluster.is_whole, 60)
    assert cluster.is_whole()
    return cluster


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 10])
def test_a_full_view_comes_at_once(size: int) -> None:
    for seed in range(5):
        cluster = Cluster(size, seed)
        assert cluster.run_until(cluster.is_whole, 10) < 0.6


@pytest.mark.parametrize(("size", "typical", "longest"), [(2, 5, 6), (3, 5, 6.5), (5, 5.2, 7.5), (10, 5, 7)])
def test_a_death_is_known_to_all_within_seconds(size: int, typical: float, longest: float) -> None:
    times = []
    for seed in range(10):
        cluster = formed(size, seed)
        cluster.run(cluster.rng.uniform(2, 4))
        cluster.kill(size - 1)
        times.append(cluster.run_until(lambda c=cluster: c.all_believe(size - 1, State.DEAD), 60))  # type: ignore[misc]
        assert cluster.false_deaths() == 0
    assert median(times) < typical
    assert max(times) < longest


def test_two_of_three_dead_at_once_are_found_without_any_help() -> None:
    for seed in range(5):
        cluster = formed(3, seed)
        cluster.run(2)
        cluster.kill(0, 1)
        both = lambda c=cluster: c.all_believe(0, State.DEAD) and c.all_believe(1, State.DEAD)  # noqa: E731
        assert cluster.run_until(both, 60) < 14


def test_over_a_wide_network_a_death_is_known_in_under_fifteen_seconds() -> None:
    times = []
    for seed in range(10):
        cluster = formed(10, seed, options=GossipOptions.wan(), network=WIDE)
        cluster.run(5)
        cluster.kill(9)
        times.append(cluster.run_until(lambda c=cluster: c.all_believe(9, State.DEAD), 120))  # type: ignore[misc]
        assert cluster.false_deaths() == 0
    assert median(times) < 15


def test_a_good_bye_is_known_within_a_second_and_is_no_death() -> None:
    for seed in range(5):
        cluster = formed(5, seed)
        cluster.leave(2)
        assert cluster.run_until(lambda c=cluster: c.all_believe(2, State.LEFT), 10) < 1  # type: ignore[misc]
        cluster.run_until(lambda c=cluster: c.cores[2].has_left, 5)  # type: ignore[misc]
        assert cluster.cores[2].has_left
        cluster.kill(2)
        cluster.run(60)
        assert cluster.all_believe(2, State.LEFT)
        assert not cluster.deaths


def test_facts_reach_everybody_and_the_last_word_stays() -> None:
    for seed in range(5):
        cluster = formed(10, seed, network=ROUGH)
        for position in range(100):
            cluster.publish(3, position=position)
            cluster.run(0.02)
        cluster.run(1)
        assert cluster.run_until(cluster.is_whole, 60) < 45
        assert cluster.cores[7].views[node_id(3)].facts == {"position": 99}
        # A hundred changes in two seconds were at most one broadcast per interval.
        assert cluster.cores[3].me.revision <= 2 / cluster.options.publish_interval_s + 2
        assert cluster.cores[3].me.incarnation <= 2


def test_loss_delay_and_doubles_cost_no_innocent_life() -> None:
    deaths = 0
    for seed in range(5):
        cluster = formed(10, seed, network=ROUGH)
        cluster.run(120)
        deaths += cluster.false_deaths()
        assert cluster.run_until(cluster.is_whole, 60) < 30
    assert deaths <= 1


def test_short_pauses_kill_nobody_and_long_ones_are_forgiven() -> None:
    for seed in range(5):
        cluster = formed(10, seed)
        for _ in range(5):
            number = cluster.rng.randrange(10)
            cluster.pause(number)
            cluster.run(1.5)
            cluster.resume(number)
            cluster.run(5)
        assert cluster.false_deaths() == 0
        cluster.pause(4)
        cluster.run(60)
        assert all(cluster.believes(number, 4) is State.DEAD for number in range(10) if number != 4)
        blamed = len(cluster.deaths)
        cluster.resume(4)
        assert cluster.run_until(cluster.is_whole, 60) < 5
        assert len(cluster.deaths) == blamed, "after a stall the sleeper convicted others for its own silence"


def test_a_suspended_node_convicts_nobody_for_its_own_sleep() -> None:
    cluster = formed(5, 1)
    cluster.partition([0], [1, 2, 3, 4])
    cluster.run_until(lambda: cluster.believes(0, 1) is State.SUSPECT or cluster.believes(0, 2) is State.SUSPECT, 20)
    cluster.pause(0)
    cluster.heal()
    cluster.run(600)
    cluster.deaths.clear()
    cluster.resume(0)
    assert cluster.run_until(cluster.is_whole, 60) < 20
    assert not [death for death in cluster.deaths if death.by == 0]


def test_clocks_that_leap_ahead_convict_nobody() -> None:
    cluster = formed(10, 3)
    cluster.kill(9)  # somebody is under suspicion while clocks leap
    for _ in range(30):
        cluster.jump(cluster.rng.randrange(1, 9), cluster.rng.choice([3, 30, 300]))
        cluster.run(cluster.rng.uniform(0.5, 4))
    assert cluster.false_deaths() == 0
    cluster.run(60)
    assert cluster.is_whole()
    assert cluster.all_believe(9, State.DEAD)


@pytest.mark.parametrize("length_s", [10, 600, 90_000])
def test_a_partition_heals_by_itself_however_long_it_was(length_s: float) -> None:
    cluster = formed(6, int(length_s), seeds=(0,))
    cluster.partition([0, 1, 2], [3, 4, 5])
    # A day of virtual time is cheap only when nobody runs; nothing in a core depends on how it passed.
    cluster.run(min(length_s, 600))
    for core in cluster.cores.values():
        assert sum(view.is_up for view in core.views.values()) <= 6
    cluster.heal()
    assert cluster.run_until(cluster.is_whole, 120) < 60


def test_a_partition_without_any_seed_in_reach_heals_too() -> None:
    cluster = formed(4, 5)
    cluster.kill(0)
    cluster.run(20)
    cluster.partition([1], [2, 3])
    cluster.run(300)
    assert cluster.believes(1, 2) is State.DEAD
    cluster.heal()
    assert cluster.run_until(cluster.is_whole, 120) < 60


def test_a_restart_is_known_at_once_wherever_it_comes_up() -> None:
    for seed in range(5):
        for host in (None, "10.9.9.9"):
            cluster = formed(10, seed)
            cluster.run(3)
            cluster.kill(5)
            cluster.start(5, host)
            assert cluster.run_until(cluster.is_whole, 60) < 3
            cluster.run(20)
            assert cluster.is_whole()
            assert not cluster.deaths


def test_a_restarted_first_node_without_seeds_is_found_by_the_others() -> None:
    cluster = formed(5, 3, seeds=(1,))
    cluster.kill(1)
    cluster.run(30)
    cluster.start(1)
    assert cluster.run_until(cluster.is_whole, 120) < 60


def test_a_book_is_enough_to_come_back() -> None:
    cluster = formed(5, 4)
    book = cluster.cores[4].addresses()
    assert len(book) == 4
    cluster.kill(0, 4)
    cluster.run(20)
    cluster.start(4, book=book)
    assert cluster.run_until(cluster.is_whole, 60) < 3


def test_an_one_way_link_is_survived_through_helpers() -> None:
    cluster = formed(6, 8)
    cluster.cut.add((1, 2))
    cluster.run(120)
    assert cluster.false_deaths() == 0


@pytest.mark.parametrize("size", [3, 6])
def test_two_who_cannot_reach_each_other_live_and_know_all_through_a_third(size: int) -> None:
    cluster = formed(size, 8)
    cluster.partition([1], [2])
    for round_ in range(10):
        cluster.cores[1].update_vitals({"position": round_})
        cluster.publish(1, x=round_)
        cluster.run(12)
        assert cluster.cores[2].views[node_id(1)].facts["x"] == round_
        assert cluster.cores[2].views[node_id(1)].vitals["position"] == round_
    assert (cluster.deaths, cluster.events["suspected"]) == ([], 0)
    relayed = {
        (number, view.node_id) for number, core in cluster.cores.items() for view in core.views.values() if view.relayed
    }
    assert relayed == {(1, node_id(2)), (2, node_id(1))}
    cluster.heal()
    cluster.run(30)
    assert not any(view.relayed for core in cluster.cores.values() for view in core.views.values())


@pytest.mark.parametrize("late", [False, True])
def test_news_lost_between_two_who_cannot_reach_each_other_comes_by_a_third(late: bool) -> None:
    """Every broadcast of it is lost, so only full states can bring it; 2 gets it of somebody who exchanged with 1."""
    cluster = formed(4, 9)
    cluster.partition([1], [2])
    cluster.run(20 if late else 1)
    cluster.dropped = lambda packet: any(isinstance(part, Alive) for part in packet.parts)
    cluster.publish(1, x=1)
    cluster.run(3)
    cluster.dropped = lambda packet: False
    assert cluster.run_until(lambda: cluster.cores[2].views[node_id(1)].facts.get("x") == 1, 30) < 30
    assert cluster.deaths == []


@pytest.mark.parametrize(("host", "wins"), [("10.0.0.9", "10.0.0.9"), ("10.0.0.00", "10.0.0.1")])
def test_two_copies_that_were_cut_off_are_reported_and_one_address_stands(host: str, wins: str) -> None:
    cluster = formed(5, 8)
    cluster.partition([0, 1], [2, 3, 4, 9])
    cluster.run(60)
    cluster.start(9, host=host, book=[("10.0.0.2", 9293)], copy_of=1)
    cluster.publish(9, side="b")
    cluster.publish(1, side="a")
    cluster.run(30)
    assert cluster.cores[0].views[node_id(1)].address == ("10.0.0.1", 9293)
    assert cluster.cores[2].views[node_id(1)].address == (host, 9293)
    assert not any(name.startswith("copied") for name in cluster.events)
    cluster.heal()
    others = [cluster.cores[number] for number in (0, 2, 3, 4)]
    shadowed = "copied 1" if wins == host else "copied 9"  # the other may never hear of it

    def agreed() -> bool:
        return all(core.views[node_id(1)].address == (wins, 9293) and core.views[node_id(1)].is_up for core in others)

    assert cluster.run_until(lambda: agreed() and cluster.events[shadowed] > 0, 120) < 120
    cluster.run(60)  # the shadowed one may still have been refuting its death
    said = max(core.views[node_id(1)].member.incarnation for core in others)
    cluster.run(120)
    assert agreed()
    assert max(core.views[node_id(1)].member.incarnation for core in others) <= said + 1, "they outbid each other"
    cluster.kill(1)
    cluster.start(1, book=[("10.0.0.2", 9293)])
    newest = (2, ("10.0.0.1", 9293))
    others = [cluster.cores[number] for number in (0, 2, 3, 4)]

    def is_newest(core: Swim) -> bool:
        return (core.views[node_id(1)].generation, core.views[node_id(1)].address) == newest

    assert cluster.run_until(lambda: all(map(is_newest, others)), 5) < 5


def test_chaos_ends_in_order() -> None:
    for seed in range(4):
        cluster = formed(8, seed, network=ROUGH)
        rng = cluster.rng
        for _ in range(12):
            number = rng.randrange(8)
            match rng.choice(["kill", "pause", "cut", "publish"]):
                case "kill" if number in cluster.cores:
                    # With its book, or the only seed at a new address would know nobody and nobody it.
                    book = cluster.cores[number].addresses()
                    cluster.kill(number)
                    cluster.run(rng.uniform(0, 8))
                    cluster.start(number, rng.choice([None, f"10.1.{seed}.{number}"]), book)
                case "pause":
                    cluster.pause(number)
                    cluster.run(rng.uniform(0, 12))
                    cluster.resume(number)
                case "cut":
                    cluster.partition([number], [other for other in range(8) if other != number])
                    cluster.run(rng.uniform(0, 12))
                    cluster.heal()
                case _:
                    cluster.publish(number, x=rng.randrange(100))
            cluster.run(rng.uniform(0, 3))
        assert cluster.run_until(cluster.is_whole, 120) < 90


def test_the_load_of_a_member_does_not_grow_with_the_cluster() -> None:
    rates = []
    for size in (5, 20):
        cluster = formed(size, 1)
        cluster.run(10)
        cluster.sent.clear()
        cluster.run(30)
        rates.append(sum(cluster.sent.values()) / size / 30)
    assert rates[1] < rates[0] * 1.2
    assert rates[1] < 3


def test_a_missed_broadcast_is_repaired_within_one_probe_sweep() -> None:
    """Node 4 never hears the news as a rumour; its digest tells, at its next probe of anybody."""
    for seed in range(10):
        cluster = formed(10, seed)
        cluster.run(5)
        deaf = cluster.addresses[4]
        heard = cluster.cores[4].receive
        cluster.cores[4].receive = lambda packet, sender, now, heard=heard: heard(  # type: ignore[method-assign,misc]
            replace(packet, parts=tuple(part for part in packet.parts if not isinstance(part, Alive))), sender, now
        )
        before = cluster.exchanges
        cluster.publish(2, role="registry")
        # A tenth of a second to spread, a second for the others to fall silent, then one probe.
        assert cluster.run_until(cluster.is_whole, 30) < 3
        assert deaf == cluster.addresses[4]
        assert cluster.exchanges - before <= 5


def test_differences_that_last_cost_next_to_nothing() -> None:
    cluster = formed(5, 3)
    cluster.run(5)
    view = cluster.cores[0].views[node_id(3)]
    cluster.cores[0]._members.views[node_id(3)] = replace(view, member=replace(view.member, zone="?"))
    cluster.cores[0]._members.digest ^= 12345  # as if a table were full
    before = cluster.exchanges
    cluster.run(60)
    assert cluster.exchanges - before < 60 / cluster.options.exchange_interval_s * 5 * 3


def test_vitals_are_known_everywhere_within_seconds_and_cost_no_packet() -> None:
    silent, lively = formed(10, 1), formed(10, 1)
    for cluster in (silent, lively):
        cluster.run(5)
        cluster.sent.clear()
        for position in range(60):
            if cluster is lively:
                for core in cluster.cores.values():
                    core.update_vitals({"position": position})
            cluster.run(0.5)
    assert abs(sum(lively.sent.values()) / sum(silent.sent.values()) - 1) < 0.1
    assert all(core.me.revision == 0 for core in lively.cores.values())
    behind = [
        59 - int(core.views[node_id(about)].vitals.get("position", 0))
        for core in lively.cores.values()
        for about in range(10)
    ]
    assert median(behind) <= 4  # two seconds
    assert max(behind) <= 20


def test_who_cannot_be_reached_by_udp_lives_by_http() -> None:
    for seed in range(3):
        cluster = formed(6, seed)
        for other in range(1, 6):
            cluster.udp_cut |= {(0, other), (other, 0)}
        cluster.run(120)
        assert cluster.deaths == []
        cluster.kill(0)
        assert cluster.run_until(lambda c=cluster: c.all_believe(0, State.DEAD), 60) < 12  # type: ignore[misc]


@pytest.mark.parametrize("size", [2, 3, 6])
def test_a_cluster_without_any_udp(size: int) -> None:
    cluster = Cluster(size, 1, options=replace(GossipOptions.lan(), stream_only=True))
    assert cluster.run_until(cluster.is_whole, 10) < 1
    cluster.run(60)
    cluster.publish(1, x=1)
    assert cluster.run_until(cluster.is_whole, 10) < 1
    cluster.kill(0)
    assert cluster.run_until(lambda: cluster.all_believe(0, State.DEAD), 60) < 12
    assert len(cluster.deaths) == size - 1
    assert not cluster.sent


def test_a_tombstone_is_forgotten_in_the_end_by_all() -> None:
    cluster = formed(4, 2, options=replace(GossipOptions.lan(), left_keep_s=200.0))
    cluster.leave(3)
    cluster.run(3)
    cluster.kill(3)
    cluster.run(90)
    assert cluster.all_believe(3, State.LEFT)
    cluster.run(300)
    assert all(node_id(3) not in core.views for core in cluster.cores.values())


# --- mutants: a core with one rule broken must fail one of the promises above -------------------------------------


class NeverRefutes(Swim):
    def _refute(self, accused: int, now: float) -> None:
        pass


class DialsOnceOnly(Swim):
    def wake(self, now: float) -> list[Effect]:
        return [effect for effect in super().wake(now) if not isinstance(effect, Exchange)]


class SleepsAndConvicts(Swim):
    def _enter(self, now: float) -> None:
        pass


class KeepsItsNewsToItself(Swim):
    def _spread(self, claim: Any, now: float) -> None:
        pass


class TrustsHearsay(Swim):
    def merge(self, state: ExchangeState, now: float, contact: Any = None, *, more: bool = False) -> list[Effect]:
        from gossip.messages import Dead

        effects = super().merge(state, now, contact)
        for entry in state.entries:
            if entry.state is State.DEAD:
                about = entry.member
                self._hear(Dead(about.node_id, about.generation, about.incarnation, state.source), now)
        return effects + self._leave_with()


def forgives_a_pause(core: Callable[..., Swim]) -> bool:
    cluster = Cluster(4, 2, core=core)
    cluster.run(3)
    cluster.pause(3)
    cluster.run(30)
    cluster.resume(3)
    return cluster.run_until(cluster.is_whole, 60) < 10


def heals(core: Callable[..., Swim]) -> bool:
    cluster = Cluster(4, 2, core=core, seeds=(0,))
    cluster.run(3)
    cluster.partition([0, 1], [2, 3])
    cluster.run(60)
    cluster.heal()
    return cluster.run_until(cluster.is_whole, 100) < 60


def sleeps_in_innocence(core: Callable[..., Swim]) -> bool:
    for seed in range(6):
        cluster = Cluster(5, seed, core=core)
        cluster.run(3)
        cluster.partition([0], [1, 2, 3, 4])
        accused = lambda c=cluster: any(c.believes(0, about) is State.SUSPECT for about in range(1, 5))  # noqa: E731
        cluster.run_until(accused, 20)
        cluster.pause(0)
        cluster.heal()
        cluster.run(600)
        cluster.deaths.clear()
        cluster.resume(0)
        cluster.run(10)
        if [death for death in cluster.deaths if death.by == 0]:
            return False
    return True


def passes_news_on(core: Callable[..., Swim]) -> bool:
    cluster = Cluster(6, 2, core=core)
    cluster.run(5)
    cluster.publish(2, x=1)
    return cluster.run_until(cluster.is_whole, 60) < 0.6


def doubts_hearsay(core: Callable[..., Swim]) -> bool:
    """One member that alone cannot hear another must not talk everybody into its death at the next full exchange."""
    options = replace(GossipOptions.lan(), exchange_interval_s=2.0)
    cluster = Cluster(6, 3, options=options, core=core)
    cluster.run(3)
    cluster.partition([0], [5])
    view = cluster.cores[0].views[node_id(5)]
    cluster.cores[0]._members.views[node_id(5)] = replace(view, state=State.DEAD)  # as if it had come to believe so
    cluster.run(10)
    return not cluster.deaths


PROMISES = (forgives_a_pause, heals, sleeps_in_innocence, passes_news_on, doubts_hearsay)


def test_the_core_keeps_the_promises_that_mutants_break() -> None:
    assert [promise.__name__ for promise in PROMISES if not promise(Swim)] == []


@pytest.mark.parametrize(
    ("mutant", "promise"),
    [
        (NeverRefutes, forgives_a_pause),
        (DialsOnceOnly, heals),
        (SleepsAndConvicts, sleeps_in_innocence),
        (KeepsItsNewsToItself, passes_news_on),
        (TrustsHearsay, doubts_hearsay),
    ],
)
def test_each_mutant_is_killed(mutant: type[Swim], promise: Callable[[Callable[..., Swim]], bool]) -> None:
    assert not promise(mutant)
