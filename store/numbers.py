"""Second integers of an image: told by a zone that could not know that another had made it. Plain functions of a
connection.

Two zones that are cut off from each other may both register one UUID, and both clients are told an integer. The record
has that of the first in the log; the other is kept here, leads to the same image, and is never given to another.
"""

import apsw

from store import catalogue
from store.images import Image


def keep(connection: apsw.Connection, integer: int | None, image: Image) -> None:
    """`integer` was promised for this image, which has another one."""
    if integer in (None, image.integer) or catalogue.holder(connection, integer or 0) is not None:
        return
    connection.execute("INSERT OR IGNORE INTO numbers VALUES (?, ?)", (integer, image.uuid))
