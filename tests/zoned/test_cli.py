"""zoned check and run with wrong configurations: an exit status, one line for each mistake, never a traceback."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import apsw
import pytest
from click.testing import CliRunner, Result

from tests.zoned.conftest import config_text
from zoned.cli import leaves, main

RUN_S = 60


def check(path: Path, text: str | bytes) -> Result:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return CliRunner().invoke(main, ["check", "-c", str(path)])


def run(path: Path, text: str) -> list[str]:
    """Starts a daemon that must not start; its lines on standard error."""
    path.write_text(text)
    ended = subprocess.run(
        [sys.executable, "-m", "zoned", "run", "-c", str(path)],
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, ""), ended.stderr
    assert "Traceback" not in ended.stderr
    return [line for line in ended.stderr.splitlines() if line.startswith("zoned: ")]


def test_a_sound_configuration_is_praised(tmp_path):
    result = check(tmp_path / "zoned.toml", config_text(tmp_path))
    assert (result.exit_code, result.stderr) == (0, "")
    assert "no mistakes" in result.stdout


def test_no_configuration_at_all_is_sound():
    assert CliRunner().invoke(main, ["check"]).exit_code == 0


def test_three_planted_mistakes_are_three_lines_with_their_keys(tmp_path):
    planted = '[node]\nzoen = "a"\n[http]\nlisten = "nowhere"\n[registry]\nexpect = 2\n'
    result = check(tmp_path / "zoned.toml", planted)
    assert (result.exit_code, result.stdout) == (2, "")
    lines = result.stderr.splitlines()
    assert [line.split(": ")[2] for line in lines] == ["http.listen", "node.zoen", "registry.expect"]
    assert all(line.startswith(f"zoned: {tmp_path}/zoned.toml: ") for line in lines)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[node", "(syntax)"),
        (b"\xff", "(file)"),
        ("[nodes]\n", "nodes"),
        ("node = 5\n", "node"),
        ('[node]\nzone = ""\n', "node.zone"),
        ("[node]\nzone = 5\n", "node.zone"),
        ("[registry]\nexpect = 3\n", "peers.seeds"),
        ('[http]\nlisten = "0.0.0.0:9292"\n', "http.listen"),
        ('[peers]\nlisten = "127.0.0.1:9292"\n', "peers.listen"),
        ('[peers]\nseeds = ["x"]\n', "peers.seeds"),
        ('[log]\nlevel = "loud"\n', "log.level"),
        ("[registry]\nwait_s = -1\n", "registry.wait_s"),
        ("[registry]\nwait_s = nan\n", "registry.wait_s"),
        ("[http]\nidle_timeout_s = inf\n", None),
    ],
)
def test_each_mistake_is_one_line_that_names_its_key(tmp_path, text, named):
    result = check(tmp_path / "zoned.toml", text)
    lines = result.stderr.splitlines()
    assert result.exit_code == (2 if named else 0)
    assert [named in line for line in lines] == ([True] if named else [])


def test_a_file_that_is_not_there_is_a_mistake_of_the_file(tmp_path):
    result = CliRunner().invoke(main, ["check", "-c", str(tmp_path / "none.toml")])
    assert result.exit_code == 2
    assert "(file)" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_run_refuses_a_wrong_configuration_before_it_does_anything(tmp_path):
    path = tmp_path / "zoned.toml"
    path.write_text(f'[node]\ndata_dir = "{tmp_path}/store"\nnope = 1\n')
    result = CliRunner().invoke(main, ["run", "-c", str(path)])
    assert result.exit_code == 2
    assert "node.nope" in result.stderr
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("table", ["http", "peers"])
def test_a_port_in_use_names_its_setting(tmp_path, table):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = "{}:{}".format(*taken.getsockname())
        text = config_text(tmp_path / "store").replace(
            f'[{table}]\nlisten = "127.0.0.1:0"', f'[{table}]\nlisten = "{address}"'
        )
        (line,) = run(tmp_path / "zoned.toml", text)
    assert f"{table}.listen {address}" in line


def test_a_data_directory_that_is_a_file_is_named(tmp_path):
    (tmp_path / "store").touch()
    (line,) = run(tmp_path / "zoned.toml", config_text(tmp_path / "store"))
    assert f"node.data_dir {tmp_path}/store" in line


def test_a_store_that_is_no_database_or_newer_or_of_another_zone_is_left_as_it_is(tmp_path):
    (tmp_path / "garbage").mkdir()
    garbage = tmp_path / "garbage" / "zoned.db"
    garbage.write_bytes(b"no database at all" * 100)
    (line,) = run(tmp_path / "zoned.toml", config_text(tmp_path / "garbage"))
    assert str(garbage) in line
    assert garbage.read_bytes() == b"no database at all" * 100

    garbage.chmod(0o600)
    (line,) = run(tmp_path / "zoned.toml", config_text(tmp_path / "garbage"))
    assert f"{garbage} cannot be opened" in line

    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "zoned.db").touch(0o600)
    with apsw.Connection(str(tmp_path / "newer" / "zoned.db")) as connection:
        connection.pragma("application_id", 0x7A6F6E65)
        connection.pragma("user_version", 9_999)
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    (line,) = run(tmp_path / "zoned.toml", config_text(tmp_path / "newer"))
    assert "9999" in line


def test_a_second_daemon_on_a_directory_names_the_first_and_the_first_ends_on_sigterm(tmp_path):
    path = tmp_path / "zoned.toml"
    path.write_text(config_text(tmp_path / "store"))
    command = [sys.executable, "-m", "zoned", "run", "-c", str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as first:
        assert first.stderr is not None
        assert '"ready"' in next(line for line in first.stderr if "ready" in line)
        (line,) = run(tmp_path / "second.toml", config_text(tmp_path / "store"))
        assert f"process {first.pid}" in line
        first.send_signal(signal.SIGTERM)
        first.stderr.read()
        assert first.wait(RUN_S) == 0
    assert (tmp_path / "store").stat().st_mode & 0o077 == 0
    assert not (tmp_path / "store" / "zoned.sock").exists()
    (line,) = run(tmp_path / "third.toml", config_text(tmp_path / "store").replace('"alpha"', '"beta"'))
    assert "node.zone" in line


def test_every_single_error_in_a_tree_of_groups_is_found():
    one, two = ValueError("1"), KeyError("2")
    assert list(leaves(ExceptionGroup("g", [one, ExceptionGroup("h", [two])]))) == [one, two]
    assert list(leaves(one)) == [one]


@pytest.mark.parametrize("arguments", [["--help"], ["run", "-h"], ["check", "-h"], ["demo", "-h"], ["--version"]])
def test_help_and_version_start_nothing(arguments):
    assert CliRunner().invoke(main, arguments).exit_code == 0


@pytest.mark.parametrize("arguments", [["nothing"], ["run", "extra"], ["demo", "--zones", "2"], ["check", "-c"]])
def test_usage_mistakes_end_with_2(arguments):
    assert CliRunner().invoke(main, arguments).exit_code == 2
