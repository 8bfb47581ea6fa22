"""schemathesis over `/openapi.json`: whatever it makes up, no answer is a server error or against the schema."""

from collections.abc import Callable

import pytest

from tests.clients.conftest import Cloud, Said

pytestmark = pytest.mark.system


def test_nothing_made_up_is_an_error_of_the_server(cloud: Cloud, command: Callable[..., Said]) -> None:
    checks = "not_a_server_error,status_code_conformance,response_schema_conformance"
    said = command(
        *("schemathesis", "run", f"{cloud.follower}/openapi.json", "--checks", checks),
        *("--exclude-path", "/zone/v1/watch"),  # it has no end to wait for
        *("--max-examples", "3", "--phases", "fuzzing", "--seed", "6", "--no-color"),
    )
    assert said.status == 0, said.out[-4_000:]
