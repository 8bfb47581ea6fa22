"""What is kept of a record's changes, and that every node keeps the same."""

from store import apply, catalogue, history
from store.history import ENTRIES_MAX, Change
from store.images import Image, Location
from store.operations import Assign, Create, Delete, Operation, Origin, Update
from tests.store.conftest import AT, ME, NOW, OTHER, entry

UUID = "c9ec9bad-8ab1-4555-b70e-7590c2b07303"
BY = ("project/person", "req-1")
ORIGIN = Origin("b", BY[0], 5, BY[1])


def run(connection, *operations: Operation) -> list[Change]:
    """Applies them one after the other; returns the record's history, the oldest first."""
    apply.apply(connection, [entry(n, n, one, OTHER) for n, one in enumerate(operations, 1)], ME, NOW)
    record = catalogue.committed(connection, UUID)
    assert record is not None
    return history.read(connection, Image.decode(record))[::-1]


def create(**fields) -> Create:
    return Create(UUID, 7, AT, fields, {"os": "x"}, ("a",), (Location("http://o/1"),), ORIGIN)


def test_a_record_that_was_never_changed_says_itself_who_made_it(connection):
    (made,) = run(connection, create(name="n"))
    assert (made.kind, made.position, made.at, made.write, made.by) == ("created", 1, AT, f"{OTHER}.1", BY)
    assert connection.execute("SELECT count(*) FROM history").get == 0


def test_each_change_says_who_when_and_what(connection):
    update = Update(
        UUID, AT, {"name": ("n", "m")}, {"os": ("x", None), "new": (None, "y")}, ("b",), ("a",),
        (Location("http://o/2"),), members={"p": (None, ("pending", False))}, origin=Origin("b", "else", 5, "req-2"),
    )  # fmt: skip
    made, changed, deleted = run(connection, create(name="n"), update, Delete(UUID, AT, origin=ORIGIN))
    assert (made.kind, made.by) == ("created", BY)
    assert (changed.kind, changed.position, changed.by, changed.write) == (
        "updated",
        2,
        ("else", "req-2"),
        f"{OTHER}.2",
    )
    assert changed.changed == {
        "name": ("n", "m"),
        "properties/os": ("x", None),
        "properties/new": (None, "y"),
        "tags/a": (True, None),
        "tags/b": (None, True),
        "locations/http://o/2": (None, {}),
        "members/p": (None, "pending"),
    }
    assert (deleted.kind, deleted.changed) == ("deleted", {"deleted_at": (None, AT)})
    assert history.at(connection, UUID, 2) == changed
    assert history.at(connection, UUID, 9) is None


def test_a_number_given_later_is_a_change(connection):
    _, numbered = run(connection, Create(UUID, None, AT, {}), Assign(UUID, 7))
    assert (numbered.kind, numbered.at, numbered.changed) == ("numbered", None, {"integer": (None, 7)})


def test_the_newest_are_kept(connection):
    updates = [Update(UUID, AT, properties={"os": (None, str(n))}) for n in range(2 * ENTRIES_MAX)]
    kept = run(connection, create(), *updates)
    assert [one.position for one in kept] == list(range(ENTRIES_MAX + 2, 2 * ENTRIES_MAX + 2))


def test_large_values_and_large_changes_stay_small(connection):
    one = Update(UUID, AT, properties={"os": ("x", "y" * 60_000)})
    many = Update(UUID, AT, properties={f"{n:03}{'x' * 200}": (None, "z" * 300) for n in range(100)})
    _, long, wide = run(connection, create(), one, many)
    assert len(long.changed["properties/os"][1]) < 300
    assert (len(wide.changed), set(wide.changed.values())) == (64, {(None, None)})


def test_seeing_the_bytes_again_is_no_change(connection):
    def seen(second: int) -> Update:
        return Update(UUID, AT, presence={"b": {"verified": (f"2026-11-22T09:00:{second:02}.000Z", "")}})

    kept = run(connection, create(), seen(1), seen(2), seen(3))
    assert [(one.kind, dict(one.changed)) for one in kept] == [
        ("created", {}),
        ("updated", {"presence/b": (None, ["verified"])}),
    ]
