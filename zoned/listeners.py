"""Sockets to listen on, or one sentence that says why not."""

import os
import shutil
import socket
import stat
from contextlib import ExitStack
from pathlib import Path

import trio

from conf import split_address
from zoned import systemd
from zoned.errors import CannotStart

BACKLOG = 1_024
PORT_TRIES = 20  # when any port will do, TCP and UDP must still get the same one


def take_inherited(name: str, key: str, wanted: str) -> trio.SocketListener | None:
    """The listening socket that the service manager opened for us, if it did; for the setting `key`, if that is set.

    The setting stays the one place that says where this node listens, so that its checks hold for both. Raises
    CannotStart if the socket is elsewhere.
    """
    found = systemd.inherited(name)
    if found is None:
        return None
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(found))
    if wanted and not _is_at(found, wanted):
        bound = found.getsockname()
        here = bound if isinstance(bound, str) else "{}:{}".format(*bound[:2])
        raise CannotStart(f"the socket unit listens on {here}, {key} says {wanted}; make them equal")
    return listener


def _is_at(found: socket.socket, wanted: str) -> bool:
    bound = found.getsockname()
    if found.family == socket.AF_UNIX:
        return bool(bound == wanted)
    host, port = split_address(wanted)
    return bound[:2] in [info[4][:2] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


async def open_tcp(key: str, address: str) -> trio.SocketListener:
    """A listening TCP socket for the setting `key`. Raises CannotStart."""
    host, port = split_address(address)
    try:
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
    except OSError as error:
        raise CannotStart(
            f"{key} {address} cannot be listened on: {error.strerror or error}; free it or change {key}"
        ) from None
    for extra in listeners[1:]:
        await extra.aclose()
    return listeners[0]


async def open_tcp_and_udp(key: str, address: str) -> tuple[trio.SocketListener, trio.socket.SocketType]:
    """A TCP listener and a UDP socket on one address and port number. Raises CannotStart."""
    _, port = split_address(address)
    for left in reversed(range(PORT_TRIES if port == 0 else 1)):
        listener = await open_tcp(key, address)
        bound = listener.socket.getsockname()
        udp = trio.socket.socket(listener.socket.family, socket.SOCK_DGRAM)
        try:
            await udp.bind(bound)
            return listener, udp
        except OSError as error:
            udp.close()
            await listener.aclose()
            if not left:
                text = f"{key} {address} cannot be used for UDP: {error.strerror or error}; free it or change {key}"
                raise CannotStart(text) from None
    raise AssertionError("the last try returns or raises")


def bound_address(listener: trio.SocketListener) -> tuple[str, int]:
    """(host, port) that the listener really has."""
    host, port = listener.socket.getsockname()[:2]
    return host, port


async def open_admin(path: Path, read_group: str = "") -> trio.SocketListener:
    """A listening Unix socket, for its owner (0600) and a group (0660). A stale socket that nobody serves is replaced.

    Raises CannotStart; whatever else stands at `path` is left alone.
    """
    if len(os.fsencode(path)) > 107:
        raise CannotStart(f"admin.socket {path} is too long for a Unix socket (107 bytes); set a shorter one")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_stale(path)
        bound = _bind(path, read_group)
    except LookupError:
        raise CannotStart(f"admin.read_group: there is no group {read_group!r} on this machine") from None
    except OSError as error:
        raise CannotStart(f"admin.socket {path} cannot be listened on: {error.strerror}; change admin.socket") from None
    return trio.SocketListener(trio.socket.from_stdlib_socket(bound))


def _bind(path: Path, read_group: str) -> socket.socket:
    """Raises OSError, or LookupError when there is no such group; nothing is left behind then."""
    with ExitStack() as undo:
        bound = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        mask = os.umask(0o177)
        try:
            bound.bind(os.fspath(path))
        finally:
            os.umask(mask)
        undo.callback(path.unlink, missing_ok=True)  # ours from here on
        if read_group:
            shutil.chown(path, group=read_group)
            path.chmod(0o660)
        bound.listen(BACKLOG)
        undo.pop_all()
    return bound


def _remove_stale(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise CannotStart(f"admin.socket {path} exists and is no socket; remove it or change admin.socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError:
            path.unlink()
        else:
            raise CannotStart(f"admin.socket {path} is served by another process; stop it or change admin.socket")
