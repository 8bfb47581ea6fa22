"""The same clients while no registry is left: writes are answered as usual, and buffered."""

import uuid
from collections.abc import Callable, Iterator

import glanceclient
import httpx
import pytest

from tests.clients.conftest import Said, running
from tests.clients.test_sdk import connect, make

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The zone that is left when the registry and another are gone."""
    with running(tmp_path_factory.mktemp("outage")) as cloud:
        connect(cloud.follower).image.create_image("known before", id=str(uuid.uuid4()))
        for daemon in cloud.daemons:
            if daemon.url != cloud.follower:
                daemon.kill()
        yield cloud.follower


def test_the_sdk_creates_changes_shares_and_deletes(lone: str) -> None:
    connection = connect(lone)
    image = make(connection, tags=["a"])
    connection.image.update_image(image, name="renamed", more="text")
    connection.image.add_tag(image, "b")
    connection.image.add_member(image, member="p")
    connection.image.update_member("p", image, status="accepted")
    shown = connection.image.get_image(image.id)
    assert (shown.name, sorted(shown.tags), shown.properties["more"]) == ("renamed", ["a", "b"], "text")
    assert [one.status for one in connection.image.members(image)] == ["accepted"]
    assert [one.id for one in connection.image.images(name="renamed", tag="b")] == [image.id]
    answer = httpx.get(f"{lone}/v2/images/{image.id}", trust_env=False)
    assert answer.headers["zone-source"] == "journal"
    connection.image.delete_image(image, ignore_missing=False)
    assert connection.image.find_image(image.id) is None


def test_glanceclient_registers_a_location(lone: str) -> None:
    glance = glanceclient.Client("2", endpoint=lone)
    image = glance.images.create(name="snapshot", disk_format="raw", container_format="bare")
    image = glance.images.add_location(image.id, "http://objects.example/snapshot", {"zone": "zone-a"})
    assert (image.status, isinstance(image.zoned_id, int)) == ("active", True)


def test_the_openstack_command_creates_and_shows(lone: str, openstack: Callable[..., Said]) -> None:
    none = ("--os-auth-type", "none", "--os-endpoint", lone)
    assert openstack(*none, "image", "create", "in the outage").status == 0
    assert openstack(*none, "image", "set", "--property", "a=b", "in the outage").status == 0
    for name in ("known before", "in the outage"):
        assert openstack(*none, "image", "show", name).status == 0
