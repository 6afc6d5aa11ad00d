"""Reports on their way: a real agent, a real ledger, the real service over TLS, short windows."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedhw.data.writers import WriterSet
from fedhw.privacy.budget import Limits
from fedhw.privacy.ledger import Charge, Ledger
from fedhw.privacy.mechanism import GRID, GaussianMechanism
from fedhw.privacy.statistics import STATISTICS, Tally, layout, make_report
from fedhw.release.release import Release
from fedhw.v1 import statistics_pb2 as pb
from fedhw.v1 import statistics_pb2_grpc as pb_grpc
from fedhw_client.agent.agent import Agent
from fedhw_client.agent.correction import Correction
from fedhw_client.agent.latency_counts import LatencyCounts
from fedhw_client.fleet import reporter as module
from fedhw_client.fleet.enrolment import Enrolment, enrol, secure_channel
from fedhw_client.fleet.reporter import Reporter, signed
from fedhw_client.store.corrections import Store
from tests.client.fleet.coordinators import Services
from tests.waiting import until

WINDOW = 1
"""Seconds."""

EPSILON = 1000.0
"""So little noise that it can be seen what was sent."""


@pytest.fixture
def services(tmp_path: Path, release_directory: Path) -> Iterator[Services]:
    policy = {"window": WINDOW, "epsilon": EPSILON, "minimum_cohort": 2}
    with closing(Services(tmp_path / "coordinator", release_directory, **policy)) as services:
        services.start()
        yield services


@pytest.fixture
def enrolment(services: Services, tmp_path: Path) -> Enrolment:
    return enrol(services.invitation("anna"), tmp_path / "enrolment")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.create(tmp_path / "ledger.db", Limits(per_day=1e9, in_all=1e9, delta=1e-6))


@pytest.fixture
def agent(services: Services, tmp_path: Path) -> Iterator[Agent]:
    """One that runs what the coordinator has published."""
    published = Release.load(tmp_path / "coordinator" / "releases" / services.release.name)
    with closing(Agent(published, Store(tmp_path / "device.db"))) as agent:
        yield agent


Report = Callable[[], Reporter]


@pytest.fixture
def report(agent: Agent, enrolment: Enrolment, ledger: Ledger) -> Iterator[Report]:
    """Starts a reporter; all of them are closed after the test."""
    started = []

    def start() -> Reporter:
        started.append(Reporter(agent, enrolment, ledger, LatencyCounts(WINDOW)))
        return started[-1]

    yield start
    for one in started:
        one.close()


def arrived(ledger: Ledger) -> list[Charge]:
    return [charge for charge in ledger.history() if charge.sent_at is not None]


def figure(charge: Charge, name: str) -> float:
    """A statistic as a report has it, with its noise."""
    report = pb.Report.FromString(pb.SendReportRequest.FromString(charge.message).report)
    [row] = [row for row in STATISTICS if row.name == name]
    [step] = report.steps[layout(62)[name]]
    return step * GRID * row.scale + row.centre


def test_each_window_is_reported_once_an_idle_one_too(
    services, report, agent, ledger, unseen_writers: WriterSet
):
    label = unseen_writers.classes[unseen_writers.labels[0]]
    report()
    until(lambda: len(arrived(ledger)) >= 2)
    agent.learn([Correction(unseen_writers.observations[0], label)] * 30)
    at = agent.recent(1)[0].at
    until(lambda: arrived(ledger)[-1].about > at // WINDOW)
    charges = arrived(ledger)
    windows = [charge.about for charge in charges]
    assert windows == sorted(set(windows))
    assert services.received == [charge.message for charge in charges]
    assert dict(services.fleet.reports.windows()) == dict.fromkeys(windows, 1)
    # Six standard deviations of noise do not reach 0.5.
    active = [charge.about for charge in charges if figure(charge, "active") > 0.5]
    assert active == [int(at // WINDOW)]


def test_what_is_sent_is_what_the_device_can_show(services, report, enrolment, ledger):
    report()
    until(lambda: arrived(ledger))
    [charge, *_] = arrived(ledger)
    request = pb.SendReportRequest.FromString(services.received[0])
    content = pb.Report.FromString(request.report)
    assert services.received[0] == charge.message
    assert (content.device, content.window) == ("anna", charge.about)
    assert (content.release, content.epsilon) == (services.release.name, EPSILON)
    enrolment.report_key.public_key().verify(request.signature, module.SIGNED + request.report)


def test_a_report_whose_answer_is_lost_is_sent_again_as_it_was(services, report, ledger):
    services.loses_answers = True
    report()
    until(lambda: len(services.received) >= 3)
    assert arrived(ledger) == []
    services.loses_answers = False
    until(lambda: len(arrived(ledger)) >= 2)
    charges = {charge.about: charge for charge in arrived(ledger)}
    assert set(services.received) <= {charge.message for charge in ledger.history()}
    assert services.received.count(services.received[0]) >= 2
    counted = dict(services.fleet.reports.windows())
    assert {window: counted[window] for window in charges} == dict.fromkeys(charges, 1)


def test_offline_it_goes_on_and_online_it_sends_what_waits(services, report, ledger):
    services.stop()
    first = report()
    until(lambda: len(ledger.unsent()) >= 2)
    first.close()
    waiting = ledger.unsent()
    assert services.received == []
    second = report()  # as after a restart
    until(lambda: len(ledger.unsent()) > len(waiting))
    services.start()
    until(lambda: ledger.unsent() == [] and len(arrived(ledger)) > len(waiting))
    second.close()
    assert services.received == [charge.message for charge in arrived(ledger)]
    assert services.received[: len(waiting)] == [charge.message for charge in waiting]


def test_who_is_revoked_is_told_once_and_tells_nothing_more(services, report, ledger):
    report()
    until(lambda: arrived(ledger))
    services.fleet.members.revoke("anna")
    until(lambda: ledger.history()[-1].refused is not None)
    *before, refused = ledger.history()
    assert "revoked" in refused.refused
    until(lambda: time.time() > (refused.about + 4) * WINDOW)
    assert ledger.history() == [*before, refused]
    assert services.received.count(refused.message) == 1
    assert set(dict(services.fleet.reports.windows())) == {charge.about for charge in before}


def test_a_report_that_is_refused_is_not_sent_again(services, report, enrolment, ledger):
    services.stop()
    first = report()
    until(ledger.unsent)
    first.close()
    [charge, *_] = ledger.unsent()
    # A copy of the home has reported meanwhile.
    mechanism = GaussianMechanism(EPSILON, 1e-6)
    name = services.release.name
    other = make_report(Tally.empty(62), "anna", charge.about, name, mechanism)
    services.start()
    with secure_channel(enrolment.invitation) as channel:
        copied = signed(other, enrolment.report_key)
        pb_grpc.StatisticsStub(channel).SendReport(pb.SendReportRequest.FromString(copied))
    report()
    until(lambda: arrived(ledger))
    [refused] = [one for one in ledger.history() if one.refused is not None]
    assert refused.message == charge.message
    assert "there was one already" in refused.refused
    until(lambda: len(arrived(ledger)) >= 2)
    assert services.received.count(charge.message) == 1


def test_a_budget_that_is_spent_ends_it(services, agent, enrolment, tmp_path):
    ledger = Ledger.create(tmp_path / "small.db", Limits(per_day=1e9, in_all=1500, delta=1e-6))
    with closing(Reporter(agent, enrolment, ledger, LatencyCounts(WINDOW))):
        until(lambda: arrived(ledger))
        [charge] = arrived(ledger)
        until(lambda: time.time() > (charge.about + 4) * WINDOW)
    assert ledger.history() == [charge]
    assert services.received == [charge.message]


def test_a_clock_that_is_set_back_makes_no_report(services, report, ledger, monkeypatch):
    behind = 0.0
    clock = SimpleNamespace(time=lambda: time.time() - behind)
    monkeypatch.setattr(module, "time", clock)
    report()
    until(lambda: len(arrived(ledger)) >= 2)
    behind = 50.0 * WINDOW
    until(lambda: ledger.unsent() == [])
    before = ledger.history()
    time.sleep(3 * WINDOW)
    # One that was on its way may have come.
    assert len(ledger.history()) <= len(before) + 1
    behind = 0.0
    until(lambda: len(arrived(ledger)) >= len(before) + 2)
    windows = [charge.about for charge in ledger.history()]
    assert windows == sorted(set(windows))
    assert all(devices == 1 for _, devices in services.fleet.reports.windows())


def test_only_windows_of_its_time_in_the_fleet_are_reported(report, enrolment, ledger):
    report()
    until(lambda: arrived(ledger))
    assert all(charge.about * WINDOW >= enrolment.since for charge in ledger.history())


def test_of_a_release_that_is_not_the_fleets_nothing_is_told(
    services, enrolment, ledger, release, tmp_path
):
    with ExitStack() as parts:
        store = Store(tmp_path / "of-its-own.db")
        agent = parts.enter_context(closing(Agent(release, store)))
        parts.enter_context(closing(Reporter(agent, enrolment, ledger, LatencyCounts(WINDOW))))
        until(lambda: time.time() > enrolment.since + 4 * WINDOW)
    assert ledger.history() == []
    assert services.received == []


def test_a_coordinator_that_hangs_does_not_keep_a_device(services, report, ledger):
    services.hangs = True
    reporter = report()
    until(lambda: services.received)
    reporter.close()
    [charge, *_] = ledger.unsent()
    assert charge.message == services.received[0]
    services.hangs = False
    report()
    until(lambda: arrived(ledger))
    assert arrived(ledger)[0].message == charge.message
