"""The door itself, in front of a running daemon: who is let in where, and guessing."""

import grp
import os

import httpx
import pytest

from conf import ConfigError, parse
from tests.zoned.conftest import config_text, serve
from zoned.api.exchange import PeerCredentials
from zoned.api.problems import Problem
from zoned.auth.guesses import ADDRESSES_MAX, Guesses
from zoned.auth.identity import SocketOwners
from zoned.auth.tokens import entry_text
from zoned.errors import CannotStart
from zoned.listeners import open_admin
from zoned.policy import DEFAULT

TOKENS = {"boss": ("ops", ["admin"]), "worker": ("p", ["member"]), "watcher": ("audit", ["auditor"])}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A daemon that wants tokens."""
    directory = tmp_path_factory.mktemp("guarded")
    path = directory / "tokens"
    path.write_text("".join(entry_text(name, f"{name}-token", *TOKENS[name], None) for name in TOKENS))
    path.chmod(0o600)
    more = f'[auth]\napi = "tokens"\ntokens_file = "{path}"\nfailures_max = 20\n'
    with serve(config_text(directory / "store", more)) as running:
        yield running


@pytest.fixture
async def client(guarded):
    async with httpx.AsyncClient(base_url=guarded.url, trust_env=False) as opened:
        yield opened


def shown(name: str) -> dict[str, str]:
    return {"X-Auth-Token": f"{name}-token"}


@pytest.mark.parametrize("path", ["/", "/versions", "/livez", "/readyz", "/healthcheck", "/openapi.json", "/docs"])
async def test_what_anybody_may_ask(client, path):
    for headers in ({}, {"X-Auth-Token": "nonsense"}):
        assert (await client.get(path, headers=headers)).status_code in (200, 300)


@pytest.mark.parametrize(
    "path", ["/v2/images", "/v1/images", "/zone/v1/images", "/zone/v1/status", "/v2/schemas/image"]
)
async def test_everything_else_wants_a_token(client, path):
    answer = await client.get(path)
    assert answer.status_code == 401
    assert "WWW-Authenticate" in answer.headers
    assert "X-OpenStack-Request-ID" in answer.headers
    assert "Zone-Position" not in answer.headers
    # Headers of a proxy mean nothing here: the token says it all.
    assert (await client.get(path, headers={"X-Roles": "admin", "X-Project-Id": "p"})).status_code == 401


async def test_a_token_is_its_project(client):
    made = await client.post("/v2/images", json={"name": "x"}, headers={**shown("worker"), "X-Project-Id": "other"})
    assert (made.status_code, made.json()["owner"]) == (201, "p")
    path = f"/v2/images/{made.json()['id']}"
    for _ in range(2):  # hot and through the application
        assert (await client.get(path, headers=shown("worker"))).status_code == 200
        assert (await client.get(path, headers=shown("watcher"))).status_code == 200
        assert (await client.get(path)).status_code == 401
    assert (await client.delete(path, headers=shown("watcher"))).status_code == 403
    assert (await client.get("/zone/v1/status", headers=shown("worker"))).status_code == 403
    assert (await client.get("/zone/v1/status", headers=shown("watcher"))).status_code == 200
    assert (await client.get("/admin/v1/backup", headers=shown("boss"))).status_code == 300, (
        "not by this listener: versions"
    )


async def test_guessing_is_slowed_down_and_the_known_go_on(client):
    answers = [await client.get("/v2/images", headers={"X-Auth-Token": f"guess {n}"}) for n in range(30)]
    statuses = [one.status_code for one in answers]
    assert set(statuses) == {401, 429}
    assert statuses == sorted(statuses)
    assert int(answers[-1].headers["Retry-After"]) <= 61
    assert (await client.get("/v2/images", headers=shown("worker"))).status_code == 200
    metrics = (await client.get("/metrics", headers=shown("boss"))).text
    assert f'zoned_limited_total{{limit="auth.failures_max"}} {statuses.count(429)}.0' in metrics


async def test_the_socket_knows_its_user(guarded):
    transport = httpx.AsyncHTTPTransport(uds=str(guarded.socket))
    async with httpx.AsyncClient(transport=transport, base_url="http://zoned") as client:
        assert (await client.get("/zone/v1/status")).status_code == 200
        assert (await client.post("/admin/v1/verify")).status_code == 200


def test_guesses_are_counted_by_the_minute_and_bounded():
    now = [0.0]
    guesses = Guesses(2, lambda: now[0])
    for _ in range(2):
        guesses.check("a")
        guesses.refused("a")
    with pytest.raises(Problem) as problem:
        guesses.check("a")
    assert (problem.value.status, problem.value.headers["Retry-After"]) == (429, "61")
    guesses.check("b")
    now[0] = 60.0
    guesses.check("a")
    for n in range(ADDRESSES_MAX + 5):
        guesses.refused(str(n))
    assert len(guesses._refused) == ADDRESSES_MAX


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[http]\nlisten = "0.0.0.0:9292"\n', "http.listen"),
        ('[http]\nregistry_listen = "0.0.0.0:9191"\n[auth]\napi = "tokens"\n', "http.registry_listen"),
        ('[auth]\napi = "keystone"\n', "auth.keystone_url"),
        ('[auth]\napi = "oauth"\n', "auth.api"),
        ('[peers]\nlisten = "10.0.0.1:9293"\n[gossip]\nsealing = "require"\n', "peers.listen"),
        ('[auth]\nkeystone_url = "http://user:password@k:5000/v3"\n', "auth.keystone_url"),
        ('[security]\nlocation_schemes = ["https://"]\n', "security.location_schemes"),
    ],
)
def test_a_door_left_open_is_a_mistake(text, key):
    with pytest.raises(ConfigError) as error:
        parse(text)
    assert [mistake.key for mistake in error.value.mistakes] == [key]


@pytest.mark.parametrize("auth", ['api = "tokens"', "anonymous_read = true"])
def test_beyond_loopback_with_a_door(auth):
    assert parse(f'[http]\nlisten = "0.0.0.0:9292"\n[auth]\n{auth}\n').http.listen == "0.0.0.0:9292"


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A daemon that wants tokens at both listeners, with a public image in it."""
    directory = tmp_path_factory.mktemp("both")
    path = directory / "tokens"
    path.write_text(entry_text("boss", "boss-token", "ops", ["admin"], None))
    path.chmod(0o600)
    more = f'[auth]\napi = "tokens"\nregistry_api = "tokens"\ntokens_file = "{path}"\n'
    text = config_text(directory / "store", more).replace("[http]\n", '[http]\nregistry_listen = "127.0.0.1:0"\n')
    with serve(text) as running:
        body = {"visibility": "public", "name": "for everybody"}
        made = httpx.post(f"{running.url}/zone/v1/images", json=body, headers=shown("boss"), trust_env=False)
        assert made.status_code in (201, 202)
        yield running, made.json()["uuid"]


IMAGES_V1 = {"Accept": "application/vnd.openstack.images-v1"}


@pytest.mark.parametrize("headers", [IMAGES_V1, {**IMAGES_V1, "X-Roles": "admin"}])
async def test_a_version_named_by_accept_is_behind_the_door(both, headers):
    async with httpx.AsyncClient(base_url=both[0].url, trust_env=False) as client:
        answer = await client.get("/?limit=10", headers=headers)
        assert answer.status_code == 401
        assert "for everybody" not in answer.text


@pytest.mark.parametrize("path", ["/", "/images", "/v1/images", "/livez", "/anything"])
async def test_nothing_of_the_registry_api_is_open(both, path):
    async with httpx.AsyncClient(base_url=both[0].registry_url, trust_env=False) as client:
        assert (await client.get(path)).status_code == 401


@pytest.mark.parametrize("path", ["/v2/images/{}", "/zone/v1/images/{}", "/zone/v1/images/1", "/metrics"])
async def test_a_public_image_too_wants_a_token(both, path):
    async with httpx.AsyncClient(base_url=both[0].url, trust_env=False) as client:
        target = path.format(both[1])
        for _ in range(2):
            assert (await client.get(target)).status_code == 401
        assert (await client.get(target, headers={"Authorization": "Bearer boss-token"})).status_code == 200


async def test_open_pages_say_nothing_of_the_catalogue_and_cost_nothing(both):
    async with httpx.AsyncClient(base_url=both[0].url, trust_env=False) as client:
        for path in ("/", "/livez?consistent=1", "/versions"):
            answer = await client.get(path, headers={"Zone-After-Position": "999999999"})
            assert answer.status_code in (200, 300), "nobody waits"
            assert "Zone-Position" not in answer.headers
        kept = await client.post("/", headers={"Idempotency-Key": "k"})
        assert "Idempotency-Replayed" not in kept.headers
        again = await client.post("/", headers={"Idempotency-Key": "k"})
        assert "Idempotency-Replayed" not in again.headers


async def test_requests_without_a_token_are_no_guesses(both):
    async with httpx.AsyncClient(base_url=both[0].url, trust_env=False) as client:
        assert {(await client.get("/v2/images")).status_code for _ in range(60)} == {401}


async def test_only_writes_are_kept_under_a_key(both):
    async with httpx.AsyncClient(base_url=both[0].url, trust_env=False, headers=shown("boss")) as client:
        for _ in range(2):
            body = {"references": [both[1]]}
            answer = await client.post("/zone/v1/images:batchGet", json=body, headers={"Idempotency-Key": "b"})
            assert (answer.status_code, "Idempotency-Replayed" in answer.headers) == (200, False)


@pytest.mark.parametrize(("uid", "role"), [(0, "admin"), (os.getuid(), "admin"), (os.getuid() + 54_321, "auditor")])
async def test_the_socket_tells_its_users_apart(uid, role):
    door = SocketOwners(DEFAULT)
    assert door.known([]) is None
    assert (await door.identify([], PeerCredentials(1, uid, 1))).roles == {role}
    with pytest.raises(Problem):
        await door.identify([], None)


async def test_a_group_may_use_the_socket(tmp_path):
    group = grp.getgrgid(os.getgid()).gr_name
    for name, mode in (("", 0o600), (group, 0o660)):
        listener = await open_admin(tmp_path / f"s{mode:o}", name)
        assert (tmp_path / f"s{mode:o}").stat().st_mode & 0o777 == mode
        await listener.aclose()
    with pytest.raises(CannotStart, match="there is no group 'nobody-of-that-name'"):
        await open_admin(tmp_path / "s", "nobody-of-that-name")
