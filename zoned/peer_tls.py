"""TLS between nodes: TLS 1.3, both sides with a certificate, each tied to a node ID.

Two files in `peers.tls_dir`: `ca.pem`, the authorities believed (several while one replaces another), and `node.pem`,
this node's certificate with its key. They are looked at again every few seconds; connections made afterwards use what
is new, and `generation` tells a server that those made before are to end. Whoever shows a certificate of another
cluster, of another node than meant, or none, is refused by name.
"""

import ssl
from collections.abc import Callable
from pathlib import Path

import structlog
import trio

from conf import Config
from store.identity import Identity
from store.images import is_uuid
from zoned import paths
from zoned.certificates import CertificateWrong, Named, check_pair, ends, named
from zoned.errors import CannotStart
from zoned.files import NotPrivate, Watched, read_private_bytes
from zoned.posting import Address, Connect, PostFailed, connect_tcp

AUTHORITIES, NODE = "ca.pem", "node.pem"
LOOK_S = 5.0

logger = structlog.get_logger()


class PeerTls:
    """The contexts of both sides, and whom a peer's certificate names."""

    def __init__(self, directory: Path, label: str, node_id: str, now: Callable[[], float]) -> None:
        """`now` in monotonic seconds. Raises CertificateWrong."""
        self._directory = directory
        self._label = label
        self._node_id = node_id
        self._generation = 0
        self._watched = Watched((directory / AUTHORITIES, directory / NODE), LOOK_S, now)
        self._server, self._client, self.own = self._load()

    @property
    def server(self) -> ssl.SSLContext:
        self._refresh()
        return self._server

    @property
    def client(self) -> ssl.SSLContext:
        self._refresh()
        return self._client

    @property
    def generation(self) -> int:
        """How often the files were read anew: an open connection must not outlive the authority that let it in."""
        self._refresh()
        return self._generation

    def authorities_end(self) -> float:
        """When the first of the believed authorities ends (seconds since 1970). Raises CertificateWrong."""
        return min(ends(_read(self._directory / AUTHORITIES)))

    def ending(self) -> dict[str, float]:
        """When what is in use ends (seconds since 1970), by role; a file that became wrong is left out."""
        found = {"node": self.own.not_after}
        try:
            found["authority"] = self.authorities_end()
        except CertificateWrong:
            pass  # those before stay in use; `_refresh` tells
        return found

    def check(self, shown: bytes | None, meant: str | None) -> str:
        """The node ID in a peer's certificate (DER). Raises CertificateWrong unless of this cluster, and of `meant`."""
        if not shown:
            raise CertificateWrong("no certificate was shown")
        found = named(shown)
        if found.label != self._label:
            raise CertificateWrong(f"its certificate is for cluster {found.label!r}, ours is {self._label!r}")
        if meant is not None and found.node_id != meant:
            raise CertificateWrong(f"its certificate is of node {found.node_id}, not of {meant}")
        return found.node_id

    def _load(self) -> tuple[ssl.SSLContext, ssl.SSLContext, Named]:
        own = _read(self._directory / NODE)
        found = named(own)
        where = self._directory / NODE
        if (found.label, found.node_id) != (self._label, self._node_id):
            whose = f"node {found.node_id} of cluster {found.label!r}"
            raise CertificateWrong(f"{where} is the certificate of {whose}; this is {self._node_id} of {self._label!r}")
        try:
            check_pair(own, own)
        except CertificateWrong as error:
            raise CertificateWrong(f"{where}: {error}") from None
        return self._context(ssl.PROTOCOL_TLS_SERVER), self._context(ssl.PROTOCOL_TLS_CLIENT), found

    def _context(self, side: int) -> ssl.SSLContext:
        context = ssl.SSLContext(side)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # a certificate names a node, wherever it runs: see `check`
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(self._directory / AUTHORITIES)
            context.load_cert_chain(self._directory / NODE)
        except (OSError, ssl.SSLError) as error:
            raise CertificateWrong(f"{self._directory}: {AUTHORITIES} or {NODE} cannot be used: {error}") from None
        if side == ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0  # sessions are not resumed: connections are few and long
        return context

    def _refresh(self) -> None:
        """Files that became wrong change nothing, and are told of once."""
        if not self._watched.changed():
            return
        try:
            self._server, self._client, self.own = self._load()
        except CertificateWrong as error:
            logger.error("certificates are wrong, those before stay in use", problem=str(error))
        else:
            self._generation += 1
            logger.info("certificates read", ends=self.own.not_after)


def open_tls(config: Config, me: Identity) -> PeerTls | None:
    """What `peers.tls` asks for. Raises CannotStart."""
    if config.peers.tls == "off":
        return None
    try:
        return PeerTls(paths.tls_dir(config), config.gossip.label, me.node_id, trio.current_time)
    except CertificateWrong as error:
        raise CannotStart(f"peers.tls: {error}") from None


def generation_of(tls: PeerTls | None) -> Callable[[], int]:
    """Of what is believed of peers, for a Poster: what was let in before must not be asked again."""
    return (lambda: tls.generation) if tls is not None else lambda: 0


def connect_by(tls: PeerTls | None) -> Connect:
    """How a Poster connects: by TLS, and to the node that it means when it means one (its `name` is a node ID)."""
    if tls is None:
        return connect_tcp

    async def connect(address: Address, name: str) -> trio.abc.Stream:
        stream = trio.SSLStream(await connect_tcp(address, name), tls.client, https_compatible=True)
        try:
            await stream.do_handshake()
            tls.check(stream.getpeercert(binary_form=True), name if is_uuid(name) else None)
        except (trio.BrokenResourceError, CertificateWrong) as error:
            await trio.aclose_forcefully(stream)
            raise PostFailed(f"TLS with {address[0]}:{address[1]}: {error.__cause__ or error}") from None
        return stream

    return connect


def _read(path: Path) -> bytes:
    """The authorities, or what holds this node's key."""
    try:
        return path.read_bytes() if path.name == AUTHORITIES else read_private_bytes(path)
    except NotPrivate as error:
        raise CertificateWrong(str(error)) from None
    except OSError as error:
        raise CertificateWrong(f"{path} cannot be read: {error.strerror}; see zonectl tls") from None
