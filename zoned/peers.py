"""Requests to other nodes: msgpack in HTTP POSTs on the peer plane, and one outbox per peer for Raft.

Every request may be lost, repeated or answered late: whatever travels here must bear that. The cluster label goes with
each as a header, so that a node of another cloud, met by a mistake in the seeds, learns why it is turned away.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import msgpack
import structlog
import trio

from gossip import MemberView
from zoned.api import request_id
from zoned.errors import PeerRefused, PeerUnreachable
from zoned.posting import Poster
from zoned.raft.messages import BATCH_MAX_MESSAGES, Append, Message, MessageError, decode_batch, encode_batch
from zoned.raft.pace import Pace
from zoned.supervise import Signal

LABEL_HEADER = "Zoned-Label"
RECIPIENT_HEADER = "Zoned-To"  # the node meant: an address may have passed to another
REQUEST_ID_HEADER = "X-OpenStack-Request-ID"  # of the users' requests that this one is for, separated by commas
ANSWER_BYTES_MAX = 16_777_216
OUTBOX_MAX = 4_096  # messages; beyond, the oldest are dropped: Raft sends again
MSGPACK = "application/msgpack"

logger = structlog.get_logger()


class AddressBook(Protocol):
    """Where nodes are."""

    def address_of(self, node_id: str) -> tuple[str, int] | None:
        """Where a node is reached now; None when it is not known."""

    def nearest(self, views: Iterable[MemberView]) -> Sequence[MemberView]:
        """The same, the nearest first."""


class Peers:
    """The client side of the peer plane."""

    def __init__(self, poster: Poster, book: AddressBook, label: str) -> None:
        self._poster = poster
        self._book = book
        self._headers = f"{LABEL_HEADER}: {label}\r\ncontent-type: {MSGPACK}\r\n{RECIPIENT_HEADER}: ".encode()

    def nearest(self, views: Iterable[MemberView]) -> Sequence[MemberView]:
        """The same, the nearest first."""
        return self._book.nearest(views)

    async def ask(self, node_id: str, path: str, body: Any, timeout_s: float) -> Any:
        """POSTs `body` to `/peer/v1/` + `path` of the node; its answer, unpacked.

        Raises PeerUnreachable (outcome unknown) or PeerRefused (a reason).
        """
        data = await self.post(node_id, path, msgpack.packb(body), timeout_s)
        try:
            return msgpack.unpackb(data)
        except (ValueError, msgpack.UnpackException) as error:
            raise PeerUnreachable(f"{node_id} answered {path} with what is no msgpack: {error}") from None

    async def post(self, node_id: str, path: str, data: bytes, timeout_s: float) -> bytes:
        """As `ask`, with bytes both ways."""
        address = self._book.address_of(node_id)
        if address is None:
            raise PeerUnreachable(f"no address of node {node_id} is known")
        where = f"{path} of node {node_id} at {address[0]}:{address[1]}"
        headers = b"%b%b\r\n" % (self._headers, node_id.encode())
        if request_ids := request_id.current():
            headers += b"%b: %b\r\n" % (REQUEST_ID_HEADER.encode(), request_ids.encode("latin-1"))
        answer = None
        try:
            with trio.move_on_after(timeout_s):
                answer = await self._poster.post(
                    address, f"/peer/v1/{path}", headers, data, ANSWER_BYTES_MAX, name=node_id
                )
        except OSError as error:
            # Addresses come from gossip: an unusable one is a peer that cannot be reached, and nothing more.
            raise PeerUnreachable(f"{where}: {error}") from None
        if answer is None:
            raise PeerUnreachable(f"{where}: no answer within {timeout_s:g} s")
        status, body = answer
        if status >= 500:
            raise PeerUnreachable(f"{where}: {status} {body[:200].decode(errors='replace')}")
        if status >= 400:
            raise PeerRefused(f"{where}: {body[:200].decode(errors='replace')}")
        return body


class RaftPost:
    """An outbox per peer, each emptied in order by a task of its own, so that a slow peer delays nobody else.

    What the core has to say at once to a peer whose request is being answered (that its heartbeat was heard) goes with
    the answer: half the requests of a cluster at rest. `step` takes what came with the answers to ours.
    """

    def __init__(
        self,
        peers: Peers,
        nursery: trio.Nursery,
        timeout_s: float,
        pace: Pace,
        step: Callable[[Sequence[Message]], None],
    ) -> None:
        self._peers = peers
        self._nursery = nursery
        self._timeout_s = timeout_s
        self._pace = pace
        self._step = step
        self._outboxes: dict[str, tuple[deque[Message], Signal]] = {}
        self._answers: dict[str, list[Message]] = {}  # being made, by peer

    def send(self, messages: Iterable[Message]) -> None:
        """Queues the messages; returns at once."""
        for message in messages:
            answer = self._answers.get(message.recipient)
            if answer is not None and not isinstance(message, Append):  # entries are many and in order: no answer's
                answer.append(message)
                continue
            outbox = self._outboxes.get(message.recipient)
            if outbox is None:
                outbox = self._outboxes[message.recipient] = (deque(maxlen=OUTBOX_MAX), Signal())
                self._nursery.start_soon(self._serve, message.recipient, *outbox)
            outbox[0].append(message)
            outbox[1].set()

    @contextmanager
    def answering(self, peer: str) -> Iterator[list[Message]]:
        """The messages for `peer` that are sent within the block, for the answer to its request."""
        answer: list[Message] = []
        self._answers[peer] = answer
        try:
            yield answer
        finally:
            del self._answers[peer]

    async def _serve(self, node_id: str, outbox: deque[Message], filled: Signal) -> None:
        reachable = True
        while True:
            await filled.wait()
            while outbox:
                batch = _take(outbox)
                began = trio.current_time()
                try:
                    answer = await self._peers.post(node_id, "raft", encode_batch(batch), self._timeout_s)
                    replies = decode_batch(answer) if answer else ()
                except (PeerUnreachable, PeerRefused, MessageError) as error:
                    # Lost, as on any wire. Logged once per change, since heartbeats go on for ever.
                    if reachable:
                        logger.warning("peer unreachable", peer=node_id, problem=str(error))
                    reachable = False
                else:
                    self._pace.saw(trio.current_time() - began, trio.current_time())
                    if not reachable:
                        logger.info("peer reachable", peer=node_id)
                    reachable = True
                    if replies:
                        self._step(replies)


def _take(outbox: deque[Message]) -> Sequence[Message]:
    return [outbox.popleft() for _ in range(min(len(outbox), BATCH_MAX_MESSAGES))]
