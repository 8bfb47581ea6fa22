"""Goal: the shipped units do what docs/operations.md says. Method: a real systemd runs them, on its own machine."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.faults import run
from tests.system.machine import (
    ROOT,
    SCRIPT,
    Machine,
    cgroup_of_our_own,
    command,
    machine,
    remove_group,
    stage_files,
    tools,
)
from tests.system.recipes import PAGE

pytestmark = pytest.mark.system
UNITS = ("zoned.service", "zoned.socket", "zoned-admin.socket", "zoned-backup.service", "zoned-backup.timer")
EXPOSURE_MAX = 1.5

# New connections without pause, until its standard input ends; says how many were answered and what went wrong.
LOAD = """
import json, select, socket, sys, time
done, wrong, slowest = 0, [], 0.0
print("begun", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    began = time.monotonic()
    try:
        with socket.create_connection(("127.0.0.1", 9292), 30) as s:
            s.settimeout(30)
            s.sendall(b"GET /v2/images HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
            got = b""
            while piece := s.recv(65536):
                got += piece
        if not got.startswith(b"HTTP/1.1 200 "):
            wrong.append(repr(got[:200]))
    except OSError as error:
        wrong.append(repr(error))
    done, slowest = done + 1, max(slowest, time.monotonic() - began)
print(json.dumps({"done": done, "wrong": wrong[:10], "slowest": slowest}))
"""


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory):
    before = sorted(path.name for path in Path("/etc").iterdir())
    with machine(tmp_path_factory.mktemp("machine")) as started:
        done = started.run("sh", "-euc", f"cd /run/box/tree\n{install_commands()}")
        assert done.returncode == 0, done.stdout + done.stderr + started.ends()
        yield started
    assert sorted(path.name for path in Path("/etc").iterdir()) == before


def install_commands() -> str:
    """What docs/operations.md says, after the programs are in /opt/zoned."""
    section = PAGE.read_text().partition("## Install")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.S)
    assert "pip install" in blocks[0]
    return "\n".join(blocks[1:])


def python(box: Machine, *words: str) -> list[str]:
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    paths = ("PYTHONPATH=/run/box/tree:/run/box/site", "LD_LIBRARY_PATH=/run/box/python/lib", "NO_COLOR=1")
    return ["env", *paths, f"/run/box/python/bin/{name}", *words]


def zonectl(box: Machine, *words: str) -> subprocess.CompletedProcess[str]:
    return box.run("zonectl", *words)


def active(box: Machine) -> None:
    box.until("zoned is active", lambda: box.show("ActiveState") == "active")


def pid(box: Machine) -> str:
    return box.show("MainPID")


def test_it_starts_ready_with_a_status_line_and_zonectl_finds_it(box):
    active(box)
    box.until("a registry", lambda: box.show("StatusText").startswith("registry, at most "))
    said = zonectl(box, "-f", "json", "status")
    assert said.returncode == 0, said.stderr
    status = json.loads(said.stdout)
    assert (status["node"]["url"], status["node"]["zone"]) == ("http://127.0.0.1:9292", "zone-a")
    # A user of its own, who may read the store; nobody else may.
    owner = box.run("stat", "-L", "-c", "%u %a", "/var/lib/zoned/zoned.db").stdout.split()
    assert int(owner[0]) >= 61184  # systemd's range of dynamic users
    assert owner[1] == "600"
    assert int(box.run("stat", "-c", "%u", f"/proc/{pid(box)}").stdout) == int(owner[0])
    assert box.run("stat", "-c", "%a", "/run/zoned/zoned.sock").stdout.strip() == "600"


def test_the_readmes_first_steps_work_as_they_stand(box):
    active(box)
    block = re.findall(r"In another terminal:\n\n```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[0]
    assert zonectl(box, "wait", "registry").returncode == 0
    for line in block.replace(".venv/bin/", "/opt/zoned/bin/").splitlines():
        done = box.run("sh", "-c", line)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        assert "ubuntu" in done.stdout or not line.endswith(("/v2/images", "image list")), f"{line}: {done.stdout}"


def test_a_reload_takes_the_file_in_the_same_process(box):
    active(box)
    before = pid(box)
    config = "/etc/zoned/zoned.toml"
    box.run("sed", "-i", "s/^#requests = false/requests = true/", config)
    box.systemctl("reload", "zoned")
    box.until("the reload is logged", lambda: "configuration reloaded" in box.log.read_text())
    assert '"changed": ["log.requests"]' in box.log.read_text()
    assert zonectl(box, "status").returncode == 0
    box.until("requests are logged", lambda: '"event": "request"' in box.log.read_text())
    box.run("sh", "-c", f"echo nonsense >> {config}")
    box.systemctl("reload", "zoned")
    box.until("the mistake is logged", lambda: "configuration not reloaded" in box.log.read_text())
    box.run("sed", "-i", "/nonsense/d; s/^requests = true/#requests = false/", config)
    active(box)
    assert pid(box) == before


def test_a_frozen_daemon_is_ended_by_the_watchdog_and_started_again(box):
    active(box)
    before, restarts = pid(box), int(box.show("NRestarts"))
    box.run("kill", "-STOP", before)
    box.until("systemd started it again", lambda: int(box.show("NRestarts")) > restarts)
    box.until("another process", lambda: pid(box) not in ("0", before))
    active(box)
    assert zonectl(box, "status").returncode == 0


def test_a_restart_under_load_refuses_and_fails_nothing(box):
    active(box)
    clients = [box.popen(*python(box, "-c", LOAD)) for _ in range(4)]
    for client in clients:
        assert client.stdout is not None
        assert client.stdout.readline() == "begun\n"
    for _ in range(2):
        before = pid(box)
        box.systemctl("restart", "zoned")
        assert pid(box) != before
    found = []
    for client in clients:
        out, _ = client.communicate("\n", timeout=60)
        found.append(json.loads(out))
    assert all(one["done"] > 0 for one in found)
    assert [one["wrong"] for one in found] == [[]] * len(clients), found


def test_a_stop_says_good_bye_and_the_next_connection_starts_it(box):
    active(box)
    box.systemctl("stop", "zoned.service")
    assert box.show("Result") == "success"
    assert box.show("ExecMainStatus") == "0"
    assert '"event": "stopping"' in box.log.read_text()
    assert zonectl(box, "status").returncode == 0  # the socket unit wakes it
    active(box)


def test_the_timer_leaves_a_backup_that_can_be_restored(box):
    active(box)
    assert zonectl(box, "wait", "registry").returncode == 0
    section = PAGE.read_text().partition("## Back up and restore")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```sh\n(.*?)```", section, re.S)
    done = box.run("sh", "-euc", f"cd /run/box/tree\n{block}")
    assert done.returncode == 0, done.stdout + done.stderr + box.ends()
    (name,) = done.stdout.split()
    assert re.fullmatch(r"zoned-zone-a-\d{8}T\d{6}Z", name)
    assert box.systemctl("is-active", "zoned-backup.timer") == "active"
    assert box.run("stat", "-c", "%a", "/var/lib/zoned-backup").stdout.strip() == "700"
    box.run(
        "sh",
        "-c",
        "sed 's,^#\\? *data_dir.*,data_dir = \"/var/tmp/again\",' /etc/zoned/zoned.toml > /var/tmp/again.toml",
    )
    restored = box.run("zoned", "restore", "-c", "/var/tmp/again.toml", f"/var/lib/zoned-backup/{name}")
    assert restored.returncode == 0, restored.stderr
    assert "restored into /var/tmp/again" in restored.stdout


@pytest.mark.parametrize(
    ("forgotten", "complaint"),
    [
        ('mount -o remount,bind,ro "$point"', "would be writable: "),
        ('mount -t tmpfs -o mode=755 tmpfs "$place"', "Read-only file system"),  # of the second safeguard
        ("mount -o remount,bind,ro /proc/sys", "kernel variables can be set"),
    ],
)
def test_a_machine_that_could_touch_the_real_one_is_never_started(tmp_path, forgotten, complaint):
    """The checks of machine.sh can fail. Its mode `check` ends before any systemd."""
    tools()
    script = tmp_path / "forgetful.sh"
    text = SCRIPT.read_text()
    assert forgotten in text
    script.write_text(text.replace(forgotten, "true"))
    stage_files(tmp_path / "stage")
    group = cgroup_of_our_own()
    try:
        refused = run(*command(tmp_path / "stage", group, "check", script=script), check=False)
    finally:
        remove_group(group)
    assert refused.returncode != 0
    assert complaint in refused.stderr


def test_the_sandbox_leaves_little_open():
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed here")
    words = ["systemd-analyze", "security", "--offline=true", "--json=short", "--no-pager"]
    words += [f"--threshold={round(EXPOSURE_MAX * 10)}", str(ROOT / "deploy" / "zoned.service")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", UNITS)
def test_the_units_have_no_unknown_setting(name, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed here")
    for unit in UNITS:
        text = (
            (ROOT / "deploy" / unit)
            .read_text()
            .replace("/opt/zoned/bin/zoned", "/bin/true")
            .replace("/opt/zoned/bin/zonectl", "/bin/true")
        )
        (tmp_path / unit).write_text(text)
    words = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(tmp_path / name)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
