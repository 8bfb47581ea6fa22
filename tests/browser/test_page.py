"""Goal: whoever looks at `/ui/` sees what is so, whatever happens, however they look. Method: a real Chromium before
three real zones.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from tests.browser.looks import BEYOND, CARDS, CONTRAST, DOZEN, FOCUS, LISTEN, NAMED, PLACES
from tests.browser.webdriver import Browser, chromium, missing
from tests.browser.zones import fill, overview, registry_of, start, until, zones
from zoned.fleet import Daemon, ended, make

pytestmark = pytest.mark.system
LIVE = "document.body.dataset.feed === 'live'"
COMPLETE = f"{LIVE} && !!document.querySelector('#catalogue tbody tr') && !!document.querySelector('.matrix tbody')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    reason = missing()
    if reason:
        pytest.skip(reason)
    with chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture(scope="module")
def three(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Daemon]]:
    with zones(tmp_path_factory.mktemp("zones")) as daemons:
        fill(daemons)
        yield daemons


@pytest.fixture
def daemons(three: list[Daemon]) -> list[Daemon]:
    """All up, whatever the last test did to them."""
    start(three)
    return three


def look_at(browser: Browser, daemon: Daemon, width: int = 1440, height: int = 900, scheme: str = "light") -> None:
    browser.look(width, height, scheme)
    browser.open("about:blank")
    for kind in ("browser", "performance"):
        browser.logged(kind)
    browser.open(f"{daemon.url}/ui/")
    browser.until("the page is complete", COMPLETE)


def cards_of(browser: Browser) -> dict[str, str]:
    """The verdicts, in their order."""
    return dict(browser.run(CARDS))


def complaints(browser: Browser) -> list[dict[str, Any]]:
    return [entry for entry in browser.logged("browser") if entry["level"] in ("SEVERE", "WARNING")]


def requested(browser: Browser) -> set[str]:
    """Every URL that the page asked for."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.logged("performance")]
    return {one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"}


def test_it_shows_what_is_so_and_asks_nobody_else(browser: Browser, daemons: list[Daemon]) -> None:
    look_at(browser, daemons[0])
    said = overview(daemons[0])
    browser.until("all is well", "document.querySelectorAll('.card.ok').length === 4")
    cards = cards_of(browser)
    assert list(cards) == ["Builds", "Backups", "Registry", "Zones"]
    assert "Go on" in cards["Builds"]
    assert "registrations are committed" in cards["Backups"]
    assert said["status"]["registry"]["zone"] in cards["Registry"]
    assert "3 of 3 up" in cards["Zones"]
    assert browser.run("return document.title") == "zone-a | zoned"
    browser.until("nothing is the matter", "document.querySelector('#findings').innerText.includes('Nothing is the')")
    browser.until("all see all", "document.querySelectorAll('.matrix tbody td .ok').length === 6")
    assert browser.run("return document.querySelectorAll('#map .place').length") == 3
    rows = browser.run("return [...document.querySelectorAll('#zones tbody th')].map((one) => one.innerText)")
    assert rows == ["zone-a (here)", "zone-b", "zone-c"]
    assert browser.run("return document.querySelectorAll('#elections .held').length") >= 1
    browser.until("the runway is known", r"/left: \d+ days/.test(document.querySelector('#gauges').innerText)")
    assert browser.run("return document.querySelectorAll('#trend svg').length") == 4
    assert browser.run("return document.querySelectorAll('#catalogue tbody tr').length") == 10
    assert complaints(browser) == []
    asked = requested(browser)
    assert f"{daemons[0].url}/zone/v1/overview?every=2" in asked
    assert [url for url in asked if not url.startswith(f"{daemons[0].url}/")] == []
    links = browser.run("return [...document.querySelectorAll('a.json')].map((one) => one.getAttribute('href'))")
    assert len(links) >= 20
    with httpx.Client(timeout=20.0, trust_env=False) as client:
        for link in set(links):
            answer = client.get(urljoin(f"{daemons[0].url}/ui/", link))
            assert answer.status_code == 200, link
            assert answer.json()


def test_images_are_found_by_any_of_their_names(browser: Browser, daemons: list[Daemon]) -> None:
    look_at(browser, daemons[0])
    first = browser.run("return document.querySelector('#catalogue tbody code').textContent")
    name = browser.run("return document.querySelector('#catalogue tbody a').textContent")
    integer = browser.run("return document.querySelector('#catalogue tbody td').textContent")
    for text in (first, name, integer, f"ami-{int(integer):08x}"):
        browser.run("const q = document.querySelector('#query'); q.value = arguments[0]; q.form.requestSubmit()", text)
        browser.until(f"{text} was looked for", f"document.querySelector('#found').innerText.includes({text!r})")
        assert browser.run("return document.querySelector('#catalogue tbody code').textContent") == first
        assert browser.run("return document.querySelectorAll('#catalogue tbody tr').length") == 1
    presence = browser.run(
        "return [...document.querySelectorAll('#catalogue tbody td [role=img]')].map((one) => one.ariaLabel)"
    )
    assert len(presence) == 3
    assert any(" since " in one for one in presence)
    browser.run("const q = document.querySelector('#query'); q.value = '<b>no such'; q.form.requestSubmit()")
    browser.until("nothing was found", "document.querySelector('#found').innerText.includes('No image for <b>no such')")
    assert complaints(browser) == []


def check_contrast(browser: Browser) -> None:
    grounds = {"light": "rgb(244, 246, 248)", "dark": "rgb(13, 18, 25)"}
    for scheme, ground in grounds.items():
        browser.look(1440, 900, scheme)
        assert browser.run("return getComputedStyle(document.body).backgroundColor") == ground
        found = browser.run(CONTRAST)
        assert found["looked"] > 100
        assert found["wrong"] == []


def test_every_text_can_be_read(browser: Browser, daemons: list[Daemon]) -> None:
    look_at(browser, daemons[0])
    check_contrast(browser)


def test_the_keyboard_reaches_and_does_everything(browser: Browser, daemons: list[Daemon]) -> None:
    look_at(browser, daemons[0])
    path = []
    for _ in range(80):
        browser.press("Tab")
        at = browser.run(FOCUS)
        if at is None:
            break
        path.append(at)
    names = [one["name"] for one in path]
    assert names[:4] == ["To the state of things", "To the catalogue", "pause", "Builds as JSON"]
    assert "query" in names
    assert names.index("pause") < names.index("Health as JSON") < names.index("query")
    assert [one for one in path if not one["seen"]] == []
    assert len(path) >= browser.run(PLACES)

    browser.run("document.querySelector('#pause').focus()")
    browser.press("Space")
    browser.until("it is paused", "document.body.dataset.feed === 'paused'")
    assert browser.run("return document.querySelector('#pause').ariaPressed") == "true"
    assert "is of" in browser.run("return document.querySelector('#news').innerText")
    browser.press("Space")
    browser.until("it goes on", LIVE)
    assert browser.run("return document.activeElement.id") == "pause"  # redrawing took no focus away
    browser.run("document.querySelector('#query').focus()")
    browser.press(*"Debian 12 x86_64", "Enter")
    browser.until("it was found", "document.querySelector('#found').innerText.includes('Debian 12 x86_64')")


def test_whoever_listens_hears_names_and_changes(browser: Browser, daemons: list[Daemon]) -> None:
    look_at(browser, daemons[0])
    nodes = browser.devtools("Accessibility.getFullAXTree")["nodes"]
    heard = [one for one in nodes if not one.get("ignored") and one.get("role", {}).get("value") in NAMED]
    assert len(heard) > 40
    assert [one for one in heard if not one.get("name", {}).get("value", "").strip()] == []
    tables = [one for one in nodes if one.get("role", {}).get("value") == "columnheader"]
    assert len(tables) > 15
    levels = browser.run("return [...document.querySelectorAll('h1, h2')].map((one) => one.tagName)")
    assert levels.count("H1") == 1
    assert levels[0] == "H1"
    assert browser.run("return document.documentElement.lang") == "en"
    # One sentence is read aloud, and only when it is another one.
    browser.run(LISTEN)
    daemons[1].kill()
    browser.until("the sentence is another one", "window.heard.some((one) => one.includes('Away: '))")


def test_a_phone_needs_no_sideways_scrolling(browser: Browser, daemons: list[Daemon]) -> None:
    look_at(browser, daemons[0], 360, 740)
    assert browser.run("return document.documentElement.scrollWidth") <= 360
    assert browser.run(BEYOND) == []
    assert browser.run("return document.querySelector('.card').getBoundingClientRect().bottom") < 740
    small = browser.run(
        "return [...document.querySelectorAll('svg text')].filter((one) => one.getScreenCTM().a < 0.99).length"
    )
    assert small == 0  # plots are drawn for the width, not shrunk to it
    assert complaints(browser) == []


@pytest.mark.parametrize("width", [640, 420])
def test_a_dozen_zones_stay_apart_on_the_map(browser: Browser, daemons: list[Daemon], width: int) -> None:
    look_at(browser, daemons[0])
    found = browser.run(DOZEN, width)
    assert (found["names"], found["covered"], found["out"]) == (12, [], [])
    # Ten that are up doubt one, and one of them hears another only through others.
    assert (found["partly"], found["away"]) == (11, 1)


def test_a_zone_that_dies_is_seen_without_asking_again(browser: Browser, daemons: list[Daemon]) -> None:
    victim = registry_of(daemons)
    witness = next(daemon for daemon in daemons if daemon is not victim)
    look_at(browser, witness)
    browser.run("window.mark = 'not loaded again'")
    victim.kill()
    browser.until(
        "another zone is the registry",
        f"!document.querySelector('.card:nth-child(3)').innerText.includes({victim.zone!r})"
        " && !!document.querySelector('.card.ok:nth-child(3)')",
    )
    browser.until(
        "the zone is away", f"document.querySelector('.card:nth-child(4)').innerText.includes('away: {victim.zone}')"
    )
    browser.until("its health says so", "document.querySelector('#findings').innerText.includes('NODES_DOWN')")
    browser.until("the map says so", "!!document.querySelector('#map .place.away')")
    browser.until("the matrix says so", "document.querySelectorAll('.matrix td .crit').length === 2")
    browser.until("the election is on record", "document.querySelector('#elections').innerText.includes('nobody: ')")
    other = next(daemon for daemon in daemons if daemon not in (victim, witness))
    other.kill()
    browser.until("there is no registry", "!!document.querySelector('.card.crit:nth-child(3)')")
    browser.until("both are shown as away", "document.querySelectorAll('#map .place.away').length === 2")
    check_contrast(browser)  # of what is shown in an outage only
    cards = cards_of(browser)
    assert "Go on" in cards["Builds"]
    assert "Go on, buffered" in cards["Backups"]
    assert "None" in cards["Registry"]
    httpx.post(f"{witness.url}/zone/v1/images", json={"name": "backup"}, timeout=30.0, trust_env=False)
    browser.until(
        "the write waits", "document.querySelector('.card:nth-child(2)').innerText.includes('1 write waiting')"
    )
    start(daemons)
    browser.until("all is well again", "document.querySelectorAll('.card.ok').length === 4")
    assert browser.run("return window.mark") == "not loaded again"
    assert [one for one in complaints(browser) if one["source"] != "network"] == []


def test_silence_is_said_with_its_time_and_ends_by_itself(browser: Browser, daemons: list[Daemon]) -> None:
    look_at(browser, daemons[0])
    daemons[0].kill()
    browser.until("it is stale", "document.body.dataset.feed === 'stale'")
    news = browser.run("return document.querySelector('#news').innerText")
    assert "No news from this node since " in news
    assert " UTC" in news
    assert "silent for" in browser.run("return document.querySelector('#when').innerText")
    assert "3 of 3 up" in cards_of(browser)["Zones"]  # what was known stays, marked
    assert browser.run(CONTRAST)["wrong"] == []
    browser.run("document.querySelector('#search').requestSubmit()")
    browser.until("so it is for images", "document.querySelector('#found').innerText.includes('from before')")
    start(daemons)
    browser.until("it is live again", LIVE)
    assert browser.run("return document.querySelector('#news').innerText") == ""


def token(role: str) -> tuple[str, str]:
    """A token and its entry for the file."""
    words = [sys.executable, "-m", "zoned", "token", role, "--project", "p", "--role", role]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return done.stderr.split()[-1], done.stdout


def test_a_zone_that_wants_tokens_is_shown_to_those_who_may_look(browser: Browser, tmp_path: Path) -> None:
    tokens = {role: token(role) for role in ("auditor", "member")}
    file = tmp_path / "tokens.toml"
    file.touch(0o600)
    file.write_text("\n".join(entry for _, entry in tokens.values()))
    extra = f'[auth]\napi = "tokens"\ntokens_file = "{file}"\n'
    with ended(make(tmp_path, ["zone-a"], 1, extra)) as (daemon,):
        daemon.start()
        until("it answers", lambda: httpx.get(f"{daemon.url}/readyz", trust_env=False).is_success)
        browser.look(1440, 900)
        browser.open(f"{daemon.url}/ui/")
        browser.until("it asks for a token", "!document.querySelector('#door').hidden")
        assert browser.run("return document.activeElement.id") == "token"
        assert browser.run("return document.querySelector('#verdict').children.length") == 0
        assert browser.run(CONTRAST)["wrong"] == []
        browser.press(*tokens["member"][0], "Enter")
        browser.until("that is not enough", "document.querySelector('#door-why').innerText.includes('not permitted')")
        browser.press(*tokens["auditor"][0], "Enter")
        browser.until("it is live", LIVE)
        browser.until("its figures are shown", "document.querySelectorAll('.card').length === 4")
        browser.run("document.querySelector('#findings a.json').click()")
        browser.until("JSON is shown", "document.querySelector('dialog pre').innerText.includes('findings')")
        kept = browser.run("return [localStorage.length, sessionStorage.length, document.cookie, location.href].join()")
        assert kept == f"0,0,,{daemon.url}/ui/"
        browser.run("document.querySelector('dialog').close(); document.querySelector('#forget').click()")
        browser.until("it asks again", "!document.querySelector('#door').hidden")
