"""The rules and the dashboard, in a real Prometheus that scrapes every metric of a coordinator."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client import start_http_server

from fedhw_server.fronts.statistics_service import REASONS
from tests.deploy.fleet_exporter import FleetExporter
from tests.monitoring import (
    CONFIG,
    DASHBOARD,
    RULES,
    Prometheus,
    Query,
    panels,
    queries,
    records,
    rules,
    watching,
)
from tests.waiting import until

ALERT_TESTS = Path(__file__).parent / "alerts.test.yml"


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    exporter = FleetExporter()
    pages, thread = start_http_server(0, addr="127.0.0.1", registry=exporter.registry)

    def is_warm(asked: Prometheus) -> bool:
        exporter.go_on()
        return asked.has("fedhw:reports_accepted:ratio_1h > 0 < 1")

    directory = tmp_path_factory.mktemp("prometheus")
    try:
        with watching(f"127.0.0.1:{pages.server_port}", directory, is_warm) as asked:
            yield asked
    finally:
        pages.shutdown()
        pages.server_close()
        thread.join()


@pytest.mark.needs("promtool")
def test_the_configuration_is_valid():
    command = [
        "promtool",
        "check",
        "config",
        "--lint=all",
        "--lint-fatal",
        CONFIG / "prometheus.yml",
    ]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.needs("promtool")
def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path):
    # promtool would have every annotation repeated in the tests.
    for file in RULES:
        content = yaml.safe_load(file.read_text("utf-8"))
        for rule in [rule for group in content["groups"] for rule in group["rules"]]:
            rule.pop("annotations", None)
        (tmp_path / file.name).write_text(yaml.safe_dump(content), "utf-8")
    tests = shutil.copy(ALERT_TESTS, tmp_path)
    tested = subprocess.run(["promtool", "test", "rules", tests], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_has_a_test():
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    tested = yaml.safe_load(ALERT_TESTS.read_text("utf-8"))["tests"]
    fired = {
        case["alertname"]
        for test in tested
        for case in test.get("alert_rule_test", [])
        if case.get("exp_alerts")
    }
    assert fired == alerts


def test_every_alert_says_what_to_do():
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("info", "warning", "critical")
            assert set(rule["annotations"]) == {"summary", "description", "runbook"}


def test_every_reason_to_refuse_has_an_explanation():
    (runbook,) = (
        rule["annotations"]["runbook"]
        for rule in rules()
        if rule.get("alert") == "FedhwReportsRefused"
    )
    assert set(REASONS) <= set(re.findall(r"[a-z]+", runbook))


def test_rules_and_panels_ask_only_for_what_there_is():
    known = FleetExporter().names | set(records())
    asked = [rule["expr"] for rule in rules()] + [query.expr for query in queries()]
    for expr in asked:
        without_labels = re.sub(r'"[^"]*"', '""', expr)
        assert set(re.findall(r"\bfedhw[_:][a-z0-9_:]+", without_labels)) <= known


def test_every_metric_is_on_the_dashboard():
    everything = " ".join([query.expr for query in queries()] + [rule["expr"] for rule in rules()])
    for family in FleetExporter().registry.collect():
        assert family.name in everything
    for record in records():
        assert record in everything


def test_panels_do_not_overlap():
    taken: set[tuple[int, int]] = set()
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert taken.isdisjoint(cells)
        assert place["x"] + place["w"] <= 24
        taken |= cells
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


def test_every_panel_has_the_datasource_of_its_dashboard():
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    for panel in panels(dashboard):
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


@pytest.mark.needs("prometheus")
@pytest.mark.parametrize("query", queries(), ids=lambda query: query.panel)
def test_every_query_of_the_dashboard_is_answered(prometheus: Prometheus, query: Query):
    if " > 0" in query.expr:  # an annotation: a change that has not come
        assert prometheus.get("/query", query=query.expr)["resultType"] == "vector"
    else:
        until(lambda: prometheus.has(query.expr))


@pytest.mark.needs("prometheus")
@pytest.mark.parametrize("record", records())
def test_every_recording_rule_has_a_value(prometheus: Prometheus, record: str):
    until(lambda: prometheus.has(record))


@pytest.mark.needs("prometheus")
def test_every_rule_is_in_good_health(prometheus: Prometheus):
    def all_evaluated() -> bool:
        groups = prometheus.get("/rules")["groups"]
        states = [rule["health"] for group in groups for rule in group["rules"]]
        assert "err" not in states
        return len(states) == len(rules()) and set(states) == {"ok"}

    until(all_evaluated)


@pytest.mark.needs("prometheus")
def test_the_figures_are_right(prometheus: Prometheus):
    assert prometheus.values("fedhw:devices_on_newest_release:sum") == [28]
    assert prometheus.values("fedhw:release_adopted:ratio") == [pytest.approx(28 / 40)]
    gain = '{statistic="gain"}'
    assert prometheus.values(f"fedhw:statistic:low99{gain}") == [pytest.approx(0.08 - 0.02576)]
    assert prometheus.values(f"fedhw:statistic:high99{gain}") == [pytest.approx(0.08 + 0.02576)]
    accepted = prometheus.values("fedhw:reports_accepted:ratio_1h")
    assert accepted == [pytest.approx(0.5)]
    shares = prometheus.values("fedhw:reports_refused:ratio_6h")
    assert shares == [pytest.approx(0.5 / len(REASONS))] * len(REASONS)
