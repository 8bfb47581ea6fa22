"""The peer plane over real sockets: who is let in, and what garbage gets."""

from typing import Any

import httpx
import msgpack
import pytest

from store.operations import Create, Delete, Grant, Operation, Write, encode_write
from tests.zoned.api.conftest import AT, UUID
from tests.zoned.conftest import LABEL, ME, OTHER, Served, until
from zoned.api.peers import FORWARDED_MAX
from zoned.founding import unpack_stance
from zoned.peers import LABEL_HEADER
from zoned.registry import Accepted, NotRegistry, unpack

PATHS = ("raft", "forward", "founding", "log", "journal")


async def ask(peer: httpx.AsyncClient, path: str, body: Any) -> httpx.Response:
    return await peer.post(f"/peer/v1/{path}", content=msgpack.packb(body))


async def cluster(peer: httpx.AsyncClient) -> str:
    return unpack_stance(msgpack.unpackb((await ask(peer, "founding", None)).content)).cluster


def client(served: Served) -> httpx.AsyncClient:
    headers = {LABEL_HEADER: LABEL}
    return httpx.AsyncClient(base_url=served.peer_url, headers=headers, timeout=60, trust_env=False, verify=False)


def write(sequence: int, node: str = OTHER, ahead: bool = False) -> bytes:
    return encode_write(Write(node, sequence, Delete(UUID, AT), ahead=ahead))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("label", ["", "another", "TESTS", "x" * 500])
async def test_a_node_of_another_cloud_is_turned_away_with_a_reason(peer, path, label):
    answer = await peer.post(f"/peer/v1/{path}", content=b"\xc0", headers={LABEL_HEADER: label})
    assert answer.status_code == 403
    assert "gossip.label" in answer.text
    assert len(answer.text) < 300


@pytest.mark.parametrize("path", [*PATHS, "gossip"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"{}",
        b"\x93\x01",
        b"\xff" * 1_000,
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 5_000,
        b"GET / HTTP/1.1\r\n",
    ],
)
async def test_garbage_is_a_bad_request(peer, path, body):
    assert (await peer.post(f"/peer/v1/{path}", content=body)).status_code == 400


@pytest.mark.parametrize("path", ["raft", "forward", "log"])
@pytest.mark.parametrize("body", [None, 5, "x", {}, [1], [1, 2, 3], {"a": 1, "b": 2}, [[], []], ["x", "y"]])
async def test_msgpack_of_another_shape_is_a_bad_request(peer, path, body):
    assert (await ask(peer, path, body)).status_code == 400


@pytest.mark.parametrize("body", [5, "x", {}, [5], [None], [["x"]], [b"x"]])
async def test_founders_that_are_no_list_of_names_are_a_bad_request(peer, body):
    assert (await ask(peer, "founding", body)).status_code == 400


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [write(1), write(2, ahead=True)],
        [write(2), write(1)],
        [write(1), write(1)],
        [write(1), write(2, ME)],
        [b"", write(1)],
        [b"garbage"],
        [5],
        ["text"],
        [msgpack.packb([OTHER, 1, False])],
        [msgpack.packb([OTHER, "1", False, b""])],
        [msgpack.packb([OTHER, 1, False, b""])],
        [msgpack.packb([OTHER, 1, False, msgpack.packb([99, []])])],
        [msgpack.packb([OTHER, 1, False, msgpack.packb([0, [1]])])],
        [msgpack.packb([OTHER, 1, False, msgpack.packb([0, [UUID, 1, AT, {}, {}, [], [5]]])])],
    ],
)
async def test_writes_that_are_broken_mixed_or_out_of_sequence_are_a_bad_request(peer, rows):
    assert (await ask(peer, "forward", [await cluster(peer), rows])).status_code == 400


async def test_more_writes_than_the_bound_are_a_bad_request(peer):
    rows = [write(n + 1) for n in range(FORWARDED_MAX + 1)]
    assert (await ask(peer, "forward", [await cluster(peer), rows])).status_code == 400


@pytest.mark.parametrize(
    "operation",
    [
        Grant("many", None),  # type: ignore[arg-type]  # what a broken node might send
        Create(5, "x", None, {}, {}),  # type: ignore[arg-type]  # what a broken node might send
        Delete(None, AT),  # type: ignore[arg-type]  # what a broken node might send
    ],
)
async def test_a_write_that_applying_would_stumble_over_never_enters_the_log(cut_off, operation):
    """In a zone without registry, where it does no harm: it must be refused before anybody asks for the registry."""
    async with client(cut_off) as lonely:
        packed = encode_write(Write(OTHER, 1, operation))
        assert (await ask(lonely, "forward", ["", [packed]])).status_code == 400


@pytest.mark.parametrize("theirs", ["", "another"])
async def test_writes_of_another_cluster_are_refused(peer, theirs):
    answer = await ask(peer, "forward", [theirs, [write(1)]])
    assert answer.status_code == 409


async def test_writes_of_another_node_are_accepted_in_sequence_and_once(peer, zone):
    sender = "00000000-0000-4000-8000-0000000000ff"
    ours, image_id = await cluster(peer), "22222222-2222-4222-8222-222222222222"
    operations: list[Operation] = [Create(image_id, None, AT, {"name": "theirs"}), Delete(image_id, AT)]
    rows = [encode_write(Write(sender, n + 1, operation)) for n, operation in enumerate(operations)]
    too_early = unpack(msgpack.unpackb((await ask(peer, "forward", [ours, rows[1:]])).content))
    assert isinstance(too_early, Accepted)
    assert too_early.through == 0
    for _ in range(2):
        answer = unpack(msgpack.unpackb((await ask(peer, "forward", [ours, rows[:1]])).content))
        assert isinstance(answer, Accepted)
        assert answer.through == 1

    async def is_applied() -> bool:
        return bool((await zone.get(f"/zone/v1/images/{image_id}")).status_code == 200)

    await until(is_applied)
    found = await zone.get(f"/zone/v1/images/{image_id}")
    assert (found.status_code, found.json()["write"]) == (200, f"{sender}.1")


async def test_a_node_that_is_not_the_registry_says_so(cut_off: Served):
    async with client(cut_off) as lonely:
        answer = await ask(lonely, "forward", ["", [write(1)]])
        assert unpack(msgpack.unpackb(answer.content)) == NotRegistry("")
        stance = unpack_stance(msgpack.unpackb((await ask(lonely, "founding", None)).content))
        assert (stance.expect, stance.candidates, stance.promised, stance.cluster) == (3, (cut_off.node_id,), "", "")


@pytest.mark.parametrize("founders", [[], ["x"], [ME, OTHER], [ME, OTHER, "c"]])
async def test_a_node_never_promises_a_set_that_is_too_small_or_without_itself(cut_off: Served, founders):
    async with client(cut_off) as lonely:
        answer = await ask(lonely, "founding", founders)
        assert unpack_stance(msgpack.unpackb(answer.content)).promised == ""


async def test_the_founder_of_a_cluster_says_which(peer, served):
    stance = unpack_stance(msgpack.unpackb((await ask(peer, "founding", None)).content))
    assert (stance.expect, stance.candidates) == (1, (served.node_id,))
    assert stance.cluster == stance.promised != ""


async def test_the_log_is_given_from_any_position(peer):
    ours, rows = msgpack.unpackb((await ask(peer, "log", [0, 0])).content)
    assert ours == await cluster(peer)
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
    after = msgpack.unpackb((await ask(peer, "log", [2, 0])).content)[1]
    assert after[0] == rows[2]


async def test_the_log_beyond_its_end_is_empty_after_the_wait(peer):
    assert msgpack.unpackb((await ask(peer, "log", [1_000_000, 0.01])).content)[1] == []
    assert msgpack.unpackb((await ask(peer, "log", [1_000_000, -5])).content)[1] == []


@pytest.mark.parametrize("asked", [[-1, 0], ["0", 0], [0, "0"], [0, None], [1.5, 0], [0], [0, 0, 0], [None, 0]])
async def test_a_position_that_is_none_is_a_bad_request(peer, asked):
    assert (await ask(peer, "log", asked)).status_code == 400


@pytest.mark.parametrize("asked", [[2**63 - 1, 0], [2**64 - 1, 0], [1_000_000, float("nan")]])
async def test_an_absurd_position_or_wait_is_a_bad_request(peer, asked):
    assert (await ask(peer, "log", asked)).status_code == 400


async def test_the_peer_plane_has_no_other_routes(peer):
    assert (await peer.get("/peer/v1/log")).status_code == 405
    assert (await peer.post("/peer/v1/nothing")).status_code == 404
    assert (await peer.get("/v2/images")).status_code == 404
