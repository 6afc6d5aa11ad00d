"""Attacks on all that a server sees of devices, and how well they do against what is promised.

An attack guesses which of some equally likely cases it looks at: was the device in the sum or not,
which of the writers sent this. Its advantage is 0 for guessing blindly and 1 for always right. What
is (epsilon, delta)-differentially private holds it below a bound, whatever the attack.

    the largest advantage     follows from epsilon and delta          largest_advantage
    of two lists of scores    learn a threshold, then guess           threshold_attack
    of several improvements   how usual is the score for who was in,  likelihood_ratio_attack
                              how usual for who was out
    of many writers           whose is most like it                   linking_attack
    how often were they right, surely                                 Guesses.interval
    the least epsilon that explains two lists of scores               least_epsilon
"""

import math
import os
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray
from scipy.stats import beta

from fedhw.improvement.contribution import Task
from fedhw.privacy import secure_sum
from fedhw.privacy.discrete_gaussian import discrete_gaussian
from fedhw.release.signing import ReleaseKey

Floats = NDArray[np.float64]

LEVELS = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
"""Quantiles of scores at which `least_epsilon` tries a threshold."""


class Guesses(NamedTuple):
    """How many guesses were right of those made, each among so many choices."""

    right: int
    made: int
    choices: int = 2

    @property
    def advantage(self) -> float:
        """0 for guessing blindly, 1 for always right."""
        return _advantage(self.right / self.made, self.choices)

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return an interval that covers the true advantage with at least that confidence.

        Clopper and Pearson 1934; also where guesses are not equally hard (Hoeffding 1956).
        """
        low, high = clopper_pearson(self.right, self.made, 1 - confidence)
        return _advantage(low, self.choices), _advantage(high, self.choices)


def largest_advantage(epsilon: float, delta: float, choices: int = 2) -> float:
    """Return the largest advantage that any attack has on what is (epsilon, delta)-private.

    Of two choices Kairouz, Oh, Viswanath 2015, arXiv 1311.0776. Of k: where i is true, to guess i
    has at most exp(epsilon) times the chance, and delta, that it has where j is. Added up over all
    i and j, with p the chance of being right: (k - 1) p <= exp(epsilon) (1 - p) + (k - 1) delta.

    >>> round(largest_advantage(1, 0), 3), largest_advantage(0, 0), largest_advantage(math.inf, 0)
    (0.462, 0.0, 1.0)
    """
    unlikely = math.exp(-epsilon)
    return min(1.0, (1 + (choices * delta - 1) * unlikely) / (1 + (choices - 1) * unlikely))


def _advantage(rate: float, choices: int) -> float:
    return (choices * rate - 1) / (choices - 1)


def clopper_pearson(hits: int, runs: int, doubt: float) -> tuple[float, float]:
    """Return an interval that misses the true rate with a chance of `doubt` at most."""
    low = float(beta.ppf(doubt / 2, hits, runs - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - doubt / 2, hits + 1, runs - hits)) if hits < runs else 1.0
    return low, high


def least_epsilon(inside: Floats, outside: Floats, delta: float, doubt: float) -> float:
    """Return an epsilon that is above the true one with a chance of `doubt` at most.

    Every second pair of scores [N] says where thresholds may lie, the others whether they tell:
    (rate inside - delta) / rate outside <= exp(epsilon), and the same for what is below them.
    """
    levels = np.quantile(np.concatenate([inside[::2], outside[::2]]), LEVELS)
    bounds, each = [0.0], doubt / (2 * len(levels))
    for level in levels:
        for sign in (1, -1):
            rates = [
                clopper_pearson(int((sign * scores > sign * level).sum()), len(scores), each)
                for scores in (inside[1::2], outside[1::2])
            ]
            (likely, _), (_, unlikely) = rates if sign > 0 else rates[::-1]
            if likely > delta:
                bounds.append(math.log((likely - delta) / unlikely))
    return max(bounds)


def threshold_attack(inside: Floats, outside: Floats) -> Guesses:
    """Guess by a threshold on scores [N] who was in, the higher the likelier.

    It is chosen by every second pair of scores; guesses are made on the others.
    """
    levels = np.concatenate([inside[::2], outside[::2]])
    missed, left_out = (
        np.searchsorted(np.sort(scores[::2]), levels, side="right") for scores in (inside, outside)
    )
    level = levels[np.argmax(left_out - missed)]
    tried, other = inside[1::2], outside[1::2]
    right = int((tried > level).sum() + (other <= level).sum())
    return Guesses(right, len(tried) + len(other))


def likelihood_ratio_attack(scores: Floats, members: NDArray[np.bool_]) -> Guesses:
    """Guess from the scores [R, W] of W writers in R runs who was a member, bool [R, W].

    This is LiRA (Carlini et al. 2022, arXiv 2112.03570): in each run, a writer's scores in all the
    others say what is usual for a member and what is not. They are few, so both are taken to be
    normal and spread alike: the nearer mean is the likelier. Guesses of one run count as
    independent: Steinke, Nasr, Jagielski 2023, arXiv 2305.08846. Raises ValueError where a writer
    was a member in fewer than two runs, or in all but fewer.
    """
    if min(members.sum(0).min(), (~members).sum(0).min()) < 2:
        raise ValueError("each writer must be a member in two runs, and no member in two")
    guesses = np.empty_like(members)
    for run, found in enumerate(scores):
        others = np.arange(len(scores))[:, None] != run
        to_members, to_the_rest = (
            np.abs(found - np.nanmean(np.where(chosen & others, scores, np.nan), axis=0))
            for chosen in (members, ~members)
        )
        guesses[run] = to_members < to_the_rest
    return Guesses(int((guesses == members).sum()), members.size)


def linking_attack(known: Floats, seen: Floats) -> Guesses:
    """Guess for each row of `seen` [W, D] whose it is: whose row of `known` [W, D] is next to it.

    By the angle between them, less what all the rows have in common.
    """
    one, other = (rows - rows.mean(0) for rows in (known, seen))
    one, other = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (one, other))
    guessed = (other @ one.T).argmax(1)
    return Guesses(int((guessed == np.arange(len(seen))).sum()), len(seen), len(known))


def sum_scores(
    task: Task,
    vector: NDArray[np.int64],
    others: NDArray[np.int64],
    runs: int,
    source: Callable[[int], bytes],
) -> tuple[Floats, Floats]:
    """Return how far round sums go in the direction of one device's vector, with it and without.

    `vector` [D] and `others` [D], the sum of all the others', are without noise, which all
    survivors add; each list has [runs] scores. Entries where the vector is 0 do not count, so the
    noise of those is not drawn.
    """
    seen = np.flatnonzero(vector)
    own, rest = vector[seen], others[seen]
    direction = own / np.linalg.norm(own)
    shape = (2, runs, task.survivors, len(seen))
    noise = discrete_gaussian(task.sigma, math.prod(shape), source).reshape(shape).sum(2)
    return (own + rest + noise[0]) @ direction, (rest + noise[1]) @ direction


def canary_scores(task: Task, runs: int, source: Callable[[int], bytes]) -> tuple[Floats, Floats]:
    """Return the scores of sums with a device whose update is the worst, and without it.

    The worst is as long as it may be and known to the server, as all the others' vectors are, in a
    single entry: Jagielski, Ullman, Oprea 2020, arXiv 2006.07709.
    """
    canary = np.zeros(task.entries - 1, np.float32)
    canary[0] = task.radius
    vector = replace(task, noise=0.0).contribution(canary, source)
    return sum_scores(task, vector, np.zeros_like(vector), runs, source)


def masked_vectors(vectors: NDArray[np.int64]) -> Floats:
    """Return what a server sees of vectors [N, D] of N devices in a secure sum of 32 bits.

    Each entry is a residue between -0.5 and 0.5 of the modulus.
    """
    release_key = ReleaseKey(Ed25519PrivateKey.generate())
    names = [f"device-{number}" for number in range(len(vectors))]
    terms = secure_sum.Terms(os.urandom(16), vectors.shape[1], 32, len(names), b"audit")
    advertised: dict[str, tuple[secure_sum.Advertised, secure_sum.Keys]] = {}
    for name in names:
        report_key = Ed25519PrivateKey.generate()
        certificate = release_key.certify(name, report_key.public_key().public_bytes_raw())
        advertised[name] = secure_sum.advertise(terms, name, report_key, certificate)
    shared = {}
    for name, (state, _) in advertised.items():
        neighbours = [keys for peer, (_, keys) in advertised.items() if peer != name]
        shared[name] = secure_sum.share(state, neighbours, release_key.public, len(names))
    seen = []
    for name, vector in zip(names, vectors, strict=True):
        envelopes = {peer: sent[name] for peer, (_, sent) in shared.items() if peer != name}
        _, content = secure_sum.mask(shared[name][0], vector, envelopes)
        seen.append(np.frombuffer(content, "<i4") / 2**32)
    return np.stack(seen)
