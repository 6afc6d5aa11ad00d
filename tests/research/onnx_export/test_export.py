import json
import os
import shutil
import stat
from pathlib import Path

import onnx
import onnxruntime
import pytest

import fedhw
from fedhw.errors import InputError
from fedhw.release.manifest import FOR_RESEARCH
from fedhw.release.release import Release
from fedhw.research.onnx_export.export import export
from fedhw.research.onnx_export.int8 import quantised


@pytest.fixture(scope="module")
def files(release, mixture, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exports")
    paths = {name: folder / f"{name}.onnx" for name in ("public", "private", "int8")}
    old = os.umask(0o022)
    try:
        export(paths["public"], release, None)
        export(paths["private"], release, mixture)
        export(paths["int8"], release, mixture, int8=True)
    finally:
        os.umask(old)
    return paths


def test_a_file_says_what_it_is(files, release):
    for name, (rank, private) in {
        "public": ("0", "no"),
        "private": ("10", "yes"),
        "int8": ("10", "yes"),
    }.items():
        known = onnxruntime.InferenceSession(files[name]).get_modelmeta()
        assert known.custom_metadata_map == {
            "release": release.manifest.name,
            "labels": json.dumps(list(release.labels)),
            "alphabet": "".join(release.labels),
            "rank": rank,
            "private": private,
        }
        assert known.version == release.manifest.version
        made = onnx.load(files[name])
        assert (made.producer_name, made.producer_version) == ("fedhw", fedhw.__version__)
        (given,) = made.graph.input
        assert given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        assert [d.dim_value for d in given.type.tensor_type.shape.dim] == [0, 28, 28]
        assert [each.name for each in made.graph.output] == ["scores", "gate", "ge_scores"]


def test_a_private_file_is_its_owners(files):
    modes = {name: stat.S_IMODE(path.stat().st_mode) for name, path in files.items()}
    assert modes == {"public": 0o644, "private": 0o600, "int8": 0o600}


def test_a_file_tells_nothing_of_the_machine(files):
    for path in files.values():
        content = path.read_bytes()
        for told in (str(Path.cwd()), str(Path(fedhw.__file__).parent), "stack_trace", ".py"):
            assert told.encode() not in content


def test_int8_of_a_release_that_travelled_is_refused(release, tmp_path):
    shutil.copytree(release.directory, tmp_path / "release")
    for name in FOR_RESEARCH:
        (tmp_path / "release" / name).unlink()
    travelled = Release.load(tmp_path / "release")
    with pytest.raises(InputError, match="has travelled without its test data"):
        export(tmp_path / "out.onnx", travelled, None, int8=True)
    assert not (tmp_path / "out.onnx").exists()
    export(tmp_path / "out.onnx", travelled, None)
    assert (tmp_path / "out.onnx").exists()


def test_int8_is_calibrated_on_public_characters_alone(files, release, model):
    """What was written by the person must not be told by the ranges of int8."""
    expected = quantised(model, release.generic.observations[:512])
    made = onnx.load(files["int8"])
    assert [*made.graph.initializer] == [*expected.graph.initializer]
