"""The one learner: a local expert and a gate for each writer, all writers at once.

Per writer, with own samples (x, y) and rehearsed generic ones x' drawn anew each step, minimise

    mean CE(y, mixture(x))                      fit this writer
    + protect * mean KL(GE(x') || mixture(x'))  agree with the global expert on everybody else
    + gating * BCE(1, g(x)) + gating * BCE(0, g(x'))

The target of a rehearsed sample is the output of the global expert (learning without forgetting, Li
and Hoiem 2016, arXiv 1606.09282), so one weighted cross entropy serves both terms, and its gradient
is `weight * (mixture - target)`. It is written out by hand, since most of the time goes into
elementwise work over the classes. The optimiser is Muon: momentum made orthogonal (Jordan et al.
2024, https://kellerjordan.github.io/posts/muon), which moves a low-rank factor as far in its weak
directions as in its strong ones.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from fedhw.experts.gate import CONFIDENCE, Gate, gate_view
from fedhw.experts.global_expert import GlobalExpert
from fedhw.experts.local_expert import LocalExpert
from fedhw.experts.mixture import Mixture
from fedhw.personalization.method import Activations, Cohort, Method, PersonalModel
from fedhw.release.sketch import Sketch

FARTHEST_SPREADS = 1e6
"""Distance from the sketch's mean, in its spreads, at which a sample is left out: it overflows."""


def _no_pause() -> None:
    """Do nothing; a lambda could not be pickled."""


@dataclass(frozen=True)
class PersonalMixture(PersonalModel):
    """The mixtures of W writers."""

    mixture: Mixture

    def scores(self, activations: Activations) -> Tensor:
        """Return the mixtures' scores [W, N, C]."""
        return self.mixture.scores(activations.features, activations.scores)

    def parameter_count(self) -> int:
        """Count U, V, b, w and c of one writer."""
        return sum(p[0].numel() for p in (*self.mixture.local, *self.mixture.gate))


@dataclass(frozen=True)
class Learner(Method):
    """Learns the mixture of every writer of a cohort.

    `rank` is that of the local expert; each of the `steps` draws `rehearsal` generic samples. If
    not `gated`, the gate stays open. `pause` is called a few times in each step, so that a device
    can yield the processor; it does not change the result.
    """

    rank: int = 10
    steps: int = 50
    rehearsal: int = 256
    protect: float = 5.5
    gating: float = 0.2
    rate: float = 0.12
    gate_rate: float = 0.1
    momentum: float = 0.8
    gated: bool = True
    pause: Callable[[], None] = field(default=_no_pause, repr=False, compare=False)

    @torch.no_grad()
    def learn(
        self, expert: GlobalExpert, cohort: Cohort, sketch: Sketch, seed: int
    ) -> PersonalMixture:
        """Learn U, V, b, w, c of every writer; see the module for the objective.

        With an expert or a sketch whose numbers overflow, a mixture is not finite.
        """
        random = torch.Generator().manual_seed(seed)
        scores, mask = cohort.activations.scores, cohort.mask
        writers, (depth, classes) = len(mask), expert.head.weight.T.shape
        generic = sketch.features()
        centre, spread = generic.mean(0), generic.std(0)
        # A feature that hardly ever fires must not be amplified, nor its rounding errors. After a
        # training that failed, no feature may fire at all.
        spread = spread.clamp_min(0.3 * spread.mean()).clamp_min(1e-6)
        generic_scores = expert.head(generic)
        generic_input = _with_ones(gate_view((generic - centre) / spread, generic_scores))
        generic_target = generic_scores.softmax(-1)

        standard = (cohort.activations.features - centre) / spread
        mask = mask & (standard.abs().amax(-1) < FARTHEST_SPREADS)  # not so for NaN
        standard, scores = (torch.where(mask[..., None], x, 0.0) for x in (standard, scores))
        own_input = _with_ones(gate_view(standard, scores))
        own_target = torch.zeros_like(scores).scatter_(2, cohort.labels[..., None], 1.0)
        share = (mask / mask.sum(1, keepdim=True).clamp_min(1))[:, None]

        # One matrix of each writer multiplies the input: its first rows are U, its last is the
        # gate's w. All writers rehearse the same samples, so their stacked matrices make one large
        # product of many thin ones.
        projection = torch.zeros(writers, self.rank + 1, depth + CONFIDENCE + 1)
        u, w = projection[:, :-1, :depth], projection[:, -1:]
        u += torch.randn(depth, self.rank, generator=random).T / math.sqrt(depth)
        v = torch.zeros(writers, self.rank + 1, classes)
        if not self.gated:
            w[..., -1] = math.inf  # the gate stays open, whatever it learns
        velocities = [torch.zeros_like(p) for p in (u, v, w)]
        for step in range(self.steps):
            drawn = torch.randint(len(generic), (self.rehearsal,), generator=random)
            rehearsed = generic_input.index_select(0, drawn)
            own_v, own_z = _gradients(
                projection @ own_input.mT, v, scores, own_target, share, self.gating * share, 1
            )
            self.pause()
            generic_v, generic_z = _gradients(
                (projection.flatten(0, 1) @ rehearsed.T).view(writers, -1, self.rehearsal),
                v,
                generic_scores.index_select(0, drawn),
                generic_target.index_select(0, drawn),
                self.protect / self.rehearsal,
                self.gating / self.rehearsal,
                0,
            )
            self.pause()
            to_v = own_v.add_(generic_v)
            to_projection = own_z @ own_input
            to_projection += (generic_z.flatten(0, 1) @ rehearsed).view_as(projection)
            self.pause()

            cooling = 0.5 * (1 + math.cos(math.pi * step / self.steps))
            for p, velocity, gradient, rate in (
                (u, velocities[0], to_projection[:, :-1, :depth], self.rate),
                (v, velocities[1], to_v, self.rate),
                (w, velocities[2], to_projection[:, -1:], self.gate_rate),
            ):
                velocity.lerp_(gradient, 1 - self.momentum)
                lookahead = torch.lerp(velocity, gradient, 1 - self.momentum)
                p.sub_(orthogonal(lookahead), alpha=rate * cooling)
            self.pause()

        return PersonalMixture(_unstandardised(u.mT, v, w.mT, centre, spread))


def _with_ones(view: Tensor) -> Tensor:
    return F.pad(view, (0, 1), value=1.0)


def _gradients(
    z: Tensor,
    v: Tensor,
    base: Tensor,
    target: Tensor,
    weight: Tensor | float,
    gate_weight: Tensor | float,
    gate_target: float,
) -> tuple[Tensor, Tensor]:
    """Return d loss / d v and d loss / d z for samples whose projections are z [W, r + 1, N].

    `base` and `target`, [W, N, C] or [N, C] for all writers alike, are the global expert's scores
    and the target probabilities; `gate_target` is that of the gate. The last row of z, the gate's,
    is overwritten. Thin products are transposed where that makes them wide.
    """
    g = torch.sigmoid(z[:, -1:])
    z[:, -1] = 1  # carries the bias b, the last row of v
    opened = g * z
    wrong = torch.baddbmm(base, opened.mT, v).softmax(-1).sub_(target)
    to_v = (weight * opened) @ wrong
    to_opened = v @ wrong.mT
    to_z = weight * g * to_opened
    to_gate = weight * g * (1 - g) * (z * to_opened).sum(1, keepdim=True)
    to_z[:, -1:] = to_gate + gate_weight * (g - gate_target)
    return to_v, to_z


def orthogonal(m: Tensor) -> Tensor:
    """Return the nearest matrices with orthonormal rows or columns, [W, a, b].

    Directions weaker than a tenth of the strongest are damped, and so is a whole matrix near zero:
    there the momentum is rounding error, which must not become a full step. The damping also makes
    the result of a writer independent of the other writers in the cohort. What is not finite stays
    so, and its writer's alone.
    """
    tall = m.shape[-2] > m.shape[-1]
    wide = m.mT if tall else m
    exact = wide.double()
    values, vectors = torch.linalg.eigh((exact @ exact.mT).nan_to_num(0, 0, 0))
    damped = values + 1e-2 * values[..., -1:] + 3e-5
    root = (vectors * damped.rsqrt()[..., None, :]) @ vectors.mT
    near: Tensor = root.to(m.dtype) @ wide
    return near.mT if tall else near


def _unstandardised(u: Tensor, v: Tensor, w: Tensor, centre: Tensor, spread: Tensor) -> Mixture:
    """Fold the standardisation of the features into the weights, so that inference needs none."""
    u = (u / spread[:, None]).contiguous()  # the same layout as after storing and loading
    b = v[:, -1:] - (centre @ u)[:, None] @ v[:, :-1]
    depth = len(centre)
    w = torch.cat([w[:, :depth] / spread[:, None], w[:, depth:]], 1)
    c = w[:, -1:] - (centre @ w[:, :depth])[:, None]
    return Mixture(LocalExpert(u, v[:, :-1], b), Gate(w[:, :-1].contiguous(), c))
