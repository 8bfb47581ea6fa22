"""Records as documents and bodies as operations, by value."""

from typing import Any

import orjson
import pytest

from store.images import Location
from store.operations import Create, State, Write, decode, encode, perform
from store.soundness import JSON_DEPTH_MAX
from tests.zoned.api.conftest import AT, UUID, image
from zoned import clock
from zoned.api.documents import (
    depth,
    images_create,
    images_document,
    native_create,
    native_document,
    parse_json,
    parse_object,
)
from zoned.api.problems import Problem


def refused(make, document: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        make(document, UUID)
    return caught.value


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1,]", b"nul", b'{"a": NaN}', b"\xff", b'{"a": "\\ud800"}', b"[" * 100_000, b'{"a":1}x']
)
def test_a_body_that_is_no_json_is_a_bad_request(body):
    with pytest.raises(Problem) as caught:
        parse_json(body)
    assert (caught.value.status, caught.value.code) == (400, "bad-json")


@pytest.mark.parametrize("body", [b"[]", b"null", b"5", b'"x"', b"true"])
def test_a_body_that_is_no_object_is_a_bad_request(body):
    with pytest.raises(Problem) as caught:
        parse_object(body)
    assert caught.value.status == 400


def test_the_images_document_shows_base_attributes_and_own_properties_side_by_side():
    document = images_document(image({"colour": "red"}, ("b",), name="n"))
    assert (document["id"], document["name"], document["colour"], document["tags"]) == (UUID, "n", "red", ["b"])
    assert document["self"] == f"/v2/images/{UUID}"
    assert document["file"] == f"/v2/images/{UUID}/file"
    assert document["schema"] == "/v2/schemas/image"
    assert (document["visibility"], document["status"], document["min_ram"]) == ("shared", "queued", 0)
    assert (document["zoned_id"], document["locations"]) == (42, [])
    assert "direct_url" not in document
    assert "stores" not in document


def test_the_images_document_names_the_first_location_and_every_store():
    locations = (Location("swift://a", {"store": "a"}), Location("http://b"), Location("s3://c", {"store": "c"}))
    document = images_document(image(locations=locations))
    assert document["direct_url"] == "swift://a"
    assert document["stores"] == "a,c"
    assert document["locations"][1] == {"url": "http://b", "metadata": {}}


def test_no_own_property_can_pose_as_a_base_attribute():
    document = images_document(image({"id": "false", "status": "false", "self": "false", "zoned_id": "false"}))
    assert "false" not in (document["id"], document["status"], document["self"], document["zoned_id"])


@pytest.mark.parametrize("name", ["direct_url", "stores", "deleted", "deleted_at", "location", "os_glance_stage_host"])
def test_no_own_property_can_pose_as_what_only_the_service_tells(name):
    assert refused(native_create, {"properties": {name: "rbd://elsewhere/image"}}).code == "bad-property"
    assert name not in images_document(image({name: "rbd://elsewhere/image"}))


def test_the_native_document_keeps_properties_apart():
    document = native_document(image({"uuid": "mine"}))
    assert (document["uuid"], document["properties"]) == (UUID, {"uuid": "mine"})
    assert (document["integer"], document["ami"]) == (42, "ami-0000002a")


def test_a_record_without_integer_has_no_ec2_name():
    document = native_document(image(integer=None))
    assert (document["integer"], document["ami"]) == (None, None)


def test_a_create_keeps_only_what_differs_from_the_defaults():
    made = images_create({"name": "n", "visibility": "shared", "min_ram": 0, "own": "1", "tags": ["b", "a", "b"]}, UUID)
    assert (made.uuid, made.integer, dict(made.fields)) == (UUID, None, {"name": "n"})
    assert (dict(made.properties), made.tags) == ({"own": "1"}, ("a", "b"))
    assert clock.parse(made.at) == made.at


@pytest.mark.parametrize(
    "name",
    [
        *("status", "size", "virtual_size", "checksum", "created_at", "updated_at", "direct_url", "self", "file"),
        *("schema", "stores", "os_hash_algo", "os_hash_value", "locations", "location", "deleted", "deleted_at"),
        *("os_glance_x", "zoned_id"),
    ],
)
def test_the_images_api_forbids_what_only_the_service_sets(name):
    assert refused(images_create, {name: "x"}).status == 403


WRONG: list[dict[str, Any]] = [
    {"name": 5},
    {"name": "x" * 256},
    {"name": "a\x00"},
    {"visibility": "secret"},
    {"visibility": None},
    {"protected": "yes"},
    {"min_ram": -1},
    {"min_ram": 2_147_483_648},
    {"min_ram": 1.5},
    {"min_ram": True},
    {"min_disk": "5"},
    {"disk_format": "floppy"},
    {"container_format": 5},
    {"tags": "a"},
    {"tags": {"a": 1}},
    {"tags": [None]},
    {"tags": ["x" * 256]},
    {"tags": [""]},
]


@pytest.mark.parametrize("document", WRONG)
@pytest.mark.parametrize("make", [images_create, native_create])
def test_a_wrong_value_is_a_bad_request_on_both_faces(make, document):
    assert refused(make, dict(document)).status == 400


@pytest.mark.parametrize(
    "own",
    [{"own": None}, {"own": 5}, {"own": ["a"]}, {"own": "a\x00"}, {"x" * 256: "v"}, {"": "v"}, {"own": "x" * 65_536}],
)
def test_an_own_property_must_be_a_bounded_text_with_a_name(own):
    assert refused(images_create, dict(own)).status == 400
    assert refused(native_create, {"properties": dict(own)}).status == 400


@pytest.mark.parametrize(
    "wrong", [None, 5, "", "x", UUID[:-1], UUID + "0", UUID.replace("-", ""), "{" + UUID + "}", [UUID], "g" + UUID[1:]]
)
def test_an_id_that_is_no_uuid_is_a_bad_request(wrong):
    assert refused(images_create, {"id": wrong}).status == 400
    assert refused(native_create, {"uuid": wrong}).status == 400


def test_counts_beyond_the_bounds_are_too_large():
    assert refused(images_create, {f"p{n}": "v" for n in range(129)}).status == 413
    assert refused(images_create, {"tags": [f"t{n}" for n in range(129)]}).status == 413
    assert refused(native_create, {"locations": [{"url": f"http://a/{n}"} for n in range(11)]}).status == 413


def test_the_native_face_takes_every_attribute_an_import_needs():
    body = {"uuid": UUID, "status": "active", "size": 2**40, "created_at": AT, "checksum": "0" * 32, "name": "n"}
    assert dict(native_create(dict(body), "other").fields) == {k: v for k, v in body.items() if k != "uuid"}


@pytest.mark.parametrize("document", [{"id": UUID}, {"nmae": "x"}, {"zoned_id": 5}, {"integer": 5}, {"properties": []}])
def test_the_native_face_names_an_attribute_it_does_not_know(document):
    assert refused(native_create, document).status == 400


@pytest.mark.parametrize("when", ["yesterday", "2026-11-22", "2026-13-01T00:00:00Z", "2026-11-22T09:00:00+0000", "", 5])
def test_a_time_must_be_written_as_the_images_api_does(when):
    assert refused(native_create, {"created_at": when}).status == 400


def test_an_image_registered_with_a_location_is_active():
    assert native_create({"locations": [{"url": "swift://a"}]}, UUID).fields["status"] == "active"
    assert "status" not in native_create({}, UUID).fields


@pytest.mark.parametrize(
    "locations",
    [
        *("http://a", {}, ["http://a"], [{}], [{"url": "a"}], [{"url": 5}], [{"url": "http://a", "metadata": None}]),
        *([{"url": "http://a"}, {"url": "http://a"}], [{"url": "http://" + "a" * 4_096}], [{"url": "http://a\x00"}]),
    ],
)
def test_a_location_must_be_a_url_with_metadata(locations):
    assert refused(native_create, {"locations": locations}).status == 400


def nested(levels: int) -> Any:
    """An object in so many lists and objects, itself counted."""
    value: Any = {}
    for level in range(levels - 1):
        value = {"a": value} if level % 2 else [value]
    return value


def test_a_body_may_nest_only_so_deep():
    deep = b'{"locations": [{"url": "http://a", "metadata": {"a":' + b"[" * 250 + b"]" * 250 + b"}}]}"
    with pytest.raises(Problem) as caught:
        parse_object(deep)
    assert caught.value.status == 400
    assert depth(nested(JSON_DEPTH_MAX + 1)) == JSON_DEPTH_MAX
    assert depth(nested(1_000)) == JSON_DEPTH_MAX + 1
    fine = orjson.dumps({"locations": [{"url": "http://a", "metadata": {"m": nested(JSON_DEPTH_MAX - 4)}}]})
    assert native_create(parse_object(fine), UUID).locations


def test_an_image_registered_in_two_zones_at_once_is_one_image_whatever_its_metadata_holds():
    def made() -> Create:
        document = {"uuid": UUID, "locations": [{"url": "http://a", "metadata": {"paths": ["x", "y"]}}]}
        return native_create(document, "unused")

    first, _ = perform(None, Write("a", 1, decode(encode(made()))), 1)
    assert first is not None
    stored = type(first).decode(first.encode())
    _, outcome = perform(stored, Write("b", 1, decode(encode(made()))), 2)
    assert outcome.state is State.DONE


@pytest.mark.parametrize(
    "document",
    [
        {"name": "x" * 100_000},
        {"visibility": ["x" * 100_000]},
        {"own": ["x" * 100_000]},
        {"os_glance" + "x" * 100_000: "v"},
    ],
)
def test_an_error_stays_short_however_long_the_value_was(document):
    assert len(refused(images_create, document).detail) < 1_000
