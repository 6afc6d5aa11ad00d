"""The three networks as one ONNX graph, traced from the code that devices run.

The input `glyphs` [B, *shape] has the release's observation type, so that no app scales it wrongly.
The outputs are `scores` [B, C] of the mixture, its opening `gate` [B, 1], and `ge_scores` [B, C] of
the global expert alone. The private tensors keep their names: u, v, b, w, c.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import onnxscript  # noqa: F401 - torch's exporter wants it when it runs
import torch
from torch import Tensor, nn

from fedhw.experts.gate import Gate
from fedhw.experts.global_expert import GlobalExpert
from fedhw.experts.local_expert import LocalExpert
from fedhw.experts.mixture import Mixture

INPUT = "glyphs"
OUTPUTS = ("scores", "gate", "ge_scores")


def graph(expert: GlobalExpert, mixture: Mixture | None) -> onnx.ModelProto:
    """Return the experts and the gate of the first writer as a graph for any batch.

    Without a mixture `scores` are the global expert's and the gate is shut, so that an app needs no
    other code for a person without a mixture.
    """
    device = _Device(expert, mixture).eval()
    takes = expert.architecture.observation
    with _quiet():
        program = torch.onnx.export(
            device,
            (torch.from_numpy(takes.empty(2)),),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=OUTPUTS,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


class _Device(nn.Module):
    """The networks of one device."""

    u: Tensor
    v: Tensor
    b: Tensor
    w: Tensor
    c: Tensor

    def __init__(self, expert: GlobalExpert, mixture: Mixture | None) -> None:
        super().__init__()
        self.expert = expert
        self.is_personal = mixture is not None
        if mixture is not None:
            for name, tensor in (mixture.local._asdict() | mixture.gate._asdict()).items():
                self.register_buffer(name, tensor[:1])

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scaled = self.expert.architecture.standardise(observations.float())
        features = self.expert.features(scaled)
        alone = self.expert.head(features)
        if not self.is_personal:
            return alone.clone(), torch.zeros_like(alone[:, :1]), alone
        local = LocalExpert(self.u, self.v, self.b)
        mixture = Mixture(local, Gate(self.w, self.c))
        seen = features[None], alone[None]
        return mixture.scores(*seen)[0], mixture.opening(*seen)[0], alone


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's warnings about itself and about optional packages."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            yield
    finally:
        log.setLevel(level)
