"""A server optimiser whose steps are easy to follow."""

from dataclasses import dataclass

import numpy as np

from fedhw.improvement.server_optimiser import FedMuon, Shapes, Vector


@dataclass(frozen=True)
class FedAvgM(FedMuon):
    """The sum of all updates, the older ones fading; without momentum it is FedAvg.

    Hsu, Qi, Brown 2019, arXiv 1909.06335.
    """

    def step(
        self, parameters: Vector, update: Vector, velocity: Vector, shapes: Shapes
    ) -> tuple[Vector, Vector]:
        velocity = self.momentum * velocity + update
        return parameters + np.float32(self.rate) * velocity, velocity
