"""Tokens of OpenStack's Keystone, API version 3: asked once, remembered until they end.

Intuition: a token that Keystone vouched for is good until it expires, so Keystone's absence must not lock out those who
work already. Every `recheck_s` a token in use is asked about again, so that one taken back stops working; when
Keystone does not answer, what was known goes on until the token's own end, and grants never widen. A token never seen
before is refused with 503, "ask again", because nobody can tell whether it is good: 401 would make clients throw it
away.

Source: Identity API v3, "Validate and show information for token" and "Password authentication with scoped
authorization".
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
import structlog
import trio

from conf import Auth
from zoned.api.caller import Caller
from zoned.api.exchange import PeerCredentials
from zoned.api.problems import Problem
from zoned.auth.identity import Headers, anonymous, token_of, unauthorized
from zoned.policy import Policy

KNOWN_MAX = 100_000  # tokens remembered; the one used longest ago goes first
BAD_MAX = 10_000
BAD_S = 30.0  # a token that Keystone does not know is not asked about again for so long
TOKEN_BYTES_MAX = 4_000  # what its web server takes as a header (uwsgi: 4,096 bytes for all); Fernet's have some 250
NO_TOKEN = frozenset((400, 404, 413, 414, 431))  # what it, or a proxy before it, says of a subject token that is none
AWAY_S = 5.0  # after Keystone did not answer, nobody waits for it for so long

logger = structlog.get_logger()


class _Away(Exception):
    """Keystone did not say. Nothing was changed."""


@dataclass(slots=True)
class _Known:
    caller: Caller
    expires: float  # seconds since 1970, Keystone's word
    checked: float  # by the monotonic clock


class Keystone:
    """The authenticator of a Keystone."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        settings: Auth,
        password: Callable[[], str],
        policy: Policy,
        wall: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        """`password` reads the service user's; `wall` is the time since 1970, `now` a monotonic one."""
        self._client = client
        self._settings = settings
        self._url = settings.keystone_url.rstrip("/").removesuffix("/v3") + "/v3"
        self._password = password
        self._policy = policy
        self._wall = wall
        self._now = now
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._bad: OrderedDict[bytes, float] = OrderedDict()
        self._asked: dict[bytes, trio.Event] = {}
        self._own_token = ""
        self._away_until = -1.0

    def known(self, headers: Headers) -> Caller | None:
        token = token_of(headers)
        if token is None:
            return anonymous(self._policy) if self._settings.anonymous_read else None
        if len(token) > TOKEN_BYTES_MAX:
            return None
        found = self._remembered(_digest(token))
        if found is None or self._now() - found.checked >= self._settings.recheck_s:
            return None
        return found.caller

    def remembers(self, headers: Headers) -> bool:
        """Whether Keystone vouched for this token once and it has not ended: who shows it guesses nothing."""
        token = token_of(headers)
        return token is not None and len(token) <= TOKEN_BYTES_MAX and self._remembered(_digest(token)) is not None

    async def identify(self, headers: Headers, peer: PeerCredentials | None) -> Caller:
        token = token_of(headers)
        if token is None or not 0 < len(token) <= TOKEN_BYTES_MAX:
            raise self._refusal()
        if not token.isascii() or not token.decode("ascii").isprintable():
            raise self._refusal()
        digest = _digest(token)
        while digest in self._asked:  # somebody asks about the same one: once is enough
            await self._asked[digest].wait()
        known = self.known(headers)
        if known is not None:
            return known
        if self._bad.get(digest, -1.0) > self._now():
            raise self._refusal()
        done = self._asked[digest] = trio.Event()
        try:
            return await self._judge(token.decode("ascii"), digest)
        finally:
            del self._asked[digest]
            done.set()

    async def _judge(self, token: str, digest: bytes) -> Caller:
        try:
            document = await self._validate(token)
        except _Away as error:
            found = self._remembered(digest)
            if found is not None:
                return found.caller  # until its own end
            raise Problem(
                503, "identity-away", f"Keystone cannot be asked now ({error}); ask again", {"Retry-After": "5"}
            ) from None
        if document is None:
            self._known.pop(digest, None)
            self._bad[digest] = self._now() + BAD_S
            _trim(self._bad, BAD_MAX)
            raise self._refusal()
        found = self._known[digest] = _read(document, self._policy, self._now())
        _trim(self._known, KNOWN_MAX)
        if found.expires <= self._wall():
            raise self._refusal()
        return found.caller

    def _remembered(self, digest: bytes) -> _Known | None:
        """What is known of a token that has not ended."""
        found = self._known.get(digest)
        if found is None:
            return None
        if found.expires <= self._wall():
            del self._known[digest]
            return None
        self._known.move_to_end(digest)
        return found

    def _refusal(self) -> Problem:
        return unauthorized(f'Keystone uri="{self._settings.keystone_url}"')

    async def _validate(self, token: str) -> Mapping[str, Any] | None:
        """What Keystone says of a token; None: nothing good. Raises _Away."""
        if self._now() < self._away_until:
            raise _Away("it did not answer a moment ago")
        try:
            if not self._own_token:
                self._own_token = await self._log_in()
            answer = await self._ask(token)
            if answer.status_code == 401:  # ours has ended
                self._own_token = await self._log_in()
                answer = await self._ask(token)
            if answer.status_code in NO_TOKEN:
                return None  # one caller's fault must not lock out the others
            if answer.status_code != 200:
                raise _Away(f"it answers {answer.status_code}")
            document: Mapping[str, Any] = answer.json()["token"]
            return document
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            problem: Exception = _Away(f"{type(error).__name__}")
        except _Away as error:
            problem = error
        if self._away_until < 0:
            logger.warning("keystone does not answer", url=self._url, problem=str(problem))
        self._away_until = self._now() + AWAY_S
        raise problem

    async def _ask(self, token: str) -> httpx.Response:
        headers = {"X-Auth-Token": self._own_token, "X-Subject-Token": token}
        answer = await self._client.get(
            f"{self._url}/auth/tokens?nocatalog=1", headers=headers, timeout=self._settings.keystone_timeout_s
        )
        if answer.status_code < 500 and self._away_until >= 0:
            self._away_until = -1.0
            logger.info("keystone answers again", url=self._url)
        return answer

    async def _log_in(self) -> str:
        """A token of the service user's own. Raises _Away."""
        settings = self._settings
        domain = {"id": settings.keystone_domain}
        user = {"name": settings.keystone_user, "domain": domain, "password": self._password()}
        scope = {"project": {"name": settings.keystone_project, "domain": domain}}
        body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
        answer = await self._client.post(
            f"{self._url}/auth/tokens?nocatalog=1", json=body, timeout=settings.keystone_timeout_s
        )
        if answer.status_code != 201:
            raise _Away(f"it does not let {settings.keystone_user} in ({answer.status_code}); see auth.keystone_user")
        return answer.headers["X-Subject-Token"]


def _digest(token: bytes) -> bytes:
    """Tokens themselves are not kept."""
    return hashlib.sha256(token).digest()


def _read(document: Mapping[str, Any], policy: Policy, now: float) -> _Known:
    """A token document. Raises KeyError, TypeError or ValueError for what is none."""
    project = document.get("project")
    roles = frozenset(str(role["name"]).lower() for role in document.get("roles", ()))
    user = str(document["user"].get("name") or document["user"]["id"])
    expires = datetime.fromisoformat(str(document["expires_at"]).replace("Z", "+00:00")).timestamp()
    return _Known(Caller(str(project["id"]) if project else None, roles, user[:255], policy), expires, now)


def _trim(table: OrderedDict[bytes, Any], most: int) -> None:
    while len(table) > most:
        table.popitem(last=False)
