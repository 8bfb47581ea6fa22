"""Who asks for what is being done in this task: set for each request, stamped on the writes that come of it.

A context variable, because between the request and the write stand the faces, and none of them has any use for it.
"""

from contextvars import ContextVar
from dataclasses import replace

from store.operations import Assign, Grant, Operation, Origin

ORIGIN: ContextVar[Origin | None] = ContextVar("origin", default=None)


def stamped(operation: Operation) -> Operation:
    """The operation with the origin of the request under way."""
    origin = ORIGIN.get()
    return operation if origin is None or isinstance(operation, Assign | Grant) else replace(operation, origin=origin)
