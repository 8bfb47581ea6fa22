"""zonectl's commands about certificates. They work on files and need no daemon.

What they need is imported when they run: cryptography would cost every other command its start.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from zoned.asking import fail

if TYPE_CHECKING:
    from conf import Config

CA_KEY = "ca.key"
PENDING = "node.key.new"
CONFIG = click.option("-c", "--config", "path", type=click.Path(path_type=Path), metavar="FILE", help="TOML file.")
AUTHORITY_DAYS, NODE_DAYS = 3_650, 397


@click.group()
def tls() -> None:
    """Certificates of the peer plane.

    \b
    once, on a machine that operators trust:   zonectl tls init-ca --label LABEL --out DIR
    on each node:                              zonectl tls request -c zoned.toml > NODE.csr
    where the authority is:                    zonectl tls issue --ca DIR NODE.csr > NODE.pem
    on the node, with ca.pem and NODE.pem:     zonectl tls install -c zoned.toml --ca ca.pem NODE.pem
    """


@tls.command("init-ca")
@click.option("--label", required=True, help="The cluster's label: gossip.label of every node.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Where to write it.")
@click.option("--days", type=click.IntRange(1, 36_500), default=AUTHORITY_DAYS, show_default=True)
def init_ca(label: str, out: Path, days: int) -> None:
    """Make a certificate authority: ca.pem for every node, ca.key for nobody else."""
    from zoned import certificates, clock
    from zoned.files import write_private

    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (out / CA_KEY).exists():
        fail(f"{out / CA_KEY} is there already; an authority is replaced by a second one beside it, in another DIR", 5)
    certificate, key = certificates.make_authority(label, clock.wall(), days)
    write_private(out / CA_KEY, key)
    (out / "ca.pem").write_bytes(certificate)
    click.echo(f"zonectl: {out / 'ca.pem'} goes to every node; keep {out / CA_KEY} where only you read it", err=True)


@tls.command()
@CONFIG
def request(path: Path | None) -> None:
    """Make this node a new key and print the request for its certificate. The key in use stays in use."""
    import trio

    from store.errors import CannotOpen
    from zoned import certificates, paths
    from zoned.files import write_private
    from zoned.membership import establish

    config = _load(path)
    directory, label = paths.tls_dir(config), config.gossip.label
    try:
        node_id = trio.run(establish, config, paths.data_dir(config))
    except* CannotOpen as errors:
        fail(str(errors.exceptions[0]), 1)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = certificates.make_key()
    write_private(directory / PENDING, key)
    click.echo(certificates.request(key, label, node_id).decode(), nl=False)


@tls.command()
@click.argument("request", type=click.File("rb"))
@click.option("--ca", type=click.Path(path_type=Path, file_okay=False, exists=True), required=True, help="Its DIR.")
@click.option("--days", type=click.IntRange(1, 36_500), default=NODE_DAYS, show_default=True)
def issue(request: BinaryIO, ca: Path, days: int) -> None:
    """Print the certificate that REQUEST asks for."""
    from zoned import certificates, clock
    from zoned.certificates import CertificateWrong
    from zoned.files import NotPrivate, read_private_bytes

    try:
        authority, key = (ca / "ca.pem").read_bytes(), read_private_bytes(ca / CA_KEY)
        made = certificates.issue(authority, key, request.read(), clock.wall(), days)
    except OSError as error:
        fail(f"{error.filename} cannot be read: {error.strerror}", 1)
    except (CertificateWrong, NotPrivate) as error:
        fail(str(error), 1)
    click.echo(made.decode(), nl=False)


@tls.command()
@CONFIG
@click.argument("certificate", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--ca", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Authorities to believe.")
def install(path: Path | None, certificate: Path, ca: Path | None) -> None:
    """Put CERTIFICATE in use, with the key of the last request. A running daemon takes it within seconds."""
    from zoned import certificates
    from zoned.certificates import CertificateWrong
    from zoned.files import write_private
    from zoned.peer_tls import AUTHORITIES, NODE

    directory, label = _settings(path)
    try:
        made = certificate.read_bytes()
        key = (directory / PENDING).read_bytes()
        certificates.check_pair(made, key)
        found = certificates.named(made)
        if found.label != label:
            fail(f"{certificate} is for cluster {found.label!r}, gossip.label is {label!r}", 5)
        if ca is not None:
            believed = ca.read_bytes()
            certificates.ends(believed)
            write_private(directory / AUTHORITIES, believed)
        write_private(directory / NODE, made + key)
        (directory / PENDING).unlink()
    except OSError as error:
        fail(f"{error.filename} cannot be read or written: {error.strerror}; is there a request?", 1)
    except CertificateWrong as error:
        fail(f"{certificate}: {error}", 5)
    click.echo(f"zonectl: node {found.node_id} has a certificate until {_day(found.not_after)}", err=True)


@tls.command("status")
@CONFIG
def status(path: Path | None) -> None:
    """Whom the certificates name and when they end."""
    from zoned import certificates
    from zoned.certificates import CertificateWrong
    from zoned.peer_tls import AUTHORITIES, NODE

    directory, _ = _settings(path)
    try:
        own = certificates.named((directory / NODE).read_bytes())
        believed = certificates.ends((directory / AUTHORITIES).read_bytes())
    except OSError as error:
        fail(f"{error.filename} cannot be read: {error.strerror}; zonectl tls --help says how it is made", 4)
    except CertificateWrong as error:
        fail(f"{directory}: {error}", 1)
    click.echo(f"node         {own.node_id} of {own.label}")
    click.echo(f"certificate  until {_day(own.not_after)}, {_left(own.not_after)}")
    for end in believed:
        click.echo(f"authority    until {_day(end)}, {_left(end)}")


def _settings(path: Path | None) -> tuple[Path, str]:
    """(peers.tls_dir, the cluster's label)."""
    from zoned import paths

    config = _load(path)
    return paths.tls_dir(config), config.gossip.label


def _load(path: Path | None) -> "Config":
    from conf import ConfigError, load

    try:
        return load(path)
    except ConfigError as error:
        fail(str(error), 2)


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def _left(seconds: float) -> str:
    from zoned import clock

    days = (seconds - clock.wall()) / 86_400
    return f"{days:.0f} days left" if days > 0 else "ENDED"
