import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from fedhw.improvement.actions import Progress
from fedhw.improvement.attempt import Stage
from fedhw.privacy.estimate import Sums
from fedhw.privacy.mechanism import GaussianMechanism
from fedhw.privacy.statistics import Evaluation, make_report
from fedhw.v1 import statistics_pb2 as pb
from fedhw.v1 import statistics_pb2_grpc as pb_grpc
from fedhw_server.fronts.statistics_service import BURST_REPORTS
from tests.server.conftest import POLICY, Coordinator, Pen, channel_to, past, refusal
from tests.waiting import PATIENCE, until

REPEATED = "report: there was one already, with other figures; send each once"


def refusals(served):
    """How often each reason was counted."""
    families = text_string_to_metric_families(served.metrics.text().decode())
    [refused] = [family for family in families if family.name == "fedhw_reports_refused"]
    return {
        sample.labels["reason"]: sample.value
        for sample in refused.samples
        if sample.name.endswith("_total") and sample.value
    }


def test_a_report_is_counted(served, fleet, published):
    pen = Pen("pen").join(fleet)
    report = pen.report(published.name)
    served.send(pen.sign(report))
    assert fleet.reports.windows() == [(report.window, 1)]
    assert fleet.reports.sums(report.window) == {published.name: Sums.of(report)}
    assert refusals(served) == {}


def test_the_same_again_is_fine_and_counts_once(served, fleet, published):
    pen = Pen("pen").join(fleet)
    request = pen.sign(pen.report(published.name))
    for _ in range(3):
        served.send(request)
    assert fleet.reports.windows() == [(past(), 1)]


def test_another_one_of_the_window_is_not(served, fleet, published):
    pen = Pen("pen").join(fleet)
    served.send(pen.sign(pen.report(published.name)))
    code, sentence = refusal(lambda: served.send(pen.sign(pen.report(published.name))))
    assert code == "ALREADY_EXISTS"
    assert sentence == REPEATED
    assert fleet.reports.windows() == [(past(), 1)]
    assert refusals(served) == {"repeated": 1}


CHANGES = {
    "another schema": ({"schema": 3}, "range", "schema: 3 is not 1 or 2"),
    "a release as a candidate": ({"schema": 2}, "release", "is not of this coordinator"),
    "a window of long ago": ({"window": lambda: past(400)}, "window", "is over for too long"),
    "epsilon NaN": ({"epsilon": float("nan")}, "policy", "are not the fleet's (50, 1e-06)"),
    "epsilon infinite": ({"epsilon": float("inf")}, "policy", "are not the fleet's"),
    "another epsilon": ({"epsilon": 49.0}, "policy", "(49, 1e-06) are not the fleet's"),
    "another delta": ({"delta": 1e-5}, "policy", "are not the fleet's"),
    "an unknown release": ({"release": "v9-0123abcd"}, "release", "is not of this coordinator"),
    "no release": ({"release": ""}, "release", "is not of this coordinator"),
    "too few steps": ({"steps": np.zeros(78, np.int64)}, "range", "steps: int64 [78]"),
    "no steps": ({"steps": np.zeros(0, np.int64)}, "range", "steps: int64 [0]"),
    "too many steps": ({"steps": np.zeros(2000, np.int64)}, "range", "steps: int64 [2000]"),
    "a large step": ({"steps": np.full(79, 2**31 - 1)}, "range", "is beyond"),
    "a low step": ({"steps": np.full(79, -(2**31))}, "range", "is beyond"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_no_device_makes_is_refused(served, fleet, published, kind):
    changes, reason, words = CHANGES[kind]
    given = {name: value() if callable(value) else value for name, value in changes.items()}
    pen = Pen("pen").join(fleet)
    report = pen.report(published.name)
    code, sentence = refusal(lambda: served.send(pen.sign(report, **given)))
    assert code == "INVALID_ARGUMENT"
    assert words in sentence
    assert fleet.reports.windows() == []
    assert refusals(served) == {reason: 1}
    served.send(pen.sign(report))  # and the service goes on


def test_a_candidate_is_reported_of_beside_the_window_and_once(served, fleet, published):
    attempts = fleet.attempts
    attempts.begin(1, "by hand")
    drawn = {"pen": Progress.WANTED}
    shadow = replace(attempts.current, stage=Stage.SHADOW, candidate="v9-0123abcd", progress=drawn)
    attempts.keep(shadow)
    pen, quill = (Pen(name).join(fleet) for name in ("pen", "quill"))
    mechanism = GaussianMechanism(POLICY.epsilon, POLICY.delta)
    judged = Evaluation(200, 180, 160, 190, 174)
    now = int(time.time()) // POLICY.window
    report, other = (make_report(judged, "pen", now, "v9-0123abcd", mechanism) for _ in range(2))
    served.send(pen.sign(pen.report(published.name)))
    for _ in range(2):
        served.send(pen.sign(report))
    code, sentence = refusal(lambda: served.send(pen.sign(other)))
    assert (code, sentence) == ("ALREADY_EXISTS", REPEATED)
    assert fleet.reports.shadow_sums("v9-0123abcd") == Sums.of(report)
    assert fleet.reports.windows() == [(past(), 1)]
    for window, wanted in ((now + 30, "FAILED_PRECONDITION"), (past(400), "INVALID_ARGUMENT")):
        assert refusal(lambda: served.send(pen.sign(report, window=window)))[0] == wanted  # noqa: B023
    strange = quill.sign(make_report(judged, "quill", now, "v9-0123abcd", mechanism))
    code, sentence = refusal(lambda: served.send(strange))
    assert code == "INVALID_ARGUMENT"
    assert "is not of this coordinator" in sentence
    assert fleet.reports.shadow_sums("v9-0123abcd") == Sums.of(report)
    attempts.keep(replace(shadow, stage=Stage.REJECTED))
    code, sentence = refusal(lambda: served.send(pen.sign(report)))
    assert code == "INVALID_ARGUMENT"
    assert "is not of this coordinator" in sentence


@pytest.mark.parametrize("ahead", [8, 200, 2**63])
def test_a_window_that_is_not_over_may_come_later(served, fleet, published, ahead):
    pen = Pen("pen").join(fleet)
    report = pen.report(published.name)
    window = int(time.time()) // POLICY.window - 1 + ahead
    code, sentence = refusal(lambda: served.send(pen.sign(report, window=window)))
    assert code == "FAILED_PRECONDITION"
    assert "is not over yet" in sentence
    assert refusals(served) == {"window": 1}
    assert fleet.reports.windows() == []


def test_altered_bytes_are_refused(served, fleet, published):
    pen = Pen("pen").join(fleet)
    good = pen.sign(pen.report(published.name))
    rng = random.Random(0)
    for _ in range(40):
        altered = bytearray(good.report)
        altered[rng.randrange(len(altered))] ^= 1 << rng.randrange(8)
        request = pb.SendReportRequest(report=bytes(altered), signature=good.signature)
        assert refusal(lambda: served.send(request))[0] in ("UNAUTHENTICATED", "INVALID_ARGUMENT")  # noqa: B023
    for signature in (b"", b"\0" * 64, good.signature[:63], good.signature + b"\0"):
        request = pb.SendReportRequest(report=good.report, signature=signature)
        assert refusal(lambda: served.send(request))[0] == "UNAUTHENTICATED"  # noqa: B023
    assert fleet.reports.windows() == []
    assert refusals(served).keys() <= {"signature", "unenrolled", "malformed"}
    served.send(good)


def test_one_device_cannot_speak_for_another(served, fleet, published):
    pen, quill = (Pen(name).join(fleet) for name in ("pen", "quill"))
    report = pen.report(published.name)
    code, sentence = refusal(lambda: served.send(quill.sign(report)))
    assert code == "UNAUTHENTICATED"
    assert sentence.startswith("signature: it is not the device's")


def test_garbage_is_refused(served, published):
    for content in (b"\xff" * 50, b"\x0a\x05ab", b"\x0a\x02\xff\xff"):
        code, sentence = refusal(lambda: served.send(pb.SendReportRequest(report=content)))  # noqa: B023
        assert code == "INVALID_ARGUMENT"
        assert sentence.startswith("report: its bytes are no Report")
    assert refusals(served) == {"malformed": 3}
    send = served.channel.unary_unary("/fedhw.v1.Statistics/SendReport")
    for content in (b"\xff" * 50, b"\x0a\x7f"):
        with pytest.raises(grpc.RpcError):
            send(content, timeout=PATIENCE)
    assert refusal(lambda: send(b"", timeout=PATIENCE))[0] == "UNAUTHENTICATED"


def test_an_oversized_message_is_refused(served, fleet, published):
    pen = Pen("pen").join(fleet)
    large = pen.sign(pen.report(published.name), release="v" * 300_000)
    assert refusal(lambda: served.send(large))[0] == "RESOURCE_EXHAUSTED"
    assert fleet.reports.windows() == []


def test_who_has_not_enrolled_is_refused(served, fleet, published):
    fleet.members.invite("guest")
    for name in ("guest", "stranger", "", "x" * 5000, "\0"):
        pen = Pen(name)
        request = pen.sign(pen.report(published.name))
        code, sentence = refusal(lambda: served.send(request))  # noqa: B023
        assert code == "UNAUTHENTICATED"
        assert "is not enrolled" in sentence
        assert len(sentence) < 200
    assert refusals(served) == {"unenrolled": 5}


def test_who_is_revoked_by_another_process_is_refused_at_once(served, fleet, published, home):
    pen = Pen("pen").join(fleet)
    served.send(pen.sign(pen.report(published.name)))
    revoked = subprocess.run(
        [sys.executable, "-m", "fedhw", "server", "revoke", "pen", "--home", home.directory],
        capture_output=True,
        text=True,
        check=False,
    )
    assert revoked.returncode == 0, revoked.stderr
    code, sentence = refusal(lambda: served.send(pen.sign(pen.report(published.name, past(2)))))
    assert code == "PERMISSION_DENIED"
    assert sentence.startswith("device: pen was revoked")
    assert fleet.reports.windows() == [(past(), 1)]


def test_who_sends_too_much_is_slowed_down_alone(served, fleet, published):
    pen, quill = (Pen(name).join(fleet) for name in ("pen", "quill"))
    request = pen.sign(pen.report(published.name))
    codes = []
    for _ in range(int(BURST_REPORTS) * 3):
        try:
            served.send(request)
        except grpc.RpcError as error:
            codes.append(error.code().name)
    assert set(codes) == {"RESOURCE_EXHAUSTED"}
    served.send(quill.sign(quill.report(published.name)))


def test_a_release_that_is_published_later_is_known_at_once(served, fleet, registry, releases):
    pen = Pen("pen").join(fleet)
    published = registry.publish(releases[0])
    served.send(pen.sign(pen.report(published.name)))
    newer = registry.publish(releases[1])
    served.send(pen.sign(pen.report(newer.name, past(2))))
    assert fleet.reports.windows() == [(past(), 1), (past(2), 1)]


def test_a_registry_that_cannot_be_read_asks_to_come_again(served, fleet, published, home):
    pen = Pen("pen").join(fleet)
    (home.releases / published.name / "manifest.sig").write_bytes(b"")
    code, _ = refusal(lambda: served.send(pen.sign(pen.report(published.name))))
    assert code == "UNAVAILABLE"
    assert fleet.reports.windows() == []


def test_many_at_once_are_all_counted_once(served, fleet, published):
    pens = [Pen(f"pen-{number}").join(fleet) for number in range(20)]
    windows = [past(ago) for ago in range(1, 6)]
    reports = {(pen.name, w): pen.report(published.name, w) for pen in pens for w in windows}
    requests = [pen.sign(reports[pen.name, w]) for pen in pens for w in windows] * 3
    random.Random(0).shuffle(requests)
    with ThreadPoolExecutor(40) as threads:
        list(threads.map(served.send, requests))
    assert fleet.reports.windows() == [(window, len(pens)) for window in windows]
    for window in windows:
        assert fleet.reports.sums(window)[published.name] == Sums.of(
            *(reports[pen.name, window] for pen in pens)
        )


def test_it_says_that_it_is_healthy(served):
    stub = health_pb2_grpc.HealthStub(served.channel)
    for name in ("fedhw.v1.Statistics", ""):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_nothing_that_was_acknowledged_is_lost_when_it_is_killed(home, fleet, published):
    pens = [Pen(f"pen-{number}").join(fleet) for number in range(8)]
    windows = [past(ago) for ago in range(2, 14)]
    reports = {(pen.name, w): pen.report(published.name, w) for pen in pens for w in windows}
    requests = {
        (pen.name, window): pen.sign(reports[pen.name, window])
        for pen in pens
        for window in windows
    }
    acknowledged = set()

    def send(channel, key):
        stub = pb_grpc.StatisticsStub(channel)
        stub.SendReport(requests[key], timeout=PATIENCE)
        acknowledged.add(key)

    coordinator = Coordinator(home)
    with (
        channel_to(home, coordinator.port("statistics")) as channel,
        ThreadPoolExecutor(16) as threads,
    ):
        flying = [threads.submit(send, channel, key) for key in requests]
        until(lambda: len(acknowledged) > len(requests) // 3)
        coordinator.kill()
        failed = sum(each.exception(PATIENCE) is not None for each in flying)
    assert 0 < len(acknowledged) == len(requests) - failed
    for pen, window in acknowledged:
        known = fleet.database.read(
            "SELECT 1 FROM reports WHERE device = ? AND about = ?", (pen, window)
        )
        assert known == [(1,)]
    coordinator = Coordinator(home)
    try:
        port = coordinator.port("statistics")
        with channel_to(home, port) as channel, ThreadPoolExecutor(16) as threads:
            list(threads.map(lambda key: send(channel, key), requests))
    finally:
        coordinator.kill()
    for window in windows:
        wanted = Sums.of(*(reports[pen.name, window] for pen in pens))
        assert fleet.reports.sums(window) == {published.name: wanted}
