"""The tables for people say what the catalogue says."""

import threading
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.zoned.conftest import config_text, serve, wait_for_integers
from zoned.postgres import ledger, tables
from zoned.postgres.tables import named

PATIENCE_S = 30.0


def wait_for(connection: ledger.Connection) -> None:
    """Until the tables are where the log is."""
    behind = "SELECT 1 FROM tables, registry WHERE tables.position < registry.position"
    pause = threading.Event()
    for _ in range(int(PATIENCE_S / 0.05)):
        if not connection.execute(behind).fetchall():
            return
        pause.wait(0.05)
    pytest.fail("the tables do not follow the log")


def test_records_and_ranges_can_be_queried(dsn: str, tmp_path: Path):
    text = config_text(tmp_path / "store", registry=f'engine = "postgresql"\ndsn = ["{dsn}"]')
    with serve(text) as running, psycopg.connect(dsn, autocommit=True) as connection, httpx.Client() as client:
        wait_for_integers(running.url)
        body = {
            "name": "one",
            "tags": ["a", "b"],
            "properties": {"os": "linux"},
            "locations": [{"url": "swift://x/1", "metadata": {"zone": "alpha"}}],
            "visibility": "shared",
        }
        made = client.post(f"{running.url}/zone/v1/images", json=body)
        assert made.status_code == 201, made.text
        image = made.json()
        gone = client.post(f"{running.url}/zone/v1/images", json={"name": "two", "tags": ["c"]}).json()
        assert client.delete(f"{running.url}/v2/images/{gone['uuid']}").status_code == 204
        members = f"{running.url}/v2/images/{image['uuid']}/members"
        assert client.post(members, json={"member": "other"}).status_code == 200
        wait_for(connection)

        def rows(statement: str) -> list[tuple[object, ...]]:
            return connection.execute(statement.encode()).fetchall()

        assert rows('SELECT uuid::text, "integer", name, status FROM images WHERE deleted_at IS NULL') == [
            (image["uuid"], image["integer"], "one", image["status"])
        ]
        assert rows("SELECT uuid::text FROM images WHERE deleted_at IS NOT NULL") == [(gone["uuid"],)]
        assert rows("SELECT name, value FROM properties") == [("os", "linux")]
        assert rows("SELECT tag FROM tags ORDER BY tag") == [("a",), ("b",)]
        assert rows("SELECT project, status, can_share FROM image_members") == [("other", "pending", False)]
        assert rows("SELECT number, url, metadata FROM locations") == [(0, "swift://x/1", '{"zone":"alpha"}')]
        [(start, stop, node, retired)] = rows("SELECT start, stop, node, retired FROM ranges")
        assert start == 1
        assert isinstance(stop, int)
        assert stop > image["integer"]
        assert (node, retired) == (running.zone.identity.node_id, 0)


def test_whoever_finds_the_tables_moved_changes_nothing(dsn: str):
    with psycopg.connect(dsn, autocommit=True) as connection:
        ledger.migrate(connection)
        ledger.found(connection, "cluster")
        tables._write(connection, 0, 5, [], [(1, 10, "a", 2, 0)])
        tables._write(connection, 0, 3, [], [(10, 20, "a", 3, 0)])
        assert connection.execute("SELECT position FROM tables").fetchone() == (5,)
        assert connection.execute("SELECT start FROM ranges").fetchall() == [(1,)]


def test_entries_that_name_nothing_are_passed_over():
    assert named([]) == ([], [])
