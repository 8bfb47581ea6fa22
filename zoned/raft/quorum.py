"""How many are enough: majorities, tallies, and which memberships are sound. Sans-IO, plain functions.

Everything Raft promises rests on one fact: any two majorities of the same voters share a voter. The functions
here are the only places that count.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum

import msgpack

from store.entries import Membership

MEMBERS_MAX = 1_024  # voters and learners together


class Tally(Enum):
    """How an election stands."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def majority(voters: int) -> int:
    """The smallest number of `voters` that shares a voter with every other such set."""
    return voters // 2 + 1


def tally(voters: Sequence[str], votes: Mapping[str, bool]) -> Tally:
    """Lost as soon as a majority has become impossible; nobody to ask means nobody can win."""
    granted = sum(1 for voter in voters if votes.get(voter) is True)
    refused = sum(1 for voter in voters if votes.get(voter) is False)
    needed = majority(len(voters))
    if granted >= needed:
        return Tally.WON
    return Tally.LOST if len(voters) - refused < needed else Tally.PENDING


def agreed(values: Iterable[int]) -> int:
    """The largest number that a majority of voters has reached; `values` holds one number a voter."""
    ordered = sorted(values, reverse=True)
    return ordered[majority(len(ordered)) - 1] if ordered else 0


def decode_membership(data: bytes) -> Membership | None:
    """The membership in an entry's data, or None if it is not a sound one (it may come from a peer)."""
    try:
        membership = Membership.decode(data)
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    return membership if is_sound(membership) else None


def is_sound(membership: Membership) -> bool:
    """A cluster ID, at least one voter, no ID twice, all of them texts, every witness a member, and not too many."""
    members = (*membership.voters, *membership.learners)
    if not isinstance(membership.cluster_id, str) or not membership.cluster_id or not membership.voters:
        return False
    if len(members) > MEMBERS_MAX or not all(isinstance(member, str) and member for member in members):
        return False
    if len(set(members)) != len(members) or not all(one in members for one in membership.witnesses):
        return False
    return len(set(membership.witnesses)) == len(membership.witnesses) and not too_many_witnesses(membership)


def too_many_witnesses(membership: Membership) -> bool:
    """Whether some majority is of witnesses alone: it could elect a registry with nobody to hand over to."""
    voting = sum(1 for one in membership.witnesses if one in membership.voters)
    return voting >= majority(len(membership.voters))


def why_not(current: Membership, wanted: Membership) -> str | None:
    """Why `wanted` may not follow `current`, or None if it may.

    One node changes, by one step: from nowhere to learner, learner to voter, voter to learner, or out; or it becomes a
    witness, or ceases to be one. Old and new majorities then always overlap (thesis, section 4.1), and nobody votes
    before it has followed.
    """
    if too_many_witnesses(wanted):
        return "witnesses alone would be a majority of the voters"
    if not is_sound(wanted) or wanted.cluster_id != current.cluster_id:
        return "it is not a sound membership of this cluster"
    before = dict.fromkeys(current.learners, "learner") | dict.fromkeys(current.voters, "voter")
    after = dict.fromkeys(wanted.learners, "learner") | dict.fromkeys(wanted.voters, "voter")
    labelled = set(current.witnesses) ^ set(wanted.witnesses)
    changed = [node for node in before.keys() | after.keys() if before.get(node) != after.get(node) or node in labelled]
    if len(changed) != 1:
        return f"{len(changed)} nodes would change, exactly one may"
    if changed[0] not in before and after[changed[0]] == "voter":
        return "a new node has to be a learner first"
    return None
