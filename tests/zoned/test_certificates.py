"""Certificates and TLS between nodes: whom a certificate names, who is refused, what happens when files change."""

import socket
import ssl
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.zoned.conftest import captured_logs, config_text
from zoned import certificates
from zoned.certificates import CertificateWrong
from zoned.ctl import main
from zoned.files import write_private
from zoned.peer_tls import LOOK_S, PeerTls

NOW = 1_790_000_000.0  # fixed where no clock of OpenSSL looks at it
A, B = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"


@pytest.fixture(scope="module")
def authority():
    return certificates.make_authority("cloud", _wall(), 10)


def _wall() -> float:
    from zoned import clock

    return clock.wall()


def node(directory: Path, authority: tuple[bytes, bytes], node_id: str, label: str = "cloud", days: int = 5) -> Path:
    """A node's directory with its certificate."""
    directory.mkdir()
    key = certificates.make_key()
    request = certificates.request(key, label, node_id)
    write_private(directory / "node.pem", certificates.issue(authority[0], authority[1], request, _wall(), days) + key)
    write_private(directory / "ca.pem", authority[0])
    return directory


def opened(directory: Path, node_id: str, label: str = "cloud") -> PeerTls:
    return PeerTls(directory, label, node_id, lambda: 0.0)


def shake(server: PeerTls, client: PeerTls) -> tuple[bytes | None, bytes | None]:
    """A handshake over a socket pair: what each saw of the other. Raises ssl.SSLError."""
    one, other = socket.socketpair()
    seen: list[bytes | None] = []
    failed: list[Exception] = []

    def serve() -> None:
        try:
            with server.server.wrap_socket(one, server_side=True) as wrapped:
                seen.append(wrapped.getpeercert(binary_form=True))
                wrapped.recv(1)
        except (ssl.SSLError, OSError) as error:
            failed.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.client.wrap_socket(other) as wrapped:
            shown = wrapped.getpeercert(binary_form=True)
            wrapped.send(b"x")
            wrapped.settimeout(5)
    finally:
        other.close()
        thread.join(5)
    if failed:
        raise failed[0]
    return seen[0], shown


def test_both_sides_prove_who_they_are(tmp_path, authority):
    a = opened(node(tmp_path / "a", authority, A), A)
    b = opened(node(tmp_path / "b", authority, B), B)
    client_seen, server_seen = shake(a, b)
    assert a.check(client_seen, B) == B
    assert b.check(server_seen, A) == A
    with pytest.raises(CertificateWrong, match=f"of node {A}, not of {B}"):
        b.check(server_seen, B)
    with pytest.raises(CertificateWrong, match="no certificate"):
        a.check(None, B)


def test_another_cluster_is_told_so(tmp_path, authority):
    a = opened(node(tmp_path / "a", authority, A), A)
    other = opened(node(tmp_path / "o", authority, B, "elsewhere"), B, "elsewhere")
    client_seen, _ = shake(a, other)
    with pytest.raises(CertificateWrong, match="for cluster 'elsewhere', ours is 'cloud'"):
        a.check(client_seen, None)


def test_another_authority_is_refused(tmp_path, authority):
    a = opened(node(tmp_path / "a", authority, A), A)
    strange = opened(node(tmp_path / "s", certificates.make_authority("cloud", _wall(), 10), B), B)
    with pytest.raises(ssl.SSLError):
        shake(a, strange)
    with pytest.raises(ssl.SSLError):
        shake(strange, a)


def test_an_ended_certificate_is_refused(tmp_path, authority):
    a = opened(node(tmp_path / "a", authority, A), A)
    late = tmp_path / "late"
    late.mkdir()
    key = certificates.make_key()
    made = certificates.issue(
        authority[0], authority[1], certificates.request(key, "cloud", B), _wall() - 3 * 86_400, 1
    )
    write_private(late / "node.pem", made + key)
    write_private(late / "ca.pem", authority[0])
    with pytest.raises(ssl.SSLError):
        shake(a, opened(late, B))


def test_two_authorities_during_a_change(tmp_path, authority):
    newer = certificates.make_authority("cloud", _wall(), 10)
    a, b = node(tmp_path / "a", authority, A), node(tmp_path / "b", newer, B)
    for directory in (a, b):
        write_private(directory / "ca.pem", authority[0] + newer[0])
    client_seen, _ = shake(opened(a, A), opened(b, B))
    assert opened(a, A).check(client_seen, B) == B


def test_files_are_read_again_and_wrong_ones_change_nothing(tmp_path, authority):
    now = [0.0]
    directory = node(tmp_path / "a", authority, A)
    tls = PeerTls(directory, "cloud", A, lambda: now[0])
    first = tls.server
    again = node(tmp_path / "again", authority, A)
    write_private(directory / "node.pem", (again / "node.pem").read_bytes())
    assert tls.server is first
    now[0] += LOOK_S
    second = tls.server
    assert second is not first
    write_private(directory / "node.pem", b"nonsense")
    with captured_logs() as said:
        now[0] += LOOK_S
        assert tls.server is second
        now[0] += LOOK_S
        assert tls.server is second
    assert [one["event"] for one in said] == ["certificates are wrong, those before stay in use"]


@pytest.mark.parametrize(("node_id", "label"), [(B, "cloud"), (A, "other")])
def test_a_certificate_of_somebody_else_is_a_mistake(tmp_path, authority, node_id, label):
    directory = node(tmp_path / "a", authority, node_id, label)
    with pytest.raises(CertificateWrong, match=f"is the certificate of node {node_id}"):
        opened(directory, A)


def test_requests_that_are_none(authority):
    key = certificates.make_key()
    with pytest.raises(CertificateWrong, match="no request"):
        certificates.issue(authority[0], authority[1], b"nonsense", NOW, 1)
    with pytest.raises(CertificateWrong, match="do not belong together"):
        certificates.issue(authority[0], key, certificates.request(key, "cloud", A), NOW, 1)
    with pytest.raises(CertificateWrong, match="no certificate of a node"):
        certificates.named(authority[0])
    with pytest.raises(CertificateWrong, match="no certificate"):
        certificates.named(b"\x30\x00")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["tls", *arguments])


def test_the_commands_from_nothing_to_a_certificate(tmp_path):
    config = tmp_path / "zoned.toml"
    config.write_text(config_text(tmp_path / "store"))
    ca = tmp_path / "ca"
    assert run("init-ca", "--label", "tests", "--out", str(ca)).exit_code == 0
    assert run("init-ca", "--label", "tests", "--out", str(ca)).exit_code == 5, "nothing is overwritten"
    assert run("status", "-c", str(config)).exit_code == 4
    asked = run("request", "-c", str(config))
    assert asked.exit_code == 0, asked.output
    (tmp_path / "node.csr").write_text(asked.stdout)
    issued = run("issue", "--ca", str(ca), str(tmp_path / "node.csr"))
    assert issued.exit_code == 0, issued.output
    (tmp_path / "node.crt").write_text(issued.stdout)
    installed = run("install", "-c", str(config), "--ca", str(ca / "ca.pem"), str(tmp_path / "node.crt"))
    assert installed.exit_code == 0, installed.output
    assert "397 days left" in run("status", "-c", str(config)).stdout
    node_pem = tmp_path / "store" / "tls" / "node.pem"
    assert node_pem.stat().st_mode & 0o077 == 0
    found = certificates.named(node_pem.read_bytes())
    PeerTls(node_pem.parent, "tests", found.node_id, lambda: 0.0)
    second = run("request", "-c", str(config))
    assert certificates.named(node_pem.read_bytes()) == found, "the one in use stays"
    (tmp_path / "node.csr").write_text(second.stdout)
    wrong = run("install", "-c", str(config), str(tmp_path / "node.crt"))
    assert (wrong.exit_code, "not for this node's key" in wrong.stderr) == (5, True)
