"""A bounded run of the fuzzer over every target, and that it would find something."""

import pytest

from tests.fuzz.__main__ import fuzz
from tests.fuzz.targets import Target, targets

INPUTS = 1_500


@pytest.mark.parametrize("target", targets(), ids=lambda one: one.name)
def test_whatever_comes_is_read_or_refused_by_name(target):
    found = fuzz(target, 0, INPUTS)
    assert found is None, found


@pytest.mark.parametrize("target", targets(), ids=lambda one: one.name)
def test_the_valid_inputs_are_valid(target):
    for data in target.seeds:
        target.read(data)


def test_a_reader_that_stumbles_is_found():
    def read(data: bytes) -> object:
        return data.decode("ascii")

    assert fuzz(Target("stumbles", [b"hello"], read, ()), 0, 200) is not None
