"""The configuration in force: what was read at start, what the file says now, and what of that may change meanwhile.

`Config` is read once and each part has its own table; only the parts that can follow a change while they run say so
(`listen`). Everything else waits for the next start, and a reload names it.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import structlog

from conf import Config, load
from zoned import clock

# Tables and keys that running parts follow; the rest needs a restart.
LIVE = frozenset(
    (
        "log.level",
        "log.requests",
        "journal.entries_max",
        "journal.bytes_max",
        "journal.free_disk_min_bytes",
        "journal.shared_entries_max",
        "journal.shared_bytes_max",
        "http.header_bytes_max",
        "http.body_bytes_max",
        "http.header_timeout_s",
        "http.body_timeout_s",
        "http.idle_timeout_s",
        "http.write_timeout_s",
        "http.connections_max",
        "http.grace_s",
    )
)

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Change:
    """One key whose value in the file is not the one in force."""

    key: str
    now: Any
    file: Any

    @property
    def is_live(self) -> bool:
        return self.key in LIVE


class Settings:
    """The configuration of a running daemon."""

    def __init__(self, config: Config, path: Path | None = None) -> None:
        self.config = config
        self.path = path
        self.reloaded_at: float | None = None  # wall clock; None: as at start
        self.reload_failed = False
        self._listeners: list[Callable[[Config], None]] = []

    def listen(self, follow: Callable[[Config], None]) -> None:
        """`follow(config)` is called after each reload that changed something."""
        self._listeners.append(follow)

    def changes(self) -> list[Change]:
        """What the file says otherwise. Raises ConfigError when it cannot be used."""
        written = load(self.path)
        return [
            Change(key, now, then)
            for (key, now), (_, then) in zip(flat(self.config), flat(written), strict=True)
            if now != then
        ]

    def reload(self) -> list[Change]:
        """Puts in force what can be without a restart; returns every change. Raises ConfigError; nothing is changed."""
        try:
            found = self.changes()
        except Exception:
            self.reload_failed = True
            raise
        for change in found:
            if change.is_live:
                self._set(change.key, change.file)
        self.reload_failed = False
        self.reloaded_at = clock.wall()
        taken, waiting = ([one.key for one in found if one.is_live is live] for live in (True, False))
        logger.info("configuration reloaded", changed=taken, after_a_restart=waiting)
        return found

    def set(self, key: str, value: Any) -> None:
        """Puts one live key in force until the next reload or start."""
        self._set(key, value)
        logger.info("setting changed", key=key, value=value)

    def _set(self, key: str, value: Any) -> None:
        assert key in LIVE
        table, _, name = key.partition(".")
        changed = replace(getattr(self.config, table), **{name: value})
        self.config = replace(self.config, **{table: changed})
        for follow in self._listeners:
            follow(self.config)


def flat(config: Config) -> list[tuple[str, Any]]:
    """(dotted key, value) of every setting, in the order of the file."""
    return [
        (f"{table.name}.{item.name}", getattr(getattr(config, table.name), item.name))
        for table in fields(config)
        for item in fields(getattr(config, table.name))
    ]
