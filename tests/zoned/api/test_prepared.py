"""The document made of stored bytes says what the document made of the record says, whatever users put into it."""

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.images import DEFAULTS, VISIBILITIES, Image, ImageMember, Location
from tests.zoned.api.conftest import AT, UUID, image
from zoned.api import prepared
from zoned.api.caller import Caller
from zoned.api.documents import images_document, native_document
from zoned.api.prepared import Sight

MARKS = (
    '","fields":{"', '"fields":{', '},"integer":', ',"locations":[],"members":{},"position":', ',"properties":{', "\\",
    '\\"', '"deleted_at":null,"fields":{', ',"presence":', ']],"members":', '},"tags":[', '],"uuid":"', '","write":"',
    ',"members":{},"position":', "members", "position", "store", ',"owner":', "http://u:p@h/1", "http://h/?q=1",
    "\u2028", "\0", "\x7f", "ñ", "", "properties", "fields",
)  # fmt: skip
TEXT = st.one_of(st.sampled_from(MARKS), st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
JSON: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=8,
)
MINE = "mine"
CALLERS = (
    Caller(),
    Caller(None, frozenset(("auditor",))),
    Caller(MINE, frozenset(("member",))),
    Caller(MINE, frozenset(("service",))),
    Caller(None, frozenset(("reader",))),
)
IMAGES = st.builds(
    Image,
    uuid=st.just(UUID),
    integer=st.one_of(st.none(), st.integers(1, 2**53)),
    creator=TEXT,
    write=TEXT,
    position=st.integers(0, 2**40),
    fields=st.dictionaries(st.sampled_from(("name", "owner")), TEXT | st.just("mine"))
    .map(lambda some: {**DEFAULTS, "created_at": AT, "updated_at": AT, **some})
    .flatmap(lambda fields: st.sampled_from(VISIBILITIES).map(lambda one: {**fields, "visibility": one})),
    properties=st.dictionaries(TEXT, TEXT, max_size=4),
    tags=st.lists(TEXT, max_size=3, unique=True).map(lambda tags: tuple(sorted(tags))),
    locations=st.lists(st.builds(Location, TEXT, st.dictionaries(TEXT, JSON, max_size=3)), max_size=2).map(tuple),
    deleted_at=st.sampled_from((None, None, None, AT)),
    members=st.dictionaries(
        TEXT | st.just("mine"), st.builds(ImageMember, TEXT, st.booleans(), st.just(AT), st.just(AT)), max_size=2
    ),
    by=st.tuples(TEXT, TEXT),
    presence=st.dictionaries(TEXT, st.dictionaries(TEXT, st.tuples(TEXT, TEXT), max_size=2), max_size=2),
)


@given(IMAGES)
def test_stored_bytes_and_the_record_make_the_same_documents(record: Image) -> None:
    parts = prepared.cut(record.encode())
    if record.deleted_at is not None:
        assert parts is None
        return
    assert parts is not None
    for make, document in ((prepared.native, native_document), (prepared.images, images_document)):
        assert orjson.loads(make(parts)) == orjson.loads(orjson.dumps(document(record)))
    assert prepared.write_of(record.encode()) == orjson.dumps(record.write)[1:-1]


@given(IMAGES, st.sampled_from(CALLERS))
def test_a_caller_sees_in_bytes_what_the_policy_lets_it_see(record: Image, caller: Caller) -> None:
    sight, data = Sight(caller), record.encode()
    for make, document in ((prepared.native, native_document), (prepared.images, images_document)):
        shown, viewed = sight.show(data, make), sight.view(data, make)
        whole = orjson.loads(orjson.dumps(document(caller.view(record))))
        assert viewed is None or orjson.loads(viewed) == whole
        assert shown is None or (caller.may_see(record) and shown == viewed)
        is_plain = not any(mark in data for mark in b"@?")  # else it may take the longer way
        if caller.may_see(record) and caller.view(record) is record and record.deleted_at is None and is_plain:
            assert shown is not None


def test_a_tombstone_is_known_whatever_its_locations_say() -> None:
    posing = Location("http://o/1", {"deleted_at": None, "fields": {}, "integer": 1, "locations": [], "properties": {}})
    for deleted_at in (None, AT):
        gone = replace(image(locations=(posing,)), deleted_at=deleted_at)
        parts = prepared.cut(gone.encode())
        assert (parts is None) is (deleted_at is not None)
        assert parts is None or orjson.loads(prepared.native(parts)) == native_document(gone)


@pytest.mark.parametrize("record", [b"", b"{}", b"null", b'{"deleted_at":null,"fields":{}}'])
def test_what_is_no_record_makes_no_document(record: bytes) -> None:
    assert prepared.cut(record) is None
