"""How often one client may ask: by value, and in front of a running daemon."""

from typing import cast

import httpx
import pytest

from tests.zoned.conftest import config_text, serve
from zoned.api.caller import Caller
from zoned.api.lookup import HotReads, Readable
from zoned.api.problems import Problem
from zoned.auth.identity import anonymous
from zoned.auth.rates import CLIENTS_MAX, LIMIT, Rates
from zoned.auth.tokens import entry_text
from zoned.policy import DEFAULT

ALICE = Caller("p", frozenset(("member",)), "alice")


def test_a_burst_and_then_the_rate():
    now = [100.0]
    told: list[str] = []
    rates = Rates(10, 3, lambda: now[0], told.append)
    assert [rates.take(ALICE, "a") for _ in range(3)] == [0, 0, 0]
    assert rates.take(ALICE, "b") == pytest.approx(0.1)
    with pytest.raises(Problem) as problem:
        rates.check(ALICE, "a")
    assert (problem.value.status, problem.value.headers["Retry-After"]) == (429, "1")
    assert told == [LIMIT] * 2
    now[0] += 0.1
    assert rates.take(ALICE, "a") == 0, "one more each tenth of a second"
    assert rates.take(ALICE, "a") > 0, "those refused cost nothing and are not saved up either"
    now[0] += 1_000
    assert [rates.take(ALICE, "a") > 0 for _ in range(4)] == [False, False, False, True]


def test_looking_whether_one_is_refused_counts_nothing():
    told: list[str] = []
    rates = Rates(10, 2, lambda: 100.0, told.append)
    seen = []
    for _ in range(3):
        seen += [rates.is_over(ALICE, "a"), rates.is_over(ALICE, "a"), rates.take(ALICE, "a") > 0]
    assert seen == [False, False, False, False, False, False, True, True, True]
    assert told == [LIMIT]


class NothingRead:
    """A zone that is not asked for anything that costs."""

    position, history, name, fresh_at = 1, "", "a", None


def test_who_will_be_refused_costs_no_list_and_no_batch():
    rates = Rates(1, 1, lambda: 0.0)
    rates.take(ALICE, "")
    hot = HotReads(cast(Readable, NothingRead()), lambda headers: ALICE, rates=rates)
    assert hot(b"GET", b"/v2/images", [], "", b"") is None
    assert hot(b"POST", b"/zone/v1/images:batchGet", [], "", b'{"references": [1]}') is None


def test_whose_bucket_it_is():
    rates = Rates(1, 1, lambda: 0.0)
    other = Caller("q", frozenset(("member",)), "alice")
    nobody = anonymous(DEFAULT)
    assert rates.take(ALICE, "10.0.0.1") == rates.take(other, "10.0.0.1") == 0
    assert rates.take(ALICE, "10.0.0.2") > 0, "one token from two addresses is one client"
    assert rates.take(nobody, "10.0.0.1") == rates.take(nobody, "10.0.0.2") == 0
    assert rates.take(Caller(), "10.0.0.1") > 0, "without a name it is the address"


def test_memory_is_bounded_and_the_busy_are_remembered():
    now = [0.0]
    rates = Rates(1, 1, lambda: now[0])
    for n in range(CLIENTS_MAX // 2):
        rates.take(Caller(), f"idle {n}")
    now[0] = 10.0
    rates.take(ALICE, "")
    for n in range(CLIENTS_MAX * 3):
        rates.take(Caller(), f"busy {n}")
        assert len(rates._full_at) <= CLIENTS_MAX
    assert rates.take(Caller(), f"busy {CLIENTS_MAX * 3 - 1}") > 0


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    directory = tmp_path_factory.mktemp("limited")
    path = directory / "tokens"
    path.write_text(
        "".join(entry_text(n, f"{n}-token", "p", [r], None) for n, r in (("boss", "admin"), ("a", "member")))
    )
    path.chmod(0o600)
    text = config_text(directory / "store", f'[auth]\napi = "tokens"\ntokens_file = "{path}"\n')
    rates = "client_requests_per_s = 0.001\nclient_burst_max = 12\n"
    with serve(text.replace("[http]\n", f"[http]\n{rates}")) as running:
        yield running


async def test_who_asks_too_often_is_told_to_wait(limited):
    """By the hot lookup and by the application, out of one bucket; others go on."""
    async with httpx.AsyncClient(base_url=limited.url, trust_env=False) as client:
        mine = {"X-Auth-Token": "a-token"}
        made = (await client.post("/zone/v1/images", json={}, headers=mine)).json()["uuid"]
        paths = [f"/v2/images/{made}", f"/zone/v1/images/{made}", "/v2/images", f"/v2/images/{made}x"] * 5
        statuses = [(await client.get(path, headers=mine)).status_code for path in paths]
        assert statuses[:11] == [200, 200, 200, 404] * 2 + [200, 200, 200]
        assert set(statuses[11:]) == {429}
        for path in paths[:4]:
            for accept in ("application/json", "*/*"):
                answer = await client.get(path, headers={**mine, "Accept": accept})
                assert answer.status_code == 429
                assert int(answer.headers["Retry-After"]) >= 1
                assert "too many requests" in answer.text
                assert "etag" not in answer.headers
                if path.startswith("/zone"):
                    assert answer.json()["code"] == "too-many-requests"
                elif accept == "application/json":
                    assert answer.json()["code"] == "429 Too Many Requests", "as Glance spells it"
        boss = {"X-Auth-Token": "boss-token"}
        metrics = (await client.get("/metrics", headers=boss)).text
        assert f'zoned_limited_total{{limit="{LIMIT}"}} 17.0' in metrics
        assert (await client.get(f"/v2/images/{made}", headers=boss)).status_code == 200
