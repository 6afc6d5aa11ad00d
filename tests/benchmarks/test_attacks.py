import math

import numpy as np
import pytest
from attacks import (
    Guesses,
    canary_scores,
    clopper_pearson,
    largest_advantage,
    least_epsilon,
    likelihood_ratio_attack,
    linking_attack,
    masked_vectors,
    sum_scores,
    threshold_attack,
)
from hypothesis import given
from hypothesis import strategies as st

from fedhw.improvement.contribution import Task
from fedhw.privacy.discrete_gaussian import epsilon_of
from fedhw.privacy.mechanism import GaussianMechanism
from fedhw.privacy.statistics import Evaluation, Tally, make_report, vector

DELTA = 1e-6
NEVER = 1e-6
"""How often a test may fail though all is well."""


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def round_of(noise: float, entries: int = 100) -> Task:
    return Task(bytes(4 * (entries - 1)), 0.01, 2.0, noise, devices=10, survivors=10)


def reports(counts: Tally | Evaluation, mechanism: GaussianMechanism, count: int) -> np.ndarray:
    drawn = [make_report(counts, "d", 1, "v1", mechanism).steps for _ in range(count)]
    return np.array(drawn, float)


# How well an attack does


@given(epsilon=st.floats(0, 50), delta=st.floats(0, 0.1), choices=st.integers(2, 100))
def test_the_largest_advantage_is_between_none_and_all(
    epsilon: float, delta: float, choices: int
) -> None:
    bound = largest_advantage(epsilon, delta, choices)
    assert 0 <= bound <= 1
    assert bound <= largest_advantage(epsilon + 1, delta, choices)
    of_two = (math.exp(epsilon) - 1 + 2 * delta) / (math.exp(epsilon) + 1)
    assert largest_advantage(epsilon, delta) == pytest.approx(of_two, abs=1e-12)


@pytest.mark.parametrize("choices", [2, 3, 10])
def test_randomised_response_has_the_largest_advantage(choices: int) -> None:
    """Warner 1965: tell the truth exp(epsilon) times as often as each other answer."""
    truth = math.e / (math.e + choices - 1)
    assert Guesses(0, 1, choices)._replace(right=truth).advantage == pytest.approx(
        largest_advantage(1.0, 0.0, choices)
    )


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.97])
def test_an_interval_misses_as_seldom_as_it_says(rate: float, random: np.random.Generator) -> None:
    hits = random.binomial(50, rate, 2000)
    missed = sum(
        not low <= rate <= high for low, high in (clopper_pearson(h, 50, 0.1) for h in hits)
    )
    assert missed / 2000 < 0.1 + 5 * math.sqrt(0.09 / 2000)


def test_right_and_wrong_guesses_are_told_apart() -> None:
    assert Guesses(100, 100).advantage == 1
    assert Guesses(5, 50, choices=10).advantage == pytest.approx(0)
    low, high = Guesses(75, 100).interval(0.95)
    assert 0.3 < low < 0.5 < high < 0.7


@pytest.mark.parametrize("distance", [0.0, 1.0, 3.0])
def test_a_threshold_finds_the_distance_of_two_normal_distributions(
    distance: float, random: np.random.Generator
) -> None:
    outside, inside = random.normal(size=(2, 20_000)) + np.array([[0.0], [distance]])
    low, high = threshold_attack(inside, outside).interval(1 - NEVER)
    best = math.erf(distance / 2 / math.sqrt(2))
    assert low < best < high + 0.01  # the threshold is learned, so not quite the best


def test_the_least_epsilon_is_near_that_of_laplace_noise_and_not_above(
    random: np.random.Generator,
) -> None:
    outside, inside = random.laplace(size=(2, 100_000)) + np.array([[0.0], [1.0]])
    assert 0.8 < least_epsilon(inside, outside, 0.0, NEVER) < 1.0
    same = random.laplace(size=(2, 100_000))
    assert least_epsilon(*same, 0.0, NEVER) < 0.1


def test_likelihood_ratios_tell_members_by_what_is_usual_for_each(
    random: np.random.Generator,
) -> None:
    members = random.random((20, 30)) < 0.5
    usual = random.normal(0, 100, 30)
    noise = random.normal(size=members.shape)
    told = likelihood_ratio_attack(usual + 4 * members + noise, members)
    assert told.interval(1 - NEVER)[0] > 0.7
    blind = likelihood_ratio_attack(usual + noise, members)
    low, high = blind.interval(1 - NEVER)
    assert low < 0 < high
    with pytest.raises(ValueError, match="two runs"):
        likelihood_ratio_attack(noise[:3], members[:3] & False)


# Reports

IDLE = (0,) * 10
EXTREMES = [
    [Tally(1, 0, 1, 1, 1, 10**6, (0, 0), IDLE), Tally(500, 500, 0, 0, 0, 500, (500, 0), IDLE)],
    [Evaluation(9, 9, 0, 9, 0), Evaluation(9, 0, 9, 0, 9)],
]


def told_apart(extremes: list[Tally | Evaluation], mechanism: GaussianMechanism) -> Guesses:
    direction = vector(extremes[0]) - vector(extremes[1])
    return threshold_attack(*(reports(one, mechanism, 4000) @ direction for one in extremes))


@pytest.mark.parametrize("extremes", EXTREMES)
def test_reports_of_extremes_are_told_apart_no_further_than_epsilon_says(
    extremes: list[Tally | Evaluation], random: np.random.Generator
) -> None:
    low, _ = told_apart(extremes, GaussianMechanism(2, DELTA, random.bytes)).interval(1 - NEVER)
    assert 0.05 < low < largest_advantage(2, DELTA)


@pytest.mark.parametrize("extremes", EXTREMES)
def test_reports_with_too_little_noise_are_caught(
    extremes: list[Tally | Evaluation], random: np.random.Generator
) -> None:
    low, _ = told_apart(extremes, GaussianMechanism(60, DELTA, random.bytes)).interval(1 - NEVER)
    assert low > largest_advantage(2, DELTA)


def test_reports_of_one_writer_are_not_linked_by_what_is_usual_for_them(
    random: np.random.Generator,
) -> None:
    mechanism = GaussianMechanism(2, DELTA, random.bytes)
    writers = [
        Tally(9, 0, 0, 0, 0, 9, tuple(9 * (c == w) for c in range(40)), IDLE) for w in range(40)
    ]
    plain = np.array([vector(tally) for tally in writers])
    assert linking_attack(plain, plain) == Guesses(40, 40, 40)
    right = 0
    for _ in range(25):
        one, other = (np.concatenate([reports(w, mechanism, 1) for w in writers]) for _ in "12")
        right += linking_attack(one, other).right
    low, high = Guesses(right, 25 * 40, 40).interval(1 - NEVER)
    assert low <= 0 <= high


# Sums


@pytest.mark.parametrize("noise", [1.0, 2.0])
def test_a_canary_in_a_sum_tells_no_more_than_rho_says(
    noise: float, random: np.random.Generator
) -> None:
    asked = round_of(noise)
    scores = canary_scores(asked, 50_000, random.bytes)
    epsilon = epsilon_of(asked.rho, DELTA)
    found = least_epsilon(*scores, DELTA, NEVER)
    assert 0.2 * epsilon < found < epsilon
    low, high = threshold_attack(*scores).interval(1 - NEVER)
    assert low < math.erf(1 / noise / 2 / math.sqrt(2)) < high + 0.01  # 1 / noise deviations apart
    assert low < largest_advantage(epsilon, DELTA)


@pytest.mark.parametrize("noise", [1.0, 2.0])
def test_the_audit_catches_noise_ten_times_too_small(
    noise: float, random: np.random.Generator
) -> None:
    claimed = epsilon_of(round_of(noise).rho, DELTA)
    scores = canary_scores(round_of(noise / 10), 50_000, random.bytes)
    assert least_epsilon(*scores, DELTA, NEVER) > claimed


def test_scores_are_those_of_whole_contributions(random: np.random.Generator) -> None:
    """What is drawn of the noise alone is spread as it is in sums that are made in full."""
    asked = round_of(1.0)
    update = random.normal(size=asked.entries - 1).astype(np.float32)
    own = round_of(0.0).contribution(update, random.bytes)
    none = np.zeros_like(own)
    inside, outside = sum_scores(asked, own, none, 2000, random.bytes)
    full = np.array(
        [sum(asked.contribution(0 * update, random.bytes) for _ in range(10)) for _ in range(200)]
    )
    scores = full[:, :-1] @ own[:-1] / np.linalg.norm(own)
    assert outside.std() == pytest.approx(scores.std(), rel=0.3)
    assert inside.mean() - outside.mean() == pytest.approx(np.linalg.norm(own), rel=0.2)


# Masked vectors


def likeness(seen: np.ndarray, own: np.ndarray) -> np.ndarray:
    """1 where residues, as shares of the modulus, are those of a vector, 0 where they are any."""
    return np.cos(2 * math.pi * (seen - own / 2**32)).mean(-1)


def test_a_masked_vector_tells_nothing() -> None:
    none, full = np.zeros(32, np.int64), np.full(32, 2**31, np.int64)
    assert likeness(full / 2**32, full) == 1
    assert likeness(none, full) == -1
    inside, outside = (
        likeness(np.stack([masked_vectors(np.stack([own, none]))[0] for _ in range(300)]), full)
        for own in (full, none)
    )
    low, high = threshold_attack(inside, outside).interval(1 - NEVER)
    assert low <= 0 <= high


def test_masked_vectors_of_one_device_are_not_linked() -> None:
    vectors = np.eye(8, 64, dtype=np.int64) * 2**31
    assert linking_attack(vectors * 1.0, vectors * 1.0).right == 8
    right = sum(
        linking_attack(masked_vectors(vectors), masked_vectors(vectors)).right for _ in range(30)
    )
    low, high = Guesses(right, 30 * 8, 8).interval(1 - NEVER)
    assert low <= 0 <= high
