"""Bounds of staleness in the simulated cluster, each compared with what really had been committed by then.

Every node asks whoever it takes for the leader for a read index, over the same bad network, and does the arithmetic of
`zoned.staleness`. Whenever a bound may have become smaller, everything that any leader had counted as committed before
the proved time must be applied there.
"""

from bisect import bisect_left
from typing import TYPE_CHECKING

from tests.sim.checkers import Violation
from zoned.raft.ready import Read
from zoned.staleness import Bound

if TYPE_CHECKING:
    from tests.sim.world import Host, World

Question = tuple[str, int, float, str]  # who asks, in which of its lives, when, and whom


class Freshness:
    """The bounds of all nodes of one run."""

    bound: type[Bound] = Bound

    def __init__(self, world: "World") -> None:
        self.asks = True
        self.proved = 0
        self._world = world
        self._bounds = {node_id: self.bound() for node_id in world.hosts}
        self._open: dict[tuple[str, int, int], Question] = {}  # (registry, its life, ticket) -> question
        self._times: list[float] = []  # when ...
        self._indices: list[int] = []  # ... so much had been counted as committed

    def begin(self) -> None:
        for node_id in self._world.hosts:
            self._world.after(self._world.profile.asks_ms * self._world.rng.random(), self._ask, node_id)

    def forget(self, host: "Host") -> None:
        """The node died; what it knew of its freshness went with it."""
        self._bounds[host.id] = self.bound()

    def committed(self, index: int) -> None:
        """A leader counts `index` as committed."""
        if not self._indices or index > self._indices[-1]:
            self._times.append(self._world.now)
            self._indices.append(index)

    def applied(self, host: "Host", position: int) -> None:
        self._bounds[host.id].applied(position)
        self._check(host, position)

    def _check(self, host: "Host", position: int) -> None:
        fresh_at = self._bounds[host.id].fresh_at
        if fresh_at is None:
            return
        self.proved += 1
        before = bisect_left(self._times, fresh_at)
        due = self._indices[before - 1] if before else 0
        if position < due:
            raise Violation(
                f"staleness: {host.id} has applied {position} and takes itself for fresh as of {fresh_at:.1f},"
                f" {due} had been committed by then"
            )

    # A question, there and back.

    def _ask(self, node_id: str) -> None:
        world, host = self._world, self._world.hosts[node_id]
        if not self.asks:
            return
        world.after(world.rng.expovariate(1 / world.profile.asks_ms), self._ask, node_id)
        if host.raft is None or host.paused or host.raft.leader_id is None:
            return
        question = (node_id, host.life, self.asked_at(), host.raft.leader_id)
        if host.raft.leader_id == node_id:
            self._arrive(question)
        else:
            world.carry(node_id, host.raft.leader_id, self._arrive, question)

    def asked_at(self) -> float:
        return self._world.now

    def _arrive(self, question: Question) -> None:
        leader = self._world.hosts[question[3]]
        if leader.raft is None or leader.paused:
            return
        ticket = self._world.read(leader, leader.raft)
        if ticket is not None:
            self._open[leader.id, leader.life, ticket] = question
            self._world.pump(leader)

    def answer(self, leader: "Host", read: Read) -> None:
        question = self._open.pop((leader.id, leader.life, read.ticket), None)
        if question is None or read.index is None:
            return
        if question[0] == leader.id:
            self._back((question, read.index))
        else:
            self._world.carry(leader.id, question[0], self._back, (question, read.index))

    def _back(self, argument: tuple[Question, int]) -> None:
        (node_id, life, asked_at, _), index = argument
        host = self._world.hosts[node_id]
        if host.raft is not None and host.life == life:
            self.answered(host, asked_at, index)
            self._check(host, host.written[1])

    def answered(self, host: "Host", asked_at: float, index: int) -> None:
        self._bounds[host.id].answered(asked_at, index, host.written[1])
