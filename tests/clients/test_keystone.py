"""A real Keystone, and real clients with its tokens: two projects, sharing, tokens taken back, Keystone frozen."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openstack
import pytest

from tests.clients import keystone
from tests.clients.keystone import Keystone
from zoned.fleet import Daemon, ended, make

# What the clients do inside is not ours to mend.
pytestmark = [
    pytest.mark.system,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not keystone.ENVIRONMENT.exists(), reason="`make test` installs Keystone into .venv-keystone"),
]


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    with keystone.running(tmp_path_factory.mktemp("keystone")) as running:
        running.user("zoned", "service", "service")
        yield running


@pytest.fixture(scope="module")
def zone(tmp_path_factory, identity):
    """One zone that asks this Keystone."""
    directory: Path = tmp_path_factory.mktemp("zone")
    secret = directory / "password"
    secret.write_text("zoned\n")
    secret.chmod(0o600)
    extra = (
        f'[auth]\napi = "keystone"\nkeystone_url = "{identity.url}"\nkeystone_password_file = "{secret}"\n'
        "recheck_s = 1.0\nkeystone_timeout_s = 2.0\n[journal]\nfree_disk_min_bytes = 0\n"
    )
    daemons = make(directory, ["alpha"], 1, extra)
    with ended(daemons):
        daemons[0].start()
        until("the zone is ready", lambda: ready(daemons[0]))
        yield daemons[0]


def ready(daemon: Daemon) -> bool:
    try:
        return httpx.get(f"{daemon.url}/readyz", timeout=5, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def until(what: str, look: Callable[[], bool], patience_s: float = 30.0) -> None:
    end = time.monotonic() + patience_s
    while not look():
        assert time.monotonic() < end, f"not within {patience_s} s: {what}"
        time.sleep(0.05)


def show(daemon: Daemon, image: str, token: str) -> int:
    headers = {"X-Auth-Token": token}
    return httpx.get(f"{daemon.url}/v2/images/{image}", headers=headers, timeout=30, trust_env=False).status_code


def connection(identity: Keystone, zone: Daemon, user: str, project: str) -> Any:
    return openstack.connect(
        load_yaml_config=False,
        load_envvars=False,
        auth_type="password",
        auth={
            "auth_url": identity.url,
            "username": user,
            "password": user,
            "project_name": project,
            "user_domain_id": "default",
            "project_domain_id": "default",
        },
        image_endpoint_override=zone.url,
        identity_endpoint_override=identity.url,
    )


def test_two_projects_with_openstacksdk(identity, zone):
    alice_project = identity.user("alice", "one", "member")
    bob_project = identity.user("bob", "two", "member")
    with connection(identity, zone, "alice", "one") as alice, connection(identity, zone, "bob", "two") as bob:
        made = alice.image.create_image(name="hers", visibility="shared", allow_duplicates=True)
        assert made.owner_id == alice_project
        assert bob.image.find_image(made.id) is None
        alice.image.add_member(made.id, member_id=bob_project)
        assert bob.image.get_image(made.id).name == "hers"
        bob.image.update_member(bob_project, made.id, status="accepted")
        assert made.id in {one.id for one in bob.image.images()}
        with pytest.raises(openstack.exceptions.ForbiddenException):
            bob.image.delete_image(made.id)
        with pytest.raises(openstack.exceptions.ForbiddenException):
            alice.image.update_image(made.id, visibility="public")
        alice.image.delete_image(made.id)


def test_a_token_taken_back_stops(identity, zone):
    identity.user("carol", "three", "member")
    token = identity.token("carol", "carol", "three")
    made = httpx.post(f"{zone.url}/v2/images", json={}, headers={"X-Auth-Token": token}, timeout=30, trust_env=False)
    image = made.json()["id"]
    assert show(zone, image, token) == 200
    headers = {"X-Auth-Token": token, "X-Subject-Token": token}
    assert httpx.delete(f"{identity.url}/auth/tokens", headers=headers, timeout=30, trust_env=False).is_success
    until("the token is refused", lambda: show(zone, image, token) == 401)


def test_while_keystone_is_frozen_known_tokens_go_on(identity, zone):
    identity.user("dave", "four", "member")
    known, unknown = (identity.token("dave", "dave", "four") for _ in range(2))
    made = httpx.post(f"{zone.url}/v2/images", json={}, headers={"X-Auth-Token": known}, timeout=30, trust_env=False)
    image = made.json()["id"]
    identity.freeze()
    try:
        time.sleep(1.1)  # beyond `recheck_s`, so that it would be asked again
        assert show(zone, image, known) == 200
        assert show(zone, image, unknown) == 503
    finally:
        identity.thaw()
    until("it is asked again", lambda: show(zone, image, unknown) == 200)
    assert show(zone, image, "nonsense") == 401
