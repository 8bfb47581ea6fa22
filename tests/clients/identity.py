"""A stand-in for Keystone and for the authenticating proxy in front of an Images API: enough for real clients.

A token is `PROJECT.ROLES`; whoever knows the name of a project gets one. The proxy passes requests on to its zone with
the token's project and roles as headers, as a proxy that checks tokens would set them.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

FAR = "2099-01-01T00:00:00.000000Z"


def token_of(project: str, roles: str = "member") -> str:
    return f"{project}.{roles}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815  # http.server's names

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        here = f"http://{self.headers['Host']}"
        parts = self.path.split("/", 3)
        if self.server.is_proxy:
            return self._forward(self.server.zone, self.path, body)
        if self.path == "/v3/auth/tokens":
            return self._login(here, json.loads(body))
        if parts[1] == "v3" and len(parts) > 3 and parts[2] == "projects":
            project = parts[3].partition("?")[0]
            return self._answer(200, {"project": {"id": project, "name": project, "links": {}}})
        version = {
            "id": "v3.14",
            "status": "stable",
            "links": [{"rel": "self", "href": f"{here}/v3/"}],
            "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}],
        }
        return self._answer(200, {"version": version})

    def _login(self, here: str, asked: dict[str, Any]) -> None:
        project = asked["auth"]["scope"]["project"]["name"]
        roles = "admin" if project == "admin" else "member"

        def service(kind: str, url: str) -> dict[str, Any]:
            endpoint = {"id": kind, "interface": "public", "region": "r", "region_id": "r", "url": url}
            return {"id": kind, "type": kind, "name": kind, "endpoints": [endpoint]}

        token = {
            "methods": ["password"],
            "user": {"id": "u", "name": "u", "domain": {"id": "default", "name": "Default"}},
            "project": {"id": project, "name": project, "domain": {"id": "default", "name": "Default"}},
            "roles": [{"id": roles, "name": roles}],
            "catalog": [service("identity", f"{here}/v3"), service("image", self.server.zone)],
            "expires_at": FAR,
            "issued_at": FAR,
        }
        self._answer(201, {"token": token}, {"X-Subject-Token": token_of(project, roles)})

    def _forward(self, zone: str, path: str, body: bytes) -> None:
        project, _, roles = self.headers.get("X-Auth-Token", "").rpartition(".")
        keep = ("host", "accept", "content-type", "if-match", "if-none-match")
        headers = {name: value for name, value in self.headers.items() if name.lower() in keep}
        headers |= {"X-Project-Id": project, "X-Roles": roles}
        answer = httpx.request(self.command, zone + path, content=body, headers=headers, timeout=20, trust_env=False)
        skip = ("content-length", "transfer-encoding", "connection", "date", "server")
        kept = {name: value for name, value in answer.headers.items() if name not in skip}
        self._answer(answer.status_code, answer.content, kept)

    def _answer(self, status: int, document: Any, headers: Mapping[str, str] | None = None) -> None:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        for name, value in ({} if isinstance(document, bytes) else {"Content-Type": "application/json"}).items():
            self.send_header(name, value)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, zone: str, is_proxy: bool) -> None:
        self.zone, self.is_proxy = zone, is_proxy
        super().__init__(("127.0.0.1", 0), _Handler)


@contextmanager
def _served(zone: str, is_proxy: bool) -> Iterator[str]:
    server = _Server(zone, is_proxy)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextmanager
def standing_in(zone: str) -> Iterator[tuple[str, str]]:
    """Serves until the end of the block; yields the URLs of Keystone and of the proxy in front of `zone`."""
    with _served(zone, is_proxy=True) as proxy, _served(proxy, is_proxy=False) as identity:
        yield identity, proxy
