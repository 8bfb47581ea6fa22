"""One PostgreSQL for the session, a fresh database for each test that asks."""

import itertools
from collections.abc import Iterator

import pytest

from zoned.postgres import scratch
from zoned.postgres.scratch import Server

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with scratch.folder() as folder:
        try:
            made = scratch.make(folder / "pg")
        except scratch.NoServer as error:
            pytest.skip(str(error))
        made.start()
        try:
            yield made
        finally:
            made.kill()


@pytest.fixture
def dsn(server: Server) -> str:
    """Of an empty database."""
    name = f"test{next(_NUMBERS)}"
    server.execute(f"CREATE DATABASE {name}")
    return server.dsn_of(name)
