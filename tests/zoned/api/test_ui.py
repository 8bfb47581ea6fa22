"""The page's files over a real socket: what they are, that they cannot load anything from elsewhere, who gets them."""

import re
from importlib import resources

import httpx
import pytest

from zoned.api import ui
from zoned.api.caller import Caller
from zoned.api.guard import OPEN, check_path
from zoned.api.problems import Problem

FOLDER = resources.files("zoned").joinpath("ui")


async def test_the_page_and_all_it_names_are_served(zone: httpx.AsyncClient) -> None:
    page = await zone.get("/ui/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    named = set(re.findall(r'(?:src|href)="([a-z.]+)"', page.text))
    assert named == {"icon.svg", "style.css", "page.js"}
    scripts = {
        one for name in ui.NAMES for one in re.findall(r'from "./([a-z]+\.js)"', FOLDER.joinpath(name).read_text())
    }
    assert scripts | named | {ui.FIRST} == ui.NAMES  # nothing is missing and nothing is left over
    for name in ui.NAMES:
        answer = await zone.get(f"/ui/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].split(";")[0] in ui.KINDS.values()
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_without_a_slash_it_is_found_too(zone: httpx.AsyncClient) -> None:
    answer = await zone.get("/ui")
    assert answer.status_code == 308
    assert str(answer.url.join(answer.headers["location"])) == f"{zone.base_url}/ui/"


async def test_a_browser_that_has_it_gets_it_once(zone: httpx.AsyncClient) -> None:
    tag = (await zone.get("/ui/style.css")).headers["etag"]
    again = await zone.get("/ui/style.css", headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert (await zone.get("/ui/style.css", headers={"If-None-Match": '"other"'})).status_code == 200


@pytest.mark.parametrize("name", ["nothing.js", "..%2fpolicy.toml", "%2e%2e/policy.toml", "__init__.py", "a/b"])
async def test_nothing_else_is_served(zone: httpx.AsyncClient, name: str) -> None:
    answer = await zone.get(f"/ui/{name}")
    assert answer.status_code in (300, 404)  # 300: as for any path that begins with nothing known
    assert "admin" not in answer.text


def test_the_files_name_no_other_host_and_hold_no_inline_script_or_style() -> None:
    for name in ui.NAMES:
        text = FOLDER.joinpath(name).read_text()
        found = set(re.findall(r"https?://[^\s\"'`)]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not found, (name, found)
        assert "innerHTML" not in text
        assert not re.search(r"<script(?![^>]*src=)|\sstyle=|\son[a-z]+=", text), name


def test_anybody_gets_the_files_and_only_those_who_may_look_get_figures() -> None:
    assert {f"/ui/{name}" for name in ui.NAMES} | {"/ui", "/ui/"} <= OPEN
    for path in ("/zone/v1/overview", "/zone/v1/registry", "/zone/v1/trend"):
        assert path not in OPEN
        for role in ("admin", "auditor", "service"):
            check_path(Caller("p", frozenset((role,))), "GET", path)
        for role in ("member", "reader"):
            with pytest.raises(Problem):
                check_path(Caller("p", frozenset((role,))), "GET", path)
