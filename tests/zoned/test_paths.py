"""Where things are when nobody says."""

from pathlib import Path

import pytest

from conf import parse
from zoned import paths

NOTHING = parse("")
SAID = parse('[node]\ndata_dir = "/said"\n[admin]\nsocket = "/said/a.sock"\n')


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"XDG_STATE_HOME": "/state"}, "/state/zoned"),
        ({"STATE_DIRECTORY": "/var/lib/zoned", "XDG_STATE_HOME": "/state"}, "/var/lib/zoned"),
        ({"STATE_DIRECTORY": "/var/lib/zoned:/var/lib/other"}, "/var/lib/zoned"),
    ],
)
def test_the_data_directory_is_what_systemd_made_or_the_users(environ, expected):
    assert paths.data_dir(NOTHING, environ) == Path(expected)
    assert paths.data_dir(SAID, environ) == Path("/said")


def test_without_anything_the_data_directory_is_in_the_home():
    assert paths.data_dir(NOTHING, {}) == Path.home() / ".local/state/zoned"


def test_a_tilde_in_the_configuration_is_the_home():
    config = parse('[node]\ndata_dir = "~/z"\n[admin]\nsocket = "~/z.sock"\n')
    assert paths.data_dir(config, {}) == Path.home() / "z"
    assert paths.admin_socket(config, {}) == Path.home() / "z.sock"


def test_the_socket_is_in_the_runtime_directory_or_beside_the_data():
    assert paths.admin_socket(SAID, {"RUNTIME_DIRECTORY": "/run/zoned"}) == Path("/said/a.sock")
    assert paths.admin_socket(NOTHING, {"RUNTIME_DIRECTORY": "/run/zoned:/x"}) == Path("/run/zoned/zoned.sock")
    assert paths.admin_socket(NOTHING, {"XDG_STATE_HOME": "/state"}) == Path("/state/zoned/zoned.sock")


def test_zonectl_looks_where_it_is_told_then_at_the_systems_daemon_then_at_the_users(tmp_path, monkeypatch):
    system = tmp_path / "zoned.sock"
    monkeypatch.setattr(paths, "SYSTEM_SOCKET", system)
    environ = {"XDG_STATE_HOME": "/state"}
    assert paths.find_socket(environ) == Path("/state/zoned/zoned.sock")
    system.touch()
    assert paths.find_socket(environ) == system
    assert paths.find_socket({**environ, "ZONED_SOCKET": "/asked"}) == Path("/asked")
