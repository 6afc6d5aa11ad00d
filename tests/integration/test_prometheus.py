"""A real Prometheus, set up as `deploy/` has it, watches a real fleet."""

import math
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fedhw.release.manifest import MANIFEST, Manifest
from tests.integration.conftest import AgentProcess, Character, CoordinatorProcess
from tests.monitoring import Prometheus, Query, queries, records, rules, watching
from tests.waiting import until

pytestmark = [pytest.mark.needs("prometheus"), pytest.mark.superlink]

POLICY = ("--window", 5, "--epsilon", 50, "--minimum-cohort", 2)
BUDGET = ("--epsilon-per-day", 1e6, "--epsilon-in-all", 1e6)
NAMES = ("anna", "berta", "carl")


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoordinatorProcess]:
    place = tmp_path_factory.mktemp("watched")
    process = CoordinatorProcess(place / "coordinator", *POLICY)
    try:
        process.until_ready()
        yield process
    finally:
        process.kill()


@pytest.fixture(scope="module")
def prometheus(
    coordinator: CoordinatorProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """It has scraped the coordinator before anything happens."""
    target = f"127.0.0.1:{coordinator.metrics_port}"
    directory = tmp_path_factory.mktemp("prometheus")

    def has_scraped(asked: Prometheus) -> bool:
        return asked.values('up{job="fedhw-coordinator"}') == [1]

    with watching(target, directory, has_scraped) as asked:
        yield asked


@pytest.fixture(scope="module")
def fleet(
    coordinator: CoordinatorProcess,
    prometheus: Prometheus,
    release_directory: Path,
    written: list[Character],
) -> Iterator[CoordinatorProcess]:
    """Three devices get a release, learn and report; then one of them is revoked, and tries on."""
    agents = [
        AgentProcess(
            coordinator.home.with_name(name), "--enroll", coordinator.invite(name), *BUDGET
        )
        for name in NAMES
    ]
    try:
        coordinator.command("publish", release_directory)
        for agent in agents:
            agent.until_ready()
            with agent.connect() as device:
                for character in written[:20]:
                    device.recognize(character.glyph)
                    device.learn(*character)
        coordinator.until_all("running", newest(coordinator))
        with coordinator.fleet() as known:
            until(lambda: any(devices == len(NAMES) for _, devices in known.reports.windows()))
        coordinator.command("revoke", NAMES[-1])
        until(lambda: prometheus.has('fedhw_reports_refused_total{reason="revoked"} > 0'))
        yield coordinator
    finally:
        for agent in agents:
            agent.kill()


def newest(coordinator: CoordinatorProcess) -> str:
    (place,) = (coordinator.home / "releases").glob("v*")
    return Manifest.load(place / MANIFEST).name


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize("query", queries(), ids=lambda query: query.panel)
def test_every_query_of_the_dashboard_is_answered(prometheus: Prometheus, query: Query) -> None:
    if " > 0" in query.expr:  # an annotation: a change that may be over
        assert prometheus.get("/query", query=query.expr)["resultType"] == "vector"
    else:
        until(lambda: prometheus.has(query.expr))


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize("record", records())
def test_every_recording_rule_has_a_value(prometheus: Prometheus, record: str) -> None:
    until(lambda: prometheus.has(record))


@pytest.mark.usefixtures("fleet")
def test_every_rule_is_in_good_health(prometheus: Prometheus) -> None:
    def states() -> list[str]:
        groups = prometheus.get("/rules")["groups"]
        return [rule["health"] for group in groups for rule in group["rules"]]

    until(lambda: "unknown" not in states())
    assert states() == ["ok"] * len(rules())


def test_the_figures_are_those_of_the_fleet(
    prometheus: Prometheus, fleet: CoordinatorProcess
) -> None:
    name = newest(fleet)
    expected = {
        "fedhw_devices_enrolled": 2,
        "fedhw_devices_revoked": 1,
        "fedhw_devices_refused": 0,
        "fedhw_release_version": 1,
        "fedhw_minimum_cohort_devices": 2,
        "fedhw_report_epsilon": 50,
        "fedhw_paused": 0,
        f'fedhw_devices_on_release{{release="{name}"}}': 2,
        'fedhw_part_up{part="superlink"}': 1,
        'fedhw_part_up{part="serverapp"}': 1,
        "fedhw:release_adopted:ratio": 1,
    }
    found = {expr: prometheus.values(expr) for expr in expected}
    assert found == {expr: [value] for expr, value in expected.items()}
    until(lambda: prometheus.values("fedhw_devices_online") == [2])
    (answered,) = prometheus.values('fedhw_rounds_total{outcome="answered"}')
    assert answered > 0
    with fleet.fleet() as known:
        cohorts = [devices for _, devices in known.reports.windows()]
    (cohort,) = prometheus.values("fedhw_statistic_cohort_devices")
    assert cohort in cohorts
    (gain,) = prometheus.values('fedhw_statistic_mean{statistic="gain"}')
    assert math.isfinite(gain)


def test_no_name_of_a_device_is_shown(fleet: CoordinatorProcess) -> None:
    text = httpx.get(f"http://127.0.0.1:{fleet.metrics_port}/metrics").text
    assert "fedhw_statistic_mean" in text
    assert not re.search("|".join(NAMES), text)
