"""Errors on the wire, in both spellings."""

import orjson
import pytest
from starlette.requests import Request

from store.errors import JournalFull, Refused, StorageFull, WriterEnded
from store.operations import Outcome, State
from zoned.api import problems
from zoned.api.problems import Problem


def asking(accept: str | None) -> Request:
    headers = [] if accept is None else [(b"accept", accept.encode())]
    return Request({"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": headers})


@pytest.mark.parametrize(
    ("code", "status"),
    [
        *(("not-found", 404), ("gone", 410), ("exists", 409), ("changed", 412), ("protected", 403)),
        *(("exhausted", 507), ("conflict", 409), ("integer-taken", 409), ("unheard-of", 400)),
    ],
)
def test_every_refused_outcome_has_its_status(code, status):
    problem = problems.from_error(Refused(Outcome(State.REFUSED, code, "a sentence")))
    assert (problem.status, problem.code, problem.detail) == (status, code, "a sentence")


@pytest.mark.parametrize("error", [StorageFull("full"), JournalFull("full")])
def test_no_room_is_insufficient_storage(error):
    assert problems.from_error(error).status == 507


def test_an_unexpected_error_stays_unexpected():
    with pytest.raises(KeyError):
        problems.from_error(KeyError("x"))


def test_a_native_error_is_a_problem_document_with_a_stable_code():
    answer = problems.native(Problem(409, "exists", "there", {"Zone-Write": "x"}))
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["zone-write"] == "x"
    body = orjson.loads(answer.body)
    assert body == {"type": "about:blank", "title": "Conflict", "status": 409, "detail": "there", "code": "exists"}


@pytest.mark.parametrize("accept", ["application/json", "text/html, application/json;q=0.5"])
def test_the_images_api_answers_json_to_whom_accepts_it(accept):
    answer = problems.images(Problem(404, "x", "no <such> image"), asking(accept))
    assert answer.media_type == "application/json"
    assert orjson.loads(answer.body) == {
        "message": "no <such> image<br /><br />\n\n\n",
        "code": "404 Not Found",
        "title": "Not Found",
    }


@pytest.mark.parametrize("accept", [None, "", "*/*", "text/html", "text/html;q=0.9, */*;q=0.1"])
def test_the_images_api_answers_an_escaped_page_otherwise(accept):
    answer = problems.images(Problem(404, "x", "no <such> image"), asking(accept))
    assert answer.media_type == "text/html"
    assert b"<title>404 Not Found</title>" in answer.body
    assert b"no &lt;such&gt; image" in answer.body


@pytest.mark.parametrize("accept", ["text/plain", "application/octet-stream"])
def test_the_images_api_answers_plain_text_to_whom_wants_neither(accept):
    answer = problems.images(Problem(404, "x", "no <such> image"), asking(accept))
    assert answer.media_type == "text/plain"
    assert bytes(answer.body).startswith(b"404 Not Found\n\nno <such> image")


def test_unsynced_asks_for_another_try():
    assert problems.unsynced().headers["Retry-After"].isdigit()


def test_a_daemon_that_ends_asks_to_be_asked_again():
    problem = problems.from_error(WriterEnded("ended"))
    assert (problem.status, problem.code, problem.headers["Retry-After"]) == (503, "ending", "2")
