"""Where things are when nobody says: data directory and admin socket, under systemd, as root and as a user."""

import os
from collections.abc import Mapping
from pathlib import Path

from conf import Config

SOCKET_NAME = "zoned.sock"
SYSTEM_SOCKET = Path("/run/zoned") / SOCKET_NAME


def user_data_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The XDG state directory's `zoned` (XDG Base Directory Specification)."""
    state = environ.get("XDG_STATE_HOME")
    return Path(state or Path.home() / ".local" / "state") / "zoned"


def data_dir(config: Config, environ: Mapping[str, str] = os.environ) -> Path:
    """`node.data_dir`, else what systemd made ($STATE_DIRECTORY), else the user's state directory."""
    if config.node.data_dir:
        return Path(config.node.data_dir).expanduser()
    made = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(made) if made else user_data_dir(environ)


def admin_socket(config: Config, environ: Mapping[str, str] = os.environ) -> Path:
    """`admin.socket`, else in $RUNTIME_DIRECTORY, else in the data directory."""
    if config.admin.socket:
        return Path(config.admin.socket).expanduser()
    made = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return (Path(made) if made else data_dir(config, environ)) / SOCKET_NAME


def tls_dir(config: Config, environ: Mapping[str, str] = os.environ) -> Path:
    """`peers.tls_dir`, else `tls` in the data directory."""
    return Path(config.peers.tls_dir).expanduser() if config.peers.tls_dir else data_dir(config, environ) / "tls"


def find_socket(environ: Mapping[str, str] = os.environ) -> Path:
    """Where zonectl looks without --socket: $ZONED_SOCKET, the system's daemon, the user's own."""
    asked = environ.get("ZONED_SOCKET")
    if asked:
        return Path(asked)
    return SYSTEM_SOCKET if SYSTEM_SOCKET.exists() else user_data_dir(environ) / SOCKET_NAME
