"""Errors on the wire: one table from what went wrong to status and code, two spellings.

Native routes answer problem+json (RFC 9457) with a stable `code`; Images API routes answer as Glance does, which
depends on `Accept`.
"""

import html
from collections.abc import Mapping
from http import HTTPStatus

import orjson
from starlette.requests import Request
from starlette.responses import Response

from store.errors import Refused, StorageFull, TooBroad, WriterEnded

RETRY_AFTER_S = 2

# Outcome code -> status, where the Images API and the native API agree.
STATUSES: Mapping[str, int] = {
    "not-found": 404,
    "gone": 410,
    "exists": 409,
    "changed": 412,
    "protected": 403,
    "exhausted": 507,
    "conflict": 409,
    "integer-taken": 409,
    "too-large": 413,
    "key-reused": 422,
    "resolved": 409,
    "dropped": 409,
}


class Problem(Exception):
    """An answer that is an error. Nothing was changed."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, str | None] | None = None,
    ) -> None:
        self.more = dict(more or {})  # what the native API says besides
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        super().__init__(detail)


def bad(detail: str, code: str = "bad-request", status: int = 400) -> Problem:
    return Problem(status, code, detail)


def not_found(reference: str, position: int) -> Problem:
    return Problem(404, "not-found", f"no image {reference} as of position {position}")


def gone(reference: str, at: str, successor: str | None) -> Problem:
    """`successor` is the UUID of the image that took its place, as far as the caller may know."""
    instead = f"; use {successor} instead" if successor is not None else ""
    return Problem(
        410,
        "gone",
        f"image {reference} was deleted at {at}{instead}",
        more={"deleted_at": at, "successor": successor},
    )


def unsynced() -> Problem:
    detail = "this zone has not received the catalogue yet; ask again"
    return Problem(503, "unsynced", detail, {"Retry-After": str(RETRY_AFTER_S)})


def from_error(error: Exception) -> Problem:
    """The answer to an expected error of the layers below."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, Refused):
        code = error.outcome.code
        return Problem(STATUSES.get(code, 400), code, error.outcome.detail)
    if isinstance(error, StorageFull):
        return Problem(507, "storage-full", str(error))
    if isinstance(error, TooBroad):
        return Problem(400, "too-broad", str(error))
    if isinstance(error, WriterEnded):
        # Whether it was journaled nobody can say any more: it may be sent again, here or to another zone.
        detail = "this daemon is ending, the write may or may not have been taken; ask again"
        return Problem(503, "ending", detail, {"Retry-After": str(RETRY_AFTER_S)})
    raise error


def native(problem: Problem) -> Response:
    """problem+json (RFC 9457)."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        **problem.more,
    }
    return Response(orjson.dumps(body), problem.status, problem.headers, "application/problem+json")


def images(problem: Problem, request: Request) -> Response:
    """As Glance spells errors: JSON or plain text if that is all the client accepts, a small HTML page otherwise."""
    status = HTTPStatus(problem.status)
    accept = request.headers.get("accept", "")
    title, text = status.phrase, problem.detail
    if "application/json" in accept:
        body = orjson.dumps({"message": f"{text}<br /><br />\n\n\n", "code": f"{status.value} {title}", "title": title})
        return Response(body, status, problem.headers, "application/json")
    if "text/html" in accept or "*/*" in accept or not accept:
        page = (
            f"<html>\n <head>\n  <title>{status.value} {title}</title>\n </head>\n <body>\n"
            f"  <h1>{status.value} {title}</h1>\n  {html.escape(text)}<br /><br />\n\n\n\n </body>\n</html>"
        )
        return Response(page, status, problem.headers, "text/html")
    return Response(f"{status.value} {title}\n\n{text}\n\n   ", status, problem.headers, "text/plain")


EXPECTED = (Problem, Refused, StorageFull, TooBroad, WriterEnded)
