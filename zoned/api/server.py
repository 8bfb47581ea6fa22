"""A small ASGI server for trio: HTTP/1 on TCP and Unix sockets, one task per connection with something to do.

Intuition: a connection that waits for its next request is *parked*: a socket in one epoll set, watched by one task.
When it has input, and that is whole plain lookups, the watcher answers them on the spot: trio's scheduler, which costs
more than a lookup, is entered once for all the sockets that became ready together. Anything else gives the connection a
task. There it is a loop (take a head, answer it, again) that ends when the connection can be parked again.

Input is read only when somebody waits for it: the watcher, the loop for the next head, or the application in
`receive()`. What is not read stays in the kernel, and TCP slows the sender down. That is all the back-pressure there
is, and all that is needed.

Three lives are nested, and the nesting is the order of shutdown: accepting ends first, connections end when their
requests do (or the grace ends), the watcher and the sweep that enforces their time limits end last. Cancelling
`serve_http` starts it.
"""

import contextlib
import errno
import math
import re
import select
import socket
from collections.abc import Awaitable, Callable, Sequence
from email.utils import formatdate

import structlog
import trio

from zoned.api.exchange import READ_BYTES, ClientGone, Exchange, Receive, Scope, Send, addresses_of, path_of
from zoned.api.http1 import (
    LIMITS,
    Answer,
    AnswerFault,
    Framing,
    Headers,
    HttpLimits,
    Prepared,
    Refused,
    Request,
    RequestRecord,
    answer_head,
    parse_head,
    prepared_answer,
    problem,
    take_head,
)
from zoned.api.request_id import request_id
from zoned.api.secured import SecuredSocket, Security, shake_hands
from zoned.supervise import beat

AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
# method, target, headers (names in lower case), client (as in RequestRecord), body -> the whole answer, or None to let
# the application answer. It runs in trio's thread before any ASGI call, for GET and HEAD without a body and POST that
# only asks, and must not block longer than a short list: a millisecond or two.
Lookup = Callable[[bytes, bytes, Headers, str, bytes], Prepared | None]

LISTEN_AGAIN_S = 0.1  # after accept() failed for want of something; as trio.serve_listeners does
ACCEPT_WAITED_OUT = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ECONNABORTED))
# After a refusal the client may still be sending. Closing at once would make the kernel answer with a reset, which
# destroys our answer before it is read (RFC 9112, 9.6); so we listen a little longer, within these bounds.
LINGER_S = 2.0
LINGER_BYTES = 4 * 1024 * 1024
SWEEP_S_MAX = 1.0
# Connections answered before every other task of the daemon gets its turn: some 3 ms of lookups.
TURN_MAX = 64
# A client's requests differ in their first line; the headers below it are mostly the same, byte for byte. What such a
# block means is remembered, for blocks up to a size and up to a number (all are forgotten then).
BLOCK_BYTES_MAX = 4_096
BLOCKS_MAX = 512
READS = (b"GET", b"HEAD")
# What may be a lookup: a read, or a POST that only asks. The target is checked here, as the headers are by themselves.
PLAIN = re.compile(rb"(GET|HEAD|POST(?= [^ ]*(?::batchGet|/raft) )) (/[\x21\x22\x24-\x7e]{0,4096}) HTTP/1\.1(?=\r\n)")
# A client whose connection was accepted in the moment of the end is sending its request: it is still answered.
FIRST_REQUEST_S = 1.0

log = structlog.get_logger(__name__)


async def serve_http(
    app: AsgiApp,
    listeners: Sequence[trio.SocketListener],
    limits: HttpLimits,
    *,
    now: Callable[[], float],
    lookup: Lookup | None = None,
    on_request: Callable[[RequestRecord], None] | None = None,
    security: Security | None = None,
    on_limit: Callable[[str], None] = lambda limit: None,
    task_status: trio.TaskStatus["HttpServer"] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; then stop accepting, finish what is in flight within `limits.grace_s`, and return.

    `now` is the wall clock (seconds since the epoch), for the Date header only. With `security` every connection is
    TLS. `on_limit` hears of every limit that was met, by its name. The listeners are closed.
    """
    server = HttpServer(app, limits, now, lookup, on_request, security, on_limit)
    async with trio.open_nursery() as accepting:
        # Shielded: a task that is being started is not ours to drain yet, and this one is deaf to cancelling.
        with trio.CancelScope(shield=True):
            await accepting.start(server.hold_connections)
        for listener in listeners:
            accepting.start_soon(server.accept, listener)
        task_status.started(server)
        try:
            await trio.sleep_forever()
        finally:
            server.drain()


class HttpServer:
    """What the connections of one `serve_http` share. Numbers may be read at any time."""

    def __init__(
        self,
        app: AsgiApp,
        limits: HttpLimits,
        now: Callable[[], float],
        lookup: Lookup | None,
        on_request: Callable[[RequestRecord], None] | None,
        security: Security | None = None,
        on_limit: Callable[[str], None] = lambda limit: None,
    ) -> None:
        self.app = app
        self.on_limit = on_limit
        self.security = security
        self.limits = limits
        self.lookup = lookup
        self.on_request = on_request
        self.connections: set[_Connection] = set()
        # Those parked between requests, by file descriptor, in the order in which they began to wait: longest first.
        self.idle: dict[int, _Connection] = {}
        self.blocks: dict[bytes, Request] = {}
        self.draining = False
        self._parking = select.epoll()
        self._tasks: trio.Nursery | None = None
        self._drained = trio.Event()
        self._life = trio.CancelScope(shield=True)
        self._now = now
        self._common: tuple[int, bytes] = (-1, b"")

    async def hold_connections(self, task_status: trio.TaskStatus[None]) -> None:
        """Own the connections' nursery. It is shielded, so that cancelling the server only begins to drain it."""
        with self._life, contextlib.closing(self._parking):
            async with trio.open_nursery() as watching:
                watching.start_soon(self._sweep)
                watching.start_soon(self._watch)
                async with trio.open_nursery() as self._tasks:
                    task_status.started()
                    await self._drained.wait()
                watching.cancel_scope.cancel()
        if self._life.cancelled_caught:
            log.warning("requests cut at the end of the grace", grace_s=self.limits.grace_s)

    def drain(self) -> None:
        """Begin the end: idle connections close now, every answer is its connection's last, the grace runs."""
        self.draining = True
        self._life.deadline = trio.current_time() + self.limits.grace_s
        self._drained.set()
        for connection in list(self.idle.values()):
            if connection.served:
                connection.close()
            else:
                self.unpark(connection)
                self.start(connection)  # which gives it a moment to ask

    # --- parked connections ---

    def park(self, connection: "_Connection") -> None:
        """Nothing is to be done for it until it sends something."""
        fd = connection.fileno
        connection.read_due = trio.current_time() + self.limits.idle_timeout_s
        self.idle[fd] = connection
        self._parking.register(fd, select.EPOLLIN)

    def unpark(self, connection: "_Connection") -> None:
        del self.idle[connection.fileno]
        self._parking.unregister(connection.fileno)
        connection.read_due = math.inf

    async def _watch(self) -> None:
        """Serve parked connections that have input: on the spot if that can be done, else by a task."""
        while True:
            await trio.lowlevel.wait_readable(self._parking.fileno())
            idle_due = trio.current_time() + self.limits.idle_timeout_s
            for fd, _ in self._parking.poll(0, TURN_MAX):
                connection = self.idle[fd]
                if connection.serve_now():
                    connection.read_due = idle_due
                    self.idle[fd] = self.idle.pop(fd)  # now the last
                elif not connection.ended:
                    self.unpark(connection)
                    self.start(connection)
                else:
                    connection.close()

    def start(self, connection: "_Connection") -> None:
        assert self._tasks is not None
        self._tasks.start_soon(connection.run)

    async def accept(self, listener: trio.SocketListener) -> None:
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    if error.errno not in ACCEPT_WAITED_OUT:
                        raise
                    log.warning("cannot accept, waiting", error=str(error), wait_s=LISTEN_AGAIN_S)
                    await trio.sleep(LISTEN_AGAIN_S)
                else:
                    self._admit(stream)

    def _admit(self, stream: trio.SocketStream) -> None:
        sock = socket.socket(fileno=stream.socket.detach())
        sock.setblocking(False)
        full = len(self.connections) >= self.limits.connections_max
        if full:
            self.on_limit("connections_max")
        if full and not self._make_room():
            # Answered without reading and without waiting, so that a flood of connections costs next to nothing.
            answer = problem(503, "too-many-connections", "try again in a moment", [(b"retry-after", b"1")])
            head = answer_head(*answer[:2], self.common_lines(), None, False, len(answer.body))
            with contextlib.suppress(OSError), sock:
                sock.send(head.data + answer.body)
            return
        connection = _Connection(self, sock)
        self.connections.add(connection)
        if self.draining or self.security is not None:
            self.start(connection)
        else:
            self.park(connection)

    def _make_room(self) -> bool:
        """Close the connection that has been idle longest, so that idle ones never keep working ones out."""
        if not self.idle:
            return False
        next(iter(self.idle.values())).close()
        return True

    async def _sweep(self) -> None:
        """End the connections whose time is over.

        One look around instead of a timer per wait: entering a cancel scope with a deadline costs 7 us, several times
        per request, and a limit of ten seconds needs no microsecond's precision.
        """
        while True:
            limits = self.limits
            times_s = (limits.header_timeout_s, limits.body_timeout_s, limits.idle_timeout_s, limits.write_timeout_s)
            await beat(min(min(times_s) / 8, SWEEP_S_MAX))
            instant = trio.current_time()
            for connection in list(self.connections):
                if instant >= connection.read_due or instant >= connection.write_due:
                    connection.expire()

    def common_lines(self) -> bytes:
        """The headers that every answer has; written once a second."""
        second = int(self._now())
        if second != self._common[0]:
            date = formatdate(second, usegmt=True).encode()
            self._common = (second, b"server: zoned\r\ndate: " + date + b"\r\n")
        return self._common[1]

    def understood(self, head: bytes, block: bytes) -> Request | None:
        """A head whose headers say nothing about the connection or the coding; the first line may be another one's.

        `block` is the head without its first line. Raises Refused."""
        if len(head) > self.limits.header_bytes_max:
            return None
        known = self.blocks.get(block)
        if known is not None:
            return known
        request = parse_head(head, self.limits)
        if not request.keep_alive or request.body_bytes is None or request.expects_continue:
            return None
        if len(block) <= BLOCK_BYTES_MAX:
            if len(self.blocks) >= BLOCKS_MAX:
                self.blocks.clear()
            self.blocks[block] = request
        return request


class _Connection:
    """One client: its socket, its input not yet understood, its output not yet sent, and what it waits for."""

    __slots__ = (
        "_began",
        "_client_name",
        "_exchange",
        "_late",
        "_linger",
        "_out",
        "_request",
        "_server",
        "_sock",
        "buffer",
        "client",
        "ended",
        "fileno",
        "gone",
        "node",
        "peer",
        "read_due",
        "scope",
        "served",
        "server_address",
        "write_due",
    )

    def __init__(self, server: HttpServer, sock: socket.socket) -> None:
        self._server = server
        self._sock: socket.socket | SecuredSocket = sock
        self._out: list[bytes] = []
        self._request: Request | None = None  # being answered
        self._exchange: Exchange | None = None  # by the application
        self._began = 0.0
        self._late = ""  # what the sweep ended: "read" or "write"
        self._linger = False
        self.fileno = sock.fileno()
        self.scope = trio.CancelScope()
        self.buffer = bytearray()
        self.ended = False  # the client sends no more
        self.gone = False  # and takes no more
        self.served = False  # at least one request was taken
        self.read_due = self.write_due = math.inf
        self.node = ""  # whom the client's certificate names
        self.client, self.server_address, self.peer = addresses_of(sock)
        self._client_name = self.client[0] if self.client else "unix"

    def serve_now(self) -> bool:
        """Take input, and answer it without waiting if it is whole lookups. False: it needs a task, or has ended.

        What is not answered is left in the buffer and the output, as the task expects them.
        """
        server = self._server
        try:
            data = self._sock.recv(READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            self.ended = True
            return False
        out: list[bytes] = []
        at = 0
        if server.lookup is not None:
            if server.on_request is not None:
                self._began = trio.current_time()
            while at < len(data) and len(out) < server.limits.pipeline_max:
                answer, end = self._look_up(data, at)
                if answer is None:
                    break
                out.append(answer)
                at = end
        sent = 0
        if out:
            self.served = True
            whole = out[0] if len(out) == 1 else b"".join(out)
            try:
                sent = self._sock.send(whole)
            except OSError:
                pass  # the task meets the same error, and knows what to do
            if sent < len(whole):
                self._out.append(whole[sent:])
        if at < len(data):
            self.buffer += data[at:] if at else data
        return not self._out and not self.buffer

    def _look_up(self, data: bytes, at: int) -> tuple[bytes | None, int]:
        """The answer to the request that begins at `at`, ready for the wire, and where the request ends.

        None: it is no plain lookup, or not all there. Let the task see what it is.
        """
        server = self._server
        assert server.lookup is not None
        end, line = data.find(b"\r\n\r\n", at) + 4, PLAIN.match(data, at)
        if end < 4 or line is None:
            return None, at
        method, target = line.groups()
        try:
            request = server.understood(data[at:end], data[line.end() : end])
            if request is None or request.body_bytes is None or bool(request.body_bytes) is not (method == b"POST"):
                return None, at
            body_end = end + request.body_bytes
            if len(data) < body_end:
                return None, at
            found = server.lookup(method, target, request.headers, self._client_name, data[end:body_end])
            if found is None:
                return None, at
            answer = prepared_answer(found, server.common_lines(), method == b"HEAD")
        except Exception:
            return None, at  # the task comes to the same fault, and answers for it
        self._record_lookup(method, target, found)
        return answer, body_end

    def close(self) -> None:
        """The end of a parked connection."""
        self._server.unpark(self)
        self._server.connections.discard(self)
        self._sock.close()

    async def run(self) -> None:
        """Serve until the connection ends or can be parked."""
        parked = False
        self.scope = trio.CancelScope()
        try:
            with self.scope:
                try:
                    if await self._is_secure():
                        parked = await self._serve()
                except Refused as refused:
                    await self.refuse(refused)
            if self._late:
                await self._end_late()
            if self._linger:
                await self._listen_on()
        except ClientGone:
            pass  # the usual end of a connection; what was in flight has been recorded
        finally:
            if parked:
                self._server.park(self)
            else:
                self._sock.close()
                self._server.connections.discard(self)

    async def _is_secure(self) -> bool:
        """Shakes hands first, where that is asked for. False: it came to nothing."""
        security = self._server.security
        if security is None or isinstance(self._sock, SecuredSocket):
            return True
        self.read_due = trio.current_time() + self._server.limits.header_timeout_s
        try:
            self._sock, self.node = await shake_hands(self._sock, security)
        except (OSError, ValueError) as error:
            # The reason is worth a line: it says what to change on the other side.
            log.info("TLS refused", client=self._client_name, problem=str(error))
            return False
        finally:
            self.read_due = math.inf
        return True

    async def _end_late(self) -> None:
        """Say 408 if the sweep ended a wait for input and nothing was said yet; otherwise only record the end."""
        exchange, request = self._exchange, self._request
        if self._late == "write" or (exchange is not None and exchange.head is not None):
            # Answers of the lookup are recorded when they are made.
            if exchange is not None:
                self._record(request, exchange.status, exchange.sent_bytes, exchange.headers)
        elif self.buffer or request is not None:
            what = "body" if request is not None else "headers"
            with trio.move_on_after(LINGER_S):
                await self.refuse(Refused(408, "request-timeout", f"send the {what} faster"))

    # --- the loop ---

    async def _serve(self) -> bool:
        """Answer requests while there are any. True: the connection waits for the next one; False: it is to end."""
        limits = self._server.limits
        in_a_row = 0
        while (head := await self._next_head()) is not None:
            self._began = trio.current_time()
            self.served = True
            self._request = request = parse_head(head, limits)
            if not await self._answer(request):
                break
            self._request = self._exchange = None
            in_a_row += 1
            if in_a_row == limits.pipeline_max:
                in_a_row = 0
                await self.flush()
                await trio.lowlevel.checkpoint()
        await self.flush()
        return self._request is None and not (self.buffer or self.ended or self._server.draining)

    async def _next_head(self) -> bytes | None:
        """The next whole head; None when the client sends nothing (more), or the server wants no further request."""
        server, limits = self._server, self._server.limits
        scanned = 0
        due = math.inf
        while (head := take_head(self.buffer, scanned, limits)) is None:
            if self._out:
                await self.flush()
            scanned = len(self.buffer)
            if scanned:
                if due == math.inf:
                    self._began = trio.current_time()
                    due = self._began + limits.header_timeout_s
                open_ = await self.fill(due)
            elif not server.draining:
                return None  # to be parked
            elif self.served:
                # A request that has already come is still answered; nothing else is waited for.
                open_ = self.fill_now() and len(self.buffer) > 0
            else:
                open_ = await self.fill(trio.current_time() + FIRST_REQUEST_S)
            if not open_:
                return None
        if isinstance(self._sock, SecuredSocket) and self._sock.is_outdated:
            self.ended = True  # the client asks again on another connection, if it is still let in
            return None
        return head

    async def _answer(self, request: Request) -> bool:
        """Have one request answered by the lookup or the application. False: this was the connection's last."""
        server = self._server
        exchange: Exchange | None = None
        try:
            if server.lookup is not None and request.body_bytes == 0 and request.method in READS:
                answer = server.lookup(request.method, request.target, request.headers, self._client_name, b"")
                if answer is not None:
                    return self._queue_prepared(answer, request)
            exchange = self._exchange = Exchange(self, request, server.limits, request_id(request.headers).decode())
            await server.app(exchange.scope(), exchange.receive, exchange.send)
        except Exception as error:
            # The one place per request where anything may be caught: a fault in answering one client is not a fault
            # of the daemon, and its state is as the application left it.
            if exchange is None or not (exchange.deserted() or exchange.refused):
                return self._fail(request, exchange, error)
            if not isinstance(error, ClientGone):
                log.info("request given up", request_id=exchange.request_id, error=repr(error))
        assert exchange is not None
        exchange.close()
        if exchange.head is None:
            if exchange.refused is not None:
                await self.refuse(exchange.refused)
                return False
            if not exchange.deserted():
                return self._fail(request, exchange, AnswerFault("the application returned without an answer"))
        self._record(request, exchange.status, exchange.sent_bytes, exchange.headers)
        return exchange.complete and await exchange.finish_body()

    def _queue(self, answer: Answer, request: Request | None, keep_alive: bool = True) -> bool:
        """Put a whole answer into the output; it leaves with the next flush. Returns whether the connection goes on."""
        status, headers, body = answer
        keep_alive = keep_alive and request is not None and request.keep_alive and not self._server.draining
        common = self._server.common_lines()
        head = answer_head(status, headers, common, request, keep_alive, len(body))
        if head.body_bytes is not None and head.body_bytes != len(body):
            raise AnswerFault("the body is not as long as Content-Length says")
        sends_body = head.framing is Framing.LENGTH
        self._out.append(head.data + body if sends_body else head.data)
        self._record(request, status, len(body) if sends_body else 0, headers)
        return head.keep_alive

    def _queue_prepared(self, answer: Prepared, request: Request) -> bool:
        """The same for the answer of a lookup."""
        keep_alive = request.keep_alive and not self._server.draining
        connection = b"" if keep_alive else b"connection: close\r\n"
        if keep_alive and not request.http11:
            connection = b"connection: keep-alive\r\n"
        is_head = request.method == b"HEAD"
        self._out.append(prepared_answer(answer, self._server.common_lines(), is_head, connection))
        self._record_lookup(request.method, request.target, answer)
        return keep_alive

    def _fail(self, request: Request, exchange: Exchange | None, error: Exception) -> bool:
        """Log once, and say 500 if nothing has been said yet. A half-sent answer is cut, so that it looks cut."""
        self._late = ""  # if the fault came out of being ended late, this is already the answer
        known = exchange.request_id if exchange is not None else request_id(request.headers).decode()
        path = path_of(request)
        log.error("request failed", request_id=known, method=request.method.decode(), path=path, exc_info=error)
        if exchange is not None and exchange.head is not None:
            self._out.clear()
            self._record(request, exchange.status, exchange.sent_bytes, exchange.headers)
            return False
        detail = f"the fault is the server's; its log tells more under {known}"
        # The body may be unread, so what follows in the input is not known to be a request.
        self._linger = exchange is not None and not exchange.body.done
        return self._queue(problem(500, "internal-error", detail), request, keep_alive=not self._linger)

    async def refuse(self, refused: Refused) -> None:
        """Say what is wrong, and that this is the end."""
        self._linger = True
        if refused.code in LIMITS:
            self._server.on_limit(LIMITS[refused.code])
        answer = problem(refused.status, refused.code, refused.detail)
        self._queue(answer, self._request, keep_alive=False)
        await self.flush()

    def _record(
        self, request: Request | None, status: int, sent_bytes: int, headers: Sequence[tuple[bytes, bytes]]
    ) -> None:
        on_request = self._server.on_request
        if on_request is not None:
            method, path = ("-", "-") if request is None else (request.method.decode(), path_of(request))
            duration_s = trio.current_time() - self._began
            on_request(RequestRecord(method, path, status, sent_bytes, duration_s, self._client_name, headers))

    def _record_lookup(self, method: bytes, target: bytes, answer: Prepared) -> None:
        on_request = self._server.on_request
        if on_request is not None:
            path = target.partition(b"?")[0].decode("latin-1")
            sent_bytes, duration_s = 0 if method == b"HEAD" else len(answer.body), trio.current_time() - self._began
            headers = ((b"zone-source", answer.source.encode()),) if answer.source else ()
            on_request(
                RequestRecord(method.decode(), path, answer.status, sent_bytes, duration_s, self._client_name, headers)
            )

    # --- the socket ---

    async def fill(self, due: float) -> bool:
        """Wait until `due` for input and add it to the buffer. False: the client sends no more.

        Every read waits first, even if the bytes are there: so every connection lets the others run between two reads.
        """
        if self.ended:
            return False
        self.read_due = due
        try:
            await trio.lowlevel.wait_readable(self._sock)
        finally:
            self.read_due = math.inf
        if self.scope.cancel_called:
            # Ended in the very moment when input came: from here on it is too late to begin anything with it.
            await trio.lowlevel.checkpoint_if_cancelled()
        return self.fill_now()

    def fill_now(self) -> bool:
        """Add to the buffer what has already come. False: the client sends no more."""
        try:
            data = self._sock.recv(READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        self.buffer += data
        self.ended = not data
        return not self.ended

    def linger(self) -> None:
        self._linger = True

    @property
    def draining(self) -> bool:
        return self._server.draining

    def common_lines(self) -> bytes:
        return self._server.common_lines()

    def queue(self, pieces: Sequence[bytes]) -> None:
        self._out.extend(pieces)

    async def flush(self) -> None:
        """Send all output. Raises ClientGone; the rest is then lost, with the connection."""
        if not self._out:
            return
        data = b"".join(self._out)
        self._out.clear()
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise self._lose(error) from error
        if sent < len(data):
            await self._send_rest(memoryview(data)[sent:])

    async def _send_rest(self, rest: memoryview) -> None:
        self.write_due = trio.current_time() + self._server.limits.write_timeout_s
        try:
            while rest:
                await trio.lowlevel.wait_writable(self._sock)
                try:
                    rest = rest[self._sock.send(rest) :]
                except BlockingIOError:
                    continue
        except OSError as error:
            raise self._lose(error) from error
        finally:
            self.write_due = math.inf

    def _lose(self, error: OSError) -> ClientGone:
        self.gone = self.ended = True
        return ClientGone(error.errno, f"the client is gone: {error.strerror}")

    def expire(self) -> None:
        """The sweep found a wait that is over its time. Everything in the connection ends, the application with it."""
        if self.fileno in self._server.idle:
            self._server.on_limit("idle_timeout_s")
            self.close()
            return
        late = "write" if self.write_due < math.inf else "body" if self._request is not None else "header"
        self._server.on_limit(f"{late}_timeout_s")
        self._late = "write" if self.write_due < math.inf else "read"
        self.gone = self.gone or self._late == "write"
        self.scope.cancel()

    async def _listen_on(self) -> None:
        """Read and forget for a moment, so that the last answer is not destroyed by a reset."""
        with trio.move_on_after(LINGER_S):
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError:
                return
            forgotten = len(self.buffer)
            while forgotten < LINGER_BYTES:
                self.buffer.clear()
                if not await self.fill(math.inf):
                    return
                forgotten += len(self.buffer)
