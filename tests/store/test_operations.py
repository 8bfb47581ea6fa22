"""Outcomes by value: what each write makes of each record."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.images import FIELDS, Image, ImageMember, Location, is_uuid, parse_reference
from store.operations import (
    Assign,
    Create,
    Delete,
    Grant,
    Operation,
    OperationError,
    State,
    Update,
    Write,
    decode,
    decode_write,
    encode,
    encode_write,
    perform,
)

UUID = "c9ec9bad-8ab1-4555-b70e-7590c2b07303"
A, B = (f"00000000-0000-4000-8000-00000000000{letter}" for letter in "ab")


def at(second: int) -> str:
    return f"2026-11-22T09:00:{second:02}Z"


def run(*steps: tuple[str, Operation] | tuple[str, Operation, bool]) -> tuple[Image | None, list[State]]:
    """Applies (node, operation[, buffered]) one after the other."""
    image, states, counts = None, [], {A: 0, B: 0}
    for position, (node, operation, *buffered) in enumerate(steps, 1):
        counts[node] += 1
        image, outcome = perform(image, Write(node, counts[node], operation, bool(buffered)), position)
        states.append(outcome.state)
    return image, states


def create(**fields) -> Create:
    return Create(UUID, 7, at(0), fields, {"os": "x"}, ("b", "a"), (Location("http://o/1"),))


def test_create_fills_in_defaults():
    image, states = run((A, create(name="n")))
    assert image is not None
    assert states == [State.DONE]
    assert (image.integer, image.creator, image.write, image.position) == (7, A, f"{A}.1", 1)
    assert set(image.fields) == set(FIELDS)
    assert image.fields["visibility"] == "shared"
    assert image.fields["created_at"] == at(0)
    assert image.tags == ("a", "b")
    assert Image.decode(image.encode()) == image


def test_create_is_idempotent_by_uuid_and_keeps_the_first_integer():
    again = Create(UUID, 8, at(9), {"name": "n"}, {"os": "x"}, ("a", "b"), (Location("http://o/1"),))
    image, states = run((A, create(name="n")), (B, again))
    assert states == [State.DONE, State.DONE]
    assert image is not None
    assert (image.integer, image.write) == (7, f"{A}.1")


def test_create_of_a_taken_or_deleted_uuid_is_refused():
    assert run((A, create(name="n")), (B, create(name="m")))[1] == [State.DONE, State.REFUSED]
    assert run((A, create()), (A, Delete(UUID, at(1))), (B, create()))[1][-1] is State.REFUSED


def test_changes_to_different_parts_all_survive():
    image, states = run(
        (A, create(name="n")),
        (A, Update(UUID, at(1), {"name": ("n", "from a")}, tags_added=("t1",)), True),
        (
            B,
            Update(UUID, at(2), {"min_ram": (0, 5)}, {"p": (None, "q")}, tags_added=("t2",), tags_removed=("a",)),
            True,
        ),
    )
    assert states == [State.DONE] * 3
    assert image is not None
    assert (image.fields["name"], image.fields["min_ram"], image.properties["p"]) == ("from a", 5, "q")
    assert image.tags == ("b", "t1", "t2")
    assert image.fields["updated_at"] == at(2)


def test_a_buffered_change_of_a_field_that_moved_is_a_conflict_and_keeps_both_values():
    image, outcome = perform(
        run((A, create(name="n")), (A, Update(UUID, at(1), {"name": ("n", "first")})))[0],
        Write(B, 1, Update(UUID, at(2), {"name": ("n", "second"), "min_ram": (0, 1)}), buffered=True),
        3,
    )
    assert image is not None
    assert outcome.state is State.CONFLICT
    assert outcome.lost == (("name", "first", "second"),)
    assert (image.fields["name"], image.fields["min_ram"]) == ("first", 1)


def test_the_same_change_unbuffered_is_decided_by_the_log():
    image, states = run(
        (A, create(name="n")),
        (A, Update(UUID, at(1), {"name": ("n", "first")})),
        (B, Update(UUID, at(2), {"name": ("n", "second")})),
    )
    assert states == [State.DONE] * 3
    assert image is not None
    assert image.fields["name"] == "second"


def test_the_same_value_wanted_twice_is_no_conflict():
    first = Update(UUID, at(1), {"name": ("n", "m")})
    second = Update(UUID, at(2), {"name": ("n", "m")})
    assert run((A, create(name="n")), (A, first), (B, second, True))[1] == [State.DONE] * 3


def test_if_match_names_the_last_write():
    good = Update(UUID, at(1), {"name": ("n", "m")}, if_match=f"{A}.1")
    stale = Update(UUID, at(2), {"name": ("n", "o")}, if_match=f"{A}.1")
    image, states = run((A, create(name="n")), (A, good), (B, stale), (B, Delete(UUID, at(3), if_match=f"{A}.1")))
    assert states == [State.DONE, State.DONE, State.REFUSED, State.REFUSED]
    assert image is not None
    assert image.fields["name"] == "m"


def test_delete_wins_and_leaves_a_tombstone():
    image, states = run(
        (A, create()),
        (A, Delete(UUID, at(1))),
        (B, Update(UUID, at(2), {"name": (None, "x")})),
        (B, Delete(UUID, at(3))),
    )
    assert states == [State.DONE, State.DONE, State.REFUSED, State.DONE]
    assert image is not None
    assert (image.deleted_at, image.integer) == (at(1), 7)


def test_a_protected_image_is_not_deleted():
    assert run((A, create(protected=True)), (A, Delete(UUID, at(1))))[1] == [State.DONE, State.REFUSED]


def test_an_integer_is_assigned_once():
    image, states = run((A, Create(UUID, None, at(0), {})), (A, Assign(UUID, 5)), (A, Assign(UUID, 6)))
    assert states == [State.DONE] * 3
    assert image is not None
    assert image.integer == 5


def test_writes_to_nothing_are_refused():
    for operation in (Update(UUID, at(1)), Delete(UUID, at(1)), Assign(UUID, 1)):
        assert run((A, operation)) == (None, [State.REFUSED])


OPERATIONS = [
    create(name="ñ"),
    Update(
        UUID,
        at(1),
        {"name": ("a", None)},
        {"p": ("x", None)},
        ("t",),
        ("u",),
        (Location("u", {"a": 1}),),
        ("v",),
        "w.1",
    ),
    Update(UUID, at(1), members={"p": (None, ("pending", True)), "q": (("accepted", False), None)}),
    Delete(UUID, at(1), "w.2"),
    Assign(UUID, 3),
    Grant(5, 9),
]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: type(operation).__name__)
def test_operations_survive_the_wire(operation: Operation):
    assert decode(encode(operation)) == operation
    write = Write(A, 3, operation, True)
    assert decode_write(encode_write(write)) == write


@given(st.binary(max_size=80))
def test_any_bytes_are_an_operation_or_a_named_error(data: bytes):
    for decoder in (decode, decode_write):
        try:
            decoder(data)
        except OperationError:
            pass


def test_references():
    assert parse_reference("42") == 42
    assert parse_reference("ami-0000002a") == 42
    assert parse_reference(UUID) == UUID
    for wrong in ("", "-1", "4 2", "ami-2a", "ami-zzzzzzzz", "٤٢", UUID + "0", "9" * 20, "x" * 36):
        assert parse_reference(wrong) is None
    assert not is_uuid(UUID.replace("-", ""))


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("name", 5, "must be a text"),
        ("name", "x" * 256, "at most 255"),
        ("name", "a\x00", "NUL"),
        ("name", "\ud800", "surrogate"),
        ("status", None, "null"),
        ("status", "odd", "one of"),
        ("size", -1, "between 0"),
        ("size", True, "an integer"),
        ("min_ram", 2**31, "between 0"),
        ("protected", 1, "true or false"),
    ],
)
def test_fields_know_their_bounds(name: str, value: object, part: str):
    assert part in (FIELDS[name].problem(value) or "")
    assert FIELDS[name].problem(FIELDS[name].default) is None


def share(*changes: tuple[str, Any, Any], second: int = 1) -> Update:
    return Update(UUID, at(second), members={project: (seen, wanted) for project, seen, wanted in changes})


PENDING, ACCEPTED, REJECTED = (("pending", False), ("accepted", False), ("rejected", False))


def test_image_members_change_as_a_set_however_concurrently():
    image, states = run(
        (A, create()),
        (A, share(("p", None, PENDING)), True),
        (B, share(("q", None, PENDING), second=2), True),
        (B, share(("p", PENDING, ACCEPTED), second=3)),
        (A, share(("q", PENDING, None), second=4)),
    )
    assert states == [State.DONE] * 5
    assert image is not None
    assert image.members == {"p": ImageMember("accepted", False, at(1), at(3))}
    assert image.fields["updated_at"] == at(0)
    assert Image.decode(image.encode()) == image


def test_adding_an_image_member_that_is_there_keeps_its_answer():
    image, states = run(
        (A, create()),
        (A, share(("p", None, PENDING))),
        (B, share(("p", PENDING, ACCEPTED))),
        (A, share(("p", None, PENDING))),
    )
    assert states == [State.DONE] * 4
    assert image is not None
    assert image.members["p"].status == "accepted"


def test_the_answer_of_an_image_member_that_was_removed_meanwhile_is_a_conflict():
    image, states = run(
        (A, create()),
        (A, share(("p", None, PENDING))),
        (A, share(("p", PENDING, None))),
        (B, share(("p", PENDING, ACCEPTED))),
    )
    assert states[-1] is State.CONFLICT
    assert image is not None
    assert image.members == {}


def test_two_answers_of_one_image_member_while_buffered_are_a_conflict():
    image, states = run(
        (A, create()),
        (A, share(("p", None, PENDING))),
        (A, share(("p", PENDING, ACCEPTED))),
        (B, share(("p", PENDING, REJECTED)), True),
    )
    assert states[-1] is State.CONFLICT
    assert image is not None
    assert image.members["p"].status == "accepted"


def test_a_location_that_is_removed_and_added_keeps_its_place_with_new_metadata():
    urls = [f"http://o/{n}" for n in (1, 2, 3)]
    first = Update(UUID, at(1), locations_added=tuple(Location(url) for url in urls[1:]))
    renewed = Update(UUID, at(2), locations_added=(Location(urls[1], {"a": 1}),), locations_removed=(urls[1], urls[0]))
    image, _ = run((A, create()), (A, first), (B, renewed))
    assert image is not None
    assert image.locations == (Location(urls[1], {"a": 1}), Location(urls[2]))
