"""openstacksdk against a zone that is the registry, one that is not, and one that no registry is left for."""

import uuid
from typing import Any

import openstack
import pytest
from openstack import exceptions

from tests.clients.conftest import Cloud

# What the clients do inside is not ours to mend.
pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]


def connect(url: str) -> Any:
    """A connection without authentication."""
    return openstack.connect(load_envvars=False, load_yaml_config=False, auth_type="none", auth={"endpoint": url})


def log_in(identity: str, project: str) -> Any:
    """A connection as a member of a project."""
    domain = {"user_domain_name": "Default", "project_domain_name": "Default"}
    auth = {"auth_url": f"{identity}/v3", "username": "u", "password": "p", "project_name": project, **domain}
    return openstack.connect(load_envvars=False, load_yaml_config=False, auth=auth)


@pytest.fixture(params=["registry", "follower"])
def url(request: pytest.FixtureRequest, cloud: Cloud) -> str:
    found: str = getattr(cloud, request.param)
    return found


def make(connection: Any, **attributes: Any) -> Any:
    attributes = {"disk_format": "qcow2", "container_format": "bare", **attributes}
    return connection.image.create_image(attributes.pop("name", f"image-{uuid.uuid4()}"), **attributes)


def test_an_image_lives_from_create_to_delete(url: str) -> None:
    connection = connect(url)
    image = make(connection, tags=["a"], min_ram=64, os_distro="debian")
    assert (image.status, image.os_distro, image.min_ram) == ("queued", "debian", 64)
    changed = connection.image.update_image(image, name="renamed", protected=True, os_distro="arch")
    assert (changed.name, changed.is_protected, changed.os_distro) == ("renamed", True, "arch")
    with pytest.raises(exceptions.ForbiddenException):
        connection.image.delete_image(image)
    connection.image.update_image(image, protected=False)
    connection.image.add_tag(image, "b")
    connection.image.remove_tag(image, "a")
    assert connection.image.get_image(image.id).tags == ["b"]
    assert connection.image.find_image("renamed").id == image.id
    connection.image.delete_image(image, ignore_missing=False)
    with pytest.raises(exceptions.NotFoundException):
        connection.image.get_image(image.id)


def test_a_client_chosen_id_is_kept_and_never_used_twice(url: str) -> None:
    connection, chosen = connect(url), str(uuid.uuid4())
    assert make(connection, id=chosen).id == chosen
    with pytest.raises(exceptions.ConflictException):
        make(connection, id=chosen)


def test_lists_are_walked_over_pages_with_filters_and_orders(url: str) -> None:
    connection, mark = connect(url), str(uuid.uuid4())
    made = [make(connection, name=f"n{n}", tags=[mark, f"t{n % 2}"]) for n in range(5)]

    def names(**query: Any) -> list[str]:
        return [one.name for one in connection.image.images(limit=2, **{"tag": mark, **query})]

    assert names(sort="name:asc") == [f"n{n}" for n in range(5)]
    assert names(sort_key="name", sort_dir="desc") == [f"n{n}" for n in (4, 3, 2, 1, 0)]
    assert names(tag=[mark, "t1"], sort="name:asc") == ["n1", "n3"]
    assert names(name="in:n0,n4", sort="name:asc") == ["n0", "n4"]
    assert names(status="active") == []
    assert set(names()) == {one.name for one in made}


def test_a_location_makes_an_image_active_and_its_bytes_are_elsewhere(url: str) -> None:
    connection = connect(url)
    image = make(connection)
    where = {"url": "http://objects.example/bucket/image", "metadata": {"zone": "zone-a"}}
    answer = connection.image.patch(
        f"/images/{image.id}",
        json=[{"op": "add", "path": "/locations/-", "value": where}],
        headers={"Content-Type": "application/openstack-images-v2.1-json-patch"},
    )
    assert answer.status_code == 200
    assert connection.image.get_image(image.id).status == "active"
    file = connection.image.get(f"/images/{image.id}/file", redirect=False)
    assert (file.status_code, file.headers["location"]) == (302, where["url"])
    with pytest.raises(exceptions.ForbiddenException):
        make(connection, data=b"bytes")
    connection.image.deactivate_image(image)
    assert connection.image.get_image(image.id).status == "deactivated"
    connection.image.reactivate_image(image)
    assert connection.image.get_image(image.id).status == "active"


def test_two_projects_share_an_image(cloud: Cloud) -> None:
    ours, theirs = f"p{uuid.uuid4().hex}", f"p{uuid.uuid4().hex}"
    owner, member, stranger = (log_in(cloud.identity, project) for project in (ours, theirs, "stranger"))
    image = make(owner, name=ours)
    assert image.owner == ours
    with pytest.raises(exceptions.NotFoundException):
        member.image.get_image(image.id)
    owner.image.add_member(image, member=theirs)
    assert member.image.get_image(image.id).name == ours
    assert [one.status for one in member.image.members(image)] == ["pending"]
    assert [one.id for one in member.image.images(name=ours)] == []
    assert [one.id for one in member.image.images(name=ours, member_status="pending")] == [image.id]
    with pytest.raises(exceptions.ForbiddenException):
        owner.image.update_member(theirs, image, status="accepted")
    member.image.update_member(theirs, image, status="accepted")
    assert [one.id for one in member.image.images(name=ours)] == [image.id]
    with pytest.raises(exceptions.ForbiddenException):
        member.image.update_image(image, name="mine")
    with pytest.raises(exceptions.ForbiddenException):
        member.image.delete_image(image)
    with pytest.raises(exceptions.ForbiddenException):
        owner.image.update_image(image, visibility="public")
    with pytest.raises(exceptions.NotFoundException):
        stranger.image.get_image(image.id)
    owner.image.remove_member(theirs, image, ignore_missing=False)
    with pytest.raises(exceptions.NotFoundException):
        member.image.get_image(image.id)


def test_what_zoned_does_not_have_is_refused_as_forbidden(url: str) -> None:
    connection = connect(url)
    with pytest.raises(exceptions.ForbiddenException):
        list(connection.image.metadef_namespaces())
    with pytest.raises(exceptions.ForbiddenException):
        list(connection.image.tasks())
    assert connection.image.get_import_info().import_methods["value"] == []
    assert {one.id for one in connection.image.stores()} == {"zone-a", "zone-b", "zone-c"}
    assert connection.image.get_images_schema().properties["images"]["type"] == "array"
    assert "zoned_id" in connection.image.get_image_schema().properties
    assert connection.image.get_member_schema().properties["status"]["enum"] == ["pending", "accepted", "rejected"]
