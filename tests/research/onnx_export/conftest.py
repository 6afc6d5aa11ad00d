from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from fedhw.data.writers import WriterSet
from fedhw.experts.mixture import Mixture
from fedhw.personalization.learner import Learner
from fedhw.personalization.method import Activations, extract_features, pad_cohort
from fedhw.release.release import Release
from fedhw.research.onnx_export.graph import graph


class Answer(NamedTuple):
    scores: NDArray[np.float32]
    gate: NDArray[np.float32]
    ge_scores: NDArray[np.float32]


class Runtime:
    """ONNX Runtime, as an app uses it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._session = onnxruntime.InferenceSession(model.SerializeToString())

    def __call__(self, glyphs: NDArray[np.uint8]) -> Answer:
        return Answer(*self._session.run(list(Answer._fields), {"glyphs": glyphs}))


def in_torch(expert: torch.nn.Module, mixture: Mixture, glyphs: NDArray[np.uint8]) -> Answer:
    """What the experts say by themselves."""
    seen: Activations = extract_features(expert, glyphs[None])
    scores = mixture.scores(seen.features, seen.scores)
    gate = mixture.opening(seen.features, seen.scores)
    return Answer(*(part[0].numpy() for part in (scores, gate, seen.scores)))


@pytest.fixture(scope="session")
def mixture(release: Release, unseen_writers: WriterSet) -> Mixture:
    """What is learned from 93 characters of somebody whom the release never saw."""
    rows = unseen_writers.rows_of(0)[::2]
    cohort = pad_cohort(
        release.expert, [unseen_writers.observations[rows]], [unseen_writers.labels[rows]]
    )
    return Learner().learn(release.expert, cohort, release.sketch, seed=0).mixture


@pytest.fixture(scope="session")
def model(release: Release, mixture: Mixture) -> onnx.ModelProto:
    return graph(release.expert, mixture)
