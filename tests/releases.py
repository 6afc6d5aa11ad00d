"""Releases for devices to adopt: made of the small real one, and published in a registry."""

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch

from fedhw.experts.global_expert import GlobalExpert
from fedhw.release.manifest import MANIFEST, SKETCH, WEIGHTS
from fedhw.release.registry import Parcel, Registry
from fedhw.release.release import Release, sha256
from fedhw.release.sketch import Sketch

Change = Callable[[GlobalExpert, Sketch], Sketch]


def shuffled(seed: int) -> Change:
    """Let the hidden units change places: other features, the same quality."""

    def change(expert: GlobalExpert, sketch: Sketch) -> Sketch:
        order = torch.randperm(84, generator=torch.Generator().manual_seed(seed))
        last = expert.layers[-2]
        last.weight.copy_(last.weight[order])
        last.bias.copy_(last.bias[order])
        expert.head.weight.copy_(expert.head.weight[:, order])
        return Sketch(sketch.steps[:, order].clone(), sketch.scale[order].clone())

    return change


def spoiling(expert: GlobalExpert, sketch: Sketch) -> Sketch:
    """Take each character for another one."""
    expert.head.weight.copy_(expert.head.weight.roll(1, 0))
    expert.head.bias.copy_(expert.head.bias.roll(1, 0))
    return sketch


def overflowing(expert: GlobalExpert, sketch: Sketch) -> Sketch:
    """Have finite weights that are too large to compute with."""
    for part in expert.parameters():
        part.fill_(1e6)
    return Sketch(sketch.steps, torch.full_like(sketch.scale, 1e31))


def changed(release: Release, change: Change, version: int = 1) -> Release:
    """A later release, in memory."""
    expert = copy.deepcopy(release.expert)
    with torch.no_grad():
        sketch = change(expert, release.sketch)
    weights = sha256(safetensors.torch.save(expert.state_dict()))
    manifest = replace(
        release.manifest,
        version=release.manifest.version + version,
        files=release.manifest.files | {WEIGHTS: weights},
    )
    return replace(release, manifest=manifest, expert=expert, sketch=sketch)


def published(registry: Registry, release: Release, change: Change, place: Path) -> Parcel:
    """A later release as it travels; `place` is a new directory for what is published."""
    made = changed(release, change)
    shutil.copytree(release.directory, place)
    (place / WEIGHTS).write_bytes(safetensors.torch.save(made.expert.state_dict()))
    (place / SKETCH).write_bytes(safetensors.torch.save(made.sketch._asdict()))
    digests = {name: sha256((place / name).read_bytes()) for name in (WEIGHTS, SKETCH)}
    manifest = replace(release.manifest, files=release.manifest.files | digests)
    (place / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return registry.parcel(registry.publish(place).version)
