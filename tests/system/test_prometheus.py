"""Goal: what deploy/ ships for Prometheus is right. Method: Prometheus' own promtool judges it, and plays an outage.

Debian's promtool is fetched and unpacked for the test, not installed: installing the package would start a server.
"""

import os
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.system.conftest import start_all
from tests.system.machine import ROOT

pytestmark = pytest.mark.system
RULES = ROOT / "deploy" / "alerts.yml"

# Per minute; an alert must come and go.
CASES = """
rule_files: [alerts.yml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {series: 'up{job="zoned", instance="a"}', values: '1x5 0x9 1x9'}
      - {series: 'zoned_registry_known{job="zoned", instance="a"}', values: '1 0x20'}
      - {series: 'zoned_registry_known{job="zoned", instance="b"}', values: '1x20'}
      - {series: 'zoned_registry_term{job="zoned", instance="b"}', values: '1+1x20'}
      - {series: 'zoned_staleness_bound_seconds{job="zoned", instance="a"}', values: '0+60x20'}
      - {series: 'zoned_id_runway_seconds{job="zoned", instance="b"}', values: '86400x20'}
      - {series: 'zoned_writes_total{job="zoned", instance="b", state="full"}', values: '0x4 1+1x20'}
      - {series: 'zoned_health_status{job="zoned", instance="b"}', values: '0x5 2x20'}
    alert_rule_test:
      - {eval_time: 4m, alertname: ZonedDown, exp_alerts: []}
      - eval_time: 9m
        alertname: ZonedDown
        exp_alerts: [{exp_labels: {severity: critical, job: zoned, instance: a}, exp_annotations: {
          summary: a does not answer,
          description: 'Lookups in this zone fail unless another node of the zone serves them.
            systemctl status zoned.'}}]
      - {eval_time: 20m, alertname: ZonedDown, exp_alerts: []}
      - {eval_time: 5m, alertname: ZonedNoRegistry, exp_alerts: []}
      - eval_time: 10m
        alertname: ZonedNoRegistry
        exp_alerts: [{exp_labels: {severity: warning, code: NO_REGISTRY, job: zoned, instance: a}, exp_annotations: {
          summary: a has known no registry for 5 minutes,
          description: 'Lookups go on, writes are buffered. Bring a majority of the voters back.'}}]
      # Cut off from the registry the bound grows: that is NO_REGISTRY, not a node that does not keep up.
      - {eval_time: 10m, alertname: ZonedStale, exp_alerts: []}
      - {eval_time: 5m, alertname: ZonedElectionsTooOften, exp_alerts: []}
      - eval_time: 10m
        alertname: ZonedElectionsTooOften
        exp_alerts: [{exp_labels: {severity: warning, job: zoned, instance: b}, exp_annotations: {
          summary: b saw 10 elections in an hour,
          description: 'Links between voters are slow or lossy, or a voter''s disk is.
            registry.profile = "wan" is more patient.'}}]
      - {eval_time: 3m, alertname: ZonedWritesRefusedFull, exp_alerts: []}
      - eval_time: 8m
        alertname: ZonedWritesRefusedFull
        exp_alerts: [{exp_labels: {severity: critical, code: JOURNAL_FULL, job: zoned, instance: b, state: full},
          exp_annotations: {summary: 'b refuses writes: its journal or its disk is full',
          description: 'Make room on the disk of node.data_dir,
            or bring the registry back so that the journal drains.'}}]
      - {eval_time: 9m, alertname: ZonedCritical, exp_alerts: []}
"""


@pytest.fixture(scope="module")
def promtool(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of promtool."""
    found = shutil.which("promtool")
    if found:
        return found
    if shutil.which("apt-get") is None:
        pytest.skip("promtool is not installed here, and there is no apt-get to fetch it with")
    place = tmp_path_factory.mktemp("promtool")
    if os.geteuid() == 0:
        place.chmod(0o777)  # apt downloads as a user of its own
        for parent in place.parents[:2]:
            parent.chmod(parent.stat().st_mode | 0o011)
    fetched = subprocess.run(
        ["apt-get", "download", "prometheus"], cwd=place, capture_output=True, text=True, timeout=120, check=False
    )
    packages = list(place.glob("prometheus_*.deb"))
    if fetched.returncode or not packages:
        pytest.skip(f"promtool is not installed here and cannot be fetched: {fetched.stderr.strip()[-200:]}")
    subprocess.run(["dpkg-deb", "-x", packages[0], place / "root"], check=True, timeout=60)
    return str(place / "root" / "usr" / "bin" / "promtool")


def judge(promtool: str, *words: str | Path, text: str | None = None) -> None:
    done = subprocess.run(
        [promtool, *map(str, words)], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_sound_and_fire_when_they_should(promtool, tmp_path: Path):
    shutil.copy(RULES, tmp_path)
    (tmp_path / "cases.yml").write_text(CASES)
    judge(promtool, "check", "rules", tmp_path / "alerts.yml")
    judge(promtool, "test", "rules", tmp_path / "cases.yml")


def test_a_rule_that_is_wrong_is_noticed(promtool, tmp_path: Path):
    (tmp_path / "alerts.yml").write_text(RULES.read_text().replace("for: 5m", "for: 500m", 1))
    (tmp_path / "cases.yml").write_text(CASES)
    with pytest.raises(AssertionError, match="ZonedNoRegistry"):
        judge(promtool, "test", "rules", tmp_path / "cases.yml")


async def test_what_zones_export_is_well_formed(promtool, fleet, client: httpx.AsyncClient):
    daemons = fleet(3)
    await start_all(client, daemons)
    for daemon in daemons:
        text = (await client.get(f"{daemon.url}/metrics")).text
        assert "zoned_peer_up" in text
        judge(promtool, "check", "metrics", text=text)
