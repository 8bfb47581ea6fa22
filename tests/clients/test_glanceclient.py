"""python-glanceclient, library and command line, version 2."""

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
    return glanceclient.Client("2", endpoint=getattr(cloud, request.param))


def test_an_image_lives_from_create_to_delete(glance: Any) -> None:
    image = glance.images.create(name="one", disk_format="raw", container_format="bare", os="linux", tags=["a"])
    assert (image.status, image.os, image.visibility) == ("queued", "linux", "shared")
    image = glance.images.update(image.id, remove_props=["os"], name="two", more="text")
    assert (image.name, image.more, "os" in image) == ("two", "text", False)
    glance.image_tags.update(image.id, "b")
    glance.image_tags.delete(image.id, "a")
    assert glance.images.get(image.id).tags == ["b"]
    glance.images.delete(image.id)
    with pytest.raises(exc.HTTPNotFound):
        glance.images.get(image.id)


def test_locations_are_added_changed_and_removed(glance: Any) -> None:
    image = glance.images.create(name="one", disk_format="raw", container_format="bare")
    first, second, third = (f"http://objects.example/{n}" for n in (1, 2, 3))
    digest = {"os_hash_algo": "sha512", "os_hash_value": "a" * 128, "checksum": "b" * 32}
    image = glance.images.add_location(image.id, first, {"zone": "zone-a"}, digest)
    assert (image.status, image.checksum, image.os_hash_value) == ("active", "b" * 32, "a" * 128)
    image = glance.images.add_location(image.id, second, {})
    image = glance.images.update_location(image.id, second, {"zone": "zone-b"})
    assert [one["metadata"] for one in image.locations] == [{"zone": "zone-a"}, {"zone": "zone-b"}]
    with pytest.raises(exc.HTTPBadRequest):
        glance.images.add_location(image.id, second, {})
    image = glance.images.add_image_location(image.id, third, {})
    assert [one["url"] for one in glance.images.get_image_locations(image.id)] == [first, second, third]
    glance.images.delete_locations(image.id, {first, third})
    assert [one["url"] for one in glance.images.get(image.id).locations] == [second]
    with pytest.raises(exc.HTTPForbidden):
        glance.images.delete_locations(image.id, {second})


def test_image_members_answer(glance: Any) -> None:
    image = glance.images.create(name="one")
    assert glance.image_members.create(image.id, "p").status == "pending"
    with pytest.raises(exc.HTTPConflict):
        glance.image_members.create(image.id, "p")
    assert glance.image_members.update(image.id, "p", "rejected").status == "rejected"
    assert [one.member_id for one in glance.image_members.list(image.id)] == ["p"]
    glance.image_members.delete(image.id, "p")
    assert list(glance.image_members.list(image.id)) == []
    glance.images.update(image.id, visibility="private")
    with pytest.raises(exc.HTTPForbidden):
        glance.image_members.create(image.id, "p")


def test_lists_are_walked_over_pages_and_sorted_with_nulls(glance: Any) -> None:
    mark = str(uuid.uuid4())
    for name in ("b", None, "a", None, "c", None):
        named = {"name": name} if name is not None else {}
        glance.images.create(mark=mark, **named)

    def names(**query: Any) -> list[str | None]:
        return [one.name for one in glance.images.list(page_size=2, filters={"mark": mark}, **query)]

    assert names(sort="name:asc") == [None, None, None, "a", "b", "c"]
    assert names(sort_key=["name"], sort_dir=["desc"]) == ["c", "b", "a", None, None, None]
    assert len(names()) == 6
    with pytest.raises(exc.HTTPBadRequest):
        names(sort_key=["name", "size"], sort_dir=["asc", "desc", "asc"])


def test_uploads_and_imports_are_refused_and_change_nothing(glance: Any) -> None:
    image = glance.images.create(name="one", disk_format="raw", container_format="bare")
    with pytest.raises(exc.HTTPForbidden):
        glance.images.upload(image.id, io.BytesIO(b"bytes"))
    with pytest.raises(exc.HTTPForbidden):
        glance.images.stage(image.id, io.BytesIO(b"bytes"))
    with pytest.raises(exc.HTTPForbidden):
        glance.images.image_import(image.id, "glance-direct")
    assert glance.images.get(image.id).status == "queued"
    assert glance.images.data(image.id).wrapped is None


def test_the_command_line_makes_its_options_from_the_schema(cloud: Cloud, command: Callable[..., Said]) -> None:
    def glance(*arguments: str) -> Said:
        return command("glance", "--os-auth-token", "x", "--os-image-url", cloud.follower, *arguments)

    image_id = str(uuid.uuid4())
    made = glance("image-create", "--id", image_id, "--name", "one", "--min-ram", "5", "--property", "os=linux")
    assert made.status == 0, made.err
    assert "linux" in made.out
    changed = glance("image-update", image_id, "--name", "two", "--protected", "True", "--remove-property", "os")
    assert changed.status == 0, changed.err
    assert "linux" not in changed.out
    assert image_id in glance("image-list", "--property-filter", "name=two").out
    refused = glance("image-delete", image_id)
    assert (refused.status, "not permitted" in refused.err) == (1, True)
