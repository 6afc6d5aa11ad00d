import shutil
import tempfile

import numpy as np
import onnx
import pytest

from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.research.onnx_export.int8 import quantised
from tests.research.onnx_export.conftest import Answer, Runtime

AGREEING = 0.97
"""Share of characters that int8 must read as float32 does."""


@pytest.fixture(scope="module")
def small(model: onnx.ModelProto, release) -> onnx.ModelProto:
    return quantised(model, release.generic.observations[:512])


@pytest.fixture(scope="module")
def answers(model: onnx.ModelProto, small: onnx.ModelProto) -> tuple[Answer, Answer]:
    """What both say of characters that neither training nor calibration has seen."""
    glyphs = synthetic_writers(range(3000, 3020), 62).observations
    return Runtime(model)(glyphs), Runtime(small)(glyphs)


def test_it_reads_as_float32_does(answers):
    for name in ("scores", "ge_scores"):
        exact, rounded = (getattr(answer, name) for answer in answers)
        assert (exact.argmax(1) == rounded.argmax(1)).mean() >= AGREEING
    exact, rounded = answers
    assert 0 < abs(exact.gate - rounded.gate).mean() < 0.02


def test_the_global_expert_is_int8_and_what_is_private_is_not(model, small, mixture):
    tensors = {each.name: onnx.numpy_helper.to_array(each) for each in small.graph.initializer}
    private = mixture.local._asdict() | mixture.gate._asdict()
    for name, tensor in private.items():
        np.testing.assert_array_equal(tensors[name], tensor)
    for each in model.graph.initializer:
        if each.name.startswith("expert.") and each.name.endswith(".weight"):
            assert each.name not in tensors
            assert tensors[f"{each.name}_quantized"].dtype == np.int8
    floats = sum(t.size for name, t in tensors.items() if t.dtype == np.float32)
    assert floats < sum(t.numel() for t in private.values()) + 600  # and scales


def test_the_file_shrinks(model, small):
    whole, less = (len(each.SerializeToString()) for each in (model, small))
    assert less < 0.45 * whole


def test_it_leaves_no_files_and_the_given_graph_as_it_was(model, release, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    before = model.SerializeToString()
    quantised(model, release.generic.observations[:64])
    assert model.SerializeToString() == before
    assert not list(tmp_path.iterdir())


def test_nothing_private_is_in_its_temporary_files(model, release, mixture, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)  # so they can be read
    quantised(model, release.generic.observations[:64])
    written = [path.read_bytes() for path in tmp_path.rglob("*.onnx")]
    assert len(written) >= 2
    for tensor in (*mixture.local, *mixture.gate):
        assert not any(tensor.numpy().tobytes() in content for content in written)
