"""Secrets' files: made for their owner only, and refused when others may read them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from conf import parse
from store.database import open_database
from store.errors import CannotOpen
from tests.zoned.conftest import LABEL, config_text
from zoned import certificates, clock
from zoned.auth.doors import read_secret
from zoned.auth.tokens import TokensWrong, entry_text
from zoned.auth.tokens import read as read_tokens
from zoned.certificates import CertificateWrong
from zoned.ctl import main
from zoned.errors import CannotStart
from zoned.files import NotPrivate, opened_private, read_private, write_private
from zoned.membership import establish, load_credentials, load_keyring
from zoned.peer_tls import PeerTls

NODE = "00000000-0000-4000-8000-00000000000a"


@contextmanager
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_what_is_made_is_for_its_owner_only(tmp_path):
    with open_umask():
        write_private(tmp_path / "key", b"k")
        with open(tmp_path / "backup", "wb", opener=opened_private):
            pass
        trio.run(establish, parse(config_text(tmp_path / "store")), tmp_path / "store")
        done = CliRunner().invoke(main, ["tls", "init-ca", "--label", LABEL, "--out", str(tmp_path / "ca")])
        assert done.exit_code == 0, done.output
    made = [tmp_path / "key", tmp_path / "backup", tmp_path / "ca" / "ca.key", *(tmp_path / "store").iterdir()]
    assert {path.name for path in made} >= {"zoned.db", "node.key", "lock"}
    assert {path: mode(path) for path in made if mode(path) != 0o600} == {}
    assert mode(tmp_path / "store") == mode(tmp_path / "ca") == 0o700


@pytest.mark.parametrize("bits", [0o604, 0o602, 0o644])
def test_others_may_neither_read_nor_write(tmp_path, bits):
    path = tmp_path / "secret"
    write_private(path, b"s\n")
    assert read_private(path) == "s\n"
    path.chmod(bits)
    with pytest.raises(NotPrivate, match="chmod 600"):
        read_private(path)


def exposed(path: Path) -> Path:
    path.chmod(0o644)
    return path


def test_a_node_with_an_open_key_or_store_does_not_start(tmp_path):
    config = parse(config_text(tmp_path))
    trio.run(establish, config, tmp_path)
    exposed(tmp_path / "node.key")
    with pytest.raises(CannotOpen, match=r"node.key; chmod 600"):
        load_credentials(tmp_path, LABEL, is_new=False)
    exposed(tmp_path / "zoned.db")

    async def open_it() -> None:
        async with open_database(tmp_path):
            raise AssertionError("opened")

    with pytest.raises(CannotOpen, match=r"zoned.db; chmod 600"):
        trio.run(open_it)


def test_open_certificates_keyrings_tokens_and_passwords_are_refused(tmp_path):
    authority, key = certificates.make_authority(LABEL, clock.wall(), 5), certificates.make_key()
    made = certificates.issue(*authority, certificates.request(key, LABEL, NODE), clock.wall(), 5)
    write_private(tmp_path / "node.pem", made + key)
    (tmp_path / "ca.pem").write_bytes(authority[0])
    PeerTls(tmp_path, LABEL, NODE, lambda: 0.0)
    exposed(tmp_path / "node.pem")
    with pytest.raises(CertificateWrong, match="chmod 600"):
        PeerTls(tmp_path, LABEL, NODE, lambda: 0.0)

    (tmp_path / "ring").write_text("{}")
    exposed(tmp_path / "ring")
    sealed = parse(f'[gossip]\nsealing = "require"\nkeyring = "{tmp_path / "ring"}"\n')
    with pytest.raises(CannotStart, match="chmod 600"):
        load_keyring(sealed, tmp_path)

    (tmp_path / "tokens").write_text(entry_text("a", "t", None, ["admin"], None))
    exposed(tmp_path / "tokens")
    with pytest.raises(TokensWrong, match="chmod 600"):
        read_tokens(tmp_path / "tokens")

    (tmp_path / "password").write_text("p")
    exposed(tmp_path / "password")
    with pytest.raises(CannotStart, match="chmod 600"):
        read_secret("auth.keystone_password_file", str(tmp_path / "password"))


def test_an_authority_with_an_open_key_issues_nothing(tmp_path):
    run = CliRunner()
    assert run.invoke(main, ["tls", "init-ca", "--label", LABEL, "--out", str(tmp_path)]).exit_code == 0
    (tmp_path / "csr").write_bytes(certificates.request(certificates.make_key(), LABEL, NODE))
    exposed(tmp_path / "ca.key")
    done = run.invoke(main, ["tls", "issue", "--ca", str(tmp_path), str(tmp_path / "csr")])
    assert (done.exit_code, "chmod 600" in done.stderr, done.stdout) == (1, True, "")
