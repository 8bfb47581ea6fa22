"""What somebody tries who has an account, or only a connection: paths, headers, log lines, bombs, others' images."""

import io
import json
import re
import resource
import socket
import uuid
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
import pytest
import structlog

from tests.zoned.conftest import Served
from zoned import logs

OWNER = "attacked-owner"
STRANGER = {"X-Project-Id": "attackers", "X-Roles": "member"}
MARK = "NobodyElsesBusiness"


def talk(served: Served, request: bytes) -> bytes:
    """All that the server says to these bytes."""
    address = urlsplit(served.url)
    with socket.create_connection((address.hostname, address.port), 20) as sock:
        sock.sendall(request)
        said = b""
        while piece := sock.recv(65_536):
            said += piece
    return said


# A tenant walks every route for another's image.


async def make(zone: httpx.AsyncClient) -> tuple[str, int]:
    """A private image of somebody else, with something in every part of it."""
    body = {
        "owner": OWNER,
        "name": MARK,
        "disk_format": "raw",
        "container_format": "bare",
        "tags": [MARK],
        "properties": {"p": MARK},
        "locations": [{"url": f"http://{MARK}/1", "metadata": {}}],
    }
    made = (await zone.post("/zone/v1/images", json=body)).json()
    uuid_ = made["uuid"]
    assert (await zone.post(f"/v2/images/{uuid_}/members", json={"member": f"member-{MARK}"})).status_code in (200, 403)
    return uuid_, made["integer"]


BODIES: dict[str, Any] = {
    "patch": [{"op": "replace", "path": "/name", "value": "mine"}],
    "put": {"image": {"name": "mine"}, "member": {"can_share": True}, "memberships": [], "state": "wanted"},
    "post": {"member": "attackers", "url": "http://o/2"},
}
PATCH = "application/openstack-images-v2.1-json-patch"


def routes_about(document: dict[str, Any], parameter: str) -> Iterator[tuple[str, str]]:
    for path, methods in document["paths"].items():
        if f"{{{parameter}}}" in path:
            for method in methods:
                yield method, path


@pytest.mark.parametrize("parameter", ["image_id", "reference"])
async def test_for_others_an_image_is_what_never_was(zone, parameter):
    """The same answer, word for word, as for an ID that nobody ever used: on every route there is, by every name."""
    document = (await zone.get("/openapi.json")).json()
    walked = list(routes_about(document, parameter))
    assert len(walked) >= (25 if parameter == "image_id" else 7), "the walk sees every route"
    uuid_, integer = await make(zone)
    never, unused = str(uuid.uuid4()), 2**52 + 1
    for method, template in walked:
        for there, nowhere in ((uuid_, never), (str(integer), str(unused))):
            told = []
            for name in (there, nowhere):
                path = template.replace(f"{{{parameter}}}", name)
                for other, value in (
                    ("member", f"member-{MARK}"),
                    ("tag", MARK),
                    ("zone", "alpha"),
                    ("project", OWNER),
                ):
                    path = path.replace(f"{{{other}}}", value)
                path = re.sub(r"{\w+}", "x", path)
                body = orjson.dumps(BODIES[method]) if method in BODIES else None
                kind = {"Content-Type": PATCH if method == "patch" else "application/json"} if body else {}
                answer = await zone.request(method, path, content=body, headers={**STRANGER, **kind})
                headers = {
                    name: value
                    for name, value in answer.headers.items()
                    if name
                    not in ("x-openstack-request-id", "date", "zone-position", "zone-staleness", "content-length")
                }
                text = re.sub(rf"(?<!\w){name}(?!\w)", "NAME", answer.text)
                position = answer.headers.get("zone-position", "")
                told.append((answer.status_code, text.replace(f"position {position}", ""), headers))
            assert told[0] == told[1], (method, template)
            assert told[0][0] >= 400, (method, template)
            assert MARK not in str(told), (method, template)
    shown = (await zone.get(f"/zone/v1/images/{uuid_}")).json()
    assert (shown["name"], shown["tags"], shown["deleted_at"]) == (MARK, [MARK], None)


@pytest.mark.parametrize("path", ["/v2/images", "/v1/images", "/v1/images/detail", "/zone/v1/images"])
async def test_no_list_shows_others_images(zone, path):
    uuid_, _ = await make(zone)
    for query in ("", f"?name={MARK}", f"?owner={OWNER}", f"?tag={MARK}", "?visibility=private", "?limit=1000"):
        answer = await zone.get(f"{path}{query}", headers=STRANGER)
        assert MARK not in answer.text.replace(f"name={MARK}", "").replace(f"tag={MARK}", ""), query
        assert uuid_ not in answer.text, query
    batch = await zone.post("/zone/v1/images:batchGet", json={"references": [uuid_]}, headers=STRANGER)
    assert batch.json()["items"][0]["status"] == 404


@pytest.mark.parametrize(
    ("roles", "status"), [("admin", 200), ("auditor", 200), ("service", 403), ("member", 403), ("", 403)]
)
async def test_what_tells_of_everybodys_images_is_for_who_may_see_them(zone, roles, status):
    """A service looks at the zone, and at no image that is not its own."""
    headers = {"X-Project-Id": "elsewhere", "X-Roles": roles}
    for path in ("/zone/v1/risk", "/zone/v1/audit"):
        assert (await zone.get(path, headers=headers)).status_code == status, path


# Paths.


@pytest.mark.parametrize(
    "target",
    [
        *("/v2/../admin/v1/keys", "/v2/%2e%2e/admin/v1/keys", "//admin/v1/keys", "/admin/v1/keys/", "/admin//v1/keys"),
        *("/v2/images/..%2f..%2fadmin%2fv1%2fkeys", "/%61dmin/v1/keys", "/admin/v1/keys%00", "/admin/v1/keys;x"),
        *("/zone/v1/../../admin/v1/keys", "/./admin/v1/keys", "/v2/images/%2e%2e/%2e%2e/etc/passwd"),
    ],
)
def test_no_path_leads_to_the_admin_socket_or_a_file(served, target):
    said = talk(served, f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    status = int(said.split(b" ")[1])
    assert status in (300, 400, 403, 404), said  # 300: the list of versions, as for any unknown path
    assert b"sealing" not in said
    assert b"root:" not in said


async def test_a_tenant_gets_no_further_by_an_odd_path(zone):
    for path in (
        "/zone/v1/status",
        "/zone/v1/./status",
        "/zone/v1/images/../status",
        "/zone//v1/status",
        "/%7aone/v1/status",
    ):
        answer = await zone.get(path, headers=STRANGER)
        assert answer.status_code in (300, 403, 404), path
        assert "node_id" not in answer.text, path


# Headers.


@pytest.mark.parametrize(
    "evil", ["http://o/1\r\nSet-Cookie: a=b", "http://o/\n\nbody", "http://o/\x00", "http://o/\x85x", "http://o/\u4e2d"]
)
async def test_no_location_writes_headers(zone, evil):
    answer = await zone.post("/zone/v1/images", json={"locations": [{"url": evil, "metadata": {}}]})
    assert answer.status_code in (201, 400)
    if answer.status_code == 201:
        sent = await zone.get(f"/v2/images/{answer.json()['uuid']}/file")
        assert sent.status_code == 302
        assert "set-cookie" not in sent.headers
        assert sent.headers["Location"].isascii()


async def test_no_property_writes_headers(zone):
    values: dict[str, Any] = {
        "name": "a\u2028b\u0085c",
        "properties": {"x-evil": "a\u0085Set-Cookie: a=b", "b\u00e4d": "ü"},
    }
    made = await zone.post("/zone/v1/images", json=values)
    assert made.status_code in (201, 400)
    if made.status_code == 201:
        shown = await zone.head(f"/v1/images/{made.json()['uuid']}")
        assert shown.status_code == 200
        assert "set-cookie" not in shown.headers


@pytest.mark.parametrize("told", [b"req-x\x0bevil", b"req-" + b"a" * 5_000, b"evil", b"req-" + "\u0130".encode() * 9])
def test_no_request_id_of_a_strangers_making_is_taken_over(served, told):
    said = talk(
        served,
        b"GET /v2/images/%b HTTP/1.1\r\nHost: x\r\nX-OpenStack-Request-ID: %b\r\nConnection: close\r\n\r\n"
        % (str(uuid.uuid4()).encode(), told),
    )
    assert told not in said


# Log lines.


@pytest.mark.parametrize("console", [False, True])
@pytest.mark.parametrize(
    "path", ["/v2/x\n<0>forged line", "/\x1b[2J\x1b]0;owned\x07", "/a\r<3>b", '/"},{"event":"forged']
)
def test_no_path_writes_log_lines_or_steers_a_terminal(console, path):
    out = io.StringIO()
    logger = structlog.wrap_logger(structlog.WriteLogger(out), processors=logs.rendering(console, colours=False))
    logger.info("request", path=path, client="10.0.0.1")
    (line,) = out.getvalue().splitlines()
    assert line.isprintable()
    if not console:
        assert json.loads(line)["path"] == path


# Bombs.


UNPACKED_BYTES = 50_000_000


def bomb(wbits: int) -> bytes:
    """Some kilobytes that would be fifty megabytes; `wbits` as zlib has it. Made without being that large."""
    packer, piece = zlib.compressobj(9, zlib.DEFLATED, wbits), b"a" * 1_000_000
    packed = [packer.compress(b'{"name": "'), *(packer.compress(piece) for _ in range(UNPACKED_BYTES // len(piece)))]
    return b"".join([*packed, packer.compress(b'"}'), packer.flush()])


async def test_nothing_that_comes_in_is_unpacked(zone):
    packed = {"gzip": bomb(31), "deflate": bomb(15), "raw": bomb(-15)}
    packed["x-gzip"] = packed["gzip"]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    image = (await zone.post("/zone/v1/images", json={})).json()["uuid"]
    for coding, data in packed.items():
        said = {"Content-Encoding": "deflate" if coding == "raw" else coding}
        for method, path, kind in (
            ("POST", "/v2/images", "application/json"),
            ("POST", "/zone/v1/images", "application/json"),
            ("POST", "/zone/v1/images:batchGet", "application/json"),
            ("PATCH", f"/v2/images/{image}", PATCH),
            ("PUT", f"/v1/images/{image}/members", "application/json"),
        ):
            answer = await zone.request(method, path, content=data, headers={**said, "Content-Type": kind})
            assert answer.status_code == 400, (coding, path, answer.text)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1_024
    assert grown < UNPACKED_BYTES // 2, "not one of them was unpacked"


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"op":'])
async def test_deep_documents_are_refused(zone, opening):
    image = (await zone.post("/zone/v1/images", json={})).json()["uuid"]
    for method, path in (("POST", "/v2/images"), ("POST", "/zone/v1/images"), ("PATCH", f"/v2/images/{image}")):
        answer = await zone.request(method, path, content=opening * 20_000, headers={"Content-Type": PATCH})
        assert answer.status_code in (400, 415), answer.text


async def test_a_patch_has_so_many_operations_and_no_more(zone):
    image = (await zone.post("/zone/v1/images", json={})).json()["uuid"]
    for count, status in ((1_000, 200), (1_001, 413)):
        steps = [{"op": "replace", "path": "/name", "value": f"n{n}"} for n in range(count)]
        answer = await zone.patch(f"/v2/images/{image}", json=steps, headers={"Content-Type": PATCH})
        assert answer.status_code == status, answer.text
