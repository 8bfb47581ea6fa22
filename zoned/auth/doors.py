"""One authenticator for each listener, as configured. Raises CannotStart where a file it needs is wrong."""

import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import trio

from conf import Auth, Config, Http, is_loopback
from zoned import clock, policy
from zoned.api.caller import Caller
from zoned.auth.guesses import Guesses
from zoned.auth.identity import Authenticator, Headers, Open, SocketOwners
from zoned.auth.rates import Rates
from zoned.auth.tokens import TokenFile, TokensWrong
from zoned.errors import CannotStart
from zoned.files import NotPrivate, read_private
from zoned.policy import Policy, PolicyWrong


class Doors:
    """Who may come in by which listener."""

    def __init__(
        self,
        config: Config,
        directory: Path,
        stack: AsyncExitStack,
        on_limit: Callable[[str], None] = lambda limit: None,
    ) -> None:
        """`stack` closes what a door keeps open; `on_limit` hears of every limit that somebody meets at one."""
        self._auth = config.auth
        self._directory = directory
        self._stack = stack
        self.policy = replace(read_policy(config.auth), schemes=frozenset(config.security.location_schemes))
        self._made: dict[str, Authenticator] = {}
        self.trusted = config.security.insecure_listen or is_loopback(config.http.listen)
        self.api = self._make(config.auth.api, self.trusted)
        registry = config.http.registry_listen
        trusted = config.security.insecure_listen or not registry or is_loopback(registry)
        self.registry_api = self._make(config.auth.registry_api, trusted)
        self.guesses = Guesses(config.auth.failures_max, trio.current_time, on_limit)
        self.rates = open_rates(config.http, on_limit)
        self.admin: Authenticator = SocketOwners(self.policy)

    def _make(self, mode: str, trusted: bool) -> Authenticator:
        """One of each kind is enough for both listeners."""
        if mode == "none":
            return Open(self.policy, trusted)
        if mode not in self._made:
            tokens = mode == "tokens"
            self._made[mode] = open_tokens(self._auth, self._directory, self.policy) if tokens else self._keystone()
        return self._made[mode]

    def _keystone(self) -> Authenticator:
        import httpx  # 10 MiB, for those who have a Keystone

        from zoned.auth.keystone import Keystone

        client = httpx.AsyncClient(trust_env=False)
        self._stack.push_async_callback(client.aclose)
        password = partial(read_secret, "auth.keystone_password_file", self._auth.keystone_password_file)
        password()
        return Keystone(client, self._auth, password, self.policy, clock.wall, trio.current_time)


def open_rates(http: Http, on_limit: Callable[[str], None]) -> Rates | None:
    """How often a client may ask; None for any rate."""
    if not http.client_requests_per_s:
        return None
    return Rates(http.client_requests_per_s, http.client_burst_max, trio.current_time, on_limit)


def open_tokens(auth: Auth, directory: Path, policy: Policy) -> TokenFile:
    """Raises CannotStart."""
    path = Path(auth.tokens_file) if auth.tokens_file else directory / "tokens.toml"
    try:
        return TokenFile(path, policy, auth.anonymous_read, clock.wall, trio.current_time)
    except TokensWrong as error:
        raise CannotStart(f"auth.tokens_file: {error}") from None


def known_beside(auth: Auth, trusted: bool, directory: Path) -> Callable[[Headers], Caller | None]:
    """Who asks, as far as a process beside the daemon can tell: the daemon alone remembers Keystone's answers."""
    if auth.api == "none":
        return Open(read_policy(auth), trusted).known
    if auth.api == "tokens":
        return open_tokens(auth, directory, read_policy(auth)).known
    return lambda headers: None


def read_policy(auth: Auth) -> Policy:
    """The shipped policy with what the operator's file changes. Raises CannotStart."""
    if not auth.policy_file:
        return policy.DEFAULT
    try:
        return policy.parse(Path(auth.policy_file).read_text(encoding="utf-8"), policy.DEFAULT)
    except (OSError, UnicodeDecodeError) as error:
        raise CannotStart(f"auth.policy_file {auth.policy_file} cannot be read: {error}") from None
    except PolicyWrong as error:
        raise CannotStart(f"auth.policy_file {auth.policy_file}: {error}") from None


def read_secret(key: str, name: str, environ: Mapping[str, str] = os.environ) -> str:
    """The first line of a secret's file; a bare name is one of systemd's credentials. Raises CannotStart."""
    handed = environ.get("CREDENTIALS_DIRECTORY", "")
    path = Path(handed) / name if handed and "/" not in name else Path(name)
    try:
        return read_private(path).partition("\n")[0]
    except NotPrivate as error:
        raise CannotStart(f"{key}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CannotStart(f"{key}: {path} cannot be read: {error}") from None
