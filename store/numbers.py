"""Second integers of an image: told by a zone that could not know that another had made it. Plain functions of a
connection.

Two zones that are cut off from each other may both register one UUID, and both clients are told an integer. The record
has that of the first in the log; the other is kept here, leads to the same image, and is never given to another. Until
the log has them all, a zone keeps in `promised` what the creates that it knows say besides.
"""

from collections.abc import Iterable

import apsw

from store import catalogue
from store.images import Image
from store.operations import Create, Write


def keep(connection: apsw.Connection, integer: int | None, image: Image) -> None:
    """`integer` was promised for this image, which has another one."""
    if integer in (None, image.integer) or catalogue.holder(connection, integer or 0) is not None:
        return
    connection.execute("INSERT OR IGNORE INTO numbers VALUES (?, ?)", (integer, image.uuid))


def forget(connection: apsw.Connection, uuid: str) -> None:
    """Takes back `show`."""
    connection.execute("DELETE FROM promised WHERE uuid = ?", (uuid,))


def show(connection: apsw.Connection, uuid: str, writes: Iterable[Write], image: Image | None) -> None:
    """`writes` to this record are not applied yet; what their clients were told leads there as well."""
    for write in writes:
        told = write.operation.integer if isinstance(write.operation, Create) else None
        if told is not None and image is not None and told != image.integer:
            connection.execute("INSERT OR IGNORE INTO promised VALUES (?, ?)", (told, uuid))
