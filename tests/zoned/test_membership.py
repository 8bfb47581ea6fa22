"""The node's place in gossip: key pair, keyring file, and what the operator asks and changes over the admin socket."""

import json
import secrets
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from conf import parse
from gossip import Keyring
from gossip.credentials import node_id_of
from store.errors import CannotOpen
from tests.zoned.conftest import LABEL, config_text, serve
from zoned.ctl import main
from zoned.errors import CannotStart
from zoned.files import write_private
from zoned.membership import KEY_FILE, KEYRING_FILE, load_credentials, load_keyring


def sealed_text(directory: Path, sealing: str = "require") -> str:
    return config_text(directory).replace("[gossip]\n", f'[gossip]\nsealing = "{sealing}"\n')


def test_the_key_pair_is_made_once_and_is_the_owners_alone(tmp_path: Path) -> None:
    own = load_credentials(tmp_path, LABEL, is_new=True)
    assert load_credentials(tmp_path, LABEL, is_new=False).node_id == own.node_id == node_id_of(own.public)
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    (tmp_path / KEY_FILE).write_bytes(b"short")
    with pytest.raises(CannotOpen, match="is no node key"):
        load_credentials(tmp_path, LABEL, is_new=False)


def test_a_store_with_another_nodes_key_is_refused(tmp_path: Path) -> None:
    with serve(config_text(tmp_path)) as running:
        assert running.zone.identity.node_id == load_credentials(tmp_path, LABEL, is_new=False).node_id
    write_private(tmp_path / KEY_FILE, secrets.token_bytes(32))
    with pytest.raises(BaseExceptionGroup) as caught, serve(config_text(tmp_path)):
        pass
    assert caught.group_contains(CannotOpen, match="restore both from one copy")


def test_a_keyring_that_cannot_be_used_is_refused_by_name(tmp_path: Path) -> None:
    config = parse(sealed_text(tmp_path))
    with pytest.raises(CannotStart, match="zonectl keys generate"):
        load_keyring(config, tmp_path)
    path = tmp_path / KEYRING_FILE
    path.write_text("{}")
    path.chmod(0o644)
    with pytest.raises(CannotStart, match="chmod 600"):
        load_keyring(config, tmp_path)
    path.chmod(0o600)
    with pytest.raises(CannotStart, match="this is no keyring"):
        load_keyring(config, tmp_path)
    assert load_keyring(parse(config_text(tmp_path)), tmp_path) is None


def zonectl(socket: Path, *words: str) -> tuple[int, Any]:
    done = CliRunner().invoke(main, ["--socket", str(socket), "-f", "json", *words])
    return done.exit_code, json.loads(done.stdout) if done.stdout else done.stderr


def test_an_operator_rotates_the_key_and_asks_why(tmp_path: Path) -> None:
    generated = CliRunner().invoke(main, ["keys", "generate"]).stdout
    old = Keyring.decode(generated.encode()).primary.key_id
    write_private(tmp_path / KEYRING_FILE, generated.encode())
    with serve(sealed_text(tmp_path)) as running:
        ask = running.socket
        status, document = zonectl(ask, "keys", "install")
        assert (status, [key["role"] for key in document["keys"]]) == (0, ["primary", "accepted"])
        new = document["keys"][1]["id"]
        assert zonectl(ask, "keys", "remove", old)[0] == 5
        assert zonectl(ask, "keys", "use", new)[1]["version"] == 3
        assert zonectl(ask, "keys", "remove", old)[1]["keys"][0] == {"id": old, "role": "retired"}
        assert zonectl(ask, "keys", "remove", "--revoke", old)[1]["keys"] == [{"id": new, "role": "primary"}]
        assert zonectl(ask, "keys", "use", "nonsense")[0] == 5
        assert "secret" not in str(zonectl(ask, "keys")[1])
        assert zonectl(ask, "gossip")[1]["keyring_version"] == 5
        assert zonectl(ask, "zones")[1][0]["lag"] == 0
        assert zonectl(ask, "zones", "why", "alpha")[1][0]["suspected_by"] is None
        assert zonectl(ask, "zones", "why", "omega")[0] == 4
        seen = zonectl(ask, "reachability")[1]
        assert seen[0]["sees"] == {running.zone.identity.node_id: "alive"}
        assert zonectl(ask, "drain")[1] == {"draining": True}
        assert httpx.get(f"{running.url}/readyz").status_code == 503
        assert zonectl(ask, "drain", "off")[1] == {"draining": False}
        public = httpx.get(f"{running.url}/admin/v1/keys")
        assert public.status_code in (300, 404)  # as any path that the public listener does not have
        assert httpx.post(f"{running.url}/admin/v1/keys", json={"install": ""}).status_code in (300, 404)
    kept = Keyring.decode((tmp_path / KEYRING_FILE).read_bytes())
    assert (kept.version, kept.primary.key_id) == (5, new)


def test_without_sealing_there_are_no_keys_to_change(tmp_path: Path) -> None:
    with serve(config_text(tmp_path)) as running:
        status, said = zonectl(running.socket, "keys", "install")
        assert status == 5
        assert "gossip.sealing" in said
        assert zonectl(running.socket, "keys")[1] == {"sealing": "off", "version": None, "keys": []}


def test_a_key_whose_store_is_gone_is_put_aside(tmp_path):
    lost = load_credentials(tmp_path, LABEL, is_new=True)
    fresh = load_credentials(tmp_path, LABEL, is_new=True)
    assert fresh.node_id != lost.node_id
    assert len(list(tmp_path.glob("node.key.lost-*"))) == 1
    assert load_credentials(tmp_path, LABEL, is_new=False).node_id == fresh.node_id
