"""The `openstack` command: as an administrator without Keystone, and as two projects with tokens."""

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from tests.clients.conftest import Cloud, Said

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]

Openstack = Callable[..., Said]


@pytest.fixture
def admin(cloud: Cloud, openstack: Openstack) -> Openstack:
    """Without authentication."""
    return lambda *asked: openstack("--os-auth-type", "none", "--os-endpoint", cloud.registry, "image", *asked)


@pytest.fixture
def project(cloud: Cloud, openstack: Openstack) -> Callable[[str], Openstack]:
    """With a user name, a password, a token and a service catalog."""

    def of(name: str) -> Openstack:
        who = ("--os-username", "u", "--os-password", "p", "--os-project-name", name)
        where = ("--os-user-domain-name", "Default", "--os-project-domain-name", "Default")
        return lambda *asked: openstack("--os-auth-url", f"{cloud.identity}/v3", *who, *where, "image", *asked)

    return of


def shown(said: Said) -> Any:
    assert said.status == 0, said.err
    return json.loads(said.out)


def test_an_image_lives_from_create_to_delete(admin: Openstack) -> None:
    name = f"image-{uuid.uuid4()}"
    formats = ("--disk-format", "qcow2", "--container-format", "bare")
    made = shown(admin("create", *formats, "--property", "os=linux", "--tag", "a", "-f", "json", name))
    assert (made["status"], made["tags"], made["properties"]["os"]) == ("queued", ["a"], "linux")
    changes = ("--property", "b=1", "--tag", "c", "--min-ram", "5", "--protected", "--hidden")
    assert admin("set", *changes, made["id"]).status == 0
    assert admin("unset", "--property", "os", "--tag", "a", made["id"]).status == 0
    image = shown(admin("show", made["id"], "-f", "json"))
    assert (image["tags"], image["min_ram"], image["protected"]) == (["c"], 5, True)
    assert (image["properties"]["b"], "os" in image["properties"]) == ("1", False)
    assert shown(admin("list", "--name", name, "-f", "json")) == []
    listed = shown(admin("list", "--hidden", "--tag", "c", "--property", "b=1", "--sort", "name:asc", "-f", "json"))
    assert [one["ID"] for one in listed] == [made["id"]]
    assert "403" in admin("delete", made["id"]).err
    assert admin("set", "--unprotected", made["id"]).status == 0
    assert admin("delete", made["id"]).status == 0
    assert admin("show", made["id"]).status == 1


def test_two_projects_share_an_image(project: Callable[[str], Openstack]) -> None:
    ours, theirs, name = uuid.uuid4().hex, uuid.uuid4().hex, f"image-{uuid.uuid4()}"
    owner, member = project(ours), project(theirs)
    image_id = shown(owner("create", "--shared", "-f", "json", name))["id"]
    assert member("show", image_id).status == 1
    assert owner("add", "project", image_id, theirs).status == 0
    assert shown(member("show", image_id, "-f", "json"))["owner"] == ours
    assert shown(member("list", "--name", name, "-f", "json")) == []
    assert member("set", "--accept", image_id).status == 0
    assert [one["ID"] for one in shown(member("list", "--shared", "--name", name, "-f", "json"))] == [image_id]
    assert [one["Status"] for one in shown(owner("member", "list", image_id, "-f", "json"))] == ["accepted"]
    assert member("set", "--name", "mine", image_id).status == 1
    assert "403" in owner("set", "--public", image_id).err
    assert owner("remove", "project", image_id, theirs).status == 0
    assert member("show", image_id).status == 1
