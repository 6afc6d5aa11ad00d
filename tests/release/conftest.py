"""Releases that differ a little from the small real one, each in a directory of its own."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from fedhw.release.manifest import MANIFEST, SKETCH, WEIGHTS, Manifest
from fedhw.release.release import sha256

Tensors = dict[str, torch.Tensor]
Vary = Callable[..., Path]


def rewrite(directory: Path, **changes: Any) -> Manifest:
    """Change the manifest, honestly hashed."""
    manifest = Manifest.load(directory / MANIFEST)
    files = {
        name: sha256((directory / name).read_bytes())
        for name in manifest.files
        if (directory / name).exists()
    }
    changed = replace(manifest, **({"files": manifest.files | files} | changes))
    (directory / MANIFEST).write_text(changed.to_json(), encoding="utf-8")
    return changed


def change_tensors(path: Path, change: Callable[[Tensors], object]) -> None:
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    path.write_bytes(safetensors.torch.save(tensors))


@pytest.fixture
def vary(release_directory: Path, tmp_path: Path) -> Vary:
    """Copies the release with changes to its weights, its sketch and its manifest."""

    def varied(
        name: str,
        weights: Callable[[Tensors], object] = lambda tensors: None,
        sketch: Callable[[Tensors], object] = lambda tensors: None,
        **manifest: Any,
    ) -> Path:
        directory = tmp_path / name
        shutil.copytree(release_directory, directory)
        change_tensors(directory / WEIGHTS, weights)
        change_tensors(directory / SKETCH, sketch)
        rewrite(directory, **manifest)
        return directory

    return varied


def nudge(amount: float) -> Callable[[Tensors], None]:
    """Make other weights that do as well."""

    def nudged(tensors: Tensors) -> None:
        tensors["head.bias"] += amount

    return nudged


def too_large(tensors: Tensors) -> None:
    """Make finite weights that are too large to compute with."""
    for weights in tensors.values():
        weights.fill_(1e6)


def largest_scale(tensors: Tensors) -> None:
    """Make a sketch of steps and scales that are finite, while its features are not."""
    tensors["scale"].fill_(1e37)
