"""Secrets that were planted are looked for in everything that a really running zone tells: its log and errors, status,
metrics, configuration, audit and support bundle, and what stands on its command line.
"""

import base64
import secrets
import signal
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio
from click.testing import CliRunner

from gossip import Keyring
from tests.system.conftest import start_all, until
from tests.system.test_tls import certify, zonectl
from zoned.auth.tokens import entry_text
from zoned.ctl import main
from zoned.files import write_private
from zoned.fleet import Daemon, free_ports

pytestmark = pytest.mark.system


class Planted:
    """Secrets, each to be found again in any of its spellings."""

    def __init__(self) -> None:
        self.spellings: dict[str, str] = {}

    def text(self, name: str) -> str:
        made = self.spellings[name] = f"{name.upper()}{secrets.token_hex(12)}"
        return made

    def data(self, name: str, secret: bytes) -> None:
        self.spellings[f"{name}, hex"] = secret.hex()
        self.spellings[f"{name}, base64"] = base64.b64encode(secret).decode().rstrip("=")[:40]
        self.spellings[f"{name}, repr"] = repr(secret)[2:22]

    def look_in(self, where: str, told: str) -> None:
        found = [name for name, spelling in self.spellings.items() if spelling.lower() in told.lower()]
        assert not found, f"{where} tells {found}"


@asynccontextmanager
async def talkative_keystone() -> AsyncIterator[int]:
    """A port that answers every request with 500 and all that was sent to it."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            sent = bytes(await stream.receive_some(65_536))
            head = b"HTTP/1.1 500 x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(sent)
            await stream.send_all(head + sent)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def prepare(daemon: Daemon, planted: Planted, keystone: int, registry: int, authority: Path) -> dict[str, str]:
    """Files with secrets, and a configuration that uses all of them; tokens by name."""
    directory, tokens = daemon.directory, {name: planted.text(name) for name in ("boss", "auditor")}
    roles = {"boss": "admin", "auditor": "auditor"}
    entries = "".join(entry_text(name, token, "ops", [roles[name]], None) for name, token in tokens.items())
    write_private(directory / "tokens", entries.encode())
    write_private(directory / "password", planted.text("password").encode())
    ring = secrets.token_bytes(32)
    planted.data("gossip key", ring)
    write_private(directory / "ring", Keyring.fresh(ring).encode())
    text = daemon.config.read_text()
    text = text.replace("[http]\n", f'[http]\nregistry_listen = "127.0.0.1:{registry}"\n')
    text = text.replace("[peers]\n", '[peers]\ntls = "require"\n')
    daemon.config.write_text(
        f"""{text}
[gossip]
sealing = "require"
keyring = "{directory / "ring"}"
[auth]
api = "tokens"
tokens_file = "{directory / "tokens"}"
registry_api = "keystone"
keystone_url = "http://127.0.0.1:{keystone}"
keystone_password_file = "{directory / "password"}"
[log]
level = "debug"
requests = true
"""
    )
    certify(daemon, authority, authority / "ca.pem")
    key = (directory / "data" / "tls" / "node.pem").read_text().partition("PRIVATE KEY-----\n")[2]
    planted.spellings["certificate's key"] = key.splitlines()[1][:40]
    planted.data("node key", (directory / "data" / "node.key").read_bytes())
    return tokens


async def use(client: httpx.AsyncClient, daemon: Daemon, planted: Planted, tokens: dict[str, str], port: int) -> None:
    """Requests good and bad, each with secrets in it; what strangers and auditors are told is looked through."""
    boss, auditor = ({"X-Auth-Token": tokens[name]} for name in ("boss", "auditor"))
    url = f"swift+https://{planted.text('user')}:{planted.text('pass')}@store/c/o?sig={planted.text('signature')}"
    body = {"name": "x", "visibility": "public", "locations": [{"url": url, "metadata": {}}]}
    made = await client.post(f"{daemon.url}/zone/v1/images", json=body, headers=boss)
    assert made.status_code == 201, made.text
    image = f"/v2/images/{made.json()['uuid']}"
    patch = {**boss, "Content-Type": "application/openstack-images-v2.1-json-patch"}
    again = [{"op": "add", "path": "/locations/-", "value": {"url": f"{url}2", "metadata": {}}}]
    assert (await client.patch(f"{daemon.url}{image}", json=again, headers=patch)).status_code == 200
    guess = {"X-Auth-Token": planted.text("guess")}
    asked: list[tuple[str, str, dict[str, str], int]] = [
        ("GET", image, guess, 401),
        ("GET", f"{image}?token={tokens['boss']}", auditor, 200),
        ("GET", "/zone/v1/images?limit=10", auditor, 200),
        ("GET", f"/zone/v1/images/{made.json()['uuid']}/history", auditor, 200),
        ("GET", f"/zone/v1/images/{made.json()['uuid']}/locations", auditor, 200),
        ("GET", f"{image}/locations", auditor, 200),
        ("GET", f"{image}/file", auditor, 403),
        ("POST", "/zone/v1/images", auditor, 403),
        ("POST", "/zone/v1/images", {"X-Auth-Token": tokens["boss"], "Expect": planted.text("expect")}, 417),
        ("GET", "/zone/v1/status", auditor, 200),
        ("GET", "/zone/v1/health", auditor, 200),
        ("GET", "/zone/v1/zones", auditor, 200),
        ("GET", "/zone/v1/gossip", auditor, 200),
        ("GET", "/zone/v1/writes", auditor, 200),
        ("GET", "/zone/v1/audit", auditor, 200),
        ("GET", "/metrics", auditor, 200),
    ]
    for method, path, headers, status in asked:
        answer = await client.request(method, f"{daemon.url}{path}", headers=headers)
        assert answer.status_code == status, (path, answer.text)
        planted.look_in(f"{method} {path.partition('?')[0]}", f"{answer.headers} {answer.text}")
    answer = await client.get(f"http://127.0.0.1:{port}/images", headers=guess)
    assert answer.status_code == 503
    planted.look_in("the registry API", f"{answer.headers} {answer.text}")


async def test_planted_secrets_are_told_nowhere(fleet, client, tmp_path):
    (daemon,) = fleet(1)
    (registry,) = free_ports(1)
    planted, authority = Planted(), tmp_path / "ca"
    zonectl("init-ca", "--label", "zoned", "--out", str(authority))
    async with talkative_keystone() as keystone:
        tokens = await trio.to_thread.run_sync(prepare, daemon, planted, keystone, registry, authority)
        await start_all(client, [daemon])
        await use(client, daemon, planted, tokens, registry)
        for broken in ("tokens", "ring"):  # files that became wrong are told about, not shown
            text = (daemon.directory / broken).read_text()
            write_private(daemon.directory / broken, f"{text}\nnonsense = {planted.text('nonsense')}\n".encode())
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)

        async def told() -> bool:
            await client.get(f"{daemon.url}/v2/images", headers={"X-Auth-Token": tokens["boss"]})
            return "token file is wrong" in daemon.log.read_text() and "reloaded" in daemon.log.read_text()

        await until("the broken files are told of", told)

    def by_zonectl(*words: str) -> str:
        done = CliRunner().invoke(main, ["--socket", str(daemon.socket), *words])
        assert done.exit_code == 0, done.output
        return done.output

    for words in (
        ("config", "show"),
        ("keys",),
        ("audit", "export"),
        ("status",),
        ("support-bundle", str(tmp_path / "bundle")),
    ):
        planted.look_in(words[0], by_zonectl(*words))
    with tarfile.open(tmp_path / "bundle") as bundle:
        for member in bundle.getmembers():
            file = bundle.extractfile(member)
            assert file is not None
            planted.look_in(member.name, file.read().decode())
    proc = Path(f"/proc/{daemon.process.pid}")
    planted.look_in("the command line", (proc / "cmdline").read_text())
    daemon.stop()
    log = daemon.log.read_text()
    assert '"path": "/v2/images' in log, "the log says what was asked"
    planted.look_in("the log", log)
    readable = [path for path in (daemon.directory / "data").rglob("*") if path.stat().st_mode & 0o077]
    assert readable == [], "everything that the daemon makes is for its user only"


def test_a_secret_that_is_told_is_found():
    planted, key = Planted(), secrets.token_bytes(32)
    told = [planted.text("token"), key.hex().upper(), base64.b64encode(key).decode(), str([key])]
    planted.data("key", key)
    planted.look_in("nothing", "nothing at all")
    for one in told:
        with pytest.raises(AssertionError, match="the log tells"):
            planted.look_in("the log", f"<6> {{'x': '{one}'}}")
