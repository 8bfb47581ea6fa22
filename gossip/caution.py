"""Before a node speaks: is it the only one of its kind? A shell, run once by `open_gossip`.

The newest start of a node wins everywhere at once, which is right after a restart and wrong for a copy: a copied data
directory would take over the identity of a node that is well and running, and an address configured twice would make
two nodes undo each other's place for ever. So a start asks before it speaks. It reads the tables of those it would
join, telling them nothing. If these name a running node with its own ID at another address, or another node at its own
address, it asks there; and only if that one really answers, the newcomer is refused. The older is never disturbed,
and nobody's vote decides.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

import trio

from gossip.errors import AddressTaken, CodecError, ExchangeFailed, IdentityTaken
from gossip.messages import Address, Entry, ExchangeState, Member, State

PINGS = 3
PING_PAUSE_S = 0.15
ASKED_MAX = 8  # contacts asked; whoever is in the cluster knows all of it

Pull = Callable[[Address], Awaitable[ExchangeState]]


@dataclass(frozen=True, slots=True)
class Asking:
    """What the check needs of the shell: read a peer's table, and one ping by datagram to a node at an address."""

    pull: Pull
    ping: Callable[[Address, str], Awaitable[bool]]


async def check_alone(me: Member, contacts: Sequence[Address], asking: Asking, timeout_s: float) -> None:
    """Raises `IdentityTaken` or `AddressTaken`; returns when nothing speaks against us, or nobody spoke in time."""
    for entry in await _first_table(contacts, asking, timeout_s):
        if entry.member.node_id == me.node_id and entry.member.generation >= me.generation:
            await _refuse_copy(me, entry.member, asking, timeout_s)
        if entry.state not in (State.ALIVE, State.SUSPECT):
            continue
        other = entry.member
        if other.node_id == me.node_id:
            if other.address != me.address and await _answers_as(me.node_id, other.address, asking, timeout_s):
                raise _running_copy(me, other)
        elif other.address == me.address and await _is_there(other, asking):
            raise AddressTaken(
                f"the advertised address {_show(me.address)} already belongs to node {other.node_id} of zone "
                f"{other.zone}, which answers there; set peers.advertise to this node's own"
            )


async def _refuse_copy(me: Member, other: Member, asking: Asking, timeout_s: float) -> None:
    """Others have met this start of ours, or a later one: what is on our disk is not what this node last wrote."""
    if other.address != me.address and await _answers_as(me.node_id, other.address, asking, timeout_s):
        raise _running_copy(me, other)
    raise IdentityTaken(
        f"the others have met start {other.generation} of node {me.node_id}, this data directory knows only of "
        f"{me.generation - 1}: an older copy was put back; give the node an empty directory, so that it gets a new ID"
    )


def _running_copy(me: Member, other: Member) -> IdentityTaken:
    return IdentityTaken(
        f"node {me.node_id} already runs at {_show(other.address)}: this data directory is a copy of that "
        f"one's; stop that node first, or start here with an empty directory"
    )


async def _first_table(contacts: Sequence[Address], asking: Asking, timeout_s: float) -> Iterable[Entry]:
    """The first answer that knows more than its sender; an empty table when there is none in time."""
    found: list[Entry] = []
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + timeout_s

        async def ask(address: Address) -> None:
            try:
                state = await asking.pull(address)
            except (ExchangeFailed, CodecError):
                return  # says nothing about us; joining will tell
            if len(state.entries) > 1 or len(contacts) == 1:
                found.extend(state.entries)
                nursery.cancel_scope.cancel()

        for address in contacts[:ASKED_MAX]:
            nursery.start_soon(ask, address)
    return found


async def _answers_as(node_id: str, address: Address, asking: Asking, timeout_s: float) -> bool:
    with trio.move_on_after(timeout_s):
        try:
            return (await asking.pull(address)).source == node_id
        except (ExchangeFailed, CodecError):
            return False
    return False


async def _is_there(other: Member, asking: Asking) -> bool:
    # By datagram: our own HTTP side may not serve yet, while our own socket answers for nobody else.
    for _ in range(PINGS):
        with trio.move_on_after(PING_PAUSE_S):
            if await asking.ping(other.address, other.node_id):
                return True
    return False


def _show(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
