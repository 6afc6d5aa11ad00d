"""One improvement of the global expert: federated averaging with rehearsal and weight averaging.

    for each round:
        devices: update_i := local training from the common parameters
        sum      := secure sum of their clipped, rounded, noised updates
        u        := mean of it;  v := mean of the clipped updates of as many public writers
        step along (1 - rehearsal) u + rehearsal v                            server optimiser
        the clipping radius follows the share of devices whose update was within it
    target := mean of the parameters over the second half of the rounds
    the improved expert: as far towards the target as public data are not recognised clearly worse

McMahan et al. 2017, arXiv 1602.05629, and with user-level privacy McMahan et al. 2018, arXiv
1710.06963. The step size is constant and the parameters are averaged: for unseen writers this is
better than a decaying step size (Izmailov et al. 2018, arXiv 1803.05407; in federated learning
Caldarola et al. 2022, arXiv 2203.11834). To keep generic accuracy, the server adds the updates of
its public writers, trained and clipped like those of devices, and the candidate stops short of the
mean (Wortsman et al. 2022, arXiv 2109.01903).
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from fedhw.errors import InputError
from fedhw.experts.evaluation import looks_worse, recognised
from fedhw.experts.global_expert import GlobalExpert
from fedhw.improvement.clipping import adapted
from fedhw.improvement.contribution import Task
from fedhw.improvement.local_update import LocalTraining, flat, unflatten
from fedhw.improvement.public import Public
from fedhw.improvement.robust import clipped
from fedhw.improvement.server_optimiser import FedMuon, Vector

SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Shares of the way from the running expert to the mean that are tried, in this order."""


@dataclass(frozen=True)
class Recipe:
    """The settings of an improvement: its number of `rounds`, and the `rate` of local training.

    `noise` is that of a round's sum, as a multiple of the longest vector. `rehearsal` is the weight
    of the public writers; `writers` of them are drawn each round. `radius` is the first clipping
    radius, for a rate of 1; it then adapts so that the share `quantile` of the updates is within.
    """

    rounds: int = 100
    rate: float = 5e-3
    noise: float = 1.0
    rehearsal: float = 0.5
    writers: int = 27
    radius: float = 100.0
    quantile: float = 0.5
    optimiser: FedMuon = field(default_factory=lambda: FedMuon(0.03, 0.9))
    training: LocalTraining = field(default_factory=LocalTraining)


class ImprovementState(NamedTuple):
    """The state of an improvement after `round` rounds; `radius` is for a rate of 1.

    `average` is the mean of the `parameters` after each round of the second half so far.
    """

    round: int
    parameters: Vector
    average: Vector
    velocity: Vector
    radius: float

    def to_bytes(self) -> bytes:
        """Return the state as safetensors."""
        arrays = {name: np.array(value) for name, value in self._asdict().items()}
        return safetensors.numpy.save({"first": arrays.pop("velocity"), **arrays})

    @classmethod
    def from_bytes(cls, content: bytes) -> "ImprovementState":
        """Read what `to_bytes` wrote; raises InputError where it is damaged."""
        try:
            found = safetensors.numpy.load(content)
            vectors = found["parameters"], found["average"], found["first"]
            return cls(int(found["round"]), *vectors, float(found["radius"]))
        except (safetensors.SafetensorError, KeyError, ValueError):
            raise InputError(
                "improvement: its state is damaged; begin anew with `fedhw server improve`"
            ) from None


@dataclass(frozen=True)
class Improvement:
    """Improves `running`, the expert in use, by a recipe; all randomness follows from `seed`."""

    running: GlobalExpert
    public: Public
    recipe: Recipe
    seed: int = 0

    def begin(self) -> ImprovementState:
        """Return the state before the first round."""
        parameters = flat(self.running)
        return ImprovementState(0, parameters, parameters, 0 * parameters, self.recipe.radius)

    def task(self, state: ImprovementState, devices: int, survivors: int) -> Task:
        """Return the next round's task for this many devices, of which `survivors` must remain."""
        return Task(
            parameters=state.parameters.astype("<f4").tobytes(),
            rate=self.recipe.rate,
            radius=state.radius * self.recipe.rate,
            noise=self.recipe.noise,
            devices=devices,
            survivors=survivors,
        )

    def advance(
        self, state: ImprovementState, task: Task, total: NDArray[np.int64], devices: int
    ) -> ImprovementState:
        """Return the state after a round in which the contributions of `devices` sum to `total`.

        Raises InputError where honest devices cannot have this sum.
        """
        if not task.is_plausible(total, devices):
            raise InputError(
                f"sum: its norm is beyond what {devices} devices can add; the round is dropped"
            )
        update, within = task.mean(total, devices)
        return self.step(state, task, update, within)

    def step(
        self, state: ImprovementState, task: Task, update: Vector, within: float
    ) -> ImprovementState:
        """Return the state after a step along the devices' mean update [P]."""
        recipe, weight = self.recipe, self.recipe.rehearsal
        if weight > 0:
            update = (1 - weight) * update + weight * self._rehearsed(state, task)
        shapes = [tuple(part.shape) for part in self.running.parameters()]
        parameters, velocity = recipe.optimiser.step(
            state.parameters, update, state.velocity, shapes
        )
        done = state.round + 1
        averaged = max(1, done - recipe.rounds // 2)
        average = state.average + (parameters - state.average) / np.float32(averaged)
        radius = adapted(state.radius, within, recipe.quantile)
        return ImprovementState(done, parameters, average, velocity, radius)

    def expert(self, state: ImprovementState) -> GlobalExpert:
        """Return the improved expert: the one nearest to the mean that is not clearly worse.

        If even half the way is clearly worse on the public validation data, it is the mean itself,
        which `validate` then rejects by the same rule.
        """
        start, characters = flat(self.running), self.public.validation
        before = recognised(self.running, characters.observations, characters.labels)
        for share in SHARES:
            there = start + np.float32(share) * (state.average - start)
            expert = unflatten(self.running, there)
            after = recognised(expert, characters.observations, characters.labels)
            if not looks_worse(after, before):
                return expert
        return unflatten(self.running, state.average)

    def start(self, state: ImprovementState) -> GlobalExpert:
        """Return the expert from which devices start in the next round."""
        return unflatten(self.running, state.parameters)

    def _rehearsed(self, state: ImprovementState, task: Task) -> Vector:
        """Return the mean update of some public writers, trained like devices."""
        data, training = self.public.rehearsal, self.recipe.training
        rng = np.random.default_rng((self.seed, state.round))
        expert, updates = self.start(state), []
        for writer in rng.permutation(np.unique(data.writer))[: self.recipe.writers]:
            rows, seed = data.rows_of(int(writer)), int(rng.integers(2**31))
            update = training.update(
                expert, data.observations[rows], data.labels[rows], task.rate, seed
            )
            updates.append(update)
        mean: Vector = clipped(np.stack(updates), task.radius).mean(axis=0)
        return mean
