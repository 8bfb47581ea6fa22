"""The sans-IO half of the server, by value: which heads and bodies are understood, which are refused, and as what."""

from collections.abc import Iterable

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoned.api.http1 import (
    AnswerFault,
    Body,
    ChunkedBody,
    Framing,
    HttpLimits,
    LengthBody,
    Refused,
    Request,
    answer_head,
    parse_head,
    take_head,
)

LIMITS = HttpLimits(header_bytes_max=2048, target_bytes_max=256, headers_max=20, body_bytes_max=1000)
START = b"POST / HTTP/1.1\r\nHost: zone\r\n"

UNDERSTOOD = [
    (b"GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n", b"/a?b", True, 0),
    (b"GET / HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n", b"/", False, 0),
    (b"GET / HTTP/1.0\r\n\r\n", b"/", False, 0),
    (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", b"/", True, 0),
    (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", b"/", True, 0),
    (b"GET http://other:81/a?b HTTP/1.1\r\nHost: x\r\n\r\n", b"/a?b", True, 0),
    (b"GET http://other HTTP/1.1\r\nHost: x\r\n\r\n", b"/", True, 0),
    (b"GET http://other?b HTTP/1.1\r\nHost: x\r\n\r\n", b"/?b", True, 0),
    (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", b"*", True, 0),
    (START + b"Content-Length: 1000\r\n\r\n", b"/", True, 1000),
    (START + b"Transfer-Encoding: Chunked\r\n\r\n", b"/", True, None),
    (START + b"Content-Length: 5\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", b"/", True, 5),
]

REFUSED = [
    (400, b"GET /\r\n\r\n"),  # HTTP/0.9
    (400, b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET /\xc3\xa4 HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET relative HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET * HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET http:///a HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET http://user@host/a HTTP/1.1\r\nHost: x\r\n\r\n"),
    (400, b"GET / RTSP/1.0\r\nHost: x\r\n\r\n"),
    (501, b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"),
    (501, b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n"),
    (505, b"GET / HTTP/2.0\r\nHost: x\r\n\r\n"),
    (505, b"GET / HTTP/1.2\r\nHost: x\r\n\r\n"),
    (505, b"PRI * HTTP/2.0\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    (400, START + b"X: a\rb\r\n\r\n"),
    (400, START + b"X: a\nY: b\r\n\r\n"),
    (400, START + b"X: a\0b\r\n\r\n"),
    (400, START + b"X: a\r\n folded\r\n\r\n"),
    (400, START + b"X : a\r\n\r\n"),
    (400, START + b": a\r\n\r\n"),
    (400, START + b"X\r\n\r\n"),
    (400, START + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n"),
    (400, START + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n"),
    (400, START + b"Content-Length: 5, 5\r\n\r\n"),
    (400, START + b"Content-Length: +5\r\n\r\n"),
    (400, START + b"Content-Length: 0x5\r\n\r\n"),
    (400, START + b"Content-Length:\r\n\r\n"),
    (400, START + b"Content-Length: 99999999999999999999999\r\n\r\n"),
    (413, START + b"Content-Length: 1001\r\n\r\n"),
    (400, START + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (400, START + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"),
    (400, START + b"Transfer-Encoding: gzip, chunked\r\n\r\n"),
    (400, START + b"Transfer-Encoding: chunked, gzip\r\n\r\n"),
    (400, START + b"Transfer-Encoding: xchunked\r\n\r\n"),
    (400, START + b"Transfer-Encoding: identity\r\n\r\n"),
    (400, START + b"Transfer-Encoding: \x0bchunked\r\n\r\n"),
    (400, START + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (400, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (417, START + b"Expect: a miracle\r\n\r\n"),
    (431, START + b"X: y\r\n" * 20 + b"\r\n"),
    (414, b"GET /" + b"a" * 256 + b" HTTP/1.1\r\nHost: x\r\n\r\n"),
]


@pytest.mark.parametrize(("head", "target", "keep_alive", "body_bytes"), UNDERSTOOD)
def test_heads_that_are_understood(head, target, keep_alive, body_bytes):
    request = parse_head(head, LIMITS)
    assert (request.target, request.keep_alive, request.body_bytes) == (target, keep_alive, body_bytes)


@pytest.mark.parametrize(("status", "head"), REFUSED)
def test_heads_that_are_refused(status, head):
    with pytest.raises(Refused) as refused:
        parse_head(head, LIMITS)
    assert refused.value.status == status
    assert "\n" not in refused.value.detail


def test_the_authority_of_an_absolute_target_replaces_host():
    request = parse_head(b"GET http://real:81/ HTTP/1.1\r\nA: b\r\nHost: other\r\n\r\n", LIMITS)
    assert request.headers == [(b"host", b"real:81"), (b"a", b"b")]


def test_names_are_lowered_and_values_trimmed():
    request = parse_head(b"GET / HTTP/1.1\r\nHOST: x\r\nX-Y:\t a b \t\r\n\r\n", LIMITS)
    assert request.headers == [(b"host", b"x"), (b"x-y", b"a b")]


def feed_head(data: bytes, cuts: Iterable[int]) -> tuple[bytes, bytes] | int | None:
    """Give the bytes in pieces that end at `cuts`; the head, or the status of its refusal, or None."""
    buffer, scanned, before = bytearray(), 0, 0
    for cut in [*sorted(cuts), len(data)]:
        buffer += data[before:cut]
        before = cut
        try:
            head = take_head(buffer, scanned, LIMITS)
        except Refused as refused:
            return refused.status
        if head is not None:
            return head, bytes(buffer) + data[cut:]
        scanned = len(buffer)
    return None


@given(st.lists(st.integers(0, 60)))
def test_a_head_is_found_wherever_it_is_split(cuts):
    head = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    assert feed_head(b"\r\n\r\n" + head + b"GET /next", cuts) == (head, b"GET /next")


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (414, b"GET /" + b"a" * 400),
        (431, b"GET / HTTP/1.1\r\nX: " + b"a" * 2100),
        (431, b"GET / HTTP/1.1\r\nX: " + b"a" * 2100 + b"\r\n\r\n"),
        (400, b"GET / HTTP/1.1\nHost: x\n\n"),
        (400, b"\x16\x03\x01\x02\x00\x01"),  # TLS on a plain port must not wait for its time-out
        (400, b"GET / HTTP/1.1\r\nX: a\rb"),
        (None, b"GET / HTTP/1.1\r\nX: a\r"),
    ],
)
def test_hopeless_heads_are_refused_before_their_end(status, data):
    assert feed_head(data, []) == status
    assert feed_head(data, range(len(data))) == status


def decode(decoder: Body, data: bytes, cuts: Iterable[int]) -> tuple[bytes, bytes]:
    buffer, got, before = bytearray(), b"", 0
    for cut in [*sorted(cuts), len(data)]:
        buffer += data[before:cut]
        before = max(before, cut)
        got += decoder.take(buffer)
        if decoder.done:
            break
    return got, bytes(buffer) + data[before:]


def llhttp_decodes(data: bytes) -> bytes | None:
    """What the reference makes of a chunked body: the bytes, or None if it refuses or misses the end."""
    pieces: list[bytes] = []
    ends: list[bool] = []

    class Sink:
        def on_body(self, piece):
            pieces.append(piece)

        def on_message_complete(self):
            ends.append(True)

    try:
        httptools.HttpRequestParser(Sink()).feed_data(START + b"Transfer-Encoding: chunked\r\n\r\n" + data)
    except httptools.HttpParserError:
        return None
    return b"".join(pieces) if ends else None


chunk = st.binary(min_size=1, max_size=30).map(lambda piece: b"%x\r\n%b\r\n" % (len(piece), piece))


@given(st.lists(chunk, max_size=5), st.lists(st.integers(0, 150)))
def test_chunked_bodies_are_decoded_as_llhttp_does(chunks, cuts):
    data = b"".join(chunks) + b"0\r\n\r\n"
    got, rest = decode(ChunkedBody(LIMITS), data + b"NEXT", [min(cut, len(data) + 4) for cut in cuts])
    assert (got, rest) == (llhttp_decodes(data), b"NEXT")


@given(st.lists(st.sampled_from([b"0", b"3", b"a", b"\r\n", b"\n", b"\r", b";x=y", b" ", b"abc", b"-", b"T: v"])))
def test_no_chunked_body_is_accepted_that_llhttp_refuses(parts):
    data = b"".join(parts)
    decoder = ChunkedBody(LIMITS)
    try:
        got, rest = decode(decoder, data, [])
    except Refused:
        return
    if decoder.done:
        assert llhttp_decodes(data[: len(data) - len(rest)]) == got


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (400, b"5\nabcde\r\n0\r\n\r\n"),
        (400, b"5\r\r\nabcde\r\n0\r\n\r\n"),
        (400, b"0x5\r\nabcde\r\n0\r\n\r\n"),
        (400, b"-1\r\n"),
        (400, b"5 \r\nabcde\r\n0\r\n\r\n"),
        (400, b"\r\n"),
        (400, b"000000005\r\nabcde\r\n0\r\n\r\n"),
        (400, b"5\r\nabcdefgh\r\n0\r\n\r\n"),
        (400, b"5;" + b"x" * 2000),
        (400, b"1;" + b"x" * 900 + b"\r\na\r\n" + (b"1;" + b"x" * 900 + b"\r\na\r\n") * 20),
        (400, b"0\r\nnonsense\r\n\r\n"),
        (400, b"0\r\n" + b"A: b\r\n" * 5000),
        (413, b"3e9\r\n"),
        (413, b"ffffffff\r\n"),
        (413, b"64\r\n" + b"a" * 100 + b"\r\n" + (b"64\r\n" + b"a" * 100 + b"\r\n") * 10),
    ],
)
def test_chunked_bodies_that_are_refused(status, data):
    for cuts in (range(0), range(len(data))):
        with pytest.raises(Refused) as refused:
            decode(ChunkedBody(LIMITS), data, cuts)
        assert refused.value.status == status


def test_trailers_and_extensions_are_dropped():
    data = b"2;a=b\r\nhi\r\n0;c\r\nX: y\r\nZ:\r\n\r\nNEXT"
    for cuts in (range(0), range(len(data))):
        assert decode(ChunkedBody(LIMITS), data, cuts) == (b"hi", b"NEXT")


@given(st.binary(max_size=40), st.lists(st.integers(0, 44)))
def test_a_body_of_known_length_ends_where_it_should(data, cuts):
    got, rest = decode(LengthBody(len(data)), data + b"NEXT", [min(cut, len(data) + 4) for cut in cuts])
    assert (got, rest) == (data, b"NEXT")


def asked(method: bytes = b"GET", http11: bool = True) -> Request:
    return Request(method, b"/", [], http11, True, False, 0)


@pytest.mark.parametrize(
    ("status", "headers", "request_", "whole", "framing", "line"),
    [
        (200, [], asked(), 5, Framing.LENGTH, b"content-length: 5"),
        (200, [(b"content-length", b"7")], asked(), None, Framing.LENGTH, b"content-length: 7"),
        (200, [], asked(), None, Framing.CHUNKED, b"transfer-encoding: chunked"),
        (200, [], asked(http11=False), None, Framing.CLOSE, b"connection: close"),
        (200, [], asked(http11=False), 5, Framing.LENGTH, b"connection: keep-alive"),
        (200, [], asked(b"HEAD"), 5, Framing.NONE, b"content-length: 5"),
        (304, [(b"content-length", b"7")], asked(), 0, Framing.NONE, b"content-length: 7"),
        (200, [(b"Connection", b"close")], asked(), 0, Framing.LENGTH, b"connection: close"),
    ],
)
def test_answers_are_framed(status, headers, request_, whole, framing, line):
    head = answer_head(status, headers, b"server: zoned\r\n", request_, True, whole)
    assert head.framing is framing
    assert line in head.data.split(b"\r\n")


@pytest.mark.parametrize(("status", "method"), [(204, b"GET"), (304, b"GET"), (200, b"HEAD")])
def test_bodyless_answers_claim_no_length(status, method):
    head = answer_head(status, [], b"", asked(method), True, 0)
    assert head.framing is Framing.NONE
    assert b"content-length" not in head.data
    assert b"transfer-encoding" not in head.data


@pytest.mark.parametrize(
    "header",
    [
        (b"x", b"a\r\nset-cookie: b"),
        (b"x", b"a\nb"),
        (b"x", b"a\rb"),
        (b"x", b"a\0b"),
        (b"x\r\ny", b"a"),
        (b"content-length", b"-1"),
        (b"content-length", b"1\r\n2"),
    ],
)
def test_headers_that_would_split_an_answer_are_refused(header):
    with pytest.raises(AnswerFault):
        answer_head(200, [header], b"", asked(), True, 0)


@pytest.mark.parametrize("status", [0, 100, 101, 600])
def test_only_final_statuses_are_answers(status):
    with pytest.raises(AnswerFault):
        answer_head(status, [], b"", asked(), True, 0)
