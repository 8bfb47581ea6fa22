"""How a cluster begins: several nodes with real stores on a network in memory that a test can cut."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from random import Random
from typing import Any, cast

import msgpack
import pytest
import trio

from gossip import Member, MemberView, State
from store import identity, log
from store.database import Database
from store.entries import Membership
from tests.zoned.conftest import open_store, until
from zoned import founding
from zoned.errors import PeerRefused, PeerUnreachable
from zoned.founding import (
    Founding,
    Stance,
    candidates,
    cluster_seen,
    founding_entry,
    founding_membership,
    unpack_stance,
)
from zoned.peers import Peers

LABEL = "tests"
A, B, C, D, E = (f"00000000-0000-4000-8000-00000000000{letter}" for letter in "abcde")


def view(node_id: str, expect: int | None = 3, state: State = State.ALIVE, cluster: str | None = None) -> MemberView:
    facts = {name: value for name, value in (("expect", expect), ("cluster", cluster)) if value is not None}
    return MemberView(Member(node_id, 1, "zone", "127.0.0.1", 1, facts=facts), state, 0.0)


class Node:
    """A founder-to-be, its store, and what its gossip shows it."""

    def __init__(self, node_id: str, database: Database, network: "Network", expect: int) -> None:
        self.node_id = node_id
        self.database = database
        self.views: dict[str, MemberView] = {}
        self.founding = Founding(
            node_id, LABEL, expect, database, cast(Peers, Wire(network, node_id)), self.views.values()
        )

    def sees(self, *views: MemberView) -> None:
        self.views.clear()
        self.views.update({one.node_id: one for one in views})

    @property
    def founded(self) -> Membership | None:
        entry = log.membership(self.database.reader, 1)
        return Membership.decode(entry.data) if entry else None

    @property
    def promised(self) -> Membership | None:
        return identity.promised(self.database.reader)


class Network:
    """Nodes by ID. `cut` holds the (asker, asked) pairs that do not reach each other; `loss` the odds of losing any."""

    def __init__(self, loss: float = 0.0, seed: int = 0) -> None:
        self.nodes: dict[str, Node] = {}
        self.cut: set[tuple[str, str]] = set()
        self.loss = loss
        self.rng = Random(seed)

    def split(self, *sides: tuple[str, ...]) -> None:
        """Only nodes of one side reach each other."""
        self.cut = {
            (one, other) for one in self.nodes for other in self.nodes if not any({one, other} <= {*s} for s in sides)
        }


class Wire:
    """What `Founding` uses of `Peers`, with the answers that the peer plane gives."""

    def __init__(self, network: Network, me: str) -> None:
        self._network = network
        self._me = me

    async def ask(self, node_id: str, path: str, body: Any, timeout_s: float) -> Any:
        assert path == "founding"
        await trio.sleep(self._network.rng.uniform(0.0, 0.002))
        node = self._network.nodes.get(node_id)
        if node is None or (self._me, node_id) in self._network.cut or self._lost():
            raise PeerUnreachable(node_id)
        founders = msgpack.unpackb(msgpack.packb(body))
        if founders is not None:
            await node.founding.promise(founders)
        answer = msgpack.unpackb(msgpack.packb(node.founding.stance().pack()))
        if (node_id, self._me) in self._network.cut or self._lost():
            raise PeerUnreachable(node_id)
        return answer

    def _lost(self) -> bool:
        return self._network.rng.random() < self._network.loss


@asynccontextmanager
async def open_nodes(
    directory: Path, *ids: str, network: Network | None = None, expect: int = 3
) -> AsyncIterator[Network]:
    network = network or Network()
    async with AsyncExitStack() as stack:
        for node_id in ids:
            database = await stack.enter_async_context(open_store(directory / node_id, node_id))
            network.nodes[node_id] = Node(node_id, database, network, expect)
        yield network


@contextmanager
def quickly() -> Iterator[None]:
    before, founding.LOOK_S = founding.LOOK_S, 0.005
    yield
    founding.LOOK_S = before


@pytest.fixture(autouse=True)
def look_often() -> Iterator[None]:
    with quickly():
        yield


def all_see_all(network: Network) -> None:
    for node in network.nodes.values():
        node.sees(*(view(other) for other in network.nodes))


@asynccontextmanager
async def founders_running(network: Network, *ids: str) -> AsyncIterator[dict[str, Membership | None]]:
    """Runs the nodes' founding; what each returned."""
    ended: dict[str, Membership | None] = {}

    async def run(node_id: str) -> None:
        ended[node_id] = await network.nodes[node_id].founding.run()

    async with trio.open_nursery() as nursery:
        for node_id in ids or network.nodes:
            nursery.start_soon(run, node_id)
        yield ended
        nursery.cancel_scope.cancel()


def clusters(network: Network) -> set[str]:
    """The IDs of all clusters that were founded."""
    return {node.founded.cluster_id for node in network.nodes.values() if node.founded}


# By value.


def test_the_membership_follows_from_label_and_founders_alone():
    one = founding_membership(LABEL, [C, A, B])
    assert one == founding_membership(LABEL, (A, B, C))
    assert one.voters == (A, B, C)
    assert one.cluster_id not in (
        founding_membership("other", [A, B, C]).cluster_id,
        founding_membership(LABEL, [A, B]).cluster_id,
    )
    assert Membership.decode(founding_entry(one).data) == one


def test_candidates_are_the_lowest_ids_of_those_up_who_expect_the_same():
    views = [view(D), view(B), view(A, state=State.DEAD), view(E), view(C, expect=5), view("x", expect=None)]
    assert candidates(views, 3) == [B, D, E]
    assert candidates([view(B, 1, State.SUSPECT), view(A, 1, State.LEFT)], 1) == [B]


def test_any_member_tells_of_a_cluster():
    assert cluster_seen([view(A), view(B)]) is None
    assert cluster_seen([view(A), view(B, cluster="x", state=State.DEAD)]) == "x"


def test_a_stance_survives_the_wire():
    stance = Stance(3, (A, B), "promised", "")
    assert unpack_stance(msgpack.unpackb(msgpack.packb(stance.pack()))) == stance


@pytest.mark.parametrize("packed", [None, 5, [], [3, [], ""], ["x", [], "", ""], [3, 5, "", ""], [None, [], "", ""]])
def test_what_is_no_stance_is_refused(packed):
    with pytest.raises(PeerRefused):
        unpack_stance(packed)


# Together.


async def test_one_node_alone_founds_at_once(tmp_path):
    async with open_nodes(tmp_path, A, expect=1) as network:
        network.nodes[A].sees(view(A, expect=1))
        with trio.fail_after(30):
            membership = await network.nodes[A].founding.run()
        assert membership == network.nodes[A].founded == founding_membership(LABEL, [A])


async def test_three_nodes_found_one_cluster(tmp_path):
    async with open_nodes(tmp_path, A, B, C) as network:
        all_see_all(network)
        async with founders_running(network) as ended:
            await until(lambda: len(ended) == 3)
        expected = founding_membership(LABEL, [A, B, C])
        assert [*ended.values()] == [expected] * 3
        assert all(node.founded == expected for node in network.nodes.values())


@pytest.mark.parametrize("seed", range(4))
async def test_lost_requests_and_answers_only_delay_the_founding(tmp_path, seed):
    async with open_nodes(tmp_path, A, B, C, network=Network(0.3, seed)) as network:
        all_see_all(network)
        async with founders_running(network) as ended:
            await until(lambda: len(ended) == 3)
        assert clusters(network) == {founding_membership(LABEL, [A, B, C]).cluster_id}


async def test_too_few_nodes_found_nothing(tmp_path):
    async with open_nodes(tmp_path, A, B) as network:
        all_see_all(network)
        async with founders_running(network) as ended:
            await trio.sleep(0.1)
            assert ended == {}
        assert [node.promised for node in network.nodes.values()] == [None, None]


async def test_nobody_promises_while_nodes_see_different_sets(tmp_path):
    async with open_nodes(tmp_path, A, B, C) as network:
        all_see_all(network)
        network.nodes[C].sees(view(C), view(B), view(D))
        async with founders_running(network):
            await trio.sleep(0.1)
        assert {node.promised for node in network.nodes.values()} == {None}


async def test_a_node_that_sees_a_cluster_joins_instead_of_founding(tmp_path):
    async with open_nodes(tmp_path, A, expect=1) as network:
        network.nodes[A].sees(view(A, expect=1), view(B, expect=1, cluster="theirs"))
        with trio.fail_after(30):
            assert await network.nodes[A].founding.run() is None
        assert network.nodes[A].promised is None


async def test_a_node_that_has_a_log_stops_others_from_founding_with_it(tmp_path):
    async with open_nodes(tmp_path, A, B, C) as network:
        all_see_all(network)
        elsewhere = founding_membership(LABEL, [C, D, E])
        await network.nodes[C].database.write(lambda c: log.save_entries(c, [founding_entry(elsewhere)]))
        async with founders_running(network, A, B):
            await trio.sleep(0.1)
        assert clusters(network) == {elsewhere.cluster_id}
        assert network.nodes[A].promised is None


async def test_a_promise_is_given_once(tmp_path):
    async with open_nodes(tmp_path, A) as network:
        node = network.nodes[A].founding
        first = founding_membership(LABEL, [A, B, C]).cluster_id
        assert await node.promise([C, B, A]) == first
        assert await node.promise([A, B, D]) == first
        assert node.stance().promised == first


@pytest.mark.parametrize("founders", [[], [A, B], [B, C, D], [A, B, C, D]])
async def test_a_promise_is_only_given_to_a_whole_set_with_oneself(tmp_path, founders):
    async with open_nodes(tmp_path, A) as network:
        assert await network.nodes[A].founding.promise(founders) == ""
        assert network.nodes[A].promised is None


@pytest.mark.parametrize("seed", range(6))
async def test_two_overlapping_sets_never_both_found(tmp_path, seed):
    """B and C are in both sets, and what everybody sees changes all the time."""
    rng = Random(seed)
    left, right = (A, B, C), (B, C, D)
    async with open_nodes(tmp_path, A, B, C, D, network=Network(0.1, seed)) as network:
        async with founders_running(network):
            for _ in range(40):
                for node in network.nodes.values():
                    side = left if node.node_id == A else right if node.node_id == D else rng.choice((left, right))
                    node.sees(*(view(other) for other in side))
                await trio.sleep(rng.uniform(0, 0.01))
            all_see_all(network)
            for node_id in right:
                network.nodes[node_id].sees(*(view(other) for other in right))
            await trio.sleep(0.1)
        assert len(clusters(network)) <= 1
        bound = {node.promised.cluster_id for node in network.nodes.values() if node.promised}
        assert all(cluster in bound for cluster in clusters(network))


async def test_a_promise_survives_a_restart_and_is_kept(tmp_path):
    async with open_nodes(tmp_path, A, B, C) as network:
        all_see_all(network)
        await network.nodes[A].founding.promise([A, B, C])
    async with open_nodes(tmp_path, A, B, C, D) as network:
        for node in network.nodes.values():
            node.sees(view(A), view(B), view(C))
        network.nodes[D].sees(view(A), view(B), view(D))
        assert network.nodes[A].promised == founding_membership(LABEL, [A, B, C])
        assert await network.nodes[A].founding.promise([A, B, D]) == founding_membership(LABEL, [A, B, C]).cluster_id
        async with founders_running(network, A, B, C) as ended:
            await until(lambda: len(ended) == 3)
        assert clusters(network) == {founding_membership(LABEL, [A, B, C]).cluster_id}


async def test_a_founder_that_dies_right_after_founding_finds_its_cluster_again(tmp_path):
    async with open_nodes(tmp_path, A, B, C) as network:
        all_see_all(network)
        async with founders_running(network, A) as ended:
            await until(lambda: A in ended)
        founded = network.nodes[A].founded
        assert founded is not None
    async with open_nodes(tmp_path, A, B, C) as network:
        assert network.nodes[A].founded == founded
        all_see_all(network)
        async with founders_running(network, B, C) as ended:
            await until(lambda: len(ended) == 2)
        assert clusters(network) == {founded.cluster_id}


async def test_a_promised_node_that_hears_of_its_cluster_need_not_ask_everybody(tmp_path):
    async with open_nodes(tmp_path, A, B, C) as network:
        ours = founding_membership(LABEL, [A, B, C])
        await network.nodes[A].founding.promise([A, B, C])
        network.split((A,), (B,), (C,))
        network.nodes[A].sees(view(A), view(B, cluster=ours.cluster_id))
        with trio.fail_after(30):
            assert await network.nodes[A].founding.run() == ours


async def test_a_wiped_node_is_another_node_and_founds_nothing_with_those_who_promised(tmp_path):
    """C promised, lost its disk and came back as D: the old promise can never be kept by anybody else."""
    async with open_nodes(tmp_path, A, B, D) as network:
        for node_id in (A, B):
            await network.nodes[node_id].founding.promise([A, B, C])
        all_see_all(network)
        async with founders_running(network) as ended:
            await trio.sleep(0.1)
            assert ended == {}
        assert clusters(network) == set()


async def test_a_wiped_founder_of_a_running_cluster_joins_it(tmp_path):
    async with open_nodes(tmp_path, A, B, D) as network:
        ours = founding_membership(LABEL, [A, B, C])
        for node_id in (A, B):
            await network.nodes[node_id].database.write(lambda c: log.save_entries(c, [founding_entry(ours)]))
        network.nodes[D].sees(view(D), view(A, cluster=ours.cluster_id), view(B, cluster=ours.cluster_id))
        with trio.fail_after(30):
            assert await network.nodes[D].founding.run() is None
        assert network.nodes[D].founded is None
        assert network.nodes[D].promised is None


async def test_a_founder_counts_once_however_often_it_is_named(tmp_path):
    async with open_nodes(tmp_path, A) as network:
        network.nodes[A].sees(view(A))
        await network.nodes[A].founding.promise([A, A, A])
        with trio.move_on_after(0.2):
            await network.nodes[A].founding.run()
        assert network.nodes[A].founded is None
