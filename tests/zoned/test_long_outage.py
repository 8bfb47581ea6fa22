"""Thirty days without a registry, in virtual time: integers and disk last as announced on the first of them.

The zone has a tenth of a cloud of a million instances, each backed up daily; one registration here stands for a
thousand there.
"""

from uuid import UUID

import apsw

from conf import Ids
from store import journal, ranges
from store.apply import apply, mark
from store.operations import Create, Grant
from tests.store.conftest import ME, connection, entry, limits
from zoned import clock
from zoned.drills import on_disk
from zoned.leasing import wanted

__all__ = ["connection", "limits"]  # fixtures of the store's tests

A_DAY = 100
NORMAL_DAYS = 10
OUTAGE_DAYS = 30
SETTINGS = Ids(lease_min=10, runway_days=90.0)
BEGIN = 20_000 * ranges.DAY_S
CEILING = 2**53 - 1


def register(connection: apsw.Connection, limits: journal.Limits, number: int, at: float) -> Create:
    fields = {"name": "daily backup", "disk_format": "qcow2", "container_format": "bare", "owner": "o" * 32}
    properties = {"instance_uuid": str(UUID(int=number)), "image_type": "snapshot", "backup_type": "daily"}
    operation = Create(str(UUID(int=number, version=4)), None, clock.text(at), fields, properties)
    made = journal.append(connection, ME, operation, at, limits)
    assert made.image is not None
    return Create(operation.uuid, made.image.integer, operation.at, fields, properties)


def size(connection: apsw.Connection, limits: journal.Limits) -> int:
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    pages, page = connection.execute("PRAGMA page_count").get, connection.execute("PRAGMA page_size").get
    return int(pages) * int(page)


def test_integers_and_disk_last_as_announced(connection, limits):
    limits = journal.Limits(10**6, 10**9, 0, limits.directory)
    position, number = 0, 0
    for day in range(NORMAL_DAYS):
        for turn in range(A_DAY):
            at = BEGIN + (day + turn / A_DAY) * ranges.DAY_S
            with connection:
                count = wanted(SETTINGS, ranges.runway(connection, at))
                for operation in [Grant(count, CEILING)] if count else []:
                    journal.append(connection, ME, operation, at, limits)
                    position += 1
                    apply(connection, [entry(position, mark(connection, ME) + 1, operation)], ME, at)
                number += 1
                created = register(connection, limits, number, at)
                position += 1
                apply(connection, [entry(position, mark(connection, ME) + 1, created)], ME, at)
    outage = BEGIN + NORMAL_DAYS * ranges.DAY_S
    runway, before = ranges.runway(connection, outage), size(connection, limits)
    assert runway.rate == A_DAY
    assert runway.days is not None
    assert runway.days >= OUTAGE_DAYS
    lasted, day = None, 0
    while lasted is None:
        for turn in range(A_DAY):
            at = outage + (day + turn / A_DAY) * ranges.DAY_S
            number += 1
            with connection:
                created = register(connection, limits, number, at)
            if created.integer is None and lasted is None:
                lasted = day + turn / A_DAY
        day += 1
        if day == OUTAGE_DAYS:
            backlog, grown = journal.backlog(connection), size(connection, limits) - before
            assert backlog.entries == OUTAGE_DAYS * A_DAY
            announced = on_disk(backlog.bytes / backlog.entries) * backlog.entries
            assert grown <= announced <= 2 * grown
    assert abs(lasted - runway.days) < 0.1
