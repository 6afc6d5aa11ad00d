import numpy as np
import pytest
from lying_devices import (
    MAX_TRIES,
    Defence,
    Device,
    Improved,
    LabelFlipped,
    NotANumber,
    Scaled,
    improve,
)

from fedhw.experts.evaluation import accuracy
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.improvement.contribution import Task
from fedhw.improvement.improvement import Improvement, Recipe
from fedhw.improvement.public import Public
from fedhw.improvement.server_optimiser import FedMuon
from fedhw.improvement.verdicts import Outcome
from fedhw.release.release import Release
from fedhw.research.train_release import make_release
from fedhw.research.training import Training

DEVICES = 20
PEOPLE = synthetic_writers(range(300, 300 + DEVICES), 62)
STRANGERS = synthetic_writers(range(400, 410), 62)
RECIPE = Recipe(
    rounds=12, rate=0.01, noise=0.0, writers=4, radius=50.0, optimiser=FedMuon(0.1, 0.9)
)


@pytest.fixture(scope="module")
def improvement(tmp_path_factory: pytest.TempPathFactory) -> Improvement:
    launch, place = synthetic_writers(10, 124), tmp_path_factory.mktemp("launch") / "release"
    make_release(place, launch, "lenet5", Training(epochs=6, batch=32), hold_out=0)
    running = Release.load(place)
    return Improvement(running.expert, Public.of(launch, running), RECIPE)


def run(improvement: Improvement, liar: Device, liars: int, defence: Defence) -> Improved:
    return improve(
        improvement,
        [(liar if w < liars else Device(), PEOPLE.take(PEOPLE.rows_of(w))) for w in range(DEVICES)],
        defence,
    )


def reached(found: Improved) -> float:
    return accuracy(found.expert, STRANGERS.observations, STRANGERS.labels)


@pytest.fixture(scope="module")
def honest(improvement: Improvement) -> float:
    return reached(run(improvement, Device(), 0, Defence.MASKED))


@pytest.fixture(scope="module")
def before(improvement: Improvement) -> float:
    return accuracy(improvement.running, STRANGERS.observations, STRANGERS.labels)


def test_honest_devices_improve_the_expert(honest: float, before: float) -> None:
    assert honest > before + 0.03


def test_a_fifth_with_wrong_labels_takes_little_of_it_away(
    improvement: Improvement, honest: float
) -> None:
    found = run(improvement, LabelFlipped(), 4, Defence.MASKED)
    assert reached(found) > honest - 0.04
    assert found.verdict.outcome is Outcome.PASS
    assert found.dropped == 0


@pytest.mark.parametrize(("liar", "liars"), [(Scaled(100), 1), (NotANumber(), 1), (Scaled(-10), 4)])
def test_under_masks_what_is_out_of_bounds_ends_the_improvement(
    improvement: Improvement, liar: Device, liars: int
) -> None:
    found = run(improvement, liar, liars, Defence.MASKED)
    assert found.dropped >= MAX_TRIES
    assert found.verdict.outcome is Outcome.REJECT


@pytest.mark.parametrize(
    ("liar", "defence"),
    [
        (Scaled(100), Defence.TRIMMED),
        (NotANumber(), Defence.TRIMMED),
        (NotANumber(), Defence.CLIPPED),
    ],
)
def test_without_masks_the_expert_improves_though_a_fifth_lie(
    improvement: Improvement, before: float, liar: Device, defence: Defence
) -> None:
    found = run(improvement, liar, 4, defence)
    assert reached(found) > before + 0.02
    assert found.verdict.outcome is Outcome.PASS
    assert found.dropped == 0


# What a single one sends

TASK = Task(bytes(4 * 50), 0.01, 1.0, 0.0, devices=4, survivors=4)
LEARNED = np.random.default_rng(0).normal(size=50).astype(np.float32)


def sent(device: Device) -> np.ndarray:
    return device.contribution(TASK, LEARNED, np.random.default_rng(0))


def test_an_honest_contribution_is_within_bounds_and_a_scaled_one_is_not() -> None:
    assert np.linalg.norm(sent(Device())) <= TASK.longest
    assert np.linalg.norm(sent(Scaled(-1))) <= TASK.longest
    assert np.linalg.norm(sent(Scaled(100))) > 90 * TASK.longest
    np.testing.assert_array_equal(sent(Scaled(-1)), -sent(Device()))
    np.testing.assert_array_equal(Scaled(3).update(LEARNED), 3 * LEARNED)


def test_no_flipped_label_is_right() -> None:
    labels = np.arange(62)
    flipped = LabelFlipped().labels(labels, 62)
    assert not (flipped == labels).any()
    assert set(flipped) == set(labels)


def test_under_masks_no_number_is_any_number_of_the_ring() -> None:
    assert np.isnan(NotANumber().update(LEARNED)).all()
    drawn = sent(NotANumber())
    assert drawn.shape == (TASK.entries,)
    assert 0 <= drawn.min() <= drawn.max() < 2**TASK.bits
    assert not TASK.is_plausible(drawn, 4)
