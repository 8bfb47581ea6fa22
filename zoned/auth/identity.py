"""What every way of telling callers apart has in common, and the two that need no token.

An authenticator answers in two steps, so that the hot lookup never waits: `known` tells from what is in memory, or
says None; `identify` may ask somebody else.
"""

import os
from collections.abc import Iterable
from typing import Protocol

from zoned.api.caller import Caller, from_headers
from zoned.api.exchange import PeerCredentials
from zoned.api.problems import Problem
from zoned.policy import ADMIN, AUDITOR, Policy

Headers = Iterable[tuple[bytes, bytes]]  # names in lower case, as ASGI has them

ANONYMOUS = "anonymous"
TELLING = frozenset((b"x-project-id", b"x-tenant-id", b"x-roles", b"x-user-name", b"x-user-id"))
TOKEN_HEADERS = (b"x-auth-token", b"x-storage-token")


class Authenticator(Protocol):
    """One listener's way of telling who asks."""

    def known(self, headers: Headers) -> Caller | None:
        """The caller, if memory is enough to tell and lets it in."""

    def remembers(self, headers: Headers) -> bool:
        """Whether this token was good before: the bound on guessing is not for it."""

    async def identify(self, headers: Headers, peer: PeerCredentials | None) -> Caller:
        """The caller; `peer` is the process at the other end of a Unix socket.

        Raises Problem: 401 who cannot be told, 503 when whoever could tell is away.
        """


def token_of(headers: Headers) -> bytes | None:
    """The token that a request carries."""
    found = None
    for name, value in headers:
        if name in TOKEN_HEADERS:
            found = value
        elif name == b"authorization" and value[:7].lower() == b"bearer ":
            found = value[7:].strip()  # what Prometheus can send
    return found


def unauthorized(challenge: str, detail: str = "The request you have made requires authentication.") -> Problem:
    return Problem(401, "unauthorized", detail, {"WWW-Authenticate": challenge})


def anonymous(policy: Policy) -> Caller:
    """Who shows no token, where anonymous reading is allowed: a reader without a project."""
    return Caller(None, frozenset(("reader",)), ANONYMOUS, policy)


class Open:
    """Nobody is asked for anything: `auth.api = "none"`.

    On loopback whoever asks is an administrator unless headers say less; elsewhere a reader without a project.
    """

    def __init__(self, policy: Policy, trusted: bool) -> None:
        self._policy = policy
        self._trusted = trusted
        self._nobody, self._everybody = anonymous(policy), from_headers({}, policy)

    def known(self, headers: Headers) -> Caller | None:
        if not self._trusted:
            return self._nobody
        told = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers if name in TELLING}
        return from_headers(told, self._policy) if told else self._everybody

    def remembers(self, headers: Headers) -> bool:
        return True

    async def identify(self, headers: Headers, peer: PeerCredentials | None) -> Caller:
        raise AssertionError("everybody is known")


class SocketOwners:
    """The admin socket, by the kernel's word: root and the daemon's user may all; whoever else the socket's file mode
    lets in (`admin.read_group`) may read.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def known(self, headers: Headers) -> Caller | None:
        return None

    def remembers(self, headers: Headers) -> bool:
        return True  # by the kernel's word: there is nothing to guess

    async def identify(self, headers: Headers, peer: PeerCredentials | None) -> Caller:
        if peer is None:
            raise Problem(403, "forbidden", "the kernel does not say who asks")
        role = ADMIN if peer.uid in (0, os.getuid()) else AUDITOR
        return Caller(None, frozenset((role,)), f"uid {peer.uid}", self._policy)
