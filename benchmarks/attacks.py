"""Attacks on everything that a server sees of devices, and their advantage.

An attack guesses which of several equally likely cases it sees: was the device in the sum or not,
which of the writers sent this. Its advantage is 0 for guessing blindly and 1 for always right.
(Epsilon, delta)-differential privacy bounds the advantage of any attack.

    largest_advantage         the bound that follows from epsilon and delta
    threshold_attack          learns a threshold on two lists of scores, then guesses
    likelihood_ratio_attack   compares scores of several improvements, with a writer and without
    linking_attack            finds the writer whose earlier vector is the most similar
    Guesses.interval          a confidence interval of the advantage
    least_epsilon             the least epsilon that explains two lists of scores
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
    """The guesses that were right, those that were made, and the choices of each."""

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

    For two choices see Kairouz, Oh, Viswanath 2015, arXiv 1311.0776. For k choices: the probability
    to guess i where i is true is at most exp(epsilon) times that where j is true, plus delta. The
    sum over all i and j, with p the probability to be right, is
    (k - 1) p <= exp(epsilon) (1 - p) + (k - 1) delta.

    >>> round(largest_advantage(1, 0), 3), largest_advantage(0, 0), largest_advantage(math.inf, 0)
    (0.462, 0.0, 1.0)
    """
    unlikely = math.exp(-epsilon)
    return min(1.0, (1 + (choices * delta - 1) * unlikely) / (1 + (choices - 1) * unlikely))


def _advantage(rate: float, choices: int) -> float:
    return (choices * rate - 1) / (choices - 1)


def clopper_pearson(hits: int, runs: int, doubt: float) -> tuple[float, float]:
    """Return an interval that misses the true rate with a probability of at most `doubt`."""
    low = float(beta.ppf(doubt / 2, hits, runs - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - doubt / 2, hits + 1, runs - hits)) if hits < runs else 1.0
    return low, high


def least_epsilon(inside: Floats, outside: Floats, delta: float, doubt: float) -> float:
    """Return an epsilon that is above the true one with a probability of at most `doubt`.

    Every second pair of scores [N] chooses the thresholds, the others test them:
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
    """Guess membership by a threshold on scores [N]; members have higher scores.

    Every second pair of scores chooses the threshold; guesses are made on the others.
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
    """Guess membership, bool [R, W], from the scores [R, W] of W writers in R runs.

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
    """Guess the writer of each row of `seen` [W, D] by the nearest row of `known` [W, D].

    The nearest is the one with the smallest angle, after subtraction of the mean row.
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
    """Return the projections of round sums on one device's vector, with the device and without.

    `vector` [D] and `others` [D], the sum of the other vectors, are without noise, which all
    survivors add; each list has [runs] scores. Entries where the vector is 0 do not count, so their
    noise is not drawn.
    """
    seen = np.flatnonzero(vector)
    own, rest = vector[seen], others[seen]
    direction = own / np.linalg.norm(own)
    shape = (2, runs, task.survivors, len(seen))
    noise = discrete_gaussian(task.sigma, math.prod(shape), source).reshape(shape).sum(2)
    return (own + rest + noise[0]) @ direction, (rest + noise[1]) @ direction


def canary_scores(task: Task, runs: int, source: Callable[[int], bytes]) -> tuple[Floats, Floats]:
    """Return the scores of sums with a device whose update is the worst case, and without it.

    The worst case has the largest length, in a single entry, and the server knows it and all other
    vectors: Jagielski, Ullman, Oprea 2020, arXiv 2006.07709.
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
