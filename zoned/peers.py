"""Requests to other nodes: msgpack in HTTP POSTs on the peer plane, and one outbox per peer for Raft.

Every request may be lost, repeated or answered late: whatever travels here must bear that. The cluster label goes with
each as a header, so that a node of another cloud, met by a mistake in the seeds, learns why it is turned away.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import httpx
import msgpack
import structlog
import trio

from zoned.api import request_id
from zoned.errors import PeerRefused, PeerUnreachable
from zoned.raft.messages import BATCH_MAX_MESSAGES, Message, encode_batch
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
    """Where a node is reached now; None when it is not known."""

    def address_of(self, node_id: str) -> tuple[str, int] | None: ...


class Peers:
    """The client side of the peer plane."""

    def __init__(self, client: httpx.AsyncClient, book: AddressBook, label: str) -> None:
        self._client = client
        self._book = book
        self._headers = {LABEL_HEADER: label, "Content-Type": MSGPACK, "Accept-Encoding": "identity"}

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
        host, port = address
        url = f"http://[{host}]:{port}/peer/v1/{path}" if ":" in host else f"http://{host}:{port}/peer/v1/{path}"
        headers = {**self._headers, RECIPIENT_HEADER: node_id}
        if request_ids := request_id.current():
            headers[REQUEST_ID_HEADER] = request_ids
        body = None
        try:
            request = self._client.build_request("POST", url, content=data, headers=headers, timeout=timeout_s)
            with trio.move_on_after(timeout_s):  # the client's own time-outs are for each step of a request
                answer = await self._client.send(request, stream=True)
                try:
                    body = await self._read(answer, url)
                finally:
                    await answer.aclose()
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            # Addresses come from gossip: an unusable one is a peer that cannot be reached, and nothing more.
            raise PeerUnreachable(f"{url}: {type(error).__name__}: {error}") from None
        if body is None:
            raise PeerUnreachable(f"{url} did not answer within {timeout_s:g} s")
        if answer.status_code >= 500:
            raise PeerUnreachable(f"{url}: {answer.status_code} {body[:200].decode(errors='replace')}")
        if answer.status_code >= 400:
            raise PeerRefused(f"{url}: {body[:200].decode(errors='replace')}")
        return body

    async def _read(self, answer: httpx.Response, url: str) -> bytes:
        """The body, at most ANSWER_BYTES_MAX; nothing is decompressed."""
        pieces, size = [], 0
        async for piece in answer.aiter_raw():
            pieces.append(piece)
            size += len(piece)
            if size > ANSWER_BYTES_MAX:
                raise PeerUnreachable(f"{url} answered with more than {ANSWER_BYTES_MAX} bytes")
        return b"".join(pieces)


class RaftPost:
    """An outbox per peer, each emptied in order by a task of its own, so that a slow peer delays nobody else."""

    def __init__(self, peers: Peers, nursery: trio.Nursery, timeout_s: float, pace: Pace) -> None:
        self._peers = peers
        self._nursery = nursery
        self._timeout_s = timeout_s
        self._pace = pace
        self._outboxes: dict[str, tuple[deque[Message], Signal]] = {}

    def send(self, messages: Iterable[Message]) -> None:
        """Queues the messages; returns at once."""
        for message in messages:
            outbox = self._outboxes.get(message.recipient)
            if outbox is None:
                outbox = self._outboxes[message.recipient] = (deque(maxlen=OUTBOX_MAX), Signal())
                self._nursery.start_soon(self._serve, message.recipient, *outbox)
            outbox[0].append(message)
            outbox[1].set()

    async def _serve(self, node_id: str, outbox: deque[Message], filled: Signal) -> None:
        reachable = True
        while True:
            await filled.wait()
            while outbox:
                batch = _take(outbox)
                began = trio.current_time()
                try:
                    await self._peers.post(node_id, "raft", encode_batch(batch), self._timeout_s)
                except (PeerUnreachable, PeerRefused) as error:
                    # Lost, as on any wire. Logged once per change, since heartbeats go on for ever.
                    if reachable:
                        logger.warning("peer unreachable", peer=node_id, problem=str(error))
                    reachable = False
                else:
                    self._pace.saw(trio.current_time() - began, trio.current_time())
                    if not reachable:
                        logger.info("peer reachable", peer=node_id)
                    reachable = True


def _take(outbox: deque[Message]) -> Sequence[Message]:
    return [outbox.popleft() for _ in range(min(len(outbox), BATCH_MAX_MESSAGES))]
