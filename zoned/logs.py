"""Log lines: structlog to standard error, console on a terminal, JSON otherwise."""

import logging
import sys
from typing import TextIO

import structlog

from zoned.api.server import RequestRecord

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def set_up(level: str, form: str, stream: TextIO | None = None) -> None:
    """Called once at start; `form` is auto, console or json."""
    out = stream or sys.stderr
    console = form == "console" or (form == "auto" and out.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer(colors=out.isatty()) if console else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=True,
    )


def request(record: RequestRecord) -> None:
    """One line for one served request."""
    structlog.get_logger().info(
        "request",
        method=record.method,
        path=record.path,
        status=record.status,
        bytes=record.sent_bytes,
        duration_ms=round(record.duration_s * 1_000, 2),
        client=record.client,
    )
