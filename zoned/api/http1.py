"""HTTP/1 as bytes and values: heads, bodies, answers, refusals. Sans-IO.

Intuition: one request is taken off the front of a buffer at a time, so the buffer is the only place where a client can
make us hold anything, and its size is a number in `HttpLimits`. A head is cut at its empty line and handed to llhttp
(through httptools), which is strict; what llhttp lets through and two servers in a row could read differently (several
transfer codings, a missing Host, blanks in the request line, foreign protocols) is refused here. Bodies are decoded by
two small decoders of our own, because llhttp cannot stop at the end of one message, and stopping is what bounds a flood
of pipelined requests. Whatever is refused ends its connection: after a message that is not understood, nobody knows
where the next one starts.

Sources: RFC 9110 (semantics), RFC 9112 (HTTP/1.1 messages), RFC 9457 (problem details).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus
from typing import NamedTuple, Protocol

import httptools
import orjson

Headers = list[tuple[bytes, bytes]]

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# llhttp takes several blanks, RTSP and HTTP/0.9; this pattern does not. The target is visible ASCII (RFC 9112, 3.2).
REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([\x21-\x7e]+) HTTP/([0-9]\.[0-9])\r\n")
ABSOLUTE_FORM = re.compile(rb"https?://([^/?]*)(/?)(.*)", re.IGNORECASE)
HOST = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*")
# A line end that is not CRLF, or a NUL: no honest head holds one, and waiting for its end would only waste a time-out.
# A CR at the very end may still become a CRLF.
BROKEN_LINE = re.compile(rb"\r[^\n]|(?<!\r)\n|\0")
# Names whose value decides about framing or the connection; all others are the application's business.
DECISIVE = frozenset((b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"))

CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})(;[\t\x20-\x7e]*)?")
TRAILER = re.compile(TOKEN + rb":[\t\x20-\x7e\x80-\xff]*")
# What frames a message has no place behind it (RFC 9110, 6.5.1): whoever believed it would see another request.
FRAMING_FIELD = re.compile(rb"(transfer-encoding|content-length|host)\s*:", re.IGNORECASE)
CHUNK_LINE_BYTES_MAX = 1024  # a size with its extensions, or one trailer
CHUNK_EXTRA_BYTES_MAX = 16 * 1024  # extensions and trailers of one body; node.js has the same 16 KiB
# Method, two blanks, the version: what a request line holds beside its target.
REQUEST_LINE_EXTRA_BYTES = 64


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one listener grants its clients. Seconds and bytes; each one is a refusal or a close.

    Memory for input is at most `connections_max * (header_bytes_max + READ_BYTES)`, plus the bodies that applications
    choose to gather (each at most `body_bytes_max`).
    """

    target_bytes_max: int = 8 * 1024  # then 414; RFC 9110 asks for at least 8,000
    header_bytes_max: int = 32 * 1024  # the whole head, then 431; a large service catalogue token is some 8 KiB
    headers_max: int = 100  # lines, then 431
    body_bytes_max: int = 4 * 1024 * 1024  # then 413; decoded bytes, with or without Content-Length
    header_timeout_s: float = 10.0  # from the first byte of a head to its last, then 408
    body_timeout_s: float = 30.0  # spent waiting for one body, then 408
    idle_timeout_s: float = 75.0  # between requests, then closed without a word
    write_timeout_s: float = 30.0  # for the client to take one piece of an answer, then closed
    connections_max: int = 10_000  # beyond: the longest idle one is closed, or the new one is told 503
    pipeline_max: int = 32  # answers from one buffer before they are sent and others get their turn
    grace_s: float = 10.0  # for requests in flight at shutdown


class Refused(Exception):
    """The server itself answers `status`, and the connection must be closed: its input can no longer be trusted."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail


class AnswerFault(Exception):
    """The application gave an answer that cannot be put on the wire. Nothing of it was sent by the refused call."""


@dataclass(frozen=True, slots=True)
class Request:
    """A head that was understood. `target` is in origin form ("/path?query"), or "*"; header names are lower case."""

    method: bytes
    target: bytes
    headers: Headers
    http11: bool
    keep_alive: bool
    expects_continue: bool
    body_bytes: int | None  # None: chunked, so unknown until its end


class Answer(NamedTuple):
    """A whole answer. A tuple and not a dataclass: one is made per hot lookup, and this costs a third."""

    status: int
    headers: Headers
    body: bytes


class Prepared(NamedTuple):
    """A whole answer of a lookup: its header lines as they go on the wire, each with its CRLF. 200 or 304.

    `source` is where a record was found; empty for answers of more than one.
    """

    status: int
    lines: bytes
    body: bytes
    source: str = ""

    def headers(self) -> Headers:
        return [(name, value) for name, _, value in (line.partition(b": ") for line in self.lines.splitlines())]


class RequestRecord(NamedTuple):
    """One served request, for the access log. A tuple and not a dataclass: one is made per request."""

    method: str  # "-" if the head was not understood
    path: str  # without the query, which may hold secrets
    status: int  # 0: the client was gone before an answer
    sent_bytes: int
    duration_s: float
    client: str  # IP address, or "unix"
    headers: Sequence[tuple[bytes, bytes]] = ()  # of the answer, as far as the application gave them


# --- heads -----------------------------------------------------------------------------------------------------------


def take_head(buffer: bytearray, scanned: int, limits: HttpLimits) -> bytes | None:
    """Cut the next head, with its empty line, off the buffer; None when it is not all there.

    `scanned` is the length that was looked at in vain before, so that a head which trickles in is not searched anew.
    """
    while buffer.startswith(b"\r\n"):
        del buffer[:2]  # RFC 9112, 2.2: empty lines before a request are forgiven, in however many pieces they come
        scanned = 0
    end = buffer.find(b"\r\n\r\n", max(0, scanned - 3))
    if 0 <= end <= limits.header_bytes_max - 4:
        head = bytes(buffer[: end + 4])
        del buffer[: end + 4]
        return head
    line_bytes_max = limits.target_bytes_max + REQUEST_LINE_EXTRA_BYTES
    if len(buffer) > line_bytes_max and b"\r\n" not in buffer[:line_bytes_max]:
        raise target_too_long(limits)
    if end >= 0 or len(buffer) > limits.header_bytes_max:
        raise Refused(431, "headers-too-large", f"send at most {limits.header_bytes_max} bytes of headers")
    if BROKEN_LINE.search(buffer, max(0, scanned - 1)):
        raise Refused(400, "bad-request", "lines end with CR LF and hold neither CR, LF nor NUL")
    return None


def target_too_long(limits: HttpLimits) -> Refused:
    return Refused(414, "target-too-long", f"the target may have {limits.target_bytes_max} bytes")


class _HeaderSink:
    """What httptools calls back. It hands one header at a time."""

    __slots__ = ("headers",)

    def __init__(self) -> None:
        self.headers: Headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.rstrip(b" \t")))


def parse_head(head: bytes, limits: HttpLimits) -> Request:
    """Understand one whole head. Raises Refused."""
    line = REQUEST_LINE.match(head)
    if line is None:
        raise Refused(400, "bad-request", "the first line must be METHOD TARGET HTTP/1.1, with single blanks, in ASCII")
    method, target, version = line.groups()
    if version not in (b"1.1", b"1.0"):
        raise Refused(505, "http-version-not-supported", "use HTTP/1.1 or HTTP/1.0")
    if len(target) > limits.target_bytes_max:
        raise target_too_long(limits)
    if head.count(b"\r\n") - 2 > limits.headers_max:
        raise Refused(431, "too-many-headers", f"send at most {limits.headers_max} header lines")
    sink = _HeaderSink()
    try:
        # A fresh parser per head costs nothing measurable and can carry nothing over from one request to the next.
        httptools.HttpRequestParser(sink).feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # no other protocol is spoken here; RFC 9110, 7.8 lets a server ignore the offer
    except httptools.HttpParserInvalidMethodError as error:
        raise Refused(501, "method-not-implemented", "no such method is known here") from error
    except httptools.HttpParserError as error:
        raise Refused(400, "bad-request", f"malformed head: {error}") from error
    http11 = version == b"1.1"
    return _weigh(method, target, sink.headers, http11, limits)


def _weigh(method: bytes, target: bytes, headers: Headers, http11: bool, limits: HttpLimits) -> Request:
    """Decide what a well-formed head means for the connection. Raises Refused."""
    keep_alive = http11
    expects_continue = False
    body_bytes: int | None = 0
    hosts = lengths = 0
    for name, value in headers:
        if name not in DECISIVE:
            continue
        if name == b"host":
            hosts += 1
            if not HOST.fullmatch(value):
                raise Refused(400, "bad-host", "the Host header is not a host name with an optional port")
        elif name == b"content-length":
            lengths += 1
            if not value.isdigit():
                raise Refused(400, "bad-content-length", "Content-Length must be a decimal number")
            body_bytes = int(value)
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked" or not http11 or body_bytes is None:
                raise Refused(400, "bad-transfer-encoding", "the only transfer coding is one chunked, in HTTP/1.1")
            body_bytes = None
        elif name == b"connection":
            options = [option.strip() for option in value.lower().split(b",")]
            keep_alive = b"close" not in options and (keep_alive or b"keep-alive" in options)
        elif http11:
            if value.lower() != b"100-continue":
                raise Refused(417, "expectation-failed", "the only expectation met is 100-continue")
            expects_continue = True
    # llhttp refuses these two as well; smuggling is worth a second lock that does not depend on its version.
    if lengths > 1 or (lengths and body_bytes is None):
        raise Refused(400, "bad-framing", "send one Content-Length, or Transfer-Encoding: chunked, not both")
    if hosts > 1 or (http11 and not hosts):
        raise Refused(400, "bad-host", "send exactly one Host header")
    if body_bytes is not None and body_bytes > limits.body_bytes_max:
        raise body_too_large(limits)
    target, headers = _origin_form(method, target, headers)
    return Request(method, target, headers, http11, keep_alive, expects_continue and body_bytes != 0, body_bytes)


def _origin_form(method: bytes, target: bytes, headers: Headers) -> tuple[bytes, Headers]:
    """Bring the four forms of a target (RFC 9112, 3.2) to one. The authority of an absolute form replaces Host."""
    if method == b"CONNECT":
        raise Refused(501, "method-not-implemented", "this server is no tunnel")
    if b"#" in target:
        raise Refused(400, "bad-target", "a target has no fragment: percent-encode #")
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return target, headers
    absolute = ABSOLUTE_FORM.fullmatch(target)
    if absolute is None or not absolute[1] or not HOST.fullmatch(absolute[1]):
        raise Refused(400, "bad-target", "the target must start with / or be a whole http URL")
    others = [header for header in headers if header[0] != b"host"]
    return b"/" + absolute[3], [(b"host", absolute[1]), *others]


# --- bodies ----------------------------------------------------------------------------------------------------------


class Body(Protocol):
    """A body being taken off a buffer. Once its last byte is taken it is `done`, and the next head is in front."""

    done: bool

    @property
    def left_bytes(self) -> int | None:
        """What is still to be taken; None when nobody can tell."""

    def take(self, buffer: bytearray) -> bytes:
        """Remove from the buffer, and return, what it holds of the body; b"" when there is nothing. Raises Refused."""


class LengthBody:
    """A body of known length, already found to be within bounds."""

    __slots__ = ("done", "left_bytes")

    def __init__(self, body_bytes: int) -> None:
        self.left_bytes = body_bytes
        self.done = body_bytes == 0

    def take(self, buffer: bytearray) -> bytes:
        piece = bytes(buffer[: self.left_bytes])
        del buffer[: len(piece)]
        self.left_bytes -= len(piece)
        self.done = self.left_bytes == 0
        return piece


class _Next(Enum):
    """What a chunked body continues with."""

    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()


class ChunkedBody:
    """A chunked body. Extensions and trailers are checked, bounded and dropped: nothing here has a use for them."""

    __slots__ = ("_extra_bytes", "_left", "_limits", "_next", "_total_bytes", "done")

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._next = _Next.SIZE
        self._left = 0  # of the present chunk
        self._total_bytes = 0
        self._extra_bytes = 0
        self.done = False

    @property
    def left_bytes(self) -> int | None:
        return 0 if self.done else None

    def take(self, buffer: bytearray) -> bytes:
        pieces: list[bytes] = []
        while not self.done and buffer:
            if self._next is _Next.DATA:
                piece = bytes(buffer[: self._left])
                del buffer[: len(piece)]
                pieces.append(piece)
                self._left -= len(piece)
                if self._left == 0:
                    self._next = _Next.DATA_END
            else:
                line = self._take_line(buffer)
                if line is None:
                    break
                self._read_line(line)
        return b"".join(pieces)

    def _take_line(self, buffer: bytearray) -> bytes | None:
        end = buffer.find(b"\r\n", 0, CHUNK_LINE_BYTES_MAX)
        # Up to and without the CRLF; a CR at the very end may be half of it.
        line = bytes(buffer[: end if end >= 0 else CHUNK_LINE_BYTES_MAX])
        if BROKEN_LINE.search(line) or (end >= 0 and line.endswith(b"\r")):
            raise bad_chunk("lines end with CR LF")
        if end >= 0:
            del buffer[: end + 2]
            return line
        if len(line) == CHUNK_LINE_BYTES_MAX:
            raise bad_chunk(f"a line may have {CHUNK_LINE_BYTES_MAX} bytes")
        return None

    def _read_line(self, line: bytes) -> None:
        match self._next:
            case _Next.SIZE:
                size = CHUNK_SIZE.fullmatch(line)
                if size is None:
                    raise bad_chunk("a chunk starts with its size, at most 8 hexadecimal digits")
                self._count_extra(size[2])
                self._left = int(size[1], 16)
                self._total_bytes += self._left
                if self._total_bytes > self._limits.body_bytes_max:
                    raise body_too_large(self._limits)
                self._next = _Next.DATA if self._left else _Next.TRAILER
            case _Next.TRAILER:
                if line and (not TRAILER.fullmatch(line) or FRAMING_FIELD.match(line)):
                    raise bad_chunk("malformed trailer")
                self._count_extra(line)
                self.done = not line
            case _:
                if line:
                    raise bad_chunk("a chunk is longer than its size says")
                self._next = _Next.SIZE

    def _count_extra(self, extra: bytes | None) -> None:
        self._extra_bytes += len(extra or b"")
        if self._extra_bytes > CHUNK_EXTRA_BYTES_MAX:
            raise bad_chunk(f"extensions and trailers may have {CHUNK_EXTRA_BYTES_MAX} bytes")


# The limit, by its name in HttpLimits, that a refusal with this code speaks of.
LIMITS = {
    "target-too-long": "target_bytes_max",
    "headers-too-large": "header_bytes_max",
    "too-many-headers": "headers_max",
    "body-too-large": "body_bytes_max",
}


def body_of(request: Request, limits: HttpLimits) -> Body:
    return ChunkedBody(limits) if request.body_bytes is None else LengthBody(request.body_bytes)


def body_too_large(limits: HttpLimits) -> Refused:
    return Refused(413, "body-too-large", f"send at most {limits.body_bytes_max} bytes of body")


def bad_chunk(detail: str) -> Refused:
    return Refused(400, "bad-chunk", f"malformed chunked body: {detail}")


# --- answers ---------------------------------------------------------------------------------------------------------


class Framing(Enum):
    """How the client learns where an answer's body ends."""

    NONE = auto()  # it has none: HEAD, 204, 304
    LENGTH = auto()
    CHUNKED = auto()
    CLOSE = auto()  # by the end of the connection: HTTP/1.0 and no length known


class AnswerHead(NamedTuple):
    """A head ready for the wire, and what it promises."""

    data: bytes
    framing: Framing
    body_bytes: int | None  # with Framing.LENGTH
    keep_alive: bool
    status: int


# Headers that the server sets itself. An application's values for these are read or dropped, never copied.
OWN = frozenset((b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"date", b"server"))
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus}


def answer_head(
    status: int,
    headers: Iterable[tuple[bytes, bytes]],
    common: bytes,
    request: Request | None,
    keep_alive: bool,
    whole_bytes: int | None,
) -> AnswerHead:
    """Write a head. `common` is the server's own lines; `whole_bytes` the body's length when all of it is at hand.

    Raises AnswerFault if a header would split the head in two or the numbers are none.
    """
    if not 200 <= status <= 599:
        raise AnswerFault(f"status {status} is no final answer")
    lines = [_STATUS_LINES.get(status) or f"HTTP/1.1 {status} ".encode()]
    declared: int | None = None
    for name, value in headers:
        if name.lower() not in OWN:
            lines.append(b"%b: %b" % (name, value))
        elif name.lower() == b"content-length":
            if not value.isdigit() or declared is not None:
                raise AnswerFault("Content-Length must be one decimal number")
            declared = int(value)
        elif name.lower() == b"connection" and b"close" in value.lower():
            keep_alive = False
    joined = b"\r\n".join(lines)
    # One look over the whole block instead of three per value.
    if not joined.count(b"\n") == joined.count(b"\r") == len(lines) - 1 or b"\0" in joined:
        raise AnswerFault("a header holds CR, LF or NUL")
    tail, framing, body_bytes = _frame(status, request, declared, whole_bytes)
    if framing is Framing.CLOSE:
        keep_alive = False
    if not keep_alive:
        tail += b"connection: close\r\n"
    elif request is not None and not request.http11:
        tail += b"connection: keep-alive\r\n"
    return AnswerHead(b"%b\r\n%b%b\r\n" % (joined, common, tail), framing, body_bytes, keep_alive, status)


def _frame(
    status: int, request: Request | None, declared: int | None, whole_bytes: int | None
) -> tuple[bytes, Framing, int | None]:
    """The framing line, the framing, and the length promised (RFC 9112, 6)."""
    if status == 204:
        return b"", Framing.NONE, None
    if status == 304 or (request is not None and request.method == b"HEAD"):
        # An empty body says nothing about the length that GET would have.
        length = declared if declared is not None else whole_bytes or None
        return (b"" if length is None else b"content-length: %d\r\n" % length), Framing.NONE, None
    length = declared if declared is not None else whole_bytes
    if length is not None:
        return b"content-length: %d\r\n" % length, Framing.LENGTH, length
    if request is None or request.http11:
        return b"transfer-encoding: chunked\r\n", Framing.CHUNKED, None
    return b"", Framing.CLOSE, None


def prepared_answer(answer: Prepared, common: bytes, is_head: bool, connection: bytes = b"") -> bytes:
    """The whole message; `connection` is the line about the connection, if any. Raises AnswerFault as `answer_head`."""
    status, lines, body, _ = answer
    if not lines.count(b"\r\n") == lines.count(b"\n") == lines.count(b"\r") or b"\0" in lines:
        raise AnswerFault("a header holds CR, LF or NUL")
    if status == 304:
        return b"%b\r\n%b%b%b\r\n" % (_STATUS_LINES[status], lines, common, connection)
    return b"%b\r\n%b%bcontent-length: %d\r\n%b\r\n%b" % (
        *(_STATUS_LINES[status], lines, common, len(body), connection),
        b"" if is_head else body,
    )


def problem(status: int, code: str, detail: str, extra: Headers | None = None) -> Answer:
    """An answer of the server itself, as RFC 9457 writes it."""
    title = HTTPStatus(status).phrase
    fields = {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code}
    body = orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
    return Answer(status, [(b"content-type", b"application/problem+json"), *(extra or [])], body)
