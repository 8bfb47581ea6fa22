"""python-glanceclient, library and command line, version 1: metadata in headers, integers as well as UUIDs."""

import io
import uuid
from collections.abc import Callable
from typing import Any

import glanceclient
import pytest
from glanceclient import exc

from tests.clients.conftest import Cloud, Said

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(params=["registry", "follower"])
def glance(request: pytest.FixtureRequest, cloud: Cloud) -> Any:
    return glanceclient.Client("1", endpoint=getattr(cloud, request.param))


def test_an_image_lives_from_create_to_delete(glance: Any) -> None:
    name = f"n{uuid.uuid4()}"
    image = glance.images.create(name=name, is_public=True, min_ram=5, properties={"os": "linux"})
    assert (image.status, image.is_public, image.properties) == ("queued", True, {"os": "linux"})
    assert glance.images.get(image.id).to_dict()["min_ram"] == 5
    where = {"location": "http://objects.example/1", "disk_format": "raw", "container_format": "bare"}
    assert glance.images.update(image.id, **where).status == "active"
    changed = glance.images.update(image.id, purge_props=True, properties={"more": "text"})
    assert (changed.name, changed.properties) == (name, {"more": "text"})
    assert [one.id for one in glance.images.list(filters={"name": name}, page_size=1)] == [image.id]
    with pytest.raises(exc.HTTPForbidden):
        glance.images.create(name="with bytes", data=io.BytesIO(b"bytes"), disk_format="raw", container_format="bare")
    integer = glance.images.get(image.id).to_dict()["zoned_id"]
    assert glance.images.get(integer).id == image.id
    glance.images.delete(image.id)
    with pytest.raises(exc.HTTPNotFound):
        glance.images.get(image.id)


def test_image_members_are_listed_both_ways(glance: Any) -> None:
    project = uuid.uuid4().hex
    image = glance.images.create(name="n")
    glance.image_members.create(image.id, project, can_share=True)
    assert [(one.member_id, one.can_share) for one in glance.image_members.list(image=image)] == [(project, True)]
    assert [one.image_id for one in glance.image_members.list(member=project)] == [image.id]
    glance.image_members.delete(image.id, project)
    assert list(glance.image_members.list(image=image)) == []


def test_the_command_line_shows_through_head(cloud: Cloud, command: Callable[..., Said]) -> None:
    glance = ("glance", "--os-image-api-version", "1", "--os-auth-token", "x", "--os-image-url", cloud.follower)
    made = command(*glance, "image-create", "--name", "one", "--property", "os=linux")
    assert made.status == 0, made.err
    assert "one" in command(*glance, "image-list").out
