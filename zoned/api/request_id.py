"""The name of one request, the same in every log that it passes: the caller's if it has one, else a new one.

OpenStack services send `X-OpenStack-Request-ID: req-UUID` to each other; what comes in this shape is taken over,
answered with, bound to the log lines of the request, and sent on to other nodes (`zoned.peers`).
"""

import itertools
import re
import uuid
from collections.abc import Iterable

import structlog

HEADER = b"x-openstack-request-id"
_SHAPE = re.compile(rb"req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


_PREFIX = b"req-" + str(uuid.uuid4())[:24].encode()
_COUNT = itertools.count(1)


def fresh() -> bytes:
    """In a UUID's form, as OpenStack's tools expect it: random for each process, then a count."""
    return b"%b%012x" % (_PREFIX, next(_COUNT))


def taken_over(value: bytes) -> bytes:
    """`value` if it is a request ID, else a fresh one."""
    return value if _SHAPE.match(value) else fresh()


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Of a request with these headers (names in lower case)."""
    return next((taken_over(value) for name, value in headers if name == HEADER), None) or fresh()


def current() -> str | None:
    """The request that this task answers, or the requests it forwards; None when it does neither."""
    found = structlog.contextvars.get_contextvars().get("request_id")
    return found if isinstance(found, str) else None
