"""Every setting: one frozen dataclass per TOML table, with default, unit, bounds and reason. Sans-IO.

The classes below are the only place that knows a setting's name. The loader, the sample file and the reference page
are all derived from them, so a setting cannot exist without its documentation. Units stand last in the name
(`_s` seconds, `_bytes`, `_max`). `Config` is read once; each part of the daemon is handed its own table.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, cast

Check = Callable[[Any], str | None]


def setting(default: Any, why: str, *checks: Check) -> Any:
    """A dataclass field with its reason and its checks; a check returns what is wrong, or None."""
    return field(default=default, metadata={"why": why, "checks": checks})


def at_least(low: float) -> Check:
    return lambda value: None if value >= low else f"must be at least {low}, is {value}"


def between(low: float, high: float) -> Check:
    return lambda value: None if low <= value <= high else f"must be between {low} and {high}, is {value}"


def one_of(*choices: object) -> Check:
    listed = ", ".join(repr(choice) for choice in choices)
    return lambda value: None if value in choices else f"must be one of {listed}, is {value!r}"


def split_address(text: str) -> tuple[str, int]:
    """`"host:port"` or `"[v6]:port"` as (host, port). Raises ValueError with a sentence that names the mend."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"write an IPv6 address in brackets, as [::1]:9292, not {text!r}")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"must be HOST:PORT with a port from 0 to 65535, is {text!r}")
    return host, int(port)


def address(text: str) -> str | None:
    try:
        split_address(text)
    except ValueError as error:
        return str(error)
    return None


def addresses(texts: tuple[str, ...]) -> str | None:
    wrong = [problem for problem in map(address, texts) if problem]
    return wrong[0] if wrong else None


def address_or_empty(text: str) -> str | None:
    return address(text) if text else None


def is_loopback(text: str) -> bool:
    """Whether HOST:PORT can be reached from this machine only."""
    host = split_address(text)[0]
    return host in ("localhost", "::1") or host.startswith("127.")


def name(text: str) -> str | None:
    """Names travel in every datagram and in header lines: short, printable, no white space."""
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    if not text or len(text) > 63 or not set(text) <= allowed or not text[0].isalnum():
        return f"must be 1 to 63 of A-Z a-z 0-9 . _ -, beginning with a letter or digit, is {text!r}"
    return None


def plain_url(text: str) -> str | None:
    """It is told to whoever is refused, and stands in log lines."""
    if text and not text.startswith(("http://", "https://")):
        return "must be a URL, as http://keystone.example:5000/v3"  # not told: it may hold a password
    host = text.partition("://")[2].partition("/")[0]
    return (
        "must not hold a user name or password, nor a query: see keystone_user" if "@" in host or "?" in text else None
    )


def schemes(texts: tuple[str, ...]) -> str | None:
    """URL schemes (RFC 3986, 3.1), in lower case."""
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789+-.")
    wrong = [text for text in texts if not text[:1].isalpha() or not set(text) <= allowed]
    return f"must be URL schemes without ://, as https, is {wrong[0]!r}" if wrong else None


def socket_path(text: str) -> str | None:
    # struct sockaddr_un holds 108 bytes with the closing NUL (unix(7)).
    return None if len(text.encode()) <= 107 else f"a Unix socket path has at most 107 bytes, this has {len(text)}"


@dataclass(frozen=True, slots=True)
class Node:
    """Which zone this daemon serves and where it keeps what it knows."""

    zone: str = setting("local", "name of the zone (a failure domain); several nodes may share one", name)
    data_dir: str = setting(
        "", "directory of the store; empty: $STATE_DIRECTORY, else ~/.local/state/zoned. Never share it"
    )
    role: str = setting(
        "full",
        "full: serves users and may be the registry; witness: votes and keeps a copy, serves nobody",
        one_of("full", "witness"),
    )


@dataclass(frozen=True, slots=True)
class Http:
    """The listener for compute hosts, backup workers and OpenStack clients."""

    listen: str = setting("127.0.0.1:9292", "HOST:PORT of the Images API and the native API", address)
    registry_listen: str = setting(
        "", "HOST:PORT of the registry API for a Glance API server of up to 20.x, usually port 9191", address_or_empty
    )
    workers: int = setting(
        0, "processes that answer lookups; they hand on the rest. 0: the daemon answers all itself", between(0, 64)
    )
    advertise_url: str = setting("", "URL that other zones tell their users; empty: http:// and `listen`")
    header_bytes_max: int = setting(32_768, "one request's line and headers, bytes", between(1_024, 1_048_576))
    body_bytes_max: int = setting(
        1_048_576, "one request's body, bytes; a record is about 1,500", between(4_096, 16_777_216)
    )
    header_timeout_s: float = setting(10.0, "for a request's headers to arrive", at_least(0.1))
    body_timeout_s: float = setting(30.0, "for a request's body to arrive", at_least(0.1))
    idle_timeout_s: float = setting(75.0, "before a connection with no request is closed", at_least(0.1))
    write_timeout_s: float = setting(30.0, "for a client to take an answer", at_least(0.1))
    connections_max: int = setting(10_000, "open connections; more are answered 503", at_least(1))
    client_requests_per_s: float = setting(
        0.0,
        "of one client (its token's user and project, else its address), then 429; 0: any. Each process counts alone",
        at_least(0),
    )
    client_burst_max: int = setting(1_000, "requests that a client may send at once beyond that rate", at_least(1))
    grace_s: float = setting(10.0, "for requests under way when the daemon stops", at_least(0))


@dataclass(frozen=True, slots=True)
class Peers:
    """The plane between nodes: HTTP over TCP and gossip over UDP, on one port number."""

    listen: str = setting("127.0.0.1:9293", "HOST:PORT, TCP and UDP", address)
    advertise: str = setting("", "HOST:PORT under which other nodes reach this one; empty: `listen`", address_or_empty)
    seeds: tuple[str, ...] = setting(
        (), "HOST:PORT of some other nodes, first contact only; _x._tcp.NAME: a service (SRV)", addresses
    )
    body_bytes_max: int = setting(16_777_216, "one message between nodes, bytes", at_least(8_388_608))
    tls: str = setting(
        "off", "off; require: both sides prove their node ID by certificate (TLS 1.3)", one_of("off", "require")
    )
    tls_dir: str = setting("", "directory of ca.pem and node.pem (zonectl tls); empty: tls in the data directory")


@dataclass(frozen=True, slots=True)
class Gossip:
    """Who is there. The label keeps two clouds apart that were wired together by mistake."""

    label: str = setting("zoned", "cluster label: the same on every node of one cloud", name)
    profile: str = setting("lan", "time constants: lan (one region) or wan (between regions)", one_of("lan", "wan"))
    sealing: str = setting(
        "off",
        "encryption: off; accept (send plain, read both); send (send sealed, read both); require (sealed only)",
        one_of("off", "accept", "send", "require"),
    )
    keyring: str = setting(
        "", "file of the keys, the same on every node, mode 600; empty: gossip-keys.json in the data directory"
    )
    stream_only: bool = setting(False, "no UDP: gossip by HTTP on the same port, for networks that block UDP")


@dataclass(frozen=True, slots=True)
class Registry:
    """Election of the registry and the way of a write."""

    engine: str = setting(
        "embedded",
        "embedded: the zones replicate the log among themselves; postgresql: a database orders and keeps it",
        one_of("embedded", "postgresql"),
    )
    dsn: tuple[str, ...] = setting(
        (), "with engine = 'postgresql': connection strings, tried in turn; passwords belong into a passfile"
    )
    expect: int = setting(
        1,
        "voters that found the cluster, the same number on all of them; 1: this node alone; 0: only join a cluster",
        one_of(0, 1, 3, 5, 7),
    )
    voters: int = setting(5, "later nodes are promoted until so many vote, spread over zones", one_of(1, 3, 5, 7))
    remove_after_s: float = setting(
        0.0, "a node away for so long gives its place to another; 0: never, an operator decides", at_least(0)
    )
    profile: str = setting(
        "lan",
        "lan: heartbeat 0.1 s, election 0.5 to 1 s; wan: 0.5 s, 5 to 10 s; both stretched when slow",
        one_of("lan", "wan"),
    )
    log_entries_keep: int = setting(
        20_000,
        "applied entries kept for nodes that are a little behind; others get a snapshot",
        between(100, 10_000_000),
    )
    wait_s: float = setting(
        2.0, "a client waits this long for its write's outcome, then is answered `buffered`", between(0, 60)
    )
    forward_batch_max: int = setting(512, "writes forwarded to the registry in one message", between(1, 10_000))
    uncommitted_bytes_max: int = setting(16_777_216, "appended and not committed; beyond: busy", at_least(65_536))


@dataclass(frozen=True, slots=True)
class Journal:
    """This node's own writes, not yet applied from the log. Full means refusing (507), never dropping."""

    entries_max: int = setting(2_000_000, "writes kept; two days of a whole fleet's backups", at_least(1))
    bytes_max: int = setting(4_294_967_296, "bytes of writes kept", at_least(4_096))
    drain_max_per_s: int = setting(
        5_000, "writes a second sent after an outage, so that zones that return together leave room", at_least(1)
    )
    free_disk_min_bytes: int = setting(268_435_456, "below this much free disk new writes are refused", at_least(0))
    shared_entries_max: int = setting(2_000_000, "writes of other nodes kept until they are applied", at_least(0))
    shared_bytes_max: int = setting(4_294_967_296, "bytes of other nodes' writes kept", at_least(0))


@dataclass(frozen=True, slots=True)
class Idempotency:
    """Requests that carry an Idempotency-Key: how long and how many are known again."""

    keep_days: float = setting(30.0, "a key counts so long; at least the longest outage", between(0.01, 3_650))
    keys_max: int = setting(
        50_000_000, "keys known, of all zones; beyond, requests with a new key are 507", at_least(1)
    )
    answers_max: int = setting(200_000, "whole answers kept by this node; beyond, they are made anew", at_least(0))


@dataclass(frozen=True, slots=True)
class Ids:
    """Integer IDs from ranges leased before they are needed."""

    runway_days: float = setting(30.0, "a lease lasts this long at the node's measured rate", between(0.01, 3_650))
    lease_min: int = setting(1_000, "IDs in a lease at least", between(1, 1_000_000_000))
    ceiling: int = setting(
        9_007_199_254_740_991,
        "no ID above this: 2^53-1 (exact in JSON), or 2^31-1 for old columns",
        one_of(9_007_199_254_740_991, 2_147_483_647),
    )
    above: int = setting(
        0,
        "every ID given out is above this: leaves those below to images that bring theirs along (zonectl import)",
        between(0, 2**52),
    )


@dataclass(frozen=True, slots=True)
class Presence:
    """When an image counts as bootable in this zone: by what was said of its bytes here."""

    verified_days: float = setting(30.0, "that the bytes were verified counts for so long", between(0.01, 36_500))
    trust_claims: bool = setting(False, "that the bytes are claimed to be here is enough")


@dataclass(frozen=True, slots=True)
class Admin:
    """The Unix socket that zonectl speaks to. Root and the daemon's user may all."""

    socket: str = setting(
        "", "path; empty: $RUNTIME_DIRECTORY/zoned.sock, else zoned.sock in the data directory", socket_path
    )
    read_group: str = setting("", "name of a system group that may read over the socket; empty: nobody else")


@dataclass(frozen=True, slots=True)
class Audit:
    """Who did what, in the order of the log, each line chained to the one before; the same on every node."""

    entries_keep: int = setting(
        1_000_000, "entries of the log whose lines are kept, some 400 bytes each; export them before", at_least(1_000)
    )


@dataclass(frozen=True, slots=True)
class Log:
    """Lines on standard error."""

    level: str = setting("info", "least severity written", one_of("debug", "info", "warning", "error"))
    format: str = setting("auto", "auto: console on a terminal, JSON otherwise", one_of("auto", "console", "json"))
    requests: bool = setting(False, "one line per HTTP request")


@dataclass(frozen=True, slots=True)
class Auth:
    """Who may ask: how each listener tells its callers apart, and what they may."""

    api: str = setting(
        "none",
        "on http.listen: none (loopback: everybody is an administrator), tokens (a file), keystone",
        one_of("none", "tokens", "keystone"),
    )
    registry_api: str = setting("none", "the same on http.registry_listen", one_of("none", "tokens", "keystone"))
    anonymous_read: bool = setting(False, "who shows no token may read public and community images")
    tokens_file: str = setting("", "[[token]] entries, mode 600; empty: tokens.toml in the data directory")
    policy_file: str = setting("", "TOML with the rules that differ from the shipped ones; empty: none")
    failures_max: int = setting(30, "refused tokens per minute and address, then 429", between(1, 1_000_000))
    keystone_url: str = setting("", "URL of the Identity API, as http://keystone.example:5000/v3", plain_url)
    keystone_user: str = setting("zoned", "the service user that asks about tokens")
    keystone_project: str = setting("service", "its project")
    keystone_domain: str = setting("default", "ID of the domain of both")
    keystone_password_file: str = setting(
        "keystone-password", "file with its password, mode 600; a bare name: in $CREDENTIALS_DIRECTORY"
    )
    keystone_timeout_s: float = setting(5.0, "for one answer of Keystone", between(0.1, 60))
    recheck_s: float = setting(300.0, "a token in use is asked about again after so long", between(1, 86_400))


@dataclass(frozen=True, slots=True)
class Security:
    """What may be reached from other machines, and what images may point to."""

    insecure_listen: bool = setting(
        False, "allow listening beyond loopback although what listens there authenticates nobody"
    )
    location_schemes: tuple[str, ...] = setting(
        (
            *("http", "https", "swift", "swift+http", "swift+https", "s3", "s3+http", "s3+https"),
            *("rbd", "cinder", "vsphere"),
        ),
        "schemes of the URLs that images may get as locations; the registry API takes what its Glance wrote",
        schemes,
    )


@dataclass(frozen=True, slots=True)
class Config:
    """The whole file. Each attribute is one table."""

    node: Node = field(default_factory=Node)
    http: Http = field(default_factory=Http)
    peers: Peers = field(default_factory=Peers)
    gossip: Gossip = field(default_factory=Gossip)
    registry: Registry = field(default_factory=Registry)
    journal: Journal = field(default_factory=Journal)
    idempotency: Idempotency = field(default_factory=Idempotency)
    ids: Ids = field(default_factory=Ids)
    presence: Presence = field(default_factory=Presence)
    admin: Admin = field(default_factory=Admin)
    audit: Audit = field(default_factory=Audit)
    log: Log = field(default_factory=Log)
    auth: Auth = field(default_factory=Auth)
    security: Security = field(default_factory=Security)


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One thing to change: the dotted key and a sentence."""

    key: str
    problem: str

    def __str__(self) -> str:
        return f"{self.key}: {self.problem}"


def tables() -> Iterator[tuple[str, type]]:
    """(table name, its dataclass), in file order."""
    for item in fields(Config):
        yield item.name, cast(type, item.default_factory)


def cross_mistakes(config: Config) -> list[Mistake]:
    """Rules between settings; asked once each setting by itself is sound."""
    found: list[Mistake] = []
    expect, seeds = config.registry.expect, config.peers.seeds
    if config.registry.engine == "postgresql":
        found += _database_mistakes(config)
        expect = 0 if seeds else 1  # the database founds the cluster
    elif config.registry.dsn:
        found.append(
            Mistake("registry.dsn", "is used with registry.engine = 'postgresql' only; set that, or leave it empty")
        )
    if expect != 1 and not seeds:
        found.append(Mistake("peers.seeds", f"is empty, but registry.expect = {expect} needs other nodes"))
    if expect == 1 and seeds:
        problem = "1 founds a cluster of this node alone; with peers.seeds set it to 0 to join theirs, or to 3"
        found.append(Mistake("registry.expect", problem))
    if config.node.role == "witness" and config.registry.engine == "embedded":
        if expect == 1:
            problem = "1 founds a cluster of this node alone, and a witness serves nobody; set it to 0 to join others"
            found.append(Mistake("registry.expect", problem))
        if config.http.registry_listen:
            found.append(Mistake("http.registry_listen", "is for users, and a witness serves nobody; leave it empty"))
    if split_address(config.peers.listen)[0] in ("0.0.0.0", "::") and not config.peers.advertise:  # noqa: S104  # it is refused
        found.append(Mistake("peers.advertise", "is needed: no peer can reach this node at a wildcard address"))
    if split_address(config.http.listen) == split_address(config.peers.listen) and not config.http.listen.endswith(
        ":0"
    ):
        found.append(Mistake("peers.listen", f"is the same address as http.listen ({config.http.listen})"))
    registry = config.http.registry_listen
    if registry and not registry.endswith(":0"):
        for key, other in (("http.listen", config.http.listen), ("peers.listen", config.peers.listen)):
            if split_address(registry) == split_address(other):
                found.append(Mistake("http.registry_listen", f"is the same address as {key} ({other})"))
    return [*found, *_unguarded(config)]


def _database_mistakes(config: Config) -> Iterator[Mistake]:
    """What the second engine needs, and what it has no use for."""
    if not config.registry.dsn:
        yield Mistake(
            "registry.dsn", "is empty, but registry.engine = 'postgresql' needs at least one connection string"
        )
    if config.node.role == "witness":
        yield Mistake(
            "node.role", "a witness votes, and with registry.engine = 'postgresql' nobody does; set it to full"
        )


def _unguarded(config: Config) -> Iterator[Mistake]:
    """What other machines could reach without proving who they are."""
    auth = config.auth
    if "keystone" in (auth.api, auth.registry_api) and not auth.keystone_url:
        yield Mistake("auth.keystone_url", "is needed to ask Keystone, as http://keystone.example:5000/v3")
    if config.security.insecure_listen:
        return
    accept = "or accept it with security.insecure_listen = true"
    faces = [("http.listen", config.http.listen, "auth.api", auth.api)]
    faces.append(("http.registry_listen", config.http.registry_listen, "auth.registry_api", auth.registry_api))
    for key, text, mode_key, mode in faces:
        if text and not is_loopback(text) and mode == "none" and not auth.anonymous_read:
            mend = f"set {mode_key} to tokens or keystone, or auth.anonymous_read = true to let everybody read"
            yield Mistake(key, f"{text} is reachable from other machines without authentication; {mend}, {accept}")
    if not is_loopback(config.peers.listen) and config.peers.tls == "off":
        problem = 'is reachable from other machines without authentication; set peers.tls = "require"'
        yield Mistake("peers.listen", f"{config.peers.listen} {problem}, {accept}")
    if not is_loopback(config.peers.listen) and config.gossip.sealing in ("off", "accept"):
        problem = f"{config.gossip.sealing!r} lets anybody send datagrams; set it to require, with a keyring"
        yield Mistake("gossip.sealing", f"{problem}, {accept}")
