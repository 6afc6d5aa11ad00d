"""What docs/edge.md shows is what happens."""

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from fedhw.personalization.learner import PersonalMixture
from fedhw.personalization.method import extract_features
from fedhw.research.onnx_export.export import export
from tests.places import ROOT
from tests.research.onnx_export.conftest import Runtime, in_torch

PAGE = (ROOT / "docs" / "edge.md").read_text(encoding="utf-8")
RUN, CUT = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_it_runs_in_ten_lines(release, mixture, capsys: pytest.CaptureFixture[str]):
    export(Path("anna.onnx"), release, mixture)
    exec(RUN)
    label, told = capsys.readouterr().out.split(" ", 1)
    assert label in release.labels
    assert told in {"local expert: True\n", "local expert: False\n"}
    assert len([line for line in RUN.splitlines() if line]) <= 10


def test_one_training_serves_every_budget(release, unseen_writers, mixture):
    images = unseen_writers.observations[None, unseen_writers.rows_of(0)]
    features = extract_features(release.expert, images).features
    exec(CUT, {"release": release, "learned": PersonalMixture(mixture), "features": features})
    sizes = []
    for rank in (2, 4, 8):
        path = Path(f"rank-{rank}.onnx")
        sizes.append(path.stat().st_size)
        known = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
        assert known["rank"] == str(rank)
    assert sizes == sorted(sizes)


def test_the_table_has_all_that_there_is(release, mixture):
    export(Path("one.onnx"), release, mixture)
    session = onnxruntime.InferenceSession("one.onnx")
    names = [each.name for each in (*session.get_inputs(), *session.get_outputs())]
    known = session.get_modelmeta().custom_metadata_map
    for kind, there in (("in|out", names), ("metadata", known)):
        told = re.findall(rf"^\| (?:{kind}) \| `(\w+)`", PAGE, re.MULTILINE)
        assert sorted(told) == sorted(there)


def test_private_tensors_may_be_put_into_another_file(release, unseen_writers, mixture, model):
    other = onnx.ModelProto()
    other.CopyFrom(model)
    changed = mixture._replace(
        local=mixture.local._replace(v=torch.flip(mixture.local.v, [-1]).contiguous())
    )
    for each in other.graph.initializer:
        if each.name == "v":
            each.CopyFrom(onnx.numpy_helper.from_array(changed.local.v.numpy(), "v"))
    glyphs = unseen_writers.observations[:50]
    expected = in_torch(release.expert, changed, glyphs).scores
    np.testing.assert_allclose(
        Runtime(other)(glyphs).scores, expected, rtol=1e-4, atol=1e-4 * abs(expected).max()
    )
