"""The service manager: what it hands over (sockets, directories), what it is told (ready, status, alive).

The protocol is small enough to be spoken here: one datagram per message to $NOTIFY_SOCKET (sd_notify(3)), inherited
sockets from descriptor 3 on with their names in $LISTEN_FDNAMES (sd_listen_fds(3)). Without a service manager all of it
does nothing. The watchdog is fed by the loop that serves, and only after a read of the store: a daemon that hangs, or
whose disk does, is started again.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import trio

from zoned.errors import CannotStart

FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START
STATUS_S = 5.0  # how often the status line is looked at when there is no watchdog


def notify(environ: Mapping[str, str] = os.environ, **said: str | int) -> None:
    """Tells the service manager, if there is one, for example `notify(READY=1)`. It never waits and never fails."""
    where = environ.get("NOTIFY_SOCKET", "")
    if where[:1] not in ("/", "@"):
        return
    text = "\n".join(f"{name}={' '.join(str(value).split())}" for name, value in said.items())
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        out.setblocking(False)
        out.sendto(text.encode(), "\0" + where[1:] if where[0] == "@" else where)


def notify_reloading() -> None:
    """The configuration is being read anew; `READY=1` ends it."""
    notify(RELOADING=1, MONOTONIC_USEC=time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000)


def watchdog_s(environ: Mapping[str, str] = os.environ) -> float | None:
    """Within how many seconds the service manager wants to hear of this process; None: it does not care."""
    for_whom, wanted = environ.get("WATCHDOG_PID", str(os.getpid())), environ.get("WATCHDOG_USEC", "")
    if not wanted.isascii() or not wanted.isdigit() or for_whom != str(os.getpid()):
        return None
    return int(wanted) / 1_000_000 or None


def inherited(name: str, environ: Mapping[str, str] = os.environ) -> socket.socket | None:
    """The listening socket that the service manager opened under `name` (FileDescriptorName=); None: there is none."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    names = environ.get("LISTEN_FDNAMES", "").split(":")[: int(environ.get("LISTEN_FDS") or 0)]
    if name not in names:
        return None
    if names.count(name) > 1:
        raise CannotStart(f"the socket unit gives {names.count(name)} sockets named {name}; it must be one")
    descriptor = FIRST_DESCRIPTOR + names.index(name)
    os.set_inheritable(descriptor, False)
    # A copy: the socket is ours to close, the descriptor is not ours to give to another file.
    found = socket.fromfd(descriptor, *_kind(descriptor))
    if not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise CannotStart(f"the socket unit's {name} is no listening stream socket; use ListenStream=")
    found.setblocking(False)
    return found


def _kind(descriptor: int) -> tuple[int, int]:
    with socket.socket(fileno=os.dup(descriptor)) as probe:
        return probe.family, probe.type


async def keep_informed(check_store: Callable[[], Any], status: Callable[[], str]) -> None:
    """Feeds the watchdog and keeps the status line true, for ever. `check_store` raises when the store cannot be read.

    The unit's WatchdogSec= is for a loop that stands still; three chances each, so that one slow read costs nothing.
    """
    limit_s = watchdog_s()
    every_s = min(STATUS_S, limit_s / 3) if limit_s is not None else STATUS_S
    if not os.environ.get("NOTIFY_SOCKET"):
        return
    told = ""
    while True:
        check_store()
        line = status()
        if line != told:
            notify(STATUS=line)
        notify(WATCHDOG=1)
        told = line
        await trio.sleep(every_s)
