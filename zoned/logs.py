"""Log lines: structlog to standard error, console on a terminal, JSON otherwise.

Read by the journal of systemd, each line begins with its priority, `<4>`, so that `journalctl -p warning` works. A
warning or error that comes again and again is written a few times, then counted: a broken link must not fill a disk.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from zoned.api import request_id
from zoned.api.http1 import RequestRecord
from zoned.masking import masked

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# syslog(3) severities, as sd-daemon(3) puts them before a line.
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
BURST_MAX = 10  # lines of one kind in a window; the others are counted
WINDOW_S = 10.0
KINDS_MAX = 1_000  # kinds remembered; event names are constants, so this is never reached in a sound program


class Threshold:
    """The least severity written; may be changed at any time."""

    def __init__(self, level: str) -> None:
        self.level = LEVELS[level]

    def __call__(self, _logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        if LEVELS.get(method, logging.ERROR) < self.level:
            raise structlog.DropEvent
        return event


class Repeats:
    """Lets BURST_MAX warnings of one kind through in WINDOW_S; the first of the next window says how many were not."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._kinds: dict[str, tuple[float, int]] = {}  # event -> (begin of its window, lines in it)

    def __call__(self, _logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        if LEVELS.get(method, logging.ERROR) < logging.WARNING:
            return event
        kind, now = str(event["event"]), self._now()
        if kind not in self._kinds and len(self._kinds) >= KINDS_MAX:
            self._kinds.clear()
        began, lines = self._kinds.get(kind, (now, 0))
        if now - began >= WINDOW_S:
            if lines > BURST_MAX:
                event["not_written"] = lines - BURST_MAX
            began, lines = now, 0
        self._kinds[kind] = (began, lines + 1)
        if lines >= BURST_MAX:
            raise structlog.DropEvent
        return event


def goes_to_journal(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the stream is the one that systemd connected to its journal ($JOURNAL_STREAM, systemd.exec(5))."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def without_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """No URL in a line keeps its credentials, whoever wrote it and whatever error it came in."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = masked(value)
    return event


def printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """For a terminal, which values from outside must not steer. JSON needs no such care."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[key] = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in value)
    return event


def with_priority(_logger: WrappedLogger, method: str, line: Any) -> str:
    """Every line of a text with its priority in front."""
    mark = f"<{PRIORITIES.get(method, 3)}>"
    return mark + str(line).replace("\n", f"\n{mark}")


_threshold = Threshold("info")


def set_level(level: str) -> None:
    """From now on; see `LEVELS`."""
    _threshold.level = LEVELS[level]


def rendering(console: bool, colours: bool) -> list[Processor]:
    """From an event to its line."""
    render: Any = structlog.dev.ConsoleRenderer(colors=colours) if console else structlog.processors.JSONRenderer()
    return [structlog.processors.format_exc_info, without_secrets, *([printable] if console else []), render]


def set_up(level: str, form: str, stream: TextIO | None = None) -> None:
    """Called once at start; `form` is auto, console or json."""
    out = stream or sys.stderr
    console = form == "console" or (form == "auto" and out.isatty())
    colours = out.isatty() and not os.environ.get("NO_COLOR")
    set_level(level)
    processors: list[Processor] = [
        _threshold,
        Repeats(),
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *rendering(console, colours),
    ]
    if goes_to_journal(out):
        processors.append(with_priority)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=True,
    )


def request(record: RequestRecord) -> None:
    """One line for one served request."""
    told_id = next((value for name, value in record.headers if name == request_id.HEADER), b"-")
    structlog.get_logger().info(
        "request",
        request_id=told_id.decode("latin-1"),
        method=record.method,
        path=record.path,
        status=record.status,
        bytes=record.sent_bytes,
        duration_ms=round(record.duration_s * 1_000, 2),
        client=record.client,
    )
