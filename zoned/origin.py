"""Who asks for what is being done in this task: set for each request, stamped on the writes that come of it.

A context variable, because between the request and the write stand the faces, and none of them has any use for it.
"""

from contextvars import ContextVar
from dataclasses import replace
from uuid import UUID, uuid4, uuid5

from store.operations import Assign, Grant, Operation, Origin

ORIGIN: ContextVar[Origin | None] = ContextVar("origin", default=None)
_SPACE = UUID("6d1e51a6-5be8-5f0c-9d0a-0d2cf2f4a1b7")


def stamped(operation: Operation) -> Operation:
    """The operation with the origin of the request under way."""
    origin = ORIGIN.get()
    return operation if origin is None or isinstance(operation, Assign | Grant) else replace(operation, origin=origin)


def is_repeatable() -> bool:
    """Whether the request under way has an Idempotency-Key, so that what `new_uuid` gives it may be in use already."""
    origin = ORIGIN.get()
    return origin is not None and bool(origin.key)


def new_uuid() -> str:
    """A UUID for a record. A request with an Idempotency-Key gets the same one wherever and whenever it is repeated."""
    origin = ORIGIN.get()
    if origin is None or not origin.key:
        return str(uuid4())
    return str(uuid5(_SPACE, (origin.key + origin.payload).hex()))
