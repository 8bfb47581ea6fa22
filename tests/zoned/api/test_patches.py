"""JSON-patch documents by value: what each media type allows, what each path allows, and what comes out."""

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.images import Image, Location
from store.operations import Update, Write, perform
from tests.zoned.api.conftest import AT, image
from zoned.api.patches import OPERATIONS_MAX, STANDARD, V20, V21, changes, parse
from zoned.api.problems import Problem

LATER = "2026-11-22T10:00:00Z"


def step(media_type: str, verb: str, path: str, *value: Any) -> dict[str, Any]:
    """One operation in the spelling of the media type."""
    body = {verb: path} if media_type == V20 else {"op": verb, "path": path}
    return body | ({"value": value[0]} if value else {})


def patch(record: Image, *steps: tuple[Any, ...], media_type: str = V21) -> Update | None:
    document = [step(media_type, *one) for one in steps]
    return changes(record, parse(document, media_type), LATER, None)


def refusal(record: Image, *steps: tuple[Any, ...], media_type: str = V21) -> Problem:
    with pytest.raises(Problem) as caught:
        patch(record, *steps, media_type=media_type)
    return caught.value


def patched(record: Image, *steps: tuple[Any, ...], media_type: str = V21) -> Image:
    update = patch(record, *steps, media_type=media_type)
    assert update is not None
    after, _ = perform(record, Write("node", 2, update), 8)
    assert after is not None
    return after


BOTH = pytest.mark.parametrize("media_type", [V20, V21, STANDARD], ids=["v2.0", "v2.1", "rfc6902"])


@BOTH
@pytest.mark.parametrize(
    ("verb", "path", "value", "name"),
    [
        ("add", "/name", "new", "name"),
        ("replace", "/name", "new", "name"),
        ("replace", "/name", None, "name"),
        ("replace", "/visibility", "community", "visibility"),
        ("replace", "/protected", True, "protected"),
        ("add", "/os_hidden", True, "os_hidden"),
        ("replace", "/min_ram", 512, "min_ram"),
        ("add", "/min_disk", 2_147_483_647, "min_disk"),
        ("replace", "/owner", "someone", "owner"),
        ("replace", "/disk_format", "raw", "disk_format"),
        ("add", "/container_format", "bare", "container_format"),
    ],
)
def test_a_base_attribute_is_set_by_add_and_by_replace(media_type, verb, path, value, name):
    record = image(name="old")
    assert patched(record, (verb, path, value), media_type=media_type).fields[name] == value


@BOTH
@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([("add", "/colour", "red")], {"kept": "1", "colour": "red"}),
        ([("replace", "/kept", "2")], {"kept": "2"}),
        ([("remove", "/kept")], {}),
        ([("add", "/a~1b", "slash")], {"kept": "1", "a/b": "slash"}),
        ([("add", "/a~0b", "tilde")], {"kept": "1", "a~b": "tilde"}),
        ([("add", "/a~01b", "both")], {"kept": "1", "a~1b": "both"}),
        ([("add", "/x", ""), ("replace", "/x", "2"), ("remove", "/kept")], {"x": "2"}),
    ],
)
def test_own_properties_are_added_replaced_and_removed_by_decoded_name(media_type, steps, expected):
    after = patched(image({"kept": "1"}), *steps, media_type=media_type)
    assert after.properties == expected
    assert after.fields["updated_at"] == LATER


def test_add_overwrites_a_property_in_the_newer_form_and_not_in_the_older():
    record = image({"kept": "1"})
    assert patched(record, ("add", "/kept", "2")).properties == {"kept": "2"}
    assert refusal(record, ("add", "/kept", "2"), media_type=V20).status == 409


@BOTH
@pytest.mark.parametrize("verb", ["replace", "remove"])
def test_a_property_that_is_not_there_cannot_be_replaced_or_removed(media_type, verb):
    value = ("2",) if verb == "replace" else ()
    assert refusal(image(), (verb, "/absent", *value), media_type=media_type).status == 409


@BOTH
@pytest.mark.parametrize(
    "name",
    [
        *("id", "status", "size", "virtual_size", "checksum", "os_hash_algo", "os_hash_value"),
        *("created_at", "updated_at", "direct_url", "self", "file", "schema", "stores", "zoned_id"),
        *("location", "deleted", "deleted_at", "os_glance_import_task", "os_glance"),
    ],
)
@pytest.mark.parametrize("verb", ["add", "replace", "remove"])
def test_what_callers_may_not_set_is_forbidden_to_every_verb(media_type, name, verb):
    value = () if verb == "remove" else ("1",)
    if (verb, name) == ("remove", "zoned_id"):  # what openstacksdk does, without meaning it
        assert patch(image(), (verb, f"/{name}"), media_type=media_type) is None
    else:
        assert refusal(image(), (verb, f"/{name}", *value), media_type=media_type).status == 403


@BOTH
@pytest.mark.parametrize("name", ["name", "min_ram", "visibility", "owner", "disk_format", "tags"])
def test_a_base_attribute_may_not_be_removed(media_type, name):
    assert refusal(image(), ("remove", f"/{name}"), media_type=media_type).status == 403


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *(("/name", 5), ("/name", "x" * 256), ("/name", "a\x00b"), ("/visibility", "hidden"), ("/visibility", None)),
        *(("/protected", "true"), ("/protected", 1), ("/min_ram", -1), ("/min_ram", "5"), ("/min_ram", True)),
        *(("/min_disk", 2_147_483_648), ("/min_disk", None), ("/disk_format", "floppy"), ("/own", 5), ("/own", None)),
        *(("/own", ["a"]), ("/own", {"a": "b"}), ("/own", "a\x00b"), ("/own", "x" * 65_536), (f"/{'n' * 256}", "v")),
        *(("/tags", "a"), ("/tags", [1]), ("/tags", ["x" * 256]), ("/tags", [""]), ("/tags", None)),
    ],
)
def test_a_value_of_the_wrong_type_or_size_is_refused(path, value):
    assert refusal(image(), ("add", path, value)).status == 400


@pytest.mark.parametrize("status", ["active", "deactivated"])
def test_formats_are_fixed_once_there_is_data(status):
    assert refusal(image(status=status), ("replace", "/disk_format", "raw")).status == 403
    assert patched(image(status="importing"), ("replace", "/disk_format", "raw")).fields["disk_format"] == "raw"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "name",
        "//",
        "/name/",
        "/name/x",
        "/tags/-",
        "/own/deep",
        "/~",
        "/a~2b",
        "/locations/0/x",
        5,
        None,
        ["/a"],
    ],
)
def test_a_path_that_is_no_pointer_into_an_image_is_refused(path):
    with pytest.raises(Problem) as caught:
        parse([{"op": "add", "path": path, "value": "x"}], V21)
    assert caught.value.status == 400


@pytest.mark.parametrize("document", [None, {}, "x", 5, ["x"], [5], [None], [[]], [{}]])
@BOTH
def test_a_document_that_is_no_list_of_operations_is_refused(media_type, document):
    with pytest.raises(Problem) as caught:
        parse(document, media_type)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("media_type", "operation"),
    [
        (V21, {"op": "test", "path": "/name", "value": "x"}),
        (V21, {"op": "move", "from": "/a", "path": "/b"}),
        (V21, {"op": ["add"], "path": "/b", "value": "x"}),
        (V21, {"op": "add", "path": "/name"}),
        (V21, {"op": "replace", "value": "x"}),
        (V21, {"add": "/name", "value": "x"}),
        (V20, {"op": "add", "path": "/name", "value": "x"}),
        (V20, {"add": "/name", "remove": "/name", "value": "x"}),
        (V20, {"replace": "/name"}),
        (V20, {"value": "x"}),
    ],
)
def test_an_operation_of_the_wrong_shape_is_refused(media_type, operation):
    with pytest.raises(Problem) as caught:
        parse([operation], media_type)
    assert caught.value.status == 400


def test_more_operations_than_the_bound_are_refused_before_they_are_looked_at():
    with pytest.raises(Problem) as caught:
        parse([None] * (OPERATIONS_MAX + 1), V21)
    assert caught.value.status == 413


def test_tags_are_replaced_as_a_set_and_told_as_differences():
    update = patch(image(tags=("a", "b")), ("replace", "/tags", ["b", "c", "c"]))
    assert update is not None
    assert (update.tags_added, update.tags_removed) == (("c",), ("a",))


def test_each_change_carries_the_value_that_it_was_based_on():
    update = patch(image({"own": "1"}, name="old"), ("replace", "/name", "new"), ("remove", "/own"), ("add", "/n", "v"))
    assert update is not None
    assert update.fields == {"name": ("old", "new")}
    assert update.properties == {"own": ("1", None), "n": (None, "v")}


@pytest.mark.parametrize(
    "steps",
    [[], [("replace", "/name", "same")], [("add", "/x", "1"), ("remove", "/x")], [("replace", "/tags", ["b", "a"])]],
)
def test_a_document_that_changes_nothing_is_no_write(steps):
    assert patch(image(name="same", tags=("a", "b")), *steps) is None


def test_one_bad_operation_refuses_the_whole_document():
    record = image({"own": "1"})
    assert refusal(record, ("replace", "/own", "2"), ("replace", "/id", str(uuid.uuid4()))).status == 403
    assert record.properties == {"own": "1"}


def test_too_many_properties_or_tags_are_refused():
    many = [("add", f"/p{n}", "v") for n in range(129)]
    assert refusal(image(), *many).status == 413
    assert len(patched(image(), *many[:128]).properties) == 128
    assert refusal(image(), ("replace", "/tags", [f"t{n}" for n in range(129)])).status == 413


ONE, TWO = Location("http://a/1"), Location("http://a/2")


def test_the_first_location_makes_a_queued_image_active():
    first = ("add", "/locations/-", {"url": "http://a/1", "metadata": {"store": "s"}})
    assert refusal(image(), first).status == 400  # both formats must be known by then
    after = patched(image(disk_format="raw", container_format="bare"), first)
    assert after.locations == (Location("http://a/1", {"store": "s"}),)
    assert after.fields["status"] == "active"


def test_a_location_is_removed_by_its_place():
    after = patched(image(locations=(ONE, TWO), status="active"), ("remove", "/locations/0"))
    assert after.locations == (TWO,)


@pytest.mark.parametrize(
    ("steps", "status"),
    [
        ([("remove", "/locations/0")], 403),
        ([("remove", "/locations/1")], 400),
        ([("remove", "/locations/-")], 400),
        ([("remove", "/locations/x")], 400),
        ([("remove", "/locations/\u00b2")], 400),
        ([("remove", "/locations/00000000000000000001")], 400),
        ([("remove", "/locations")], 400),
        ([("replace", "/locations", [])], 403),
        ([("replace", "/locations", [{"url": "http://b", "metadata": {}}])], 400),
        ([("add", "/locations/-", {"url": "http://b"})], 400),
        ([("replace", "/locations/0", {"url": "http://b"})], 400),
        ([("add", "/locations/-", {"url": "http://a/1", "metadata": {}})], 400),
        ([("add", "/locations/9", {"url": "http://b", "metadata": {}})], 400),
        ([("add", "/locations/-", {"url": "no url", "metadata": {}})], 400),
        ([("add", "/locations/-", {"metadata": {}})], 400),
        ([("add", "/locations/-", "http://b")], 400),
        ([("add", "/locations/-", {"url": "http://b", "metadata": 5})], 400),
        ([("add", "/locations/-", {"url": "http://b", "metadata": {}, "more": 1})], 400),
    ],
)
def test_a_location_that_cannot_be_added_or_removed_is_refused(steps, status):
    assert refusal(image(locations=(ONE,), status="active"), *steps).status == status


def test_an_image_never_gets_more_locations_than_the_bound():
    many = [("add", "/locations/-", {"url": f"http://a/{n}", "metadata": {}}) for n in range(11)]
    assert refusal(image(), *many).status == 413


@pytest.mark.parametrize("verb", ["add", "remove"])
def test_a_place_of_absurd_length_is_refused_like_any_other_wrong_place(verb):
    value = ({"url": "http://b", "metadata": {}},) if verb == "add" else ()
    assert refusal(image(locations=(ONE, TWO)), (verb, "/locations/" + "1" * 5_000, *value)).status == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
PATHS = st.sampled_from(
    [
        "/name",
        "/tags",
        "/own",
        "/new",
        "/locations/-",
        "/locations/0",
        "/locations",
        "/id",
        "/min_ram",
        "/owner",
        "/",
        "x",
    ]
)
OPERATIONS = st.one_of(
    st.fixed_dictionaries(
        {"op": st.sampled_from(["add", "replace", "remove", "test"]), "path": PATHS | JSON}, optional={"value": JSON}
    ),
    JSON,
)


@given(st.lists(OPERATIONS, max_size=4) | JSON, st.sampled_from([V20, V21, STANDARD]))
def test_any_json_at_all_is_a_patch_or_a_problem(document, media_type):
    record = image({"own": "1"}, ("a",), (ONE, TWO), name="n")
    try:
        update = changes(record, parse(document, media_type), AT, None)
    except Problem as problem:
        assert 400 <= problem.status < 500
    else:
        assert update is None or perform(record, Write("node", 2, update), 8)[0] is not None
