"""Reports on their way: a real agent, a real ledger, the real service over TLS, a set clock."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from fedhw.data.writers import WriterSet
from fedhw.privacy.budget import Limits
from fedhw.privacy.ledger import Charge, Ledger
from fedhw.privacy.mechanism import GRID, GaussianMechanism
from fedhw.privacy.statistics import SIGNED, STATISTICS, Tally, layout, make_report
from fedhw.release.release import Release
from fedhw.system.clock import SettableClock
from fedhw.v1 import statistics_pb2 as pb
from fedhw.v1 import statistics_pb2_grpc as pb_grpc
from fedhw_client.agent.agent import Agent
from fedhw_client.agent.correction import Correction
from fedhw_client.agent.latency_counts import LatencyCounts
from fedhw_client.fleet.enrolment import Enrolment, enrol, secure_channel
from fedhw_client.fleet.reporter import Reporter, signed
from fedhw_client.store.corrections import Store
from tests.client.fleet.coordinators import Services
from tests.waiting import until

WINDOW = 3600
"""Seconds."""

NOW = 500_000.5 * WINDOW
"""The middle of a window."""

EPSILON = 1000.0
"""So little noise that it can be seen what was sent."""


class WatchedClock(SettableClock):
    """A clock that knows how often somebody began to wait."""

    waits = 0

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.waits += 1
        return super().wait(event, seconds)


@pytest.fixture
def clock() -> WatchedClock:
    """The time of the device and of its coordinator."""
    return WatchedClock(NOW)


@pytest.fixture
def services(tmp_path: Path, release_directory: Path, clock: WatchedClock) -> Iterator[Services]:
    policy = {"window": WINDOW, "epsilon": EPSILON, "minimum_cohort": 2}
    coordinator = Services(tmp_path / "coordinator", release_directory, clock, **policy)
    with closing(coordinator) as services:
        services.start()
        yield services


@pytest.fixture
def enrolment(services: Services, tmp_path: Path, clock: WatchedClock) -> Enrolment:
    return enrol(services.invitation("anna"), tmp_path / "enrolment", clock)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.create(tmp_path / "ledger.db", Limits(per_day=1e9, in_all=1e9, delta=1e-6))


@pytest.fixture
def agent(services: Services, tmp_path: Path, clock: WatchedClock) -> Iterator[Agent]:
    """One that runs what the coordinator has published."""
    published = Release.load(tmp_path / "coordinator" / "releases" / services.release.name)
    with closing(Agent(published, Store(tmp_path / "device.db"), clock=clock)) as agent:
        yield agent


Report = Callable[[], Reporter]


@pytest.fixture
def report(
    agent: Agent, enrolment: Enrolment, ledger: Ledger, clock: WatchedClock
) -> Iterator[Report]:
    """Starts a reporter; all of them are closed after the test."""
    started = []

    def start() -> Reporter:
        usage = LatencyCounts(WINDOW, clock)
        started.append(Reporter(agent, enrolment, ledger, usage, clock))
        return started[-1]

    yield start
    for one in started:
        one.close()


def end_windows(clock: WatchedClock, count: int = 1) -> None:
    """Let windows end, and the reporter do at the end of each what it has to."""
    until(lambda: clock.waits)  # it has begun
    for _ in range(count):
        waits = clock.waits
        clock.advance(WINDOW)
        until(lambda before=waits: clock.waits > before)


def meanwhile(clock: WatchedClock, condition: Callable[[], object]) -> None:
    """Let seconds pass until a condition holds."""
    until(lambda: condition() or clock.advance(1.0))


def arrived(ledger: Ledger) -> list[Charge]:
    return [charge for charge in ledger.history() if charge.sent_at is not None]


def figure(charge: Charge, name: str) -> float:
    """A statistic as a report has it, with its noise."""
    report = pb.Report.FromString(pb.SendReportRequest.FromString(charge.message).report)
    [row] = [row for row in STATISTICS if row.name == name]
    [step] = report.steps[layout(62)[name]]
    return step * GRID * row.scale + row.centre


def test_each_window_is_reported_once_an_idle_one_too(
    services, report, agent, ledger, clock, unseen_writers: WriterSet
):
    label = unseen_writers.classes[unseen_writers.labels[0]]
    report()
    end_windows(clock, 3)
    agent.learn([Correction(unseen_writers.observations[0], label)] * 30)
    at = agent.recent(1)[0].at
    end_windows(clock, 2)
    charges = arrived(ledger)
    windows = [charge.about for charge in charges]
    assert windows == list(range(int(NOW // WINDOW) + 1, int(NOW // WINDOW) + 5))
    assert services.received == [charge.message for charge in charges]
    assert dict(services.fleet.reports.windows()) == dict.fromkeys(windows, 1)
    # Six standard deviations of noise do not reach 0.5.
    active = [charge.about for charge in charges if figure(charge, "active") > 0.5]
    assert active == [int(at // WINDOW)]


def test_what_is_sent_is_what_the_device_can_show(services, report, enrolment, ledger, clock):
    report()
    end_windows(clock, 2)
    [charge] = arrived(ledger)
    request = pb.SendReportRequest.FromString(services.received[0])
    content = pb.Report.FromString(request.report)
    assert services.received[0] == charge.message
    assert (content.device, content.window) == ("anna", charge.about)
    assert (content.release, content.epsilon) == (services.release.name, EPSILON)
    enrolment.report_key.public_key().verify(request.signature, SIGNED + request.report)


def test_a_report_whose_answer_is_lost_is_sent_again_as_it_was(services, report, ledger, clock):
    services.loses_answers = True
    report()
    end_windows(clock, 2)
    meanwhile(clock, lambda: len(services.received) >= 3)
    assert arrived(ledger) == []
    services.loses_answers = False
    meanwhile(clock, lambda: arrived(ledger))
    end_windows(clock)
    charges = {charge.about: charge for charge in arrived(ledger)}
    assert len(charges) == 2
    assert set(services.received) == {charge.message for charge in ledger.history()}
    assert services.received.count(services.received[0]) >= 3
    assert dict(services.fleet.reports.windows()) == dict.fromkeys(charges, 1)


def test_offline_it_goes_on_and_online_it_sends_what_waits(services, report, ledger, clock):
    services.stop()
    first = report()
    end_windows(clock, 3)
    meanwhile(clock, lambda: len(ledger.unsent()) == 2)
    first.close()
    waiting = ledger.unsent()
    assert services.received == []
    second = report()  # as after a restart
    clock.advance(WINDOW)
    meanwhile(clock, lambda: len(ledger.unsent()) == 3)
    services.start()
    meanwhile(clock, lambda: ledger.unsent() == [])
    second.close()
    assert len(arrived(ledger)) == 3
    assert services.received == [charge.message for charge in arrived(ledger)]
    assert services.received[:2] == [charge.message for charge in waiting]


def test_who_is_revoked_is_told_once_and_tells_nothing_more(services, report, ledger, clock):
    report()
    end_windows(clock, 2)
    services.fleet.members.revoke("anna")
    end_windows(clock)
    first, refused = ledger.history()
    assert first in arrived(ledger)
    assert "revoked" in refused.refused
    end_windows(clock, 3)
    assert ledger.history() == [first, refused]
    assert services.received.count(refused.message) == 1
    assert set(dict(services.fleet.reports.windows())) == {first.about}


def test_a_report_that_is_refused_is_not_sent_again(services, report, enrolment, ledger, clock):
    services.stop()
    first = report()
    end_windows(clock, 2)
    first.close()
    [charge] = ledger.unsent()
    # A copy of the home has reported meanwhile.
    mechanism = GaussianMechanism(EPSILON, 1e-6)
    name = services.release.name
    other = make_report(Tally.empty(62), "anna", charge.about, name, mechanism)
    services.start()
    with secure_channel(enrolment.invitation) as channel:
        copied = signed(other, enrolment.report_key)
        pb_grpc.StatisticsStub(channel).SendReport(pb.SendReportRequest.FromString(copied))
    report()
    meanwhile(clock, lambda: ledger.unsent() == [])
    end_windows(clock, 2)
    assert len(arrived(ledger)) == 2
    [refused] = [one for one in ledger.history() if one.refused is not None]
    assert refused.message == charge.message
    assert "there was one already" in refused.refused
    assert services.received.count(charge.message) == 1


def test_a_budget_that_is_spent_ends_it(services, agent, enrolment, tmp_path, clock):
    ledger = Ledger.create(tmp_path / "small.db", Limits(per_day=1e9, in_all=1500, delta=1e-6))
    with closing(Reporter(agent, enrolment, ledger, LatencyCounts(WINDOW, clock), clock)):
        end_windows(clock, 2)
        [charge] = arrived(ledger)
        end_windows(clock, 3)
    assert ledger.history() == [charge]
    assert services.received == [charge.message]


@pytest.mark.parametrize("windows_back", [1, 2, 50])
def test_a_clock_that_is_set_back_makes_no_report(services, report, ledger, clock, windows_back):
    report()
    end_windows(clock, 3)
    before = ledger.history()
    assert len(before) == 2
    clock.set_wall(clock.wall() - (1 + windows_back) * WINDOW)
    end_windows(clock)
    assert ledger.history() == before
    clock.set_wall(clock.wall() + windows_back * WINDOW)
    end_windows(clock, 2)
    windows = [charge.about for charge in ledger.history()]
    assert len(windows) == 4
    assert windows == sorted(set(windows))
    assert all(devices == 1 for _, devices in services.fleet.reports.windows())


def test_only_windows_of_its_time_in_the_fleet_are_reported(report, enrolment, ledger, clock):
    report()
    end_windows(clock, 2)
    assert enrolment.since == NOW
    assert [charge.about for charge in ledger.history()] == [NOW // WINDOW + 1]


def test_of_a_release_that_is_not_the_fleets_nothing_is_told(
    services, enrolment, ledger, release, tmp_path, clock
):
    with ExitStack() as parts:
        store = Store(tmp_path / "of-its-own.db")
        agent = parts.enter_context(closing(Agent(release, store, clock=clock)))
        usage = LatencyCounts(WINDOW, clock)
        parts.enter_context(closing(Reporter(agent, enrolment, ledger, usage, clock)))
        end_windows(clock, 4)
    assert ledger.history() == []
    assert services.received == []


def test_a_coordinator_that_hangs_does_not_keep_a_device(services, report, ledger, clock):
    services.hangs = True
    reporter = report()
    until(lambda: clock.waits)
    clock.advance(2 * WINDOW)
    until(lambda: services.received)
    reporter.close()
    [charge] = ledger.unsent()
    assert charge.message == services.received[0]
    services.hangs = False
    report()
    meanwhile(clock, lambda: arrived(ledger))
    assert arrived(ledger)[0].message == charge.message
