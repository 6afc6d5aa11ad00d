"""What a server can find out from all that it sees of devices, beside what is promised.

    python benchmarks/privacy_audit.py

One row an attack: its advantage over guessing blindly, with a 95 % interval, the largest that the
promised epsilon allows at delta 1e-6, and the least epsilon that explains what was found. Rows
marked "no noise" or "in the clear" are of what no server sees: they show that the attack works.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from attacks import (
    Floats,
    Guesses,
    canary_scores,
    largest_advantage,
    least_epsilon,
    likelihood_ratio_attack,
    linking_attack,
    masked_vectors,
    sum_scores,
    threshold_attack,
)
from lying_devices import Defence, Device, improve
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from tables import show
from torch.nn import functional as F

from fedhw.data.writers import WriterSet
from fedhw.experts.evaluation import recognised
from fedhw.experts.global_expert import GlobalExpert
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.improvement.contribution import Task
from fedhw.improvement.improvement import Improvement, Recipe
from fedhw.improvement.local_update import LocalTraining, flat
from fedhw.improvement.public import Public
from fedhw.privacy.discrete_gaussian import epsilon_of
from fedhw.privacy.mechanism import GaussianMechanism
from fedhw.privacy.statistics import LATENCIES, Evaluation, Tally, make_report, vector
from fedhw.release.release import Release
from fedhw.research.train_release import make_release
from fedhw.research.training import Training

DELTA, CONFIDENCE = 1e-6, 0.95
WRITERS, CHARACTERS = 16, 124
LAUNCH = synthetic_writers(12, 124)
PEOPLE = synthetic_writers(range(500, 500 + WRITERS), CHARACTERS)
OWN = [PEOPLE.take(PEOPLE.rows_of(writer)) for writer in range(WRITERS)]
RANDOM = np.random.default_rng(0)
REPORTED = GaussianMechanism(2, DELTA, RANDOM.bytes)
RATE, RADIUS = 0.02, 20.0

REPORTS, CANARIES, WINDOWS = 10_000, 100_000, 50
SUMS, MASKED, IMPROVEMENTS = 100, 200, 16
"""How often each attack is made."""

ROUNDS = 4
"""Of an improvement."""

IDLE = (0,) * (len(LATENCIES) + 1)
WORST = [Tally(1, 0, 1, 1, 1, 10**6, (0, 0), IDLE), Tally(500, 500, 0, 0, 0, 500, (500, 0), IDLE)]
BEST = [Evaluation(9, 9, 0, 9, 0), Evaluation(9, 0, 9, 0, 9)]


class Finding(NamedTuple):
    """What an attack on something found; `epsilon` is promised, `least` is proved."""

    seen: str
    attack: str
    guesses: Guesses
    epsilon: float
    least: float = math.nan


def told_apart(seen: str, extremes: Sequence[Tally | Evaluation]) -> Finding:
    """Two extreme devices by one report of each."""
    direction = vector(extremes[0]) - vector(extremes[1])
    inside, outside = (
        np.array([reported(one, REPORTED) for _ in range(REPORTS)]) @ direction for one in extremes
    )
    guesses, least = threshold_attack(inside, outside), least_epsilon(inside, outside, DELTA, 0.05)
    return Finding(seen, "which of two extremes", guesses, REPORTED.epsilon, least)


def reported(counts: Tally | Evaluation, mechanism: GaussianMechanism) -> NDArray[np.int64]:
    return make_report(counts, "device", 1, "v1", mechanism).steps


def tally(expert: GlobalExpert, own: WriterSet) -> Tally:
    """Count a window of a device that has learned nothing yet."""
    is_right, count = recognised(expert, own.observations, own.labels), len(own)
    errors = np.bincount(own.labels[~is_right], minlength=len(own.classes))
    right = int(is_right.sum())
    return Tally(count, right, right, right, 0, count, tuple(errors.tolist()), (count, *IDLE[1:]))


def linked_reports(running: Release) -> list[Finding]:
    """Which writer of an earlier window a report is of."""
    attack, half = "whose of the window before", CHARACTERS // 2
    windows = [
        [tally(running.expert, own.take(np.arange(start, start + half))) for own in OWN]
        for start in (0, half)
    ]
    plain = linking_attack(*(np.array([vector(one) for one in window]) for window in windows))
    found = [
        linking_attack(
            *(np.array([reported(one, REPORTED) for one in window], float) for window in windows)
        )
        for _ in range(WINDOWS)
    ]
    return [
        Finding("window report, no noise", attack, plain, math.inf),
        Finding("window report", attack, together(found), REPORTED.epsilon),
    ]


def together(guesses: Sequence[Guesses]) -> Guesses:
    return Guesses(
        sum(each.right for each in guesses), sum(each.made for each in guesses), guesses[0].choices
    )


def task(running: Release, noise: float, devices: int) -> Task:
    return Task(flat(running.expert).tobytes(), RATE, RADIUS * RATE, noise, devices, devices)


def contributions(running: Release, asked: Task, seed: int) -> NDArray[np.int64]:
    """What each writer's device would add to a sum [W, P + 1]."""
    return np.stack(
        [
            asked.contribution(
                LocalTraining().update(
                    running.expert, own.observations, own.labels, asked.rate, seed
                ),
                RANDOM.bytes,
            )
            for own in OWN
        ]
    )


def rounds(running: Release) -> list[Finding]:
    """Contributions and their sums, first those that nobody sees."""
    plain, noised = task(running, 0.0, WRITERS), task(running, Recipe().noise, WRITERS)
    known, again = (contributions(running, plain, seed) for seed in (0, 1))
    link, member = "whose of the round before", "is the writer's device in"
    epsilon = epsilon_of(noised.rho, DELTA)
    findings = [
        Finding(
            "contribution in the clear, no noise",
            link,
            linking_attack(known.astype(float), again.astype(float)),
            math.inf,
        )
    ]
    for seen, asked, promised in (
        ("round sum, no noise", plain, math.inf),
        ("round sum", noised, epsilon),
    ):
        guesses = threshold_attack(*member_scores(asked, known))
        findings.append(Finding(seen, member, guesses, promised))
    canary = canary_scores(noised, CANARIES, RANDOM.bytes)
    least = least_epsilon(*canary, DELTA, 1 - CONFIDENCE)
    guesses = threshold_attack(*canary)
    return [*findings, Finding("round sum", "is the worst update in", guesses, epsilon, least)]


def member_scores(asked: Task, vectors: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Scores of sums of about half of the devices, each with one that is looked for, and without.

    The server knows what that one would add, and nothing of the others.
    """
    pairs = []
    for _ in range(SUMS):
        target = RANDOM.integers(WRITERS)
        takes_part = RANDOM.random(WRITERS) < 0.5
        takes_part[target] = False
        others = vectors[takes_part].sum(0)
        pairs.append(sum_scores(asked, vectors[target], others, 1, RANDOM.bytes))
    inside, outside = (np.concatenate(scores) for scores in zip(*pairs, strict=True))
    return inside, outside


def masked() -> list[Finding]:
    """Single masked vectors, of which nothing is to be learned at all."""
    none, full = np.zeros(64, np.int64), np.full(64, 2**31, np.int64)
    inside, outside = (
        -np.cos(
            2
            * math.pi
            * np.stack([masked_vectors(np.stack([own, none]))[0] for _ in range(MASKED)])
        ).mean(1)
        for own in (full, none)
    )
    vectors = np.eye(WRITERS, 64, dtype=np.int64) * 2**31
    linked = [
        linking_attack(masked_vectors(vectors), masked_vectors(vectors))
        for _ in range(MASKED // WRITERS)
    ]
    return [
        Finding("masked vector", "which of two", threshold_attack(inside, outside), 0.0),
        Finding("masked vector", "whose of the round before", together(linked), 0.0),
    ]


def experts(public: Public, running: Release, noise: float) -> list[Finding]:
    """Whether a writer was in an improvement, by how much better the expert reads them."""
    recipe = Recipe(rounds=ROUNDS, rate=RATE, noise=noise, rehearsal=0.0, radius=RADIUS)
    members = RANDOM.random((IMPROVEMENTS, WRITERS)) < 0.5
    before = np.array([loss(running.expert, own) for own in OWN])
    scores = []
    for seed, is_in in enumerate(
        track(members, f"experts, noise {noise:g}", console=Console(stderr=True))
    ):
        devices = [(Device(), OWN[w]) for w in np.flatnonzero(is_in)]
        improvement = Improvement(running.expert, public, recipe, seed)
        released = improve(improvement, devices, Defence.MASKED).expert
        scores.append(before - np.array([loss(released, own) for own in OWN]))
    found = np.array(scores)
    seen, epsilon = "improved expert, no noise", math.inf
    if noise > 0:
        seen, epsilon = "improved expert", epsilon_of(ROUNDS * task(running, noise, 8).rho, DELTA)
    attacks = {
        "was the writer in, by loss": threshold_attack(found[members], found[~members]),
        "was the writer in, by LiRA": likelihood_ratio_attack(found, members),
    }
    return [Finding(seen, attack, guesses, epsilon) for attack, guesses in attacks.items()]


@torch.no_grad()
def loss(expert: GlobalExpert, own: WriterSet) -> float:
    labels = torch.from_numpy(own.labels)
    return float(F.cross_entropy(expert(expert.scale(own.observations)), labels))


def main() -> None:
    torch.set_num_threads(1)
    with TemporaryDirectory() as directory:
        place = Path(directory) / "launch"
        make_release(place, LAUNCH, "lenet5", Training(epochs=8, batch=32), hold_out=0)
        running = Release.load(place)
        public = Public.of(LAUNCH, running)
    findings = [
        told_apart("window report", WORST),
        *linked_reports(running),
        told_apart("shadow report", BEST),
        *masked(),
        *rounds(running),
        *experts(public, running, 0.0),
        *experts(public, running, Recipe().noise),
    ]
    rows = []
    for seen, attack, guesses, epsilon, least in findings:
        low, high = guesses.interval(CONFIDENCE)
        rows.append(
            [
                *(seen, attack, f"{guesses.made} of {guesses.choices}", f"{guesses.advantage:.3f}"),
                f"{low:.3f} to {high:.3f}",
                f"{largest_advantage(epsilon, DELTA, guesses.choices):.3f}",
                "-" if math.isinf(epsilon) else f"{epsilon:.2f}",
                "" if math.isnan(least) else f"{least:.2f}",
            ]
        )
    show(
        ["what is seen", "attack", "guesses", "advantage", "95 %", "bound", "epsilon", "at least"],
        rows,
    )


if __name__ == "__main__":
    main()
