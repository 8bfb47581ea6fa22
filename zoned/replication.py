"""This node's part in the replicated log, whichever it is: founding, voting, or following.

A voter runs Raft; every other node pulls the log from its peers. Both end in the same place: committed entries are
applied to the store, and `on_applied` hears of it. Writes go to the registry through `forward`, which is a function
call when this node is the registry and a request to a peer otherwise.
"""

import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import apsw
import structlog
import trio

from conf import Registry as RegistrySettings
from gossip import MemberView
from store import catalogue, log
from store.apply import Applied
from store.database import Database
from store.entries import Entry, Membership
from store.errors import StorageFull
from store.operations import Write, encode_write
from store.snapshot import INTEGERS_BURNT, found_anew
from store.snapshot import Snapshot as SnapshotFile
from zoned import clock
from zoned.autopilot import Autopilot, SteerRefused, added, heard_by, without
from zoned.bootstrap import Fetcher, install
from zoned.chronicle import Election, Elections
from zoned.engine import Engine
from zoned.errors import PeerRefused, PeerUnreachable
from zoned.follow import Follower, Positions, cluster_id
from zoned.founding import Founding, cluster_seen
from zoned.peers import Peers, RaftPost
from zoned.raft.core import Raft
from zoned.raft.log import RaftError
from zoned.raft.messages import Message
from zoned.raft.node import OnApplied, RaftNode
from zoned.raft.pace import Pace
from zoned.raft.quorum import decode_membership, majority
from zoned.raft.ready import NotLeader, RaftOptions, Ready, Role, Snapshot
from zoned.raft.storage import StoredLog
from zoned.registry import Answer, NotRegistry, Registry, unpack
from zoned.supervise import Signal, first_of
from zoned.verify import Verifier

if TYPE_CHECKING:
    from zoned.postgres.node import DatabaseNode

# (heartbeat, shortest election time-out), seconds; the longest is twice the shortest. Stretched when things are slow.
PROFILES = {"lan": (0.1, 0.5), "wan": (0.5, 5.0)}
STEER_TIMEOUT_S = 5.0
FETCH_AGAIN_S = 1.0
LEADERLESS_S = 5.0  # a voter without a leader for so long, while others have one, asks whether it was removed

logger = structlog.get_logger()


class Replication:
    """Implements `zoned.proxy.Forwarder`."""

    def __init__(
        self,
        me: str,
        database: Database,
        peers: Peers,
        members: Mapping[str, MemberView],
        founding: Founding,
        settings: RegistrySettings,
        rng: Random,
    ) -> None:
        self.me = me
        self.positions = Positions(catalogue.replica(database.reader).position)
        self.part = "founding"  # then what `part_of` says, or "follower"
        self.founding = founding
        self.role_changed = Signal()  # for whoever publishes what this node is
        self.fetcher = Fetcher(database, peers)
        self.verifier = Verifier(me, database, peers, members)
        self.elections = Elections()
        self._database = database
        self._peers = peers
        self._members = members
        self._settings = settings
        self._rng = rng
        self._engine: Engine | None = None
        self._kept_in_database: DatabaseNode | None = None  # the same, when a database orders writes
        self._node: RaftNode | None = None  # the same, when the embedded log orders writes
        self._post: RaftPost | None = None
        self._follower: Follower | None = None
        self._registry: Registry | None = None
        self._changed = trio.Event()
        self._claimed: str | None = None
        self._taking_part: trio.CancelScope | None = None
        self._removed_at = 0  # the position of the entry that removed this node, when others told of it
        self._recover = ""  # the ID of the cluster to found anew, once
        self._cluster = ""  # as far as it was looked up
        self._listeners: list[OnApplied] = []

    # For the proxy.

    @property
    def registry(self) -> str | None:
        """The node that seems to be the registry. A voter knows by its term; others go by what the registry says."""
        engine = self._engine
        return engine.holder if engine is not None and engine.is_informed else self.claimed_registry

    @property
    def claimed_registry(self) -> str | None:
        """The node that says over gossip that it is the registry, of the highest term if several do."""
        return self._claim()[1]

    def _claim(self) -> tuple[int | None, str | None]:
        claims = [
            (int(view.facts["registry"]), view.node_id)
            for view in self._members.values()
            if view.is_up and isinstance(view.facts.get("registry"), int) and self._is_ours(view)
        ]
        return max(claims) if claims else (None, None)

    def _is_ours(self, view: MemberView) -> bool:
        """Of this node's cluster, or this node is in none yet: a cluster given up may still be about."""
        ours = self.cluster_id
        return not ours or view.facts.get("cluster") == ours

    def changed(self) -> trio.Event:
        return self._changed

    def note_change(self) -> None:
        """The registry may have changed: whoever waits looks again."""
        self.elections.note(self._election())
        self.role_changed.set()
        self._changed.set()
        self._changed = trio.Event()

    def _election(self) -> Election:
        """Who is the registry from now on, and why, as far as this node can tell."""
        engine, registry = self._engine, self.registry
        view = self._members.get(registry) if registry is not None else None
        if engine is None or not engine.is_informed:
            term = self._claim()[0]
            why = "said so over gossip" if registry is not None else "no node that is up says that it is"
        else:
            term, node = engine.term, self._node
            if registry is not None:
                why = "elected" if self.elections.count else "first heard of since this node started"
            else:
                why = (node.why if node is not None else "") or "another node stood for election"
        return Election(clock.wall(), term, registry, view.zone if view is not None else None, why)

    def hear(self) -> None:
        """Gossip has news: for a node that does not vote, perhaps another registry."""
        claimed = self.claimed_registry
        if claimed != self._claimed:
            self._claimed = claimed
            if self._node is None:
                self.note_change()

    async def forward(self, registry: str, writes: Sequence[Write]) -> Answer:
        if registry == self.me:
            return self.accept(writes)
        timeout_s = PROFILES[self._settings.profile][1] * 2
        body = [self.cluster_id, [encode_write(write) for write in writes]]
        return unpack(await self._peers.ask(registry, "forward", body, timeout_s))

    # For peers.

    @property
    def cluster_id(self) -> str:
        """The cluster of this node's log, "" while it has none. Another only after `recover`."""
        if not self._cluster:
            self._cluster = cluster_id(self._database.reader)
        return self._cluster

    def accept(self, writes: Sequence[Write]) -> Answer:
        """Writes of one node, here because this node may be the registry."""
        return self._registry.accept(writes) if self._registry is not None else NotRegistry(self.registry or "")

    def answer(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Raft messages of a peer, and what there is to say to it at once; a node that does not vote has no use for
        them.
        """
        node, post = self._node, self._post
        if node is None or post is None or not messages:
            return ()
        with post.answering(messages[0].sender) as answer:
            node.step(messages)
        return answer

    def _step(self, messages: Iterable[Message]) -> None:
        if self._node is not None:
            self._node.step(messages)

    # For status.

    @property
    def node(self) -> RaftNode | None:
        return self._node

    @property
    def engine(self) -> Engine | None:
        """What orders writes here; None while this node takes no part in it."""
        return self._engine

    @property
    def database(self) -> Database:
        return self._database

    @property
    def core(self) -> Raft | None:
        return self._node.core if self._node is not None else None

    @property
    def registry_term(self) -> int | None:
        """The term of this node's registry role; None when it has not got it."""
        engine = self._engine
        return engine.term if engine is not None and engine.is_registry else None

    @property
    def term(self) -> int | None:
        """The registry's term as this node knows it; None when it takes no part."""
        return self._engine.term if self._engine is not None else None

    @property
    def role(self) -> str:
        """One word for status: founding, follower, learner, voter, witness, candidate, leader, registry."""
        return "registry" if self.registry_term is not None else role_of(self.core, self.part)

    @property
    def is_voter(self) -> bool:
        """Whether others may count on this node's log being near the head."""
        if self._kept_in_database is not None:
            return self._kept_in_database.is_sure
        membership = self.membership()
        return membership is not None and self.me in membership.voters

    @property
    def database_status(self) -> dict[str, Any]:
        """What is to be told of a registry that a database keeps; nothing when none does."""
        kept = self._kept_in_database
        if kept is None:
            return {}
        return {"engine": "postgresql", "problem": kept.problem or None, "stands_aside": kept.diverged}

    def committed_membership(self) -> Entry | None:
        """The membership entry in force at this node's position."""
        return log.membership(self._database.reader, self.positions.position)

    def membership(self) -> Membership | None:
        found = log.membership(self._database.reader, log.last_position(self._database.reader))
        return Membership.decode(found.data) if found else None

    # Running.

    def listen(self, on_applied: OnApplied) -> None:
        """`on_applied(position, own outcomes)` is called after each batch of applied entries."""
        self._listeners.append(on_applied)

    def _on_applied(self, position: int, applied: Sequence[Applied]) -> None:
        self.positions.advance(position)
        for listener in self._listeners:
            listener(position, applied)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Founds or joins, then takes part or follows, as the log says, until cancelled."""
        task_status.started()
        if self._settings.engine == "postgresql":
            await self._serve_database()
        if self.membership() is None and (cluster_seen(self._members.values()) is None or self._is_promised()):
            await self.founding.run()
        while True:
            if self._recover:
                await self._found_anew(self._recover)
                self._recover = ""
                self.note_change()
            membership = self.membership()
            if membership is not None and self._may_take_part():
                with trio.CancelScope() as self._taking_part:
                    await self._take_part(membership)
                self._taking_part = None
                self._engine = self._node = self._registry = self._post = None
            else:
                await self._follow()

    async def _serve_database(self) -> None:
        """Takes part in a registry that a database keeps, until cancelled."""
        from zoned.postgres.node import DatabaseNode  # an extra: imported when it is asked for

        self.part, settings = "follower", self._settings
        self._engine = self._kept_in_database = node = DatabaseNode(
            self.me,
            self._database,
            settings,
            self._peers,
            self._members,
            self.positions,
            self._make_follower,
            self._on_applied,
            self.note_change,
            self._rng,
        )
        self._registry = Registry(node, self._database)
        await node.serve()

    def _make_follower(self, parted: Callable[[str], Awaitable[None]] | None = None) -> Follower:
        members, on_applied = self._members.values(), self._on_applied
        follower = Follower(self.me, self._database, self._peers, members, on_applied, self.fetcher, self._rng, parted)
        self._follower = follower
        return follower

    def _is_promised(self) -> bool:
        return bool(self.founding.stance().promised)

    def _may_take_part(self) -> bool:
        """Whether the log says so, and has come to where this node was told that it was removed, if it was."""
        return self.positions.position >= self._removed_at and takes_part(self.me, self.membership())

    async def _follow(self) -> None:
        """Pulls the log until it says that this node takes part."""
        self.part = "follower"
        self.note_change()
        await self._make_follower().serve(until=self._may_take_part)
        self._follower = None

    def recovery_plan(self) -> dict[str, Any]:
        """What going on without a majority would mean, and whether it may be done now."""
        reader = self._database.reader
        membership, state = self.membership() or Membership("", ()), log.hard_state(reader)
        voters = membership.voters
        down = [one for one in voters if one != self.me and not (one in self._members and self._members[one].is_up)]
        why_not = None
        if self._kept_in_database is not None:
            why_not = "a database keeps the registry: restore that"
        elif self.me not in voters:
            why_not = "this node is no voter: what is committed may be missing here; recover on one that is"
        elif self.registry is not None:
            why_not = "there is a registry"
        elif len(voters) - len(down) >= majority(len(voters)):
            why_not = f"{len(voters) - len(down)} of {len(voters)} voters are up: they can elect a registry"
        return {
            "possible": why_not is None,
            "why_not": why_not,
            "cluster_id": membership.cluster_id,
            "voters": list(voters),
            "voters_down": down,
            "log_last": log.last_position(reader),
            "committed_here": state.commit,
            "counted_from_now_on": log.last_position(reader) - state.commit,
            "given_up": "every write that other voters committed and this node has not received; their number cannot be"
            " known here. Nodes of the old cluster must be given empty data directories; they join this one anew.",
        }

    async def recover(self) -> None:
        """Begins a new cluster of this node alone on what it holds. The loud way out after a lost majority.

        Raises SteerRefused when this node takes no part just now.
        """
        if self._taking_part is None:
            raise SteerRefused("this node takes no part in the registry")
        logger.error("recovering without a majority", **self.recovery_plan())
        self._recover = str(uuid.uuid4())
        self._taking_part.cancel()
        while self._recover:
            await self._changed.wait()

    async def _found_anew(self, cluster_id: str) -> None:
        now = clock.wall()
        own = await self._database.write(lambda c: found_anew(c, self.me, cluster_id, INTEGERS_BURNT, now))
        self._cluster = ""
        self.verifier.diverged.clear()  # found in a history that is given up
        logger.error("new cluster of this node alone", cluster=cluster_id)
        self._on_applied(catalogue.replica(self._database.reader).position, own)

    async def _take_part(self, membership: Membership) -> None:
        """Runs Raft until a committed entry says that this node takes no part any more."""
        heartbeat_s, election_s = PROFILES[self._settings.profile]
        options = RaftOptions(
            cluster_id=membership.cluster_id,
            election_ticks=round(election_s / heartbeat_s),
            uncommitted_max_bytes=self._settings.uncommitted_bytes_max,
        )
        # The store knows better than anybody how far it is: a round may have landed while the last node was stopped.
        reader = self._database.reader
        since = catalogue.replica(reader).position
        core = Raft(self.me, StoredLog(self._database), log.hard_state(reader), since, options, self._rng)
        async with trio.open_nursery() as nursery:
            pace = Pace(heartbeat_s, election_s)
            post = self._post = RaftPost(self._peers, nursery, election_s * 2, pace, self._step)
            snapshots = _Snapshots(self, nursery)
            node = RaftNode(core, self._database, pace, post.send, self._on_applied, self.note_change, snapshots)
            self._registry = Registry(node, self._database)
            self._engine = self._node = node
            self.part = part_of(self.me, membership)
            self.note_change()
            await nursery.start(node.serve)
            nursery.start_soon(Autopilot(node, self._members, self._settings).serve)
            await self._until_removed(core, since)
            nursery.cancel_scope.cancel()

    async def _until_removed(self, core: Raft, since: int) -> None:
        """Returns once it is committed that this node takes no part.

        A removed node is not told by Raft: the leader speaks to members only. So one that hears of no leader, while
        gossip names a registry, asks that one's log. What it reads there is committed by a majority without it, so it
        owes its own log to nobody any more.

        What was applied up to `since`, when this part began, is older than the entry that lets this node take part:
        that one may take many elections to be committed.
        """
        while True:
            moved = self.positions.moved
            if not await first_of(moved, at_most_s=LEADERLESS_S) and core.leader_id is None:
                claimed = self.claimed_registry
                if claimed not in (None, self.me) and await self._is_removed_at(str(claimed)):
                    return
            if self.positions.position == since:
                continue
            committed = log.membership(self._database.reader, self.positions.position)
            membership = Membership.decode(committed.data) if committed else None
            if not takes_part(self.me, membership):
                return
            self.part = part_of(self.me, membership)

    async def _is_removed_at(self, registry: str) -> bool:
        """Whether the membership that is committed there is without this node."""
        try:
            answer = await self._peers.ask(registry, "membership", self.cluster_id, STEER_TIMEOUT_S)
        except (PeerUnreachable, PeerRefused):
            return False
        match answer:
            case [int(index), bytes(data)] if index > self.positions.position:
                membership = decode_membership(data)
                if membership is not None and not takes_part(self.me, membership):
                    self._removed_at = index
                    return True
        return False

    async def read_index(self, *, patient: bool) -> int | None:
        """A position such that everything committed before this call is at or below it; None when nobody can say.

        `patient`: with a heartbeat or a question of somebody's that is made anyway; a follower asks its donor, so that
        the registry is asked by the voters only. Raises PeerUnreachable, PeerRefused, or RaftError (NotLeader, Busy).
        """
        registry = self.registry
        donor = self._follower.donor if patient and self._follower is not None else None
        if donor not in (None, registry):
            try:
                index = await self._ask_read_index(str(donor), patient=True)
            except (PeerUnreachable, PeerRefused):
                index = None
            if index is not None:
                return index
        if registry is None:
            return None
        if registry == self.me:
            return await self.read_index_here(patient=patient)
        return await self._ask_read_index(registry, patient=patient)

    async def _ask_read_index(self, node_id: str, *, patient: bool) -> int | None:
        timeout_s = PROFILES[self._settings.profile][1] * 2
        answer = await self._peers.ask(node_id, "read-index", [self.cluster_id, patient], timeout_s)
        if answer is not None and (type(answer) is not int or not 0 <= answer < 2**53):
            raise PeerRefused("answered with no read index")
        return answer

    async def read_index_here(self, *, patient: bool) -> int | None:
        """`read_index` on the registry itself. Raises RaftError when this is not it."""
        if self._engine is None:
            raise NotLeader(None)
        return await self._engine.read_index(patient=patient)

    async def steer(self, action: str, target: str) -> str:
        """Changes who takes part, here or at the registry; returns what was begun. Raises SteerRefused.

        `action`: transfer (target "": whoever is furthest), add, remove.
        """
        registry = self.registry
        if registry is None:
            raise SteerRefused("there is no registry now")
        if registry == self.me and self._kept_in_database is not None and action == "transfer":
            try:
                await self._kept_in_database.give_up(target)
            except RaftError as error:
                raise SteerRefused(str(error)) from None
            return f"the registry is left to {target or 'whoever takes it'}"
        if registry == self.me:
            return self.steer_here(action, target)
        try:
            asked = [self.cluster_id, action, target]
            return str(await self._peers.ask(registry, "steer", asked, STEER_TIMEOUT_S))
        except (PeerRefused, PeerUnreachable) as error:
            raise SteerRefused(str(error)) from None

    def steer_here(self, action: str, target: str) -> str:
        """`steer` on the registry itself."""
        if self._kept_in_database is not None:
            raise SteerRefused("a database keeps the registry: only `transfer` makes sense, on the registry's own node")
        node, membership = self._node, self.membership()
        if node is None or membership is None or not node.core.is_registry:
            raise SteerRefused("this node is not the registry")
        try:
            match action:
                case "transfer":
                    chosen = target or node.furthest()
                    if chosen is None:
                        raise SteerRefused("no other voter is reachable")
                    node.transfer(chosen)
                    return f"the registry is being handed over to {chosen}"
                case "add":
                    if target not in self._members:
                        raise SteerRefused(f"gossip knows no node {target}")
                    position = node.change(added(membership, target))
                    return f"{target} learns from position {position} on and is promoted when it is near the head"
                case "remove":
                    position = node.change(without(membership, target, heard_by(node.core), self.me))
                    return f"{target} takes no part from position {position} on"
                case _:
                    raise SteerRefused(f"unknown action {action!r}")
        except RaftError as error:
            raise SteerRefused(str(error)) from None

    async def step_down(self, timeout_s: float) -> None:
        """Hands the registry over to the voter that is furthest, if this node has it; waits for that, bounded."""
        if self.registry_term is None:
            return
        with trio.move_on_after(timeout_s):
            if self._kept_in_database is not None:
                await self._kept_in_database.give_up("")
                return
            try:
                logger.info("handing over", what=self.steer_here("transfer", ""))
            except SteerRefused as error:
                logger.info("registry not handed over", problem=str(error))
                return
            while self.registry_term is not None:
                await self._changed.wait()


class _Snapshots:
    """Implements `zoned.raft.node.Snapshots`: one fetch at a time, in a task beside the node's."""

    def __init__(self, replication: Replication, nursery: trio.Nursery) -> None:
        self._replication = replication
        self._nursery = nursery
        self._fetched: SnapshotFile | None = None
        self._busy = False

    def want(self, leader_id: str) -> None:
        # Busy until it is in place: a second fetch would remove the file that is being installed.
        if not self._busy:
            self._busy = True
            self._nursery.start_soon(self._fetch, leader_id)

    async def _fetch(self, leader_id: str) -> None:
        accepted = False
        try:
            logger.info("snapshot needed", donor=leader_id)
            fetched = await self._replication.fetcher.fetch(leader_id, self._replication.cluster_id)
            node = self._replication.node
            if node is not None and fetched.membership is not None:
                self._fetched = fetched
                accepted = node.restore(Snapshot(fetched.position, fetched.term, fetched.membership))
        except (PeerUnreachable, PeerRefused, StorageFull) as error:
            logger.warning("snapshot not fetched", donor=leader_id, problem=str(error))
            await trio.sleep(FETCH_AGAIN_S)
        finally:
            self._busy = accepted

    async def install(self, ready: Ready) -> None:
        fetched, hard_state = self._fetched, ready.hard_state
        assert fetched is not None
        assert ready.snapshot is not None
        assert fetched.position == ready.snapshot.index

        def finish(connection: apsw.Connection) -> None:
            if hard_state is not None:
                log.save_hard_state(connection, hard_state)

        await install(self._replication.database, fetched, self._replication.me, finish)
        self._busy = False


def takes_part(node_id: str, membership: Membership | None) -> bool:
    """Whether the node votes or learns in this membership."""
    return membership is not None and node_id in (*membership.voters, *membership.learners)


def part_of(node_id: str, membership: Membership | None) -> str:
    """A member's part: voter, witness or learner."""
    if membership is None or node_id not in membership.voters:
        return "learner"
    return "witness" if node_id in membership.witnesses else "voter"


def role_of(core: Raft | None, part: str) -> str:
    """One word for status: founding, follower, learner, voter, witness, candidate, leader, registry."""
    if core is None or part == "learner":
        return part
    if core.is_registry:
        return "registry"
    return {Role.LEADER: "leader", Role.FOLLOWER: part}.get(core.role, "candidate")
