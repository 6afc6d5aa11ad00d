import numpy as np
import pytest

from fedhw.improvement.server_optimiser import FedMuon
from tests.fed_avg_m import FedAvgM

ALL = [FedAvgM(0.05, 0.5), FedMuon(0.05, 0.5)]


@pytest.mark.parametrize("optimiser", ALL)
def test_every_optimiser_goes_to_the_minimum_of_a_bowl(optimiser: FedMuon) -> None:
    shapes = [(2, 3), (2,)]
    at, velocity = np.linspace(-3, 3, 8, dtype=np.float32), np.zeros(8, np.float32)
    for _ in range(2000):
        at, velocity = optimiser.step(at, -0.1 * at, velocity, shapes)
    np.testing.assert_allclose(at, 0, atol=0.1)
    assert at.dtype == velocity.dtype == np.float32


@pytest.mark.parametrize("optimiser", ALL)
def test_no_update_is_no_step(optimiser: FedMuon) -> None:
    none = np.zeros(4, np.float32)
    after, _ = optimiser.step(none, none, none, [(2, 2)])
    np.testing.assert_array_equal(after, none)


def test_momentum_goes_on_without_an_update() -> None:
    none, one = np.zeros(1, np.float32), np.ones(1, np.float32)
    optimiser = FedAvgM(1.0, 0.5)
    at, velocity = optimiser.step(none, one, none, [(1,)])
    after, _ = optimiser.step(at, none, velocity, [(1,)])
    assert after.tolist() == [1.5]


def test_without_momentum_the_update_is_the_step() -> None:
    one = np.ones(1, np.float32)
    after, _ = FedAvgM(1.0, 0.0).step(one, 2 * one, 0 * one, [(1,)])
    assert after.tolist() == [3.0]


def test_muon_goes_as_far_in_weak_directions_as_in_strong_ones() -> None:
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 4)))[0]
    update = (turned @ np.diag([1.0, 0.8, 0.5, 0.4])).astype(np.float32)
    after, _ = FedMuon(0.1, 0.0).step(
        np.zeros(24, np.float32), update.ravel(), np.zeros(24, np.float32), [(6, 4)]
    )
    lengths = np.linalg.svd(after.reshape(6, 4), compute_uv=False)
    np.testing.assert_allclose(lengths, 0.1 * (6 / 4) ** 0.5, rtol=0.05)
