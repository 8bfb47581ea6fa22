"""Addresses to dial, for ever. Sans-IO.

Forgetting a dead node must not forget its address, or a partition that outlasts the memory never heals. So seeds, the
book of addresses known from earlier and every member that is dead (and has not left) are dialled with a full-state
exchange, again and again, the pauses growing to a cap and spread by jitter. An address rests while the member that
answered there is up; seeds are asked now and then even so, because one name may stand for several nodes. All seeds that
rest share one pause: a cluster where everybody has everybody as a seed is not to dial more often as it grows.
"""

from dataclasses import dataclass
from random import Random

from gossip.messages import Address
from gossip.options import GossipOptions


@dataclass(slots=True)
class _Contact:
    due: float
    delay_s: float
    is_seed: bool
    node_id: str = ""  # who answered there last


class Contacts:
    """Dial plan by address."""

    def __init__(self, options: GossipOptions, rng: Random) -> None:
        self._options = options
        self._rng = rng
        self._contacts: dict[Address, _Contact] = {}
        self.due = float("inf")

    def __contains__(self, address: object) -> bool:
        return address in self._contacts

    def addresses(self) -> list[Address]:
        return list(self._contacts)

    def add(self, address: Address, now: float, *, seed: bool = False) -> None:
        """Dial this soon, and go on until it is dropped."""
        known = self._contacts.get(address)
        if known is None and len(self._contacts) >= self._options.members_max:
            return
        is_seed = seed or (known is not None and known.is_seed)
        node_id = known.node_id if known is not None else ""
        self._contacts[address] = _Contact(now, self._options.redial_min_s, is_seed, node_id)
        self._rearm()

    def drop(self, address: Address) -> None:
        """Its member is up or has left. Seeds stay, at their slowest."""
        known = self._contacts.get(address)
        if known is None:
            return
        if known.is_seed:
            known.delay_s = self._options.redial_max_s
        else:
            del self._contacts[address]
        self._rearm()

    def answered(self, address: Address, node_id: str, now: float) -> None:
        """Someone answered a dial at this address: no hurry any more."""
        known = self._contacts.get(address)
        if known is not None:
            known.node_id = node_id
            known.delay_s = self._options.redial_max_s
            resting = sum(contact.is_seed and contact.node_id != "" for contact in self._contacts.values())
            known.due = now + self._jittered(known.delay_s * max(1, resting))
            self.drop(address)

    def lost(self, node_id: str, now: float) -> None:
        """A member died: whoever answered as this one is to be dialled quickly again."""
        for contact in self._contacts.values():
            if contact.node_id == node_id:
                contact.due, contact.delay_s = now, self._options.redial_min_s
        self._rearm()

    def take_due(self, now: float) -> list[Address]:
        """Whom to dial now; each is planned again at once, so that a lost result changes nothing."""
        due = [address for address, contact in self._contacts.items() if contact.due <= now]
        for address in due:
            contact = self._contacts[address]
            contact.due = now + self._jittered(contact.delay_s)
            contact.delay_s = min(contact.delay_s * 2, self._options.redial_max_s)
        self._rearm()
        return due

    def _jittered(self, delay_s: float) -> float:
        return delay_s * self._rng.uniform(0.75, 1.25)

    def _rearm(self) -> None:
        self.due = min((contact.due for contact in self._contacts.values()), default=float("inf"))
