from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedhw.experts.global_expert import GlobalExpert, build
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.personalization.method import Activations, Cohort, extract_features, pad_cohort
from fedhw.release.sketch import Sketch
from fedhw.research.training import Training, train_expert


class World(NamedTuple):
    """A briefly trained expert, and what 52 writers whom it never saw wrote, by writer."""

    expert: GlobalExpert
    sketch: Sketch
    generic: Activations
    observations: list[NDArray[np.uint8]]
    labels: list[NDArray[np.int64]]

    def cohort(self, counts: dict[int, int]) -> Cohort:
        """The first glyphs of these writers, as many as said."""
        return pad_cohort(
            self.expert,
            [self.observations[w][:count] for w, count in counts.items()],
            [self.labels[w][:count] for w, count in counts.items()],
        )


@pytest.fixture(scope="session")
def world() -> World:
    public = synthetic_writers(range(20), characters=124)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expert = build("lenet5", 62)
    train_expert(expert, public.observations, public.labels, Training(epochs=12, batch=64))
    sketch = Sketch.of(extract_features(expert, public.observations[None, :1024]).features[0])
    generic = extract_features(
        expert, synthetic_writers([98, 99], characters=62).observations[None]
    )
    unseen = synthetic_writers(range(100, 152), characters=62)
    rows = [unseen.rows_of(w) for w in range(52)]
    return World(
        expert,
        sketch,
        generic,
        [unseen.observations[r] for r in rows],
        [unseen.labels[r] for r in rows],
    )
