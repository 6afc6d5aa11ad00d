"""The global expert of a graph in int8; local expert and gate stay in float32.

The global expert is nearly all of the file. The private networks are small, and in float32 an app
can replace them by those of somebody else.
"""

import copy
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
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
    DequantizeLinear. It writes temporary files, so what is private is zero in them.
    """
    of_global_expert = _behind(model, "ge_scores")
    private = _private(model, of_global_expert)
    public = copy.deepcopy(model)
    for tensor in public.graph.initializer:
        if tensor.name in private:
            zeros = np.zeros_like(onnx.numpy_helper.to_array(tensor))
            tensor.CopyFrom(onnx.numpy_helper.from_array(zeros, tensor.name))
    with tempfile.TemporaryDirectory() as folder:
        prepared, made = (Path(folder) / name for name in ("prepared.onnx", "made.onnx"))
        # The optimiser would merge nodes of the global expert with those of the private networks.
        quant_pre_process(public, prepared, skip_optimization=True)
        quantize_static(
            prepared,
            made,
            _Batches(observations),
            per_channel=True,
            # Sums of products of 8 by 8 bits saturate on processors without VNNI.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=of_global_expert,
            # Steps of 1/256 of the range of all scores are too coarse to choose among a few.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
        )
        whole = onnx.load(made)
    for tensor in whole.graph.initializer:
        if tensor.name in private:
            tensor.CopyFrom(private[tensor.name])
    return whole


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


def _private(model: onnx.ModelProto, public: Sequence[str]) -> dict[str, onnx.TensorProto]:
    """The numbers that only nodes which are not public use, by name."""
    used = {name for node in model.graph.node if node.name in public for name in node.input}
    return {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if tensor.name not in used and tensor.data_type == onnx.TensorProto.FLOAT
    }
