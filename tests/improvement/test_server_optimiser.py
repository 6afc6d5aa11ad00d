import numpy as np
import pytest

from fedhw.improvement.server_optimiser import (
    FedAdam,
    FedAvgM,
    FedMuon,
    FedYogi,
    Moments,
    ServerOptimiser,
    Vector,
)

ALL = [
    FedAvgM(0.05, 0.5),
    FedAdam(0.05, 0.5),
    FedYogi(0.05, 0.5),
    FedMuon(0.05, 0.5),
]


def stepped(optimiser: ServerOptimiser, *updates: Vector) -> tuple[Vector, Moments]:
    """From zero, along one update after another."""
    at, moments = 0 * updates[0], Moments.zero(len(updates[0]))
    for update in updates:
        at, moments = optimiser.step(at, update, moments, [(len(update),)])
    return at, moments


@pytest.mark.parametrize("optimiser", ALL)
def test_every_optimiser_goes_to_the_minimum_of_a_bowl(optimiser: ServerOptimiser) -> None:
    shapes = [(2, 3), (2,)]
    at, moments = np.linspace(-3, 3, 8, dtype=np.float32), Moments.zero(8)
    for _ in range(2000):
        at, moments = optimiser.step(at, -0.1 * at, moments, shapes)
    np.testing.assert_allclose(at, 0, atol=0.1)
    assert at.dtype == moments.first.dtype == moments.second.dtype == np.float32


@pytest.mark.parametrize("optimiser", ALL)
def test_no_update_is_no_step(optimiser: ServerOptimiser) -> None:
    none = np.zeros(4, np.float32)
    after, _ = optimiser.step(none, none, Moments.zero(4), [(2, 2)])
    np.testing.assert_array_equal(after, none)


def test_momentum_goes_on_without_an_update() -> None:
    after, _ = stepped(FedAvgM(1.0, 0.5), np.ones(1, np.float32), np.zeros(1, np.float32))
    assert after.tolist() == [1.5]


@pytest.mark.parametrize("kind", [FedAdam, FedYogi])
def test_adaptive_steps_do_not_depend_on_the_scale_of_updates(kind: type[FedAdam]) -> None:
    near, far = (
        stepped(kind(0.1, caution=1e-9), np.full(1, scale, np.float32))[0] for scale in (1.0, 1e3)
    )
    np.testing.assert_allclose(near, far, rtol=1e-4)


def test_yogi_forgets_a_large_update_slowly() -> None:
    updates = [np.full(1, 100.0, np.float32)] + 300 * [np.full(1, 0.1, np.float32)]
    adam, yogi = (float(stepped(kind(), *updates)[1].second[0]) for kind in (FedAdam, FedYogi))
    assert adam < 0.1 * yogi


def test_muon_goes_as_far_in_weak_directions_as_in_strong_ones() -> None:
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 4)))[0]
    update = (turned @ np.diag([1.0, 0.8, 0.5, 0.4])).astype(np.float32)
    after, _ = FedMuon(0.1, 0.0).step(
        np.zeros(24, np.float32), update.ravel(), Moments.zero(24), [(6, 4)]
    )
    lengths = np.linalg.svd(after.reshape(6, 4), compute_uv=False)
    np.testing.assert_allclose(lengths, 0.1 * (6 / 4) ** 0.5, rtol=0.05)
