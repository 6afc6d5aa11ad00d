import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhw.errors import InputError
from fedhw.improvement.contribution import INDICATOR, SCALE, Task
from fedhw.privacy.discrete_gaussian import epsilon_of
from fedhw.privacy.mechanism import GRID

ENTRIES = 300


def task(**changes: float) -> Task:
    values = {"rate": 0.01, "radius": 2.0, "noise": 0.0, "devices": 8, "survivors": 8} | changes
    return Task(parameters=bytes(4 * ENTRIES), **values)


def updates(devices: int, norm: float, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(devices, ENTRIES))
    return (norm * drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@given(
    norm=st.floats(0, 1e30),
    radius=st.floats(1e-3, 1e3),
    sparse=st.booleans(),
    seed=st.integers(0, 100),
)
def test_no_contribution_is_longer_than_the_longest(
    norm: float, radius: float, sparse: bool, seed: int
) -> None:
    [update] = updates(1, norm, seed)
    if sparse:
        update[1:] = 0
    steps = task(radius=radius).contribution(update)
    assert math.sqrt(float(steps @ steps)) <= task().longest


def test_the_longest_is_little_more_than_the_ball() -> None:
    lenet = Task(bytes(4 * 66_126), 0.01, 1.0, 0.0, 60, 40)
    assert 1024 < lenet.longest < 1.01 * 1024


def test_the_mean_of_contributions_is_that_of_clipped_updates() -> None:
    given_updates = np.concatenate([updates(4, 1.0), updates(4, 50.0, seed=1)])
    asked = task()
    total = sum(asked.contribution(update) for update in given_updates)
    mean, within = asked.mean(total, 8)
    clipped = np.concatenate([given_updates[:4], given_updates[4:] * (2.0 / 50.0)])
    # Rounding by chance: half a step each at most, on average over eight devices.
    np.testing.assert_allclose(mean, clipped.mean(0), atol=2.0 * GRID / SCALE)
    assert within == pytest.approx(0.5, abs=GRID / INDICATOR)


def test_rounding_has_no_bias() -> None:
    asked = task(radius=1.0)
    update = np.full(ENTRIES, 0.3 * GRID, np.float32)
    drawn = np.mean([asked.contribution(update)[:-1] for _ in range(400)])
    assert drawn == pytest.approx(0.3 * SCALE, abs=5 * 0.5 / math.sqrt(400 * ENTRIES))


def test_noise_of_the_fewest_survivors_is_what_was_asked() -> None:
    asked = task(noise=1.5, devices=20, survivors=10)
    zero = np.zeros(ENTRIES, np.float32)
    sums = [sum(asked.contribution(zero) for _ in range(10)) for _ in range(20)]
    spread = np.std(np.array(sums)[:, :-1])
    assert spread == pytest.approx(1.5 * asked.longest, rel=0.05)


def test_more_noise_costs_less_and_no_noise_costs_everything() -> None:
    rhos = [task(noise=noise).rho for noise in (0.5, 1.0, 2.0)]
    assert sorted(rhos, reverse=True) == rhos
    assert rhos[1] == pytest.approx(0.5, rel=1e-3)  # 1 / (2 z^2)
    assert task(noise=0).rho == math.inf
    assert epsilon_of(task(noise=1.0).rho, 1e-6) == pytest.approx(5.3, abs=0.6)


@given(devices=st.integers(2, 100_000), noise=st.floats(0, 10), share=st.floats(0.1, 1))
def test_no_sum_overflows(devices: int, noise: float, share: float) -> None:
    asked = task(devices=devices, survivors=max(2, int(share * devices)), noise=noise)
    largest = devices * (asked.longest + 9.5 * asked.sigma)
    assert largest < 2 ** (asked.bits - 1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_update_that_is_no_number_says_nothing_else(bad: float) -> None:
    [update] = updates(1, 1.0)
    update[7] = bad
    mean, within = task().mean(task().contribution(update), 1)
    assert not mean.any()
    assert within == pytest.approx(0, abs=GRID / INDICATOR)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rate", math.nan),
        ("rate", 1.5),
        ("radius", 0.0),
        ("radius", math.inf),
        ("noise", -1.0),
        ("noise", math.nan),
        ("devices", 1),
        ("survivors", 9),
        ("survivors", 1),
    ],
)
def test_a_task_that_cannot_be_is_refused(field: str, value: float) -> None:
    with pytest.raises(InputError, match=field):
        task(**{field: value})


def test_every_term_is_in_the_digest() -> None:
    tasks = [
        task(),
        task(rate=0.02),
        task(radius=3.0),
        task(noise=1.0),
        task(devices=9),
        task(survivors=7),
        Task(b"\1" + bytes(4 * ENTRIES - 1), 0.01, 2.0, 0.0, 8, 8),
    ]
    assert len({each.digest for each in tasks}) == len(tasks)


@pytest.mark.parametrize("noise", [0.0, 0.5, 5.0])
def test_a_sum_that_honest_devices_cannot_have_made_is_seen(noise: float) -> None:
    asked = task(noise=noise)
    alike = np.repeat(updates(1, 100.0), 8, axis=0)  # no honest sum is longer
    honest = sum(asked.contribution(update) for update in alike)
    assert asked.is_plausible(honest, 8)
    lie = honest[:-1] / np.linalg.norm(honest[:-1])
    beyond = 8 * asked.longest + 4 * asked.sigma * math.sqrt(8 * ENTRIES)
    assert not asked.is_plausible(np.append(honest[:-1] + beyond * lie, 0).astype(np.int64), 8)
