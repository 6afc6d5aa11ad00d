import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedhw.data.writers import WriterSet
from fedhw.improvement.contribution import Task
from fedhw.improvement.local_update import FEWEST, LocalTraining
from fedhw.privacy.budget import BudgetSpentError, Limits
from fedhw.privacy.secure_sum import unmask
from fedhw.release.release import Release
from fedhw.release.signing import ReleaseKey
from fedhw.system.clock import SettableClock
from fedhw_client.fleet.contributor import LONGEST_SUM_SECONDS, DeclinedError, Reason
from fedhw_client.store.corrections import Selection
from tests.contributing import Device, device, enrolled, task, written
from tests.waiting import until

NAMES = ("anna", "berta", "carl", "dora")
ONE, TWO = hashlib.sha256(b"one").digest()[:16], hashlib.sha256(b"two").digest()[:16]


@pytest.fixture
def key(tmp_path: Path) -> ReleaseKey:
    return ReleaseKey.create(tmp_path / "release.key")


@pytest.fixture
def devices(
    tmp_path: Path, release: Release, key: ReleaseKey, unseen_writers: WriterSet
) -> Iterator[list[Device]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                device(
                    tmp_path / name,
                    release,
                    enrolled(name, key.public),
                    written(unseen_writers, writer, 40),
                )
            )
            for writer, name in enumerate(NAMES)
        ]


@pytest.fixture
def anna(devices: list[Device]) -> Device:
    return devices[0]


class Round:
    """The other end of the sum: what a coordinator does, step by step."""

    def __init__(self, devices: list[Device], key: ReleaseKey, task: Task, sum: bytes = ONE):
        self.devices = {each.name: each for each in devices}
        self.key = key
        self.task = task
        self.sum = sum

    def advertise(self) -> None:
        self.keys = {}
        for name, each in self.devices.items():
            keys = each.contributor.advertise(self.sum, self.task)
            certificate = self.key.certify(name, keys.report_key)
            self.keys[name] = keys._replace(certificate=certificate)

    def others(self, name: str) -> list[str]:
        return [other for other in self.devices if other != name]

    def share(self) -> None:
        self.envelopes = {
            name: each.contributor.share(self.sum, [self.keys[n] for n in self.others(name)])
            for name, each in self.devices.items()
        }

    def letters(self, name: str) -> dict[str, bytes]:
        return {other: self.envelopes[other][name] for other in self.others(name)}

    def mask(self, *names: str) -> None:
        self.masked = {name: self.masked_by(name) for name in names}

    def masked_by(self, name: str) -> bytes:
        while True:
            vector = self.devices[name].contributor.mask(self.sum, self.letters(name))
            if vector is not None:
                return vector

    def survivors(self, name: str) -> list[str]:
        return [other for other in self.others(name) if other in self.masked]

    def reveal(self) -> np.ndarray:
        shares = {
            name: self.devices[name].contributor.reveal(self.sum, self.survivors(name))
            for name in self.masked
        }
        graph = {name: self.others(name) for name in self.devices}
        return unmask(self.task.terms(self.sum), graph, self.keys, self.masked, shares)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """What devices add, in the order in which they are done."""
    known: list[np.ndarray] = []
    contribution = Task.contribution

    def recording(self: Task, update: np.ndarray) -> np.ndarray:
        known.append(contribution(self, update))
        return known[-1]

    monkeypatch.setattr(Task, "contribution", recording)
    return known


def declined(call) -> Reason:
    with pytest.raises(DeclinedError) as caught:
        call()
    return caught.value.reason


def test_the_sum_is_that_of_what_they_have_learned(devices, key, release, recorded):
    summing = Round(devices, key, task(release))
    summing.advertise()
    summing.share()
    summing.mask(*NAMES)
    total = summing.reveal()
    assert len(recorded) == len(NAMES)
    np.testing.assert_array_equal(total, np.sum(recorded, axis=0))


def test_each_pays_before_its_vector_leaves(anna, devices, key, release):
    summing = Round(devices, key, task(release))
    summing.advertise()
    summing.share()
    assert anna.ledger.rounds() == []
    summing.masked_by("anna")
    [paid] = anna.ledger.rounds()
    assert (paid.name, paid.rho) == (ONE.hex(), summing.task.rho)


def test_a_step_is_answered_alike_again_but_for_the_last(anna, devices, key, release):
    summing = Round(devices, key, task(release))
    summing.advertise()
    keys = anna.contributor.advertise(ONE, summing.task)
    assert keys == summing.keys["anna"]._replace(certificate=b"")
    summing.share()
    neighbours = [summing.keys[name] for name in summing.others("anna")]
    assert anna.contributor.share(ONE, neighbours) == summing.envelopes["anna"]
    # Whatever comes with it: there is one answer.
    assert anna.contributor.share(ONE, neighbours[:2]) == summing.envelopes["anna"]
    summing.mask(*NAMES)
    assert anna.contributor.mask(ONE, {}) == summing.masked["anna"]
    assert len(anna.ledger.rounds()) == 1
    assert anna.contributor.advertise(ONE, summing.task) == keys
    summing.reveal()
    for step in (
        lambda: anna.contributor.reveal(ONE, summing.survivors("anna")),
        lambda: anna.contributor.mask(ONE, summing.letters("anna")),
        lambda: anna.contributor.share(ONE, neighbours),
        lambda: anna.contributor.advertise(ONE, summing.task),
    ):
        assert declined(step) is Reason.SUM


def test_no_second_vector_for_the_same_sum_after_a_restart(
    tmp_path, devices, key, release, unseen_writers
):
    summing = Round(devices, key, task(release))
    summing.advertise()
    summing.share()
    summing.masked_by("anna")
    anna = devices[0]
    anna.contributor.close()
    anna.agent.close()
    with device(tmp_path / "anna", release, anna.enrolment, []) as again:
        assert declined(lambda: again.contributor.advertise(ONE, summing.task)) is Reason.SUM
        again.contributor.advertise(TWO, summing.task)


def test_steps_come_in_order(anna, devices, key, release):
    summing = Round(devices, key, task(release))
    for step in (
        lambda: anna.contributor.mask(ONE, {}),
        lambda: anna.contributor.reveal(ONE, ["berta", "carl"]),
    ):
        assert declined(step) is Reason.SUM  # there is none yet
        anna.contributor.advertise(ONE, summing.task)
        assert declined(step) is Reason.STEP
        assert declined(step) is Reason.SUM  # and none any more


def test_who_is_not_of_the_fleet_ends_the_sum(anna, devices, key, release):
    summing = Round(devices, key, task(release))
    summing.advertise()
    neighbours = [summing.keys[name] for name in summing.others("anna")]
    forged = neighbours[0]._replace(mask_key=neighbours[1].mask_key)
    wrong = [forged, *neighbours[1:]]
    assert declined(lambda: anna.contributor.share(ONE, wrong)) is Reason.STEP
    assert declined(lambda: anna.contributor.share(ONE, neighbours)) is Reason.SUM


def test_a_damaged_envelope_ends_the_sum(anna, devices, key, release):
    summing = Round(devices, key, task(release))
    summing.advertise()
    summing.share()
    letters = summing.letters("anna")
    letters["berta"] = bytes(len(letters["berta"]))

    def masked() -> None:
        while anna.contributor.mask(ONE, letters) is None:
            pass

    assert declined(masked) is Reason.STEP
    assert anna.contributor.sum_in_progress is None


def test_another_sum_takes_the_place_of_the_one_before(anna, devices, key, release):
    summing = Round(devices, key, task(release))
    summing.advertise()
    later = Round(devices, key, task(release, rate=0.02), TWO)
    later.advertise()
    neighbours = [summing.keys[name] for name in summing.others("anna")]
    assert declined(lambda: anna.contributor.share(ONE, neighbours)) is Reason.SUM
    later.share()
    later.mask("anna", "berta", "carl")
    assert later.reveal().shape == (later.task.entries,)
    assert [paid.name for paid in anna.ledger.rounds()] == [TWO.hex()]


def test_a_sum_that_is_not_ended_is_forgotten(tmp_path, release, key, unseen_writers):
    enrolment, corrections = enrolled("anna", key.public), written(unseen_writers, 0, 40)
    clock = SettableClock()
    with device(tmp_path / "anna", release, enrolment, corrections, clock=clock) as anna:
        keys = anna.contributor.advertise(ONE, task(release))
        clock.advance(LONGEST_SUM_SECONDS - 1)
        assert anna.contributor.advertise(ONE, task(release)) == keys
        clock.advance(1)
        until(lambda: not {"expiry", "training"} & {each.name for each in threading.enumerate()})
        assert declined(lambda: anna.contributor.share(ONE, [])) is Reason.SUM


def test_what_is_taken_back_ends_the_sum(anna, devices, key, release):
    summing = Round(devices, key, task(release))
    summing.advertise()
    summing.share()
    anna.agent.undo()
    assert declined(lambda: summing.masked_by("anna")) is Reason.UNAVAILABLE
    later = Round(devices, key, task(release), TWO)
    later.advertise()
    later.share()
    assert anna.agent.forget(Selection(end=time.time())) == 39
    assert declined(lambda: later.masked_by("anna")) is Reason.UNAVAILABLE
    # That something was taken back is paid for, too.
    assert [paid.name for paid in anna.ledger.rounds()] == [ONE.hex(), TWO.hex()]


def test_what_is_learned_meanwhile_does_not(anna, devices, key, release, unseen_writers):
    summing = Round(devices, key, task(release))
    summing.advertise()
    summing.share()
    anna.agent.learn(written(unseen_writers, 5, 10))
    assert summing.masked_by("anna")


def test_what_is_held_back_is_not_trained_on(anna):
    images, labels = anna.agent.samples()
    kept = anna.agent.person.replay.samples
    assert len(kept) == 40
    assert len(images) == len(labels) == 35
    for sample in kept:
        known = any(np.array_equal(sample.observation, image) for image in images)
        assert known is not sample.is_held_back


def one_more(task: Task) -> Task:
    return replace(task, parameters=task.parameters + bytes(4))


def not_finite(task: Task) -> Task:
    return replace(task, parameters=np.float32(np.nan).tobytes() + task.parameters[4:])


@pytest.mark.parametrize(
    "change",
    [
        lambda task: replace(task, noise=0.0),
        lambda task: replace(task, survivors=2),
        lambda task: replace(task, noise=999.0, devices=1_000_000),  # no room for the sum
        one_more,
        not_finite,
    ],
)
def test_a_task_that_it_does_not_agree_to(tmp_path, release, key, unseen_writers, change):
    enrolment = enrolled("anna", key.public)
    with device(
        tmp_path / "anna", release, enrolment, written(unseen_writers, 0, 40), least=3
    ) as anna:
        good = task(release)
        assert declined(lambda: anna.contributor.advertise(ONE, change(good))) is Reason.TASK
        assert anna.contributor.advertise(ONE, good).device == "anna"


def test_who_hides_among_more_does_not_share_with_few(anna, devices, key, release):
    summing = Round(devices, key, task(release))
    summing.advertise()
    neighbours = [summing.keys[name] for name in summing.others("anna")]
    anna.contributor.least = 4
    assert declined(lambda: anna.contributor.share(ONE, neighbours)) is Reason.STEP


@pytest.mark.parametrize("rate", [1e-30, 0.999])
def test_any_rate_that_a_task_may_have(anna, devices, key, release, rate):
    summing = Round(devices, key, task(release, rate=rate))
    summing.advertise()
    summing.share()
    assert summing.masked_by("anna")


def test_who_has_too_few_corrections_and_who_stops_say_the_same(
    tmp_path, release, key, unseen_writers
):
    enrolment = enrolled("anna", key.public)
    few = written(unseen_writers, 0, FEWEST)  # of which some are held back
    with device(tmp_path / "anna", release, enrolment, few) as anna:
        with pytest.raises(DeclinedError) as first:
            anna.contributor.advertise(ONE, task(release))
        anna.agent.learn(written(unseen_writers, 0, 40))
        anna.contributor.advertise(ONE, task(release))
        anna.contributor.close()
        with pytest.raises(DeclinedError) as second:
            anna.contributor.advertise(TWO, task(release))
    assert first.value.reason is second.value.reason is Reason.UNAVAILABLE
    assert str(first.value) == str(second.value)


def test_a_release_that_is_not_the_fleets_is_not_improved(anna, release):
    anna.agent.adopt(replace(release, manifest=replace(release.manifest, version=0, restores=1)))
    assert anna.agent.release.manifest.version == 0
    assert declined(lambda: anna.contributor.advertise(ONE, task(release))) is Reason.UNAVAILABLE


def test_who_cannot_pay_says_so_before_anything_is_shared(tmp_path, release, key, unseen_writers):
    limits = Limits(per_day=1.0, in_all=1.0, delta=1e-6)
    enrolment = enrolled("anna", key.public)
    corrections = written(unseen_writers, 0, 40)
    with device(tmp_path / "anna", release, enrolment, corrections, limits=limits) as anna:
        costly = task(release, noise=0.5)
        with pytest.raises(BudgetSpentError):
            anna.ledger.check_round(costly.rho, time.time())
        assert declined(lambda: anna.contributor.advertise(ONE, costly)) is Reason.BUDGET
        cheap = task(release, noise=50.0)
        anna.ledger.check_round(cheap.rho, time.time())
        anna.contributor.advertise(ONE, cheap)


def test_who_cannot_pay_any_more_keeps_its_vector(tmp_path, release, key, unseen_writers, devices):
    summing = Round(devices, key, task(release))
    summing.advertise()
    summing.share()
    anna = devices[0]
    # Reports are paid from the same budget meanwhile.
    anna.ledger.limits = Limits(per_day=1e-3, in_all=1e-3, delta=1e-6)
    assert declined(lambda: summing.masked_by("anna")) is Reason.BUDGET
    assert anna.ledger.rounds() == []


def test_that_training_failed_is_neither_seen_nor_explained(anna, release, monkeypatch, capfd):
    def failing(*_: object) -> np.ndarray:
        raise ValueError("anna wrote Q")

    monkeypatch.setattr(LocalTraining, "update", failing)
    asked = task(release)
    anna.contributor.advertise(ONE, asked)
    vector = anna.contributor._sum.training.vector(60)
    assert vector.shape == (asked.entries,)
    said = "".join(capfd.readouterr())
    assert "ValueError" in said
    assert "wrote" not in said


def test_recognition_goes_on_while_it_trains(anna, release, unseen_writers):
    anna.contributor.advertise(ONE, task(release))
    assert anna.contributor.is_training
    anna.agent.recognize(unseen_writers.observations[0])
    assert anna.contributor.is_training


def test_it_stops_at_once(tmp_path, release, key, unseen_writers):
    enrolment, many = enrolled("anna", key.public), []
    for writer in range(6):
        many += written(unseen_writers, writer, 160)
    with device(tmp_path / "anna", release, enrolment, many) as anna:
        anna.contributor.advertise(ONE, task(release))
        training = anna.contributor._sum.training
        assert training.is_alive()
        anna.contributor.close()
        assert not training.is_alive()
        assert training._vector is None
