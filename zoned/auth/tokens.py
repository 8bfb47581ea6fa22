"""Tokens in a file: SHA-256 of each, with project, roles and end. Read again by itself when it changes.

A token is 32 random bytes, so that a plain hash is enough: there is nothing to guess and nothing to look up in a table
of common passwords.
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
import tomli

from zoned import clock
from zoned.api.caller import Caller
from zoned.api.exchange import PeerCredentials
from zoned.auth.identity import Headers, anonymous, token_of, unauthorized
from zoned.files import NotPrivate, Watched, read_private
from zoned.policy import Policy

LOOK_S = 1.0  # how often the file is looked at
TOKEN_BYTES_MAX = 16_384  # of what is hashed; longer ones cannot be ours
KEYS = frozenset(("name", "sha256", "project", "roles", "expires"))
CHALLENGE = 'Token realm="zoned"'

logger = structlog.get_logger()


class TokensWrong(Exception):
    """A token file cannot be used; the text names the entry and what to change. The tokens before stay in force."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token, by its digest (bytes of SHA-256); `expires` in seconds since 1970."""

    name: str
    digest: bytes
    project: str | None
    roles: frozenset[str]
    expires: float


def parse(text: str) -> Mapping[bytes, Token]:
    """The tokens of a file, by digest. Raises TokensWrong with every mistake."""
    try:
        document = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise TokensWrong(f"no TOML: {error}") from None
    entries = document.pop("token", [])
    wrong = [f"unknown table {name}; each token is a [[token]]" for name in document]
    found: dict[bytes, Token] = {}
    if not isinstance(entries, list):
        raise TokensWrong("token: write each as [[token]]")
    for n, entry in enumerate(entries, 1):
        problem = _problem(entry)
        if problem:
            wrong.append(f"token {n}: {problem}")
            continue
        expires = entry.get("expires")
        digest = bytes.fromhex(entry["sha256"])
        if digest in found:
            wrong.append(f"token {n}: the same sha256 as {found[digest].name!r}")
        roles = frozenset(role.lower() for role in entry["roles"])
        ends = expires.timestamp() if expires is not None else float("inf")
        found[digest] = Token(entry["name"], digest, entry.get("project"), roles, ends)
    if wrong:
        raise TokensWrong("\n".join(wrong))
    return found


def _problem(entry: Any) -> str | None:
    if not isinstance(entry, dict):
        return "must be a table"
    unknown = sorted(set(entry) - KEYS)
    if unknown:
        return f"unknown key {unknown[0]!r}; known: {', '.join(sorted(KEYS))}"
    for key in ("name", "sha256", "roles"):
        if key not in entry:
            return f"{key} is missing"
    digest, roles, expires = entry["sha256"], entry["roles"], entry.get("expires")
    if not isinstance(entry["name"], str) or not isinstance(entry.get("project", ""), str):
        return "name and project must be texts"
    if not isinstance(digest, str) or len(digest) != 64 or not set(digest) <= set("0123456789abcdefABCDEF"):
        return "sha256 must be 64 hexadecimal digits"
    if not isinstance(roles, list) or not all(isinstance(role, str) and role for role in roles):
        return "roles must be a list of texts"
    if expires is not None and (not isinstance(expires, datetime) or expires.tzinfo is None):
        return "expires must be a time with its zone, as 2027-01-01T00:00:00Z"
    return None


def entry_text(name: str, token: str, project: str | None, roles: list[str], expires: float | None) -> str:
    """A [[token]] for the file; the token itself is not in it."""
    lines = ["[[token]]", f"name = {_quoted(name)}", f'sha256 = "{hashlib.sha256(token.encode()).hexdigest()}"']
    if project is not None:
        lines.append(f"project = {_quoted(project)}")
    lines.append(f"roles = [{', '.join(_quoted(role) for role in roles)}]")
    if expires is not None:
        lines.append(f"expires = {clock.text(expires)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    escaped = "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text)
    return f'"{escaped}"'


def read(path: Path) -> Mapping[bytes, Token]:
    """The tokens in the file at `path`. Raises TokensWrong; also for a file that others may read."""
    try:
        text = read_private(path)
    except NotPrivate as error:
        raise TokensWrong(str(error)) from None
    except UnicodeDecodeError:
        raise TokensWrong(f"{path}: is not UTF-8") from None
    except OSError as error:
        raise TokensWrong(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return parse(text)
    except TokensWrong as error:
        raise TokensWrong("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from None


class TokenFile:
    """The authenticator of a token file."""

    def __init__(
        self, path: Path, policy: Policy, anonymous_read: bool, wall: Callable[[], float], now: Callable[[], float]
    ) -> None:
        """`wall` is the time since 1970, `now` a monotonic one. Raises TokensWrong."""
        self._path = path
        self._policy = policy
        self._anonymous_read = anonymous_read
        self._wall = wall
        self._watched = Watched((path,), LOOK_S, now)
        self._tokens = read(path)

    def known(self, headers: Headers) -> Caller | None:
        self._read_again()
        token = token_of(headers)
        if token is None:
            return anonymous(self._policy) if self._anonymous_read else None
        digest = hashlib.sha256(token).digest() if len(token) <= TOKEN_BYTES_MAX else b""
        found = self._tokens.get(digest)
        if found is None or not hmac.compare_digest(found.digest, digest) or found.expires <= self._wall():
            return None
        return Caller(found.project, found.roles, found.name, self._policy)

    def remembers(self, headers: Headers) -> bool:
        return False  # a good one is known at once

    async def identify(self, headers: Headers, peer: PeerCredentials | None) -> Caller:
        raise unauthorized(CHALLENGE)

    def _read_again(self) -> None:
        """At most once in LOOK_S. A file that became wrong changes nothing, and is told of once."""
        if not self._watched.changed():
            return
        try:
            self._tokens = read(self._path)
        except TokensWrong as error:
            logger.error("token file is wrong, the tokens before stay in force", problem=str(error))
        else:
            logger.info("token file read", tokens=len(self._tokens))
