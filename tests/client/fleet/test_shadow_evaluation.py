"""A candidate beside a release: a real agent, a real ledger, and the real service over TLS."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from fedhw.data.writers import WriterSet
from fedhw.improvement.actions import Progress
from fedhw.improvement.attempt import Stage
from fedhw.observation import Labels
from fedhw.privacy.budget import Limits
from fedhw.privacy.ledger import Ledger
from fedhw.privacy.mechanism import GRID, GaussianMechanism
from fedhw.privacy.statistics import SHADOW, layout
from fedhw.release.manifest import SKETCH, WEIGHTS, Manifest
from fedhw.release.offer import Refusal
from fedhw.release.registry import Parcel, Registry
from fedhw.release.release import Release
from fedhw.release.signing import ReleaseKey
from fedhw.system.clock import SettableClock
from fedhw.v1 import statistics_pb2 as pb
from fedhw_client.agent.adoption import Adoption
from fedhw_client.agent.agent import Agent
from fedhw_client.agent.correction import Correction
from fedhw_client.agent.latency_counts import LatencyCounts
from fedhw_client.fleet.enrolment import Enrolment, enrol
from fedhw_client.fleet.reporter import Reporter
from fedhw_client.fleet.shadow_evaluation import RETRY_SECONDS, Shadow
from fedhw_client.store.corrections import Store
from fedhw_client.store.device_home import Home
from tests.client.fleet.coordinators import Services
from tests.releases import Change, changed, published, shuffled, spoiling
from tests.waiting import until

SOON = 60.0
EPSILON = 1000.0
"""So little noise that it can be seen what was sent."""

WINDOW = 3600
"""Seconds."""


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def services(tmp_path: Path, release_directory: Path, clock: SettableClock) -> Iterator[Services]:
    policy = {"window": WINDOW, "epsilon": EPSILON, "minimum_cohort": 2}
    coordinator = Services(tmp_path / "coordinator", release_directory, clock, **policy)
    with closing(coordinator) as services:
        services.start()
        yield services


@pytest.fixture
def key(tmp_path: Path) -> ReleaseKey:
    return ReleaseKey.create(tmp_path / "release.key")


@pytest.fixture
def enrolment(services: Services, key: ReleaseKey, tmp_path: Path) -> Enrolment:
    enrolment = enrol(services.invitation("anna"), tmp_path / "enrolment")
    return replace(enrolment, invitation=replace(enrolment.invitation, release_key=key.public))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.create(tmp_path / "ledger.db", Limits(per_day=1e9, in_all=1e9, delta=1e-6))


Candidate = Callable[[Change], Parcel]


@pytest.fixture
def candidate(release: Release, key: ReleaseKey, tmp_path: Path) -> Candidate:
    """Makes candidates, as they travel."""

    def make(change: Change) -> Parcel:
        name = f"registry-{len(list(tmp_path.glob('registry-*')))}"
        registry = Registry(tmp_path / name, key)
        parcel = published(registry, release, change, tmp_path / f"made-{name}")
        return parcel._replace(signature=key.sign_candidate(parcel.manifest))

    return make


@pytest.fixture
def shadow(
    agent: Agent, enrolment: Enrolment, ledger: Ledger, clock: SettableClock
) -> Iterator[Shadow]:
    """One whose reports wait in the ledger."""
    shadow = Shadow(agent, enrolment, ledger, lambda: None, clock)
    yield shadow
    agent.close()
    shadow.close()


def write(agent: Agent, writers: WriterSet, n: int = 120) -> None:
    """Correct until all was learned."""
    own = writers.take(writers.rows_of(0)[:n])
    for glyph, label in zip(own.observations, own.labels, strict=True):
        agent.learn([Correction(glyph, own.classes[label])])
    until(lambda: agent.status().personal_version > 0, SOON)
    until(lambda: not agent.status().learning, SOON)


def ask(shadow: Shadow, parcel: Parcel) -> Progress:
    """Ask, and send the files if they are wanted."""
    state = shadow.consider(parcel.manifest, parcel.signature, {})
    return shadow.consider(*parcel) if state is Progress.WANTED else state


def settled(shadow: Shadow, parcel: Parcel) -> Progress:
    """The answer once nothing is evaluated."""
    until(lambda: ask(shadow, parcel) is not Progress.EVALUATING, SOON)
    return ask(shadow, parcel)


def name_of(parcel: Parcel) -> str:
    return Manifest.parse(parcel.manifest, "the parcel").name


def told(message: bytes) -> pb.Report:
    return pb.Report.FromString(pb.SendReportRequest.FromString(message).report)


def figures(message: bytes) -> dict[str, float]:
    """What a report says, with its noise."""
    steps, places = told(message).steps, layout(62, SHADOW)
    return {
        row.name: steps[places[row.name].start] * GRID * row.scale + row.centre
        for row in SHADOW.rows
    }


def test_a_candidate_is_wanted_evaluated_and_told_of_once(
    shadow, agent, candidate, ledger, unseen_writers, clock
):
    write(agent, unseen_writers)
    parcel = candidate(spoiling)
    expected = agent.evaluate(changed(agent.release, spoiling))
    before = (agent.release_name, agent.status().personal_version, agent.person.mixture)
    assert shadow.consider(parcel.manifest, parcel.signature, {}) is Progress.WANTED
    assert shadow.consider(*parcel) is Progress.EVALUATING
    assert settled(shadow, parcel) is Progress.TOLD
    [charge] = ledger.unsent()
    assert charge.about == name_of(parcel)
    report, said = told(charge.message), figures(charge.message)
    assert (report.device, report.schema, report.release) == ("anna", 2, name_of(parcel))
    assert report.window == clock.wall() // WINDOW
    # It takes each character for another one, which no noise of that size hides.
    assert expected.ge_right > expected.candidate_ge_right
    for name, [figure] in expected.figures().items():
        low, high = next((row.low, row.high) for row in SHADOW.rows if row.name == name)
        assert said[name] == pytest.approx(min(high, max(low, figure)), abs=0.35)
    assert said["ge_gain"] < -0.1
    # The same again costs nothing, says the same, and nothing in use has changed.
    spent = ledger.spent(clock.wall())
    assert shadow.consider(*parcel) is Progress.TOLD
    assert ledger.unsent() == [charge]
    assert ledger.spent(clock.wall()) == spent
    after = (agent.release_name, agent.status().personal_version, agent.person.mixture)
    assert after == before


def test_an_evaluation_is_what_adopting_would_come_to(agent, unseen_writers):
    write(agent, unseen_writers)
    good, bad = (changed(agent.release, change) for change in (shuffled(1), spoiling))
    same = agent.evaluate(good)
    # Hidden units in other places: the same global expert, and a mixture as good.
    assert same.candidate_ge_right == same.ge_right > 0
    assert same.held_back == 15
    worse = agent.evaluate(bad)
    assert worse.ge_right == same.ge_right
    assert worse.candidate_right < worse.right == same.right
    assert worse.candidate_ge_right < worse.ge_right
    name, version = agent.release_name, agent.status().personal_version
    assert not agent.adopt(bad)
    assert agent.adopt(good)
    assert (agent.release_name, agent.status().personal_version) != (name, version)


def test_who_has_written_nothing_says_that_and_nothing_else(shadow, candidate, ledger):
    parcel = candidate(shuffled(1))
    assert settled(shadow, parcel) is Progress.TOLD
    said = figures(ledger.unsent()[0].message)
    assert said["active"] < 0.5
    assert said["ge_gain"] == pytest.approx(0, abs=0.35)


def test_it_is_told_to_the_coordinator_at_once(
    services, agent, enrolment, ledger, candidate, tmp_path, clock
):
    parcel = candidate(shuffled(1))
    attempts = services.fleet.attempts
    attempts.begin(1, "by hand")
    drawn = {enrolment.invitation.device: Progress.WANTED}
    attempt = replace(attempts.current, stage=Stage.SHADOW, candidate=name_of(parcel))
    attempts.keep(replace(attempt, progress=drawn))
    reporter = Reporter(agent, enrolment, ledger, LatencyCounts(WINDOW, clock), clock)
    shadow = Shadow(agent, enrolment, ledger, reporter.send_soon, clock)
    with closing(reporter), closing(shadow):
        assert settled(shadow, parcel) is Progress.TOLD
        until(lambda: services.fleet.reports.shadow_sums(name_of(parcel)) is not None)
        until(lambda: ledger.unsent() == [])
    [charge] = ledger.history()
    assert services.received == [charge.message]
    assert services.fleet.reports.shadow_sums(name_of(parcel)).count == 1
    # Another one of the same candidate, after a restart: what it says stays the same.
    with closing(Shadow(agent, enrolment, ledger, lambda: None, clock)) as again:
        assert again.consider(*parcel) is Progress.TOLD
    assert ledger.history() == [charge]


def test_it_is_evaluated_in_the_background_one_after_the_other(
    shadow, agent, candidate, ledger, monkeypatch
):
    first, second = candidate(shuffled(1)), candidate(shuffled(2))
    allowed, evaluate = threading.Event(), agent.evaluate

    def waiting(release: Release) -> object:
        assert allowed.wait(SOON)
        return evaluate(release)

    monkeypatch.setattr(agent, "evaluate", waiting)
    assert ask(shadow, first) is Progress.EVALUATING
    assert ask(shadow, first) is Progress.EVALUATING
    assert ask(shadow, second) is Progress.EVALUATING
    allowed.set()
    assert settled(shadow, first) is Progress.TOLD
    assert settled(shadow, second) is Progress.TOLD
    names = {name_of(first), name_of(second)}
    assert {charge.about for charge in ledger.history()} == names


def test_when_the_budget_is_spent_it_declines(agent, enrolment, candidate, tmp_path, clock):
    ledger = Ledger.create(tmp_path / "small.db", Limits(per_day=1500, in_all=1e9, delta=1e-6))
    ledger.charge(1, GaussianMechanism(EPSILON, 1e-6), clock.wall(), lambda: b"report")
    with closing(Shadow(agent, enrolment, ledger, lambda: None, clock)) as shadow:
        parcel = candidate(shuffled(1))
        assert shadow.consider(parcel.manifest, parcel.signature, {}) is Progress.DECLINED
        assert shadow.consider(*parcel) is Progress.DECLINED
    assert [charge.about for charge in ledger.history()] == [1]


def test_a_budget_that_is_spent_meanwhile_pays_for_nothing(
    agent, enrolment, candidate, tmp_path, monkeypatch, clock
):
    ledger = Ledger.create(tmp_path / "small.db", Limits(per_day=1500, in_all=1e9, delta=1e-6))
    evaluate = agent.evaluate

    def meanwhile(release: Release) -> object:
        ledger.charge(1, GaussianMechanism(EPSILON, 1e-6), clock.wall(), lambda: b"report")
        return evaluate(release)

    monkeypatch.setattr(agent, "evaluate", meanwhile)
    with closing(Shadow(agent, enrolment, ledger, lambda: None, clock)) as shadow:
        parcel = candidate(shuffled(1))
        assert settled(shadow, parcel) is Progress.DECLINED
    assert [charge.about for charge in ledger.history()] == [1]


def test_that_it_could_not_be_evaluated_is_not_seen(shadow, agent, candidate, ledger, monkeypatch):
    parcel = candidate(shuffled(1))

    def fails(release: Release) -> object:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(agent, "evaluate", fails)
        assert settled(shadow, parcel) is Progress.TOLD
    [paid] = ledger.history()
    assert figures(paid.message)["active"] < 0.5


@pytest.mark.parametrize(
    "harm",
    [
        lambda p: p._replace(signature=bytes(64)),
        lambda p: p._replace(manifest=p.manifest + b" "),
        lambda p: p._replace(files={WEIGHTS: p.files[WEIGHTS]}),
        lambda p: p._replace(files=p.files | {WEIGHTS: p.files[WEIGHTS][:-1]}),
        lambda p: p._replace(files=p.files | {"../../evil": b"x"}),
        lambda p: p._replace(files=p.files | {SKETCH: p.files[WEIGHTS]}),
    ],
)
def test_a_candidate_that_is_not_whole_is_refused(shadow, candidate, ledger, harm):
    assert shadow.consider(*harm(candidate(shuffled(1)))) is Progress.REFUSED
    assert ledger.history() == []


def test_a_release_is_no_candidate_and_a_candidate_no_release(
    shadow, agent, candidate, key, release_directory, tmp_path
):
    parcel = candidate(shuffled(1))
    released = parcel._replace(signature=key.sign(parcel.manifest))
    assert shadow.consider(*released) is Progress.REFUSED
    home = Home(tmp_path / "home")
    home.directory.mkdir()
    with closing(Adoption(agent, home, key.public)) as adoption:
        assert adoption.consider(*parcel).refusal is Refusal.SIGNATURE
    assert list(home.directory.iterdir()) == []


def test_a_ledger_that_is_lost_means_silence(shadow, candidate, tmp_path):
    (tmp_path / "ledger.db").unlink()
    assert shadow.consider(*candidate(shuffled(1))) is Progress.REFUSED


def test_another_alphabet_is_refused(enrolment, ledger, candidate, release, tmp_path, clock):
    parcel = candidate(shuffled(1))
    manifest = replace(release.manifest, labels=Labels(release.labels.texts[::-1]))
    with (
        closing(Agent(replace(release, manifest=manifest), Store(tmp_path / "other.db"))) as agent,
        closing(Shadow(agent, enrolment, ledger, lambda: None, clock)) as shadow,
    ):
        assert settled(shadow, parcel) is Progress.REFUSED
        # And considered anew after a while.
        clock.advance(RETRY_SECONDS - 1)
        assert shadow.consider(*parcel) is Progress.REFUSED
        clock.advance(1)
        assert shadow.consider(*parcel) is Progress.EVALUATING
    assert ledger.history() == []
