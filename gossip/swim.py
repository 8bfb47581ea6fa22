"""The gossip core: SWIM membership with Lifeguard, as one value that is fed and asked. Sans-IO.

One member is probed per interval. Silence makes an accusation, an accusation that nobody refutes in time makes a
conviction, and both spread as rumours that ride on whatever is sent anyway. The accused hears of it (every packet to
somebody not believed alive says so) and refutes with a higher incarnation. What rumours miss, a full-state exchange
with a random member repairs, and the dead are dialled for ever, so a cluster that fell apart finds together by itself.

The shell feeds datagrams to `receive`, calls `wake` at `deadline`, does what the returned effects say, and hands the
answers of full exchanges to `merge`. `now` is monotonic seconds, never going back.

Read on in `members` (which claim wins), `suspicion` (how long), `probing` (one probe), `broadcasts` (rumours),
`packing` (one datagram) and `contacts` (dialling).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

from gossip.broadcasts import Broadcasts
from gossip.codec import check_label, check_member, overhead_bytes, read_facts, read_vitals
from gossip.contacts import Contacts
from gossip.coordinates import AT, Distances
from gossip.credentials import Credentials, Trust
from gossip.effects import ON_STREAM, Change, Copied, Effect, Exchange, Notify, Send, Superseded, Why
from gossip.errors import BadIdentity, Malformed
from gossip.members import Event, Members, MemberView
from gossip.messages import (
    Ack,
    Address,
    Alive,
    Claim,
    Dead,
    Digest,
    Entry,
    ExchangeState,
    Facts,
    FactValue,
    Left,
    Member,
    Nack,
    Packet,
    Part,
    Ping,
    PingReq,
    State,
    Suspect,
    Verdict,
    Vitals,
    same_facts,
    state_of,
)
from gossip.options import GossipOptions
from gossip.packing import Packing
from gossip.probing import Probe, Relays, Silences
from gossip.repair import Repair
from gossip.suspicion import Health, Suspicion, Suspicions, wanted_confirmations
from gossip.throttle import Throttle
from gossip.vitals import Grapevine

NEVER = float("inf")
WARN_INTERVAL_S = 60.0
GOODBYES_MAX = 16  # members told directly of our leaving; the rest hears it from them
QUIET_JOIN_MIN = 64  # a newcomer that learns more members than this at once keeps it to itself: all others know
REAP_INTERVAL_S = 60.0
STREAM_FACT = "stream"  # a fact of members that have no UDP
NEWS_SHARE = 0.25  # of a gossip interval, between a round and one that something new has caused
HASTE_SHARE = 0.2  # of a probe interval, until a second opinion is sought


class Swim:
    """The membership of one node. Build it with the own identity (incarnation and revision 0), then `join`."""

    def __init__(
        self,
        options: GossipOptions,
        label: str,
        me: Member,
        rng: Random,
        now: float,
        credentials: Credentials | None = None,
    ) -> None:
        """With `credentials` everything that members say of themselves must be signed; `me` gets its signature here."""
        self._trust = Trust(credentials)
        me = check_member(self._trust.signed(me))
        self.options = self._options = options
        self._rng = rng
        room = options.datagram_bytes - overhead_bytes(check_label(label)) - options.seal_bytes
        self._members = Members(me, rng, now, options.members_max)
        self._me = me
        self._facts = dict(me.facts)  # as wanted; what is published lags by at most the publish interval
        self._leaving = False
        self._quiet_source = ""  # whose full state is just being merged, all of which the others know
        self._health = Health(options.health_max - 1)
        self._queue = Broadcasts(options.retransmit_mult)
        self._contacts = Contacts(options, rng)
        self._suspicions = Suspicions(options)
        self._relays = Relays()
        self._silences = Silences()
        self.distances = Distances(Random(me.node_id))
        self._repair = Repair(options.probe_interval_s, options.exchange_interval_s)
        self._grapevine = Grapevine()
        self._packing = Packing(self._members, self._queue, self._grapevine, room)
        self._probe: Probe | None = None
        self._seq = rng.getrandbits(32)
        self.salt = 0  # of the digest: what else members should agree on
        self._told = Throttle(options.probe_interval_s)
        self._asked = Throttle(options.probe_interval_s)
        self._warned = Throttle(WARN_INTERVAL_S)
        self._effects: list[Effect] = []
        self._probe_due = now + rng.uniform(0, options.probe_interval_s)
        self._gossiped = now - options.gossip_interval_s
        self._gossip_due = NEVER
        self._published = now - options.publish_interval_s
        self._publish_due = NEVER
        self._exchange_due = now + options.exchange_interval_s * rng.uniform(0.5, 1.0)
        self._reap_due = now + REAP_INTERVAL_S

    @property
    def deadline(self) -> float:
        """When `wake` is wanted; may lie in the past, which means at once."""
        indirect = self._probe.indirect_at if self._probe is not None else NEVER
        return min(
            self._probe_due,
            indirect,
            self._gossip_due,
            self._publish_due,
            self._exchange_due,
            self._reap_due,
            self._relays.due,
            self._contacts.due,
            self._suspicions.due(self._members.up_count),
        )

    @property
    def views(self) -> Mapping[str, MemberView]:
        """Everybody ever met and not forgotten, ourselves included, by node ID. Do not change it."""
        return self._members.views

    @property
    def me(self) -> Member:
        return self._me

    @property
    def health(self) -> int:
        """Local health score, 0 is well."""
        return self._health.score

    @property
    def queued(self) -> int:
        """Broadcasts waiting."""
        return len(self._queue)

    @property
    def digest(self) -> int:
        """Of all that we believe, as it is told to others."""
        return self._members.digest ^ self.salt

    @property
    def forged(self) -> int:
        """Claims heard and dropped, because those whom they are about had not signed them."""
        return self._trust.forged

    @property
    def address_version(self) -> int:
        """Grows whenever `addresses()` may have changed."""
        return self._members.address_version

    @property
    def has_left(self) -> bool:
        """Our good-bye was said as often as any other news, or nobody is there to hear it."""
        return self._leaving and self._me.node_id not in self._queue

    def addresses(self) -> list[Address]:
        """Where to look for the others after a restart: everyone that has not left, and what is still being dialled."""
        known = {view.address for view in self._members.others() if view.state is not State.LEFT}
        return sorted(known.union(self._contacts.addresses()))

    def why(self, node_id: str) -> Why | None:
        """What stands behind our belief about this member; None if nobody knows it."""
        view, accused = self._members.views.get(node_id), self._suspicions.get(node_id)
        if view is None:
            return None
        silences = self._silences.of(node_id)
        if accused is None:
            return Why(view, None, (), None, silences)
        expires = self._suspicions.expires(accused, self._members.up_count)
        return Why(view, accused.accuser, tuple(sorted(accused.confirmers)), expires, silences)

    def join(self, seeds: Sequence[Address], now: float, *, book: Sequence[Address] = ()) -> list[Effect]:
        """Dial these addresses, now and for ever: seeds even while all is well, the book until somebody answered."""
        self._enter(now)
        for address in (*seeds, *book):
            if address != self._me.address:
                self._contacts.add(address, now, seed=address in seeds)
        return self._leave_with()

    def leave(self, now: float) -> list[Effect]:
        """Say good-bye. From here on probes are answered, nothing is dialled or refuted; stay until `has_left`."""
        self._enter(now)
        if not self._leaving:
            self._leaving = True
            self._probe = None
            self._suspicions.clear()
            self._probe_due = self._exchange_due = self._publish_due = NEVER
            self._me = self._trust.signed_left(self._me)
            self._members.put_me(self._me, State.LEFT, now)
            goodbye = self._trust.goodbye(self._me)
            for view in self._members.sample(GOODBYES_MAX):
                self._send(view.address, view.node_id, goodbye)
            self._spread(goodbye, now)
            if self._members.up_count == 1:
                self._queue.clear()
        return self._leave_with()

    def update_facts(self, facts: Mapping[str, FactValue | None], now: float) -> list[Effect]:
        """Change own published facts; None withdraws one. Cheap, and free when nothing differs. Raises `BadIdentity`
        when they would not fit; the old ones stay.
        """
        merged: dict[str, FactValue | None] = {**self._facts, **facts}
        wanted = {name: value for name, value in merged.items() if value is not None}
        if same_facts(wanted, self._facts):
            return []
        try:
            read_facts(wanted)
        except Malformed as bad:
            raise BadIdentity(f"own facts: {bad}") from None
        self._enter(now)
        self._facts = wanted
        if not self._leaving:
            self._publish_due = max(now, self._published + self._options.publish_interval_s)
            if self._publish_due <= now:
                self._publish(now)
        return self._leave_with()

    def update_vitals(self, values: Facts) -> None:
        """Report what changes all the time; it rides on the next pings and acks. Raises `BadIdentity` when it would not
        fit; the old ones stay.
        """
        mine = self._members.views[self._me.node_id]
        if self.distances.is_placed:
            values = {**values, AT: self.distances.mine.pack()}
        if same_facts(values, mine.vitals):
            return
        try:
            read_vitals(values)
        except Malformed as bad:
            raise BadIdentity(f"own vitals: {bad}") from None
        self._members.hear_vitals(Vitals(mine.node_id, mine.generation, mine.beat + 1, dict(values)))

    def receive(self, packet: Packet, sender: Address, now: float) -> list[Effect]:
        """Take one datagram that came from `sender`, ON_STREAM if by HTTP: then what is sent there is the answer."""
        self._enter(now)
        if packet.source == self._me.node_id:
            self._hear_of_newer_start(packet.generation, now)
            return self._leave_with()
        # Claims first: the answer to a ping then already carries our refutation of what came with it.
        for part in packet.parts:
            if isinstance(part, Alive | Suspect | Dead | Left):
                self._hear(part, now)
        self._meet(packet, sender, now)
        for part in packet.parts:
            self._answer(part, packet.source, sender, now)
        return self._leave_with()

    def wake(self, now: float) -> list[Effect]:
        """Do whatever is due."""
        self._enter(now)
        if self._probe is not None and self._probe.indirect_at <= now:
            self._ask_helpers(self._probe, now)
        if self._probe_due <= now:
            self._end_probe(now)
            self._start_probe(now)
        for relay in self._relays.take_nacks(now):
            self._send(relay.origin_address, relay.origin, Nack(relay.origin_seq))
        for node_id, suspicion in list(self._suspicions.items()):
            # Each conviction leaves fewer who could confirm the next.
            if self._suspicions.expires(suspicion, self._members.up_count) <= now:
                view = self._members.views[node_id]
                self._hear(Dead(node_id, view.generation, view.member.incarnation, self._me.node_id), now)
        if self._publish_due <= now:
            self._publish(now)
        if self._gossip_due <= now:
            self._gossip(now)
        self._dial(now)
        if self._reap_due <= now:
            self._reap_due = now + REAP_INTERVAL_S
            self._members.forget_left(now - self._options.left_keep_s)
        return self._leave_with()

    def call_all(self, now: float) -> list[Effect]:
        """Exchange full states with everybody that is up: something besides the table has changed."""
        self._enter(now)
        self._effects.extend(Exchange(view.address) for view in self._members.others() if view.is_up)
        return self._leave_with()

    def exchange_state(self, now: float) -> ExchangeState:
        """All that we believe, for a full-state exchange. Old tombstones are kept back: were all passed on for as long
        as they are kept, members would teach each other for ever what each is about to forget.
        """
        since = now - self._options.left_keep_s / 2
        entries = tuple(
            Entry(view.member, view.state, view.beat, view.vitals, view.relayed)
            for view in self._members.views.values()
            if view.state is not State.LEFT or view.since > since
        )
        return ExchangeState(self._me.node_id, self._me.generation, entries)

    def merge(
        self, state: ExchangeState, now: float, contact: Address | None = None, *, more: bool = False
    ) -> list[Effect]:
        """Take a peer's full state; `contact` is the address that we dialled, None when the peer came to us. As claims
        are a join, it does not matter how old the state is. A large state may come in slices, all but the last with
        `more`, and other things may happen between them.
        """
        self._enter(now)
        if contact is not None:
            self._contacts.answered(contact, state.source, now)
        if state.source == self._me.node_id:
            self._hear_of_newer_start(state.generation, now)
            return self._leave_with()
        if self._members.up_count == 1 and len(state.entries) > QUIET_JOIN_MIN:
            self._quiet_source = state.source
        for entry in state.entries:
            self._merge_entry(entry, now)
        if self._quiet_source == state.source:
            self._queue.clear()
        if more:
            return self._leave_with()
        self._quiet_source = ""
        source = self._members.views.get(state.source)
        if contact is not None and source is not None and source.state is State.DEAD:
            self._contacts.add(contact, now + self._options.probe_interval_s)  # it talks: it only has to refute yet
        return self._leave_with()

    # --- entering and leaving -------------------------------------------------------------------------------------

    def _enter(self, now: float) -> None:
        """Notice that time jumped. After a suspend, or in a starved process, all silence was ours: nobody is convicted
        for it, and whoever is under suspicion gets the whole time again.
        """
        if now - self.deadline <= self._options.probe_interval_s:
            return
        self._health.add(1)
        self._probe = None
        self._relays.clear()
        if not self._leaving:
            self._probe_due = now
        self._suspicions.begin_again(now)

    def _leave_with(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects

    def _send(self, address: Address, node_id: str, *parts: Part) -> None:
        """One datagram to this member: the parts, what we hold against it, and as much news as fits."""
        view = self._members.views.get(node_id)
        held = (self._verdict_on(view),) if view is not None and view.state is not State.ALIVE else ()
        content = self._packing.fill(node_id, (*parts, *held))
        if content:
            packet = Packet(self._me.node_id, self._me.generation, content)
            self._effects.append(Send(address, packet, address != ON_STREAM and self._is_by_stream(view)))

    def _is_by_stream(self, view: MemberView | None) -> bool:
        return self._options.stream_only or (view is not None and view.facts.get(STREAM_FACT) is True)

    def _verdict_on(self, view: MemberView) -> Verdict:
        about = (view.node_id, view.generation, view.member.incarnation)
        match view.state:
            case State.LEFT:
                return self._trust.goodbye(view.member)
            case State.DEAD:
                return Dead(*about, self._me.node_id)
            case State.ALIVE | State.SUSPECT:
                suspicion = self._suspicions.get(view.node_id)
                accuser = suspicion.accuser if suspicion is not None else ""
                return Suspect(*about, accuser or self._me.node_id)

    # --- claims ---------------------------------------------------------------------------------------------------

    def _hear(self, claim: Claim, now: float, *, spread: bool = True) -> None:
        """Believe a claim if it is news, and pass it on."""
        about = claim.member.node_id if isinstance(claim, Alive) else claim.node_id
        if not self._trust.admits(claim, self._members.views.get(about)):
            return
        match claim:
            case Alive(member):
                if member.node_id == self._me.node_id:
                    self._hear_of_myself(member, now)
                    return
                known = self._members.views.get(member.node_id)
                event = self._members.hear_alive(member, now)
                if event is not None:
                    if known is not None and known.address != self._members.views[member.node_id].address:
                        self._contacts.drop(known.address)
                    # What we now believe, which may join this claim's incarnation and an earlier one's facts.
                    self._changed(event, Alive(self._members.views[member.node_id].member), now)
            case Suspect(node_id) | Dead(node_id) | Left(node_id):
                if node_id == self._me.node_id:
                    self._hear_against_myself(claim, now)
                    return
                state = state_of(claim)
                event = self._members.hear_verdict(claim, state, now)
                if event is not None:
                    self._changed(event, claim, now, spread=spread)
                elif isinstance(claim, Suspect):
                    self._confirm(claim, now, spread=spread)

    def _changed(self, event: Event, claim: Claim, now: float, *, spread: bool = True) -> None:
        node_id = claim.member.node_id if isinstance(claim, Alive) else claim.node_id
        view = self._members.views[node_id]
        match view.state:
            case State.ALIVE:
                self._suspicions.pop(node_id, None)
                self._contacts.drop(view.address)
            case State.SUSPECT:
                if isinstance(claim, Suspect):
                    self._suspect(claim, now, hearsay=not spread)
            case State.DEAD:
                if self._suspicions.pop(node_id, None) is not None or event is Event.DIED:
                    self._contacts.add(view.address, now + self._options.redial_min_s)
                    self._contacts.lost(node_id, now)
            case State.LEFT:
                self._suspicions.pop(node_id, None)
                self._contacts.drop(view.address)
        if spread:
            self._spread(claim, now)
        if event is not Event.RENEWED:
            self._effects.append(Notify(Change(event, view)))

    def _suspect(self, claim: Suspect, now: float, *, hearsay: bool) -> None:
        if self._leaving:
            return
        # Hearsay has no first accuser: whoever accuses by name next is the first, not a confirmer.
        self._suspicions[claim.node_id] = Suspicion(now, "" if hearsay else claim.accuser)
        if hearsay or claim.accuser != self._me.node_id:
            # A second opinion is worth most now. On average twice as many as are wanted go and look.
            wanted = wanted_confirmations(self._options, self._members.up_count)
            if self._rng.random() * max(1, self._members.up_count - 2) < 2 * wanted:
                self._members.hasten(claim.node_id)
                if self._probe is None or self._probe.acked:
                    soon = self._rng.uniform(0, HASTE_SHARE) * self._options.probe_interval_s
                    self._probe_due = min(self._probe_due, now + soon)

    def _confirm(self, claim: Suspect, now: float, *, spread: bool) -> None:
        """The same accusation again: of use when it is another's own finding, and then others should hear it too."""
        suspicion = self._suspicions.get(claim.node_id)
        view = self._members.views.get(claim.node_id)
        if suspicion is None or view is None or not spread:
            return
        if claim.accuser == claim.node_id or claim.accuser not in self._members.views:
            return
        if (claim.generation, claim.incarnation) != (view.generation, view.member.incarnation):
            return
        confirmed = suspicion.confirmed_by(claim.accuser, wanted_confirmations(self._options, self._members.up_count))
        if confirmed is not None:
            self._suspicions[claim.node_id] = confirmed
            self._spread(claim, now)

    def _hear_against_myself(self, verdict: Verdict, now: float) -> None:
        if verdict.generation == self._me.generation and verdict.incarnation >= self._me.incarnation:
            self._refute(verdict.incarnation, now)
        self._hear_of_newer_start(verdict.generation, now)

    def _hear_of_myself(self, member: Member, now: float) -> None:
        """My own description comes back. It is an echo, unless it claims more than I ever said: then I say more. From
        another address it is a copy's, and of two copies only one goes on saying more, or they would for ever.
        """
        me = self._me
        if member.generation == me.generation:
            claims, said = (member.incarnation, member.revision), (me.incarnation, me.revision)
            is_copy = member.address != me.address
            if is_copy and self._warned.allows("copy", now):
                self._effects.append(Notify(Copied(member.address)))
            if (claims > said and not is_copy) or (claims >= said and member.address < me.address):
                self._me = replace(me, revision=max(me.revision, member.revision) + 1)
                self._refute(member.incarnation, now)
        self._hear_of_newer_start(member.generation, now)

    def _refute(self, accused: int, now: float) -> None:
        if self._leaving:
            return
        # Having to refute means that we were too slow for someone.
        self._health.add(1)
        self._me = self._trust.signed(replace(self._me, incarnation=max(self._me.incarnation, accused) + 1))
        self._members.put_me(self._me, State.ALIVE, now)
        self._spread(Alive(self._me), now)

    def _hear_of_newer_start(self, generation: int, now: float) -> None:
        if generation > self._me.generation and self._warned.allows("superseded", now):
            self._effects.append(Notify(Superseded(generation)))

    def _merge_entry(self, entry: Entry, now: float) -> None:
        member, state = entry.member, entry.state
        self._merge_member(member, state, now)
        if entry.beat and member.node_id != self._me.node_id:
            self._members.hear_vitals(Vitals(member.node_id, member.generation, entry.beat, entry.vitals))

    def _merge_member(self, member: Member, state: State, now: float) -> None:
        if member.node_id == self._me.node_id:
            if state is State.ALIVE:
                self._hear(Alive(member), now)
            else:
                self._hear(Dead(member.node_id, member.generation, member.incarnation, ""), now)
            return
        known = self._members.views.get(member.node_id)
        if state is State.LEFT and known is not None:
            self._hear(self._trust.goodbye(member), now)
        elif known is None and not self._trust.is_genuine(member, state):
            pass
        elif state is State.LEFT:
            # Kept for half the time and not passed on, see `exchange_state`.
            self._members.learn_gone(member, state, now - self._options.left_keep_s / 2)
        elif state is State.DEAD and (known is None or not known.is_up):
            # Nothing to accuse. A stranger's death is no news either, but its address is worth dialling.
            if known is None:
                self._members.learn_gone(member, state, now)
                self._contacts.add(member.address, now)
        else:
            self._hear(Alive(member), now)
            if state is not State.ALIVE:
                # A verdict by hearsay is only a suspicion, and no accusation of ours: the accused may know better.
                hearsay = Suspect(member.node_id, member.generation, member.incarnation, self._me.node_id)
                self._hear(hearsay, now, spread=False)

    # --- probes ---------------------------------------------------------------------------------------------------

    def _meet(self, packet: Packet, sender: Address, now: float) -> None:
        """Who talks? A stranger or a newer start is asked for all it knows, the dead are told that they are."""
        view = self._members.views.get(packet.source)
        if self._leaving:
            return
        if view is None or packet.generation > view.generation:
            if sender != ON_STREAM and self._asked.allows("stranger", now):
                self._effects.append(Exchange(sender))
        elif packet.generation < view.generation:
            if self._told.allows(packet.source, now):
                self._send(sender, packet.source, Alive(view.member))
        elif not view.is_up and self._told.allows(packet.source, now):
            self._send(sender, packet.source)

    def _answer(self, part: Part, source: str, sender: Address, now: float) -> None:
        match part:
            case Ping(seq, target):
                if target == self._me.node_id:
                    self._send(sender, source, Ack(seq), Digest(self.digest, not self._queue))
            case PingReq():
                self._help(part, source, sender, now)
            case Ack(seq):
                self._hear_ack(seq, source, now)
            case Nack(seq):
                probe = self._probe
                if probe is not None and probe.seq == seq and source in probe.helpers:
                    probe.nacked.add(source)
            case Digest():
                view = self._members.views.get(source)
                quiet = not self._queue
                if view is not None and self._repair.wants_exchange(self.digest, part, quiet, now):
                    self._effects.append(Exchange(view.address))
            case Vitals(node_id):
                if node_id != self._me.node_id and self._members.hear_vitals(part):
                    self._grapevine.heard(node_id)
            case Alive() | Suspect() | Dead() | Left():
                pass  # heard before

    def _help(self, request: PingReq, source: str, sender: Address, now: float) -> None:
        if request.target == self._me.node_id:
            self._send(sender, source, Ack(request.seq))
            return
        known = self._members.views.get(source)
        if known is None:
            return  # for strangers we ping nobody
        if sender == ON_STREAM:
            sender = known.address  # this request will be over when the answer comes
        seq = self._next_seq()
        if self._relays.add(seq, request, source, sender, now):
            self._send((request.host, request.port), request.target, Ping(seq, request.target))

    def _hear_ack(self, seq: int, source: str, now: float) -> None:
        probe = self._probe
        if probe is not None and probe.seq == seq and (source == probe.target or source in probe.helpers):
            if not probe.acked:
                probe.acked = True
                direct = source == probe.target and probe.indirect_at < NEVER
                probe.indirect_at = NEVER
                view = self._members.views.get(probe.target)
                if view is not None:
                    rtt_s = now - probe.sent if direct else None
                    self._members.answered(probe.target, rtt_s, now, relayed=source != probe.target)
                if view is not None and direct:
                    self.distances.measured(probe.target, now - probe.sent, view.vitals.get(AT))
            elif source == probe.target and source in self._members.views:
                self._members.answered(source, None, now, relayed=False)
            return
        relay = self._relays.acked(seq, source)
        if relay is not None:
            self._send(relay.origin_address, relay.origin, Ack(relay.origin_seq))

    def _start_probe(self, now: float) -> None:
        interval = self._options.probe_interval_s * self._health.scale
        self._probe_due = now + interval
        target = self._members.next_target()
        if target is None:
            self._health.add(-1)  # nobody can tell us that we are ill
            return
        view = self._members.views[target]
        wait_s = self._options.probe_timeout_s
        if view.rtt_s is not None:
            wait_s = min(wait_s, max(self._options.probe_timeout_min_s, 4 * view.rtt_s))
        self._probe = Probe(self._next_seq(), target, now, now + wait_s, self._probe_due)
        self._send(view.address, target, Ping(self._probe.seq, target))

    def _ask_helpers(self, probe: Probe, now: float) -> None:
        probe.indirect_at = NEVER
        view = self._members.views.get(probe.target)
        if view is None:
            return
        budget_ms = max(0, int((probe.ends - now) * 1000))
        request = PingReq(probe.seq, probe.target, *view.address, budget_ms)
        for helper in self._members.sample(self._options.indirect_probes, exclude=probe.target):
            # One who is silent itself would only make us believe that we are deaf.
            if helper.state is State.ALIVE:
                probe.helpers.add(helper.node_id)
                self._send(helper.address, helper.node_id, request)
        if not self._is_by_stream(view):
            # Where UDP is blocked and HTTP is not, the member lives: the same question by the other way, which counts.
            ping = Packet(self._me.node_id, self._me.generation, (Ping(probe.seq, probe.target),))
            self._effects.append(Send(view.address, ping, stream=True))

    def _end_probe(self, now: float) -> None:
        probe, self._probe = self._probe, None
        if probe is None:
            return
        self._health.add(probe.health_delta)
        view = self._members.views.get(probe.target)
        if not probe.acked and view is not None and view.is_up:
            self._silences.add(probe.target, now)
            self._hear(Suspect(probe.target, view.generation, view.member.incarnation, self._me.node_id), now)

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq

    # --- rumours and dialling -------------------------------------------------------------------------------------

    def _spread(self, claim: Claim, now: float) -> None:
        self._queue.put(claim)
        # News goes at once, or a little after the last round, and what else is waiting shares its datagrams.
        soon = self._gossiped + NEWS_SHARE * self._options.gossip_interval_s
        self._gossip_due = min(self._gossip_due, max(now, soon))

    def _gossip(self, now: float) -> None:
        self._gossiped = now
        targets = self._members.sample(self._options.fanout)
        if not targets:
            self._queue.clear()
        since = now - self._options.gossip_to_dead_s
        dead = [view for view in self._members.others() if view.state is State.DEAD and view.since > since]
        if dead:
            targets.append(self._rng.choice(dead))
        for view in targets:
            if self._queue:
                self._send(view.address, view.node_id)
        self._gossip_due = now + self._options.gossip_interval_s if self._queue else NEVER

    def _publish(self, now: float) -> None:
        self._publish_due = NEVER
        if same_facts(self._facts, self._me.facts):
            return  # changed, and changed back
        self._published = now
        facts: Facts = dict(self._facts)
        self._me = self._trust.signed(replace(self._me, facts=facts, revision=self._me.revision + 1))
        self._members.put_me(self._me, State.ALIVE, now)
        self._spread(Alive(self._me), now)

    def _dial(self, now: float) -> None:
        due = self._contacts.take_due(now)
        if self._leaving:
            return
        self._effects.extend(Exchange(address) for address in due)
        if self._exchange_due <= now:
            self._exchange_due = now + self._options.exchange_interval_s * self._rng.uniform(0.75, 1.25)
            self._effects.extend(Exchange(view.address) for view in self._members.sample(1))
