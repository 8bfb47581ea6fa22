"""Zones as gossip sees them, for operators: why one is suspected, who reaches whom, counters; and the keys, which only
the admin socket shows and changes.
"""

import base64
import binascii
import secrets
from collections.abc import Mapping
from typing import Any

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gossip import Entry, Gossip, Keyring, KeyringError, State, Why
from zoned.api.answers import by_method, query_integer, reply, zone_of
from zoned.api.documents import parse_object
from zoned.api.problems import Problem, bad

SURVEY_TIMEOUT_S = 5.0
SURVEY_AGE_S_MAX = 60
SECRET_BYTES = 32


async def why(request: Request) -> Response:
    """What stands behind the belief about each node of a zone."""
    zone, name = zone_of(request), request.path_params["zone"]
    gossip = zone.gossip
    nodes = [one for one in zone.zones() if name in (one["zone"], one["node_id"])]
    if not nodes:
        raise Problem(404, "not-found", f"no zone {name[:80]!r} is known here")
    now = trio.current_time()
    return reply({"nodes": [{**one, **_why(gossip, gossip.why(one["node_id"]), now)} for one in nodes]})


def _why(gossip: Gossip, found: Why | None, now: float) -> dict[str, Any]:
    assert found is not None
    return {
        "generation": found.view.generation,
        "incarnation": found.view.member.incarnation,
        "answers": None if found.view.acked is None else "through others" if found.view.relayed else "directly",
        "suspected_by": _zone_name(gossip, found.accuser) if found.accuser is not None else None,
        "confirmed_by": [_zone_name(gossip, node_id) for node_id in found.confirmers],
        "convicted_in_s": round(found.expires - now, 1) if found.expires is not None else None,
        "unanswered_probes_s_ago": [round(now - when, 1) for when in found.silences],
        "own_health": gossip.health,
    }


def _zone_name(gossip: Gossip, node_id: str) -> str:
    if not node_id:
        return "(hearsay)"
    view = gossip.members.get(node_id)
    return view.zone if view is not None else node_id


async def reachability(request: Request) -> Response:
    """What every node that is up believes of every node, as each says itself.

    `relayed`: alive, and answers it only through others. `lag`: how many entries the other is behind, by what the node
    last heard of it, which is a moment ago. `max_age`: an answer that many seconds old will do; asking costs every
    node something.
    """
    zone = zone_of(request)
    gossip = zone.gossip
    age_s = query_integer(request, "max_age", 0, 0, SURVEY_AGE_S_MAX)
    at, survey = await zone.survey(SURVEY_TIMEOUT_S, float(age_s))
    members = sorted(gossip.members.values(), key=lambda view: (view.zone, view.node_id))
    rows = []
    for view in members:
        told = survey.get(view.node_id)
        row: dict[str, Any] = {"zone": view.zone, "node_id": view.node_id, "answered": told is not None}
        row["sees"] = row["lag"] = None
        if told is not None:
            states = {
                about: "relayed" if one.relayed and one.state is State.ALIVE else one.state.name.lower()
                for about, one in told.items()
            }
            row["sees"] = {about.node_id: states.get(about.node_id, "unknown") for about in members}
            row["lag"] = _lags(view.node_id, told)
        rows.append(row)
    names = sorted({view.zone for view in members})
    return reply(
        {
            "age_s": round(trio.current_time() - at, 1),
            "nodes": rows,
            "round_trips_ms": {name: zone.round_trips_ms(name) for name in names},
        }
    )


def _lags(me: str, told: Mapping[str, Entry]) -> dict[str, int]:
    """By node ID; without those that never said how far they are."""
    positions = {about: one.vitals.get("position") for about, one in told.items()}
    mine = positions.get(me)
    if not isinstance(mine, int):
        return {}
    return {about: max(0, mine - theirs) for about, theirs in positions.items() if isinstance(theirs, int)}


async def counters(request: Request) -> Response:
    """Datagrams, exchanges, drops by reason, changes of members, queue depth and local health."""
    gossip = zone_of(request).gossip
    return reply(
        {
            "health": gossip.health,
            "queued": gossip.queued,
            "forged": gossip.forged,
            "sealing": gossip.sealing.value,
            "keyring_version": gossip.keyring.version if gossip.keyring is not None else None,
            "counts": dict(sorted(gossip.counts.items())),
        }
    )


async def keys(request: Request) -> Response:
    return reply(_keys(zone_of(request).gossip))


async def change_keys(request: Request) -> Response:
    """One of install (a key in base64, or "" for a random one), use, remove, revoke (a key ID)."""
    gossip = zone_of(request).gossip
    asked = parse_object(await request.body())
    keyring = gossip.keyring
    if keyring is None:
        raise Problem(409, "not-sealed", "nothing is sealed here; set gossip.sealing and gossip.keyring first")
    try:
        gossip.change_keys(_changed(keyring, asked))
    except KeyringError as error:
        raise Problem(409, "keys", str(error)) from None
    return reply(_keys(gossip))


async def drain(request: Request) -> Response:
    """Say, at once and to all, that users should go elsewhere; or that they may come again."""
    zone = zone_of(request)
    asked = parse_object(await request.body())
    if not isinstance(asked.get("on"), bool):
        raise bad('say {"on": true} or {"on": false}', "bad-body")
    zone.draining = asked["on"]
    zone.replication.role_changed.set()
    return reply({"draining": zone.draining})


def _changed(keyring: Keyring, asked: dict[str, Any]) -> Keyring:
    match asked:
        case {"install": str(secret)} if len(asked) == 1:
            return keyring.install(_secret(secret))
        case {"use": str(key_id)} if len(asked) == 1:
            return keyring.use(key_id)
        case {"remove": str(key_id)} if len(asked) == 1:
            return keyring.remove(key_id)
        case {"revoke": str(key_id)} if len(asked) == 1:
            return keyring.revoke(key_id)
    raise bad("ask for one of install, use, remove, revoke", "bad-body")


def _secret(text: str) -> bytes:
    if not text:
        return secrets.token_bytes(SECRET_BYTES)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise KeyringError(f"a key is {SECRET_BYTES} bytes in base64") from None


def _keys(gossip: Gossip) -> dict[str, Any]:
    keyring = gossip.keyring
    return {
        "sealing": gossip.sealing.value,
        "version": keyring.version if keyring is not None else None,
        # Never the secrets.
        "keys": [{"id": key.key_id, "role": key.role.value} for key in keyring.keys] if keyring is not None else [],
    }


routes = [
    Route("/zones/{zone}/why", why),
    by_method("/reachability", GET=reachability),
    Route("/gossip", counters),
]
admin_routes = [
    Route("/admin/v1/drain", drain, methods=["POST"]),
    Route("/admin/v1/keys", keys, methods=["GET"]),
    Route("/admin/v1/keys", change_keys, methods=["POST"]),
]
