"""Baselines: other methods of personalisation, beginning with none at all.

Methods that compare observations compare the global expert's features, by the mean squared
difference over their dimensions.
"""

import copy
import math
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fedhw.errors import InputError
from fedhw.experts.global_expert import GlobalExpert
from fedhw.experts.local_expert import LocalExpert
from fedhw.personalization.learner import Learner
from fedhw.personalization.method import (
    Activations,
    Cohort,
    Method,
    PersonalModel,
    extract_features,
)
from fedhw.release.sketch import Sketch


@dataclass(frozen=True)
class Impersonal(PersonalModel):
    """The global expert alone."""

    def scores(self, activations: Activations) -> Tensor:
        """Return the global expert's scores [W or 1, N, C]."""
        return activations.scores

    def parameter_count(self) -> int:
        """Return 0."""
        return 0


@dataclass(frozen=True)
class GlobalOnly(Method):
    """The global expert for everybody."""

    def learn(self, expert: GlobalExpert, cohort: Cohort, sketch: Sketch, seed: int) -> Impersonal:
        """Learn nothing."""
        return Impersonal()


@dataclass(frozen=True)
class PersonalHead(PersonalModel):
    """A linear head for each of W writers: weight [W, D, C], bias [W, 1, C]."""

    weight: Tensor
    bias: Tensor

    def scores(self, activations: Activations) -> Tensor:
        """Return the heads' scores [W, N, C]."""
        features = activations.features.expand(len(self.weight), -1, -1)
        return torch.baddbmm(self.bias, features, self.weight)

    def parameter_count(self) -> int:
        """Count one writer's head."""
        return self.weight[0].numel() + self.bias[0].numel()


@dataclass(frozen=True)
class HeadTuning(Method):
    """Fine-tunes a copy of the head to the writer's own samples.

    Gradient descent with momentum on the mean cross entropy of all of them. `rate` is divided by
    the mean squared length of the sketch's features, to be as stable for any global expert.
    """

    steps: int = 100
    rate: float = 4.0
    momentum: float = 0.9

    @torch.no_grad()
    def learn(
        self, expert: GlobalExpert, cohort: Cohort, sketch: Sketch, seed: int
    ) -> PersonalHead:
        """Tune every writer's head, all at once."""
        x = F.pad(cohort.activations.features, (0, 1), value=1.0)
        target = _one_hot(cohort, expert.head.out_features)
        share = cohort.mask / cohort.mask.sum(1, keepdim=True).clamp_min(1)
        head = torch.cat([expert.head.weight.T, expert.head.bias[None]]).repeat(len(x), 1, 1)
        rate = self.rate / sketch.features().square().sum(-1).mean().item()
        optimiser = torch.optim.SGD([head], lr=rate, momentum=self.momentum)
        for _ in range(self.steps):
            head.grad = x.mT @ ((x @ head).softmax(-1) - target).mul_(share[..., None])
            optimiser.step()
        return PersonalHead(head[:, :-1], head[:, -1:])


@dataclass(frozen=True)
class PersonalNetworks(PersonalModel):
    """A whole network for each of W writers."""

    experts: tuple[GlobalExpert, ...]

    def scores(self, activations: Activations) -> Tensor:
        """Return the networks' scores [W, N, C]."""
        shown = len(activations.observations)
        return torch.cat(
            [
                extract_features(own, activations.observations[[i % shown]]).scores
                for i, own in enumerate(self.experts)
            ]
        )

    def parameter_count(self) -> int:
        """Count one network."""
        return sum(p.numel() for p in self.experts[0].parameters())


@dataclass(frozen=True)
class FullTuning(Method):
    """Fine-tunes a copy of the whole network to the writer's own samples.

    Gradient descent with momentum on the mean cross entropy of all of them.
    """

    is_heavy: ClassVar[bool] = True

    steps: int = 30
    rate: float = 0.005
    momentum: float = 0.9

    def learn(
        self, expert: GlobalExpert, cohort: Cohort, sketch: Sketch, seed: int
    ) -> PersonalNetworks:
        """Tune every writer's network, one after the other."""
        mask = cohort.mask.numpy()
        return PersonalNetworks(
            tuple(
                self._tuned(expert, expert.scale(observations[own]), labels[own])
                for observations, labels, own in zip(
                    cohort.activations.observations, cohort.labels, mask, strict=True
                )
            )
        )

    @torch.enable_grad()
    def _tuned(self, expert: GlobalExpert, scaled: Tensor, labels: Tensor) -> GlobalExpert:
        own = copy.deepcopy(expert).requires_grad_()
        optimiser = torch.optim.SGD(own.parameters(), lr=self.rate, momentum=self.momentum)
        for _ in range(self.steps if len(scaled) else 0):
            optimiser.zero_grad()
            F.cross_entropy(own(scaled), labels).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        return own


@dataclass(frozen=True)
class PersonalMemory(PersonalModel):
    """The samples of W writers: features [W, M, D], labels and mask [W, M]."""

    features: Tensor
    labels: Tensor
    mask: Tensor
    neighbours: int
    trust: float

    def scores(self, activations: Activations) -> Tensor:
        """Return the interpolated log-probabilities [W, N, C]."""
        far = _distances(activations.features, self.features).masked_fill(
            ~self.mask[:, None], math.inf
        )
        near, which = far.topk(min(self.neighbours, far.shape[-1]), largest=False)
        # Without neighbours no class gets a vote, and the global expert decides alone.
        votes = (-near).softmax(-1).nan_to_num(0.0)
        labels = self.labels[:, None].expand_as(far).gather(2, which)
        own = votes.new_zeros(*far.shape[:2], activations.scores.shape[-1]).scatter_add_(
            2, labels, votes
        )
        return torch.lerp(activations.scores.softmax(-1).expand_as(own), own, self.trust).log()

    def parameter_count(self) -> int:
        """Count the features and label of each sample, the mean over the writers."""
        return round(self.mask.sum().item() / len(self.mask) * (self.features.shape[-1] + 1))


@dataclass(frozen=True)
class NearestNeighbours(Method):
    """kNN-Per: interpolates the global expert with the neighbours among the writer's own samples.

    A neighbour has exp(-distance) votes (Marfoq et al. 2022, arXiv 2111.09360). The distance is
    that of the authors' code, squared and divided by the dimension; `trust` is their lambda.
    """

    neighbours: int = 10
    trust: float = 0.3

    def learn(
        self, expert: GlobalExpert, cohort: Cohort, sketch: Sketch, seed: int
    ) -> PersonalMemory:
        """Keep every sample."""
        features = cohort.activations.features
        return PersonalMemory(features, cohort.labels, cohort.mask, self.neighbours, self.trust)


class ClassMeans(NamedTuple):
    """The mean features of W writers' classes: centres [W, C, D], and counts of samples [W, C]."""

    centres: Tensor
    counts: Tensor

    @classmethod
    def of(cls, cohort: Cohort, classes: int) -> "ClassMeans":
        """Average each writer's features by class."""
        member = _one_hot(cohort, classes)
        counts = member.sum(1)
        return cls(member.mT @ cohort.activations.features / counts.clamp_min(1)[..., None], counts)

    @property
    def known(self) -> Tensor:
        """Which classes each writer has written, [W, C]."""
        return self.counts > 0

    def distances(self, features: Tensor) -> Tensor:
        """Return distances [W, N, C] of features [W or 1, N, D]; infinite for unknown classes."""
        far = _distances(features, self.centres)
        return far.masked_fill(~self.known[:, None], math.inf)

    def distances_without_self(self, cohort: Cohort) -> Tensor:
        """Return distances [W, N, C] of the averaged samples, each left out of its own mean."""
        # Without x, a mean m of n is (n m - x) / (n - 1), which is n / (n - 1) times as far from x.
        stretch = (self.counts / (self.counts - 1)).square()[:, None]
        far, own = (
            self.distances(cohort.activations.features),
            _one_hot(cohort, self.counts.shape[-1]),
        )
        alone = (self.counts == 1)[:, None] & own.bool()
        return torch.where(own.bool(), far * stretch, far).masked_fill(alone, math.inf)


@dataclass(frozen=True)
class NearestClassMean(Method):
    """Recognises the class whose mean of the writer's own samples is nearest."""

    @torch.no_grad()
    def learn(
        self, expert: GlobalExpert, cohort: Cohort, sketch: Sketch, seed: int
    ) -> PersonalHead:
        """Turn the class means into heads: of -|x - m|^2 only 2 x m - |m|^2 differs by class."""
        means = ClassMeans.of(cohort, expert.head.out_features)
        depth = means.centres.shape[-1]
        offset = means.centres.square().mean(-1).neg().masked_fill(~means.known, -math.inf)
        wrote = means.known.any(1)[:, None, None]
        return PersonalHead(
            torch.where(wrote, 2 / depth * means.centres.mT, expert.head.weight.T),
            torch.where(wrote, offset[:, None], expert.head.bias),
        )


@dataclass(frozen=True)
class PersonalPrior(PersonalModel):
    """A bias of the scores for each of W writers, [W, 1, C]."""

    bias: Tensor

    def scores(self, activations: Activations) -> Tensor:
        """Return the corrected scores [W, N, C]."""
        return activations.scores + self.bias

    def parameter_count(self) -> int:
        """Count one number a class."""
        return self.bias[0].numel()


@dataclass(frozen=True)
class ClassPrior(Method):
    """Corrects the scores by how often the writer writes each class (Saerens et al. 2002).

    The global expert's own prior, its mean output on the sketch, counts as `strength` samples.
    """

    strength: float = 16.0

    @torch.no_grad()
    def learn(
        self, expert: GlobalExpert, cohort: Cohort, sketch: Sketch, seed: int
    ) -> PersonalPrior:
        """Count every writer's classes."""
        everybody = expert.head(sketch.features()).softmax(-1).mean(0)
        counts = _one_hot(cohort, expert.head.out_features).sum(1, keepdim=True)
        total = counts.sum(-1, keepdim=True)
        writer = (counts + self.strength * everybody) / (total + self.strength)
        return PersonalPrior((writer / everybody).log())


@dataclass(frozen=True)
class PersonalResidual(PersonalModel):
    """The local experts of W writers, without a gate."""

    local: LocalExpert

    def scores(self, activations: Activations) -> Tensor:
        """Return the corrected scores [W, N, C]."""
        return activations.scores + self.local.residual(activations.features)

    def parameter_count(self) -> int:
        """Count U, V and b of one writer."""
        return sum(p[0].numel() for p in self.local)


@dataclass(frozen=True)
class Ungated(Method):
    """A local expert without a gate, from the same learner."""

    learner: Learner = field(default_factory=Learner)

    def learn(
        self, expert: GlobalExpert, cohort: Cohort, sketch: Sketch, seed: int
    ) -> PersonalResidual:
        """Learn U, V, b of every writer with the gate held open."""
        learner = replace(self.learner, gated=False)
        return PersonalResidual(learner.learn(expert, cohort, sketch, seed).mixture.local)


@dataclass(frozen=True)
class DistanceGated(PersonalModel):
    """The local experts of W writers, used within `reach` [W, 1] of a class mean."""

    residual: PersonalResidual
    means: ClassMeans
    reach: Tensor

    def scores(self, activations: Activations) -> Tensor:
        """Return the scores [W, N, C]: the local expert's where near, else the global expert's."""
        near = self.means.distances(activations.features).amin(-1) <= self.reach
        return torch.where(near[..., None], self.residual.scores(activations), activations.scores)

    def parameter_count(self) -> int:
        """Count one writer's local expert, class means and reach."""
        return self.residual.parameter_count() + self.means.centres[0].numel() + 1


@dataclass(frozen=True)
class DistanceGate(Method):
    """A local expert with a gate by distance instead of a learned one.

    It is fully open near one of the writer's class means, and shut elsewhere.
    """

    ungated: Ungated = field(default_factory=Ungated)

    @torch.no_grad()
    def learn(
        self, expert: GlobalExpert, cohort: Cohort, sketch: Sketch, seed: int
    ) -> DistanceGated:
        """Learn the local experts, then the reach that best separates own and generic samples."""
        residual = self.ungated.learn(expert, cohort, sketch, seed)
        means = ClassMeans.of(cohort, expert.head.out_features)
        own = means.distances_without_self(cohort).amin(-1)
        generic = means.distances(sketch.features()[None]).amin(-1)
        return DistanceGated(residual, means, best_reach(own, cohort.mask, generic))


METHODS: dict[str, Method] = {
    "ge": GlobalOnly(),
    "moe": Learner(),
    "head": HeadTuning(),
    "full": FullTuning(),
    "knn": NearestNeighbours(),
    "ncm": NearestClassMean(),
    "prior": ClassPrior(),
    "le": Ungated(),
    "distance-gate": DistanceGate(),
}
"""Every method by its name on the command line and in tables."""


def choose_methods(names: str | None) -> dict[str, Method]:
    """Return the methods of these names, which are separated by commas.

    `all` is every method, None all but the heavy ones. The global expert is always included, since
    gains are measured against it. Raises InputError for an unknown name.

    >>> ",".join(choose_methods("moe, prior"))
    'ge,moe,prior'
    >>> METHODS.keys() - choose_methods(None).keys()
    {'full'}
    """
    if names == "all":
        return METHODS
    if names is None:
        return {name: method for name, method in METHODS.items() if not method.is_heavy}
    asked = [name.strip() for name in names.split(",")]
    for name in asked:
        if name not in METHODS:
            raise InputError(f"methods: {name!r} is unknown; use some of {','.join(METHODS)}")
    return {name: METHODS[name] for name in METHODS if name in asked or name == "ge"}


def _one_hot(cohort: Cohort, classes: int) -> Tensor:
    """Return the labels as one-hot [W, N, C]; padding has no class."""
    return F.one_hot(cohort.labels, classes) * cohort.mask[..., None].float()


def _distances(here: Tensor, there: Tensor) -> Tensor:
    """Return the mean squared differences [W, N, M] of [W or 1, N, D] and [W, M, D]."""
    # A matrix product is fast, and its cost is counted.
    product = here.expand(len(there), -1, -1) @ there.mT
    squares = here.square().sum(-1)[..., None] + there.square().sum(-1)[:, None]
    return (squares - 2 * product).clamp_min(0) / here.shape[-1]


def best_reach(own: Tensor, mask: Tensor, generic: Tensor) -> Tensor:
    """Return the reach [W, 1] that best separates own distances [W, N] from generic ones [W, S].

    It maximises the share of own ones within it less that of generic ones; where no reach is better
    than none, it is below 0.

    >>> own, generic = torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 4.0, 5.0]])
    >>> best_reach(own, torch.ones(1, 2, dtype=torch.bool), generic).item()
    3.0
    """
    distance, order = torch.cat([own, generic], 1).sort(1)
    # In whole numbers, each side weighted by the size of the other, so that ties are exact.
    for_it, against = mask * generic.shape[1], mask.sum(1, keepdim=True).expand_as(generic)
    balance = torch.cat([for_it, -against], 1).gather(1, order).cumsum(1)
    most, where = balance.max(1, keepdim=True)
    return distance.gather(1, where).masked_fill(most <= 0, -1.0)
