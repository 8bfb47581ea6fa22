"""News waiting to be passed on. Sans-IO.

Rumours spread like an infection: every member repeats each piece of news to a few random others, a number of times that
grows with the logarithm of the cluster, and then falls silent. Two slots exist per subject, its description and the
verdict on it; newer news replaces older in its slot, so the queue never holds more than two per member and a refutation
never travels beside the accusation it answers.
"""

import math
from dataclasses import dataclass

from gossip.codec import part_bytes
from gossip.messages import Alive, Claim


@dataclass(slots=True)
class _Waiting:
    claim: Claim
    size: int
    order: int
    transmits: int = 0


class Broadcasts:
    """The queue, keyed by subject."""

    def __init__(self, retransmit_mult: float) -> None:
        self._mult = retransmit_mult
        self._waiting: dict[tuple[str, bool], _Waiting] = {}
        self._order = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __contains__(self, subject: object) -> bool:
        return (subject, True) in self._waiting or (subject, False) in self._waiting

    def put(self, claim: Claim) -> None:
        """Queue news, from the start again even if the slot was half sent."""
        subject, is_alive = _key(claim)
        other = self._waiting.get((subject, not is_alive))
        if other is not None and _answers(claim, other.claim):
            del self._waiting[(subject, not is_alive)]
        self._order += 1
        self._waiting[(subject, is_alive)] = _Waiting(claim, part_bytes(claim), self._order)

    def take(self, budget_bytes: int, up_count: int, parts_max: int) -> list[Claim]:
        """News for one datagram: the least sent first, the newest first among those, as many as fit the budget."""
        limit = math.ceil(self._mult * math.log2(up_count + 1))
        taken: list[Claim] = []
        for key, waiting in sorted(self._waiting.items(), key=lambda item: (item[1].transmits, -item[1].order)):
            if len(taken) >= parts_max or budget_bytes < 20:
                break
            if waiting.size > budget_bytes:
                continue
            taken.append(waiting.claim)
            budget_bytes -= waiting.size
            waiting.transmits += 1
            if waiting.transmits >= limit:
                del self._waiting[key]
        return taken

    def clear(self) -> None:
        """Nobody is there to be told."""
        self._waiting.clear()


def _key(claim: Claim) -> tuple[str, bool]:
    if isinstance(claim, Alive):
        return claim.member.node_id, True
    return claim.node_id, False


def _version(claim: Claim) -> tuple[int, int]:
    if isinstance(claim, Alive):
        return claim.member.generation, claim.member.incarnation
    return claim.generation, claim.incarnation


def _answers(claim: Claim, older: Claim) -> bool:
    """Does the new claim make the other slot's pointless? A description must beat a verdict's version; a verdict leaves
    the description alone, since whoever has not met the member yet needs both.
    """
    return isinstance(claim, Alive) and _version(claim) > _version(older)
