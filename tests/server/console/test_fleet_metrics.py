from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from fedhw import __version__
from fedhw.improvement.attempt import Round, Stage
from fedhw.privacy.discrete_gaussian import epsilon_of
from fedhw.privacy.statistics import LATENCIES
from fedhw_server.console.fleet_metrics import Metrics, metrics_pages
from fedhw_server.leader.supervisor import Part
from fedhw_server.store.reports import Accepted
from tests.server.conftest import POLICY, START, Pen, past

SCALARS = {
    *("samples", "active", "ge_accuracy", "le_accuracy", "moe_accuracy"),
    *("gain", "gate_open", "correction_rate"),
}

STATISTICS = {
    "fedhw_statistic_mean",
    "fedhw_statistic_standard_error",
    "fedhw_statistic_latency_share",
    "fedhw_statistic_cohort_devices",
    "fedhw_statistic_window_timestamp_seconds",
}

CONTRACT = {
    "fedhw_devices_enrolled",
    "fedhw_devices_online",
    "fedhw_devices_revoked",
    "fedhw_devices_on_release",
    "fedhw_devices_held_back",
    "fedhw_devices_refused",
    "fedhw_release_version",
    "fedhw_rounds_total",
    "fedhw_round_seconds_bucket",
    "fedhw_round_last_timestamp_seconds",
    "fedhw_reports_accepted_total",
    "fedhw_reports_refused_total",
    "fedhw_report_seconds_bucket",
    "fedhw_report_epsilon",
    "fedhw_report_delta",
    "fedhw_report_window_seconds",
    "fedhw_minimum_cohort_devices",
    "fedhw_part_up",
    "fedhw_part_restarts_total",
    "fedhw_paused",
    "fedhw_build_info",
    "fedhw_improvement_stage",
    "fedhw_improvements_total",
    "fedhw_improvement_rounds_total",
    "fedhw_improvements_epsilon",
    "fedhw_release_share",
}


@pytest.fixture
def metrics(fleet, registry, tmp_path):
    parts = [Part(name, [], {}, tmp_path) for name in ("superlink", "serverapp")]
    return Metrics(fleet, registry, parts)


def samples(metrics):
    """Every value by its name and labels."""
    found = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        assert family.documentation
        for sample in family.samples:
            found[sample.name, *sorted(sample.labels.values())] = sample.value
    return found


def names(metrics):
    return {name for name, *_ in samples(metrics)}


def report(fleet, release, cohort, window=None):
    pens = [Pen(f"pen-{number}") for number in range(cohort)]
    fleet.reports.count([Accepted(pen.report(release, window), pen.name) for pen in pens])


def test_every_name_of_the_contract_is_there(metrics, fleet, published):
    report(fleet, published.name, POLICY.minimum_cohort)
    Pen("pen").join(fleet)
    fleet.members.note_answer("pen", 1, published.name, "running", None)
    found = samples(metrics)
    assert {name for name, *_ in found} >= CONTRACT | STATISTICS
    assert {key[1] for key in found if key[0] == "fedhw_statistic_mean"} == SCALARS
    buckets = [key[1] for key in found if key[0] == "fedhw_statistic_latency_share"]
    assert buckets == [*map(str, LATENCIES), "+Inf"]
    assert {key[1] for key in found if key[0] == "fedhw_reports_refused_total"} >= {
        *("signature", "unenrolled", "revoked", "window", "range"),
        *("repeated", "rate", "malformed", "policy"),
    }
    assert found["fedhw_part_up", "superlink"] == found["fedhw_part_restarts_total", "serverapp"]
    assert found["fedhw_build_info", __version__] == 1
    assert found["fedhw_statistic_cohort_devices",] == 2
    assert found["fedhw_statistic_window_timestamp_seconds",] == (past() + 1) * POLICY.window


def test_nothing_is_shown_under_the_minimum_cohort(metrics, fleet, published):
    assert not STATISTICS & names(metrics)
    for window in (past(1), past(2), past(3)):
        report(fleet, published.name, POLICY.minimum_cohort - 1, window)
    assert not STATISTICS & names(metrics)
    assert names(metrics) >= CONTRACT - {"fedhw_devices_on_release"}


def test_nothing_is_shown_before_there_is_a_release(metrics, fleet):
    report(fleet, "v1-0123abcd", 3)
    found = samples(metrics)
    assert not STATISTICS & {name for name, *_ in found}
    assert found["fedhw_release_version",] == 0


def test_devices_are_counted_by_what_they_are(metrics, fleet, registry, published):
    for name in ("new", "run", "held", "sick", "gone", "old"):
        Pen(name).join(fleet)
    fleet.members.invite("guest")
    fleet.members.note_answer("run", 1, published.name, "running", None)
    fleet.members.note_answer("held", 1, "v9-0123abcd", "held back", None)
    fleet.members.note_answer("sick", 1, published.name, "refused", "store")
    fleet.members.note_answer("old", 0, published.name, "refused", "version")
    fleet.members.set_node("run", 7)
    fleet.members.seen([7])
    fleet.members.revoke("gone")
    fleet.settings.pause(True)
    found = samples(metrics)
    assert {key[0]: found[key] for key in found if len(key) == 1 and "_devices_" in key[0]} == {
        "fedhw_devices_enrolled": 5,
        "fedhw_devices_online": 1,
        "fedhw_devices_revoked": 1,
        "fedhw_devices_held_back": 1,
        "fedhw_devices_refused": 1,
    }
    # A release that a device only claims is no label.
    on = {key[1]: found[key] for key in found if key[0] == "fedhw_devices_on_release"}
    assert on == {published.name: 3}
    assert found["fedhw_paused",] == 1
    assert found["fedhw_release_version",] == 1
    assert "guest" not in metrics.text().decode()


def test_each_round_counts_once(metrics, fleet):
    for number, (answered, seconds) in enumerate([(3, 0.4), (2, 30.0), (None, None), (3, 2.0)]):
        begun = fleet.offer_log.begin(1, 3)
        assert begun == number + 1
        if seconds is not None:
            fleet.offer_log.end(begun, answered, seconds)
    running = fleet.offer_log.begin(1, 3)
    for _ in range(2):
        found = samples(metrics)
        assert found["fedhw_rounds_total", "answered"] == 2
        assert found["fedhw_rounds_total", "abandoned"] == 2  # too late, and cut off
        assert found["fedhw_round_seconds_count",] == 3
    fleet.offer_log.end(running, 3, 1.0)
    found = samples(metrics)
    assert found["fedhw_rounds_total", "answered"] == 3
    assert found["fedhw_round_seconds_sum",] == pytest.approx(33.4)
    began = fleet.offer_log.all()[-1].began
    assert found["fedhw_round_last_timestamp_seconds",] == pytest.approx(began + 1, abs=1e-3)


def test_reports_are_counted(metrics):
    metrics.accepted(0.004)
    metrics.accepted(0.2)
    metrics.refused("rate")
    found = samples(metrics)
    assert found["fedhw_reports_accepted_total",] == 2
    assert found["fedhw_reports_refused_total", "rate"] == 1
    assert found["fedhw_report_seconds_bucket", "0.005"] == 1
    assert found["fedhw_report_seconds_bucket", "0.25"] == 2


def test_pages_show_the_metrics_and_whether_it_lives(metrics):
    with TestClient(metrics_pages(metrics)) as pages:
        shown = pages.get("/metrics")
        assert shown.headers["Content-Type"].startswith("text/plain")
        assert "fedhw_build_info" in shown.text
        assert pages.get("/healthz").text == "ok\n"
        assert pages.get("/").status_code == 404


def test_an_attempt_is_seen_from_its_begin_to_its_end(metrics, fleet, registry, releases):
    before = samples(metrics)
    stages = [key[1] for key in before if key[0] == "fedhw_improvement_stage"]
    outcomes = [key[1] for key in before if key[0] == "fedhw_improvements_total"]
    assert stages == ["rounds", "shadow", "roll-out"]
    assert outcomes == ["promoted", "rejected", "abandoned", "stopped", "rolled back"]
    assert not any(value for key, value in before.items() if "improvement" in key[0])
    registry.publish(releases[0])
    attempts = fleet.attempts
    attempts.begin(1, "by hand")
    now = attempts.current.since
    done, failed = Round(now, 0.5, ("anna",), 2.0, 2, 0.4), Round(now, 0.5, (), 2.0)
    attempts.keep(replace(attempts.current, rounds=(done, failed, Round(now, 0.5, ()))))
    found = samples(metrics)
    assert found["fedhw_improvement_stage", "rounds"] == 1
    assert found["fedhw_improvement_rounds_total", "done"] == 1
    assert found["fedhw_improvement_rounds_total", "abandoned"] == 1
    assert found["fedhw_improvement_round_devices",] == 2
    assert found["fedhw_improvement_round_within_ratio",] == 0.4
    assert found["fedhw_improvements_epsilon",] == epsilon_of(0.5, POLICY.delta)
    assert found["fedhw_improvement_decision_timestamp_seconds", "begin"] > START - 60
    assert found["fedhw_release_share",] == 1
    registry.publish(releases[1])
    for node in range(50):
        fleet.members.set_node(Pen(f"pen-{node}").join(fleet).name, node)
    rolling = replace(attempts.current, stage=Stage.ROLL_OUT, version=2)
    attempts.keep(rolling)
    assert samples(metrics)["fedhw_release_share",] == 0.08
    attempts.keep(replace(rolling, stage=Stage.ROLLED_BACK))
    found = samples(metrics)
    assert found["fedhw_improvements_total", "rolled back"] == 1
    assert not any(value for key, value in found.items() if key[0] == "fedhw_improvement_stage")
    assert found["fedhw_release_share",] == 1
