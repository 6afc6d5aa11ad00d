"""What an improvement is worth under user-level privacy, by epsilon and by the size of the fleet.

Synthetic writers: 90 for the launch, a fleet of which all devices take part in every round, 40 whom
nobody trains on. A round among so many is simulated by 30 devices, drawn anew from 400: each stands
for many, and the mean gets the noise that it would have in the whole fleet (as in pfl-research,
arXiv 2404.06430). So it leaves out that a mean of many is itself better known: what it shows is a
little too little.

    python benchmarks/private_improvement.py [--seed 0]
"""

import argparse
import math
from dataclasses import replace

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from scipy.optimize import brentq
from tables import show

from fedhw.experts.evaluation import accuracy
from fedhw.experts.global_expert import GlobalExpert, build
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.improvement.improvement import Improvement, Recipe
from fedhw.improvement.public import Public
from fedhw.privacy.discrete_gaussian import epsilon_of
from fedhw.research.simulation.simulated_rounds import take_round
from fedhw.research.training import Training, train_expert

LAUNCH, POOL, TESTED, CHARACTERS = 90, 400, 40, 124
SIMULATED = 30
"""Devices whose training is computed in a round."""

EPSILONS, DELTA = (1.0, 2.0, 4.0, 8.0), 1e-6
FLEETS = (10**3, 10**4, 10**5)

RECIPE = Recipe(rounds=20, noise=0.0, rehearsal=0.3, writers=12)
"""Few rounds: each is one more vector that noise has to hide."""


def noise_for(epsilon: float, fleet: int) -> float:
    """The noise of the simulated devices' sum whose mean is that of the fleet's at epsilon.

    Everybody takes part in every round, and the rhos of the rounds add up.
    """
    rho = brentq(lambda rho: epsilon_of(rho, DELTA) - epsilon, 1e-6, 100.0) / RECIPE.rounds
    return SIMULATED / fleet / math.sqrt(2 * rho)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    torch.set_num_threads(1)
    launch_writers = synthetic_writers(range(LAUNCH), CHARACTERS)
    generic = synthetic_writers(range(10_000, 10_030), CHARACTERS)
    tested = synthetic_writers(range(20_000, 20_000 + TESTED), CHARACTERS)
    people = synthetic_writers(range(30_000, 30_000 + POOL), CHARACTERS)
    torch.manual_seed(seed)
    launch = build("lenet5", len(generic.classes))
    train_expert(
        launch, launch_writers.observations, launch_writers.labels, Training(30, seed=seed)
    )
    public = Public(launch_writers, generic)
    own = [people.take(people.rows_of(w)) for w in range(POOL)]

    def improved(noise: float) -> GlobalExpert:
        improvement = Improvement(launch, public, replace(RECIPE, noise=noise), seed)
        state, random = improvement.begin(), np.random.default_rng(seed)
        for _ in range(RECIPE.rounds):
            cohort = [own[i] for i in random.permutation(POOL)[:SIMULATED]]
            state = take_round(improvement, state, cohort, random)
        return improvement.expert(state)

    def gain(expert: GlobalExpert) -> str:
        after, before = (accuracy(e, tested.observations, tested.labels) for e in (expert, launch))
        return f"{100 * (after - before):+.1f}"

    rows = [
        [f"{epsilon:g}", *(gain(improved(noise_for(epsilon, fleet))) for fleet in FLEETS)]
        for epsilon in track(EPSILONS, "epsilons", console=Console(stderr=True))
    ]
    free = gain(improved(0.0))
    show(
        ["epsilon", *(f"{fleet:,} devices" for fleet in FLEETS)],
        [*rows, ["no noise", *[free] * len(FLEETS)]],
    )
    print(
        f"The launch expert reads {accuracy(launch, tested.observations, tested.labels):.1%} of "
        f"{len(tested):,} tested characters."
    )


if __name__ == "__main__":
    main()
