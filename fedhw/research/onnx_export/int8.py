"""The global expert of a graph in int8; local expert and gate stay in float32.

The global expert is nearly all of the file. The private networks are small, and in float32 an app
can replace them by those of somebody else.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from fedhw.observation import Observations
from fedhw.research.onnx_export.graph import INPUT

BATCH = 64


def quantised(model: onnx.ModelProto, observations: Observations) -> onnx.ModelProto:
    """Return the graph with its global expert in int8, calibrated on observations [N, *shape].

    Weights are int8 of 7 bits with a scale for each channel, activations uint8, since most come
    from a ReLU: ONNX Runtime's static quantisation, written as pairs of QuantizeLinear and
    DequantizeLinear.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared, made = (Path(folder) / name for name in ("prepared.onnx", "made.onnx"))
        # The optimiser would merge nodes of the global expert with those of the private networks.
        quant_pre_process(model, prepared, skip_optimization=True)
        quantize_static(
            prepared,
            made,
            _Batches(observations),
            per_channel=True,
            # Sums of products of 8 by 8 bits saturate on processors without VNNI.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=_behind(model, "ge_scores"),
            # Steps of 1/256 of the range of all scores are too coarse to choose among a few.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
        )
        return onnx.load(made)


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, observations: Observations) -> None:
        self._batches: Iterator[Observations] = (
            observations[i : i + BATCH] for i in range(0, len(observations), BATCH)
        )

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def _behind(model: onnx.ModelProto, output: str) -> list[str]:
    """The names of all nodes that an output depends on."""
    makers = {name: node for node in model.graph.node for name in node.output}
    found, asked = set[str](), [output]
    while asked:
        maker = makers.get(asked.pop())
        if maker is not None and maker.name not in found:
            found.add(maker.name)
            asked += maker.input
    return sorted(found)
