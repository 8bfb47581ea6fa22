"""A real Keystone on loopback: SQLite, Fernet tokens, one process of its own virtual environment.

`make` installs it beside the project's environment (its requirements would not go together with ours).
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from zoned.fleet import free_ports

ENVIRONMENT = Path(__file__).resolve().parents[2] / ".venv-keystone"
PASSWORD = "the-first-of-all"
START_S = 60.0
SERVE = """
import os, socketserver
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from keystone.server import wsgi

class Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True

class Quiet(WSGIRequestHandler):
    def log_message(self, *_): pass

make_server("127.0.0.1", int(os.environ["PORT"]), wsgi.initialize_public_application(), Server, Quiet).serve_forever()
"""


def settings(directory: Path) -> str:
    keys = "".join(f"[{name}]\nkey_repository = {directory / name}\n" for name in ("fernet_tokens", "fernet_receipts"))
    database = f"[database]\nconnection = sqlite:///{directory}/keystone.db\n"
    return f"{keys}{database}[cache]\nenabled = false\n[identity]\npassword_hash_rounds = 4\n"


@dataclass
class Keystone:
    """A running Keystone and what an administrator does with it."""

    url: str
    process: subprocess.Popen[bytes]
    admin: str = ""  # its administrator's token

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def token(self, user: str, password: str, project: str) -> str:
        """A new token of a user."""
        domain = {"id": "default"}
        named = {"name": user, "domain": domain, "password": password}
        scope = {"project": {"name": project, "domain": domain}}
        body = {"auth": {"identity": {"methods": ["password"], "password": {"user": named}}, "scope": scope}}
        answer = httpx.post(f"{self.url}/auth/tokens", json=body, timeout=30, trust_env=False)
        assert answer.status_code == 201, answer.text
        return answer.headers["X-Subject-Token"]

    def make(self, token: str, path: str, body: dict[str, Any] | None, method: str = "POST") -> dict[str, Any]:
        answer = httpx.request(
            method, f"{self.url}/{path}", json=body, headers={"X-Auth-Token": token}, timeout=30, trust_env=False
        )
        assert answer.is_success, answer.text
        made: dict[str, Any] = answer.json() if answer.content else {}
        return made

    def user(self, name: str, project: str, role: str) -> str:
        """Makes a user with a role in a project (which is made as well); its password. The project's ID is returned."""
        admin = self.admin = self.admin or self.token("admin", PASSWORD, "admin")
        known = self.make(admin, f"projects?name={project}", None, "GET")["projects"]
        body = {"project": {"name": project, "domain_id": "default"}}
        project_id = known[0]["id"] if known else self.make(admin, "projects", body)["project"]["id"]
        user = self.make(admin, "users", {"user": {"name": name, "password": name, "domain_id": "default"}})["user"]
        (found,) = self.make(admin, f"roles?name={role}", None, "GET")["roles"]
        self.make(admin, f"projects/{project_id}/users/{user['id']}/roles/{found['id']}", None, "PUT")
        return str(project_id)


@contextmanager
def running(directory: Path) -> Iterator[Keystone]:
    """Founds a Keystone in `directory` and serves it until the end of the block."""
    config = directory / "keystone.conf"
    config.write_text(settings(directory))
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}/v3"
    bin_ = ENVIRONMENT / "bin"
    manage = [str(bin_ / "keystone-manage"), "--config-file", str(config)]
    whoami = ["--keystone-user", str(os.getuid()), "--keystone-group", str(os.getgid())]
    for step in (
        ["db_sync"],
        ["fernet_setup", *whoami],
        ["bootstrap", "--bootstrap-password", PASSWORD, "--bootstrap-public-url", url, "--bootstrap-region-id", "r"],
    ):
        done = subprocess.run([*manage, *step], capture_output=True, text=True, timeout=120, cwd=directory)
        assert done.returncode == 0, done.stderr[-2_000:]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(bin_ / "python"), "-c", SERVE],
            env={**os.environ, "OS_KEYSTONE_CONFIG_FILES": str(config), "PORT": str(port)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=directory,
        )
    try:
        end = time.monotonic() + START_S
        while not _answers(url):
            assert process.poll() is None, (directory / "log").read_text()[-2_000:]
            assert time.monotonic() < end, "Keystone did not start"
            time.sleep(0.1)
        yield Keystone(url, process)
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return "version" in json.loads(httpx.get(url, timeout=5, trust_env=False).content)
    except (httpx.TransportError, ValueError):
        return False
