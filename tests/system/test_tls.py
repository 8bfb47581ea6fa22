"""Three zones that speak TLS with each other, with the commands of docs/security.md, through a change of authority."""

import re
from functools import partial
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from tests.system.conftest import settled, start_all, status, until
from tests.system.faults import have_integers
from tests.system.networks import delayed, serve_delay
from tests.system.test_ledger import _drill, _play
from tests.system.test_operations import answer
from zoned.ctl import main
from zoned.fleet import Daemon

pytestmark = pytest.mark.system

ONE_WAY_S = 0.015


def zonectl(*arguments: str) -> str:
    done = CliRunner().invoke(main, ["tls", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def certify(daemon: Daemon, authority: Path, believed: Path) -> None:
    """Gives a node a certificate of `authority`, and the authorities to believe."""
    request, certificate = daemon.directory / "node.csr", daemon.directory / "node.crt"
    request.write_text(zonectl("request", "-c", str(daemon.config)))
    certificate.write_text(zonectl("issue", "--ca", str(authority), str(request)))
    zonectl("install", "-c", str(daemon.config), "--ca", str(believed), str(certificate))


async def test_a_drill_by_tls_and_a_slow_link_is_as_planned(fleet, client, tmp_path):
    """Everything between the zones is TLS, and takes a while; a zone is cut off, writes, and is let in again."""
    daemons = fleet(3, extra='wait_s = 0.3\nprofile = "wan"\n')
    ports = delayed(daemons)
    zonectl("init-ca", "--label", "zoned", "--out", str(tmp_path / "ca"))
    for daemon in daemons:
        daemon.config.write_text(daemon.config.read_text().replace("[peers]\n", '[peers]\ntls = "require"\n'))
        await trio.to_thread.run_sync(certify, daemon, tmp_path / "ca", tmp_path / "ca" / "ca.pem")
    async with trio.open_nursery() as nursery:
        for daemon, port in zip(daemons, ports, strict=True):
            await serve_delay(port, daemon.peer_port, lambda: ONE_WAY_S, nursery)
        await start_all(client, daemons)
        await have_integers(client, daemons)
        registry = (await status(client, daemons[0]))["registry"]["zone"]
        drilled = next(one for one in daemons if one.zone != registry)

        async def is_known() -> bool:
            plan = {line["what"]: line for line in answer(drilled, "drill", "partition")["plan"]}
            assert plan["certificates"]["state"] == "ok"
            return "furthest voter" in plan["staleness"]["says"] and plan["voters"]["state"] == "ok"

        await until("the plan knows the slow link", is_known)
        played = _play(drilled, "partition", "4s")
        try:

            async def is_live() -> bool:
                return bool((await status(client, drilled))["node"]["drill"] == "partition")

            await until("the drill is live", is_live)
            during = await client.post(f"{drilled.url}/zone/v1/images", json={"name": "during"})
            assert during.status_code == 202

            async def is_over() -> bool:
                return _drill(drilled)["last"] is not None

            await until("the drill's recovery was seen", is_over, patience_s=120.0)
        finally:
            played.kill()
            played.wait()
        last = _drill(drilled)["last"]
        states = {line["what"]: line["state"] for line in last["compared"]}
        assert (states["lookups"], states["writes"], states["staleness"]) == ("ok", "ok", "ok"), last
        assert last["measured"]["journaled"] >= 1
        await settled(client, daemons)
        nursery.cancel_scope.cancel()


async def test_three_zones_by_tls(fleet, client, tmp_path):
    daemons = fleet(3)
    first, second, both = tmp_path / "first", tmp_path / "second", tmp_path / "both.pem"
    for directory in (first, second):
        zonectl("init-ca", "--label", "zoned", "--out", str(directory))
    both.write_bytes((first / "ca.pem").read_bytes() + (second / "ca.pem").read_bytes())
    for daemon in daemons:
        daemon.config.write_text(daemon.config.read_text().replace("[peers]\n", '[peers]\ntls = "require"\n'))
        await trio.to_thread.run_sync(certify, daemon, first, first / "ca.pem")
    await start_all(client, daemons)

    async def commits(daemon: Daemon) -> bool:
        answer = await client.post(f"{daemon.url}/zone/v1/images", json={"name": "x"})
        return bool(answer.status_code == 201)

    for daemon in daemons:
        await until(f"{daemon.zone} commits", partial(commits, daemon))

    metrics = (await client.get(f"{daemons[0].url}/metrics")).text
    left_s = dict(re.findall(r'^zoned_certificate_expiry_seconds\{role="(\w+)"\} (\S+)$', metrics, re.M))
    assert 300 < float(left_s["node"]) / 86_400 < float(left_s["authority"]) / 86_400

    # While everything runs: believe both authorities, renew from the second, believe the second alone.
    for authority, believed in ((first, both), (second, both), (second, second / "ca.pem")):
        for daemon in daemons:
            await trio.to_thread.run_sync(certify, daemon, authority, believed)
        for daemon in daemons:
            await until(f"{daemon.zone} commits", partial(commits, daemon))

    registry = (await status(client, daemons[0]))["registry"]["zone"]
    lost = next(one for one in daemons if one.zone == registry)
    lost.kill()
    rest = [one for one in daemons if one is not lost]
    await until("the others go on", partial(commits, rest[0]))
    lost.start()
    await lost.wait_ready(client)
    await settled(client, daemons)
