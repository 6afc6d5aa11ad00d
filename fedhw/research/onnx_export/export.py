"""Write a release and the mixture of one person to one file."""

import json
from pathlib import Path

import onnx

from fedhw import __version__
from fedhw.experts.mixture import Mixture
from fedhw.release.release import Release
from fedhw.research.onnx_export.graph import graph
from fedhw.research.onnx_export.int8 import quantised
from fedhw.system.atomic import replacing

CALIBRATED_ON = 512
"""Public observations that calibrate the ranges of int8."""


def export(path: Path, release: Release, mixture: Mixture | None, int8: bool = False) -> None:
    """Write the release's expert and the mixture's first writer to an ONNX file.

    Its metadata are `release`; `labels`, a JSON list in the order of classes; `alphabet`, these in
    a row, where each is one character; `rank` of the local expert, 0 for none; and `private`, yes
    or no, whether it has weights that were learned from a person. A private file is readable by its
    owner only. Raises InputError for int8 of a release without characters to calibrate on.
    """
    model = graph(release.expert, mixture)
    if int8:
        model = quantised(model, release.generic.observations[:CALIBRATED_ON])
    _strip(model)
    model.producer_name, model.producer_version = "fedhw", __version__
    model.model_version = release.manifest.version
    said = {
        "release": release.manifest.name,
        "labels": json.dumps(list(release.labels), ensure_ascii=False),
        "rank": str(0 if mixture is None else mixture.local.u.shape[-1]),
        "private": "no" if mixture is None else "yes",
    }
    if release.labels.are_characters:
        said["alphabet"] = "".join(release.labels)
    onnx.helper.set_model_props(model, said)
    onnx.checker.check_model(model, full_check=True)
    with replacing(path) as unfinished:
        if mixture is not None:
            unfinished.touch(mode=0o600)
        unfinished.write_bytes(model.SerializeToString())


def _strip(model: onnx.ModelProto) -> None:
    """Remove shapes, which runtimes infer, and traces of the code and of this machine."""
    for part in (model.graph, *model.graph.node):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    model.graph.ClearField("value_info")
