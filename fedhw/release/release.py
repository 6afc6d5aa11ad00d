"""A release of the global expert: one directory, written once and never changed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from fedhw.data.npz import load_npz, save_npz
from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.experts.architecture import find_architecture
from fedhw.experts.global_expert import GlobalExpert, build
from fedhw.observation import Labels, ObservationType
from fedhw.release.manifest import (
    FOR_DEVICES,
    FOR_RESEARCH,
    GENERIC,
    MANIFEST,
    SKETCH,
    TRAINING,
    WEIGHTS,
    Manifest,
)
from fedhw.release.sketch import Sketch
from fedhw.system.atomic import replacing


@dataclass(frozen=True)
class Release:
    """A global expert and the sketch for rehearsal, read from `directory`.

    Files that only research needs are read on first use.
    """

    manifest: Manifest
    expert: GlobalExpert
    sketch: Sketch
    directory: Path

    @classmethod
    def load(cls, directory: Path) -> "Release":
        """Read a release and check the files for devices against the manifest.

        Raises InputError for a missing or altered file, an unknown architecture, an observation
        that the architecture does not take, and a file that does not fit both and the labels.
        """
        manifest = Manifest.load(directory / MANIFEST)
        return cls(manifest, *open_files(manifest, read_files(directory, manifest)), directory)

    @property
    def observation(self) -> ObservationType:
        """The type of the expert's input."""
        return self.manifest.observation

    @property
    def labels(self) -> Labels:
        """The labels of the classes."""
        return self.manifest.labels

    @property
    def travelled(self) -> bool:
        """Whether it was fetched over the network, without the files for research."""
        return not all((self.directory / name).is_file() for name in (GENERIC, TRAINING))

    @cached_property
    def generic(self) -> WriterSet:
        """Public observations that no expert was trained on; raises InputError if it travelled."""
        self._read_for_research(GENERIC)
        generic = load_npz(self.directory / GENERIC)
        self.check_fits(generic)
        return generic

    @cached_property
    def trained_on(self) -> frozenset[str]:
        """The names of the writers that the expert has seen, so that no simulation tests on them.

        Raises InputError if it travelled.
        """
        content = self._read_for_research(TRAINING)
        try:
            return frozenset(map(str, json.loads(content)["trained_on"]))
        except (ValueError, KeyError, TypeError):
            path = self.directory / TRAINING
            raise InputError(f"release: {path} cannot be read; fetch the release again") from None

    def check_fits(self, writers: WriterSet) -> None:
        """Raise InputError when these writers have other observations or labels."""
        if writers.observation != self.observation:
            raise InputError(
                f"observation: {writers.observation} is not the release's {self.observation}; use "
                "data or a release of the same type"
            )
        if writers.classes != self.labels:
            raise InputError(
                f"labels: {writers.classes} are not the release's {self.labels}; use data or a "
                "release of the same labels"
            )

    def _read_for_research(self, name: str) -> bytes:
        if self.travelled:
            raise InputError(
                f"release: {self.manifest.name} in {self.directory} has travelled without its test "
                "data; give the directory that train-expert made"
            )
        return _read(self.directory, self.manifest, name)


def read_files(directory: Path, manifest: Manifest) -> dict[str, bytes]:
    """Return the files for devices by name; raises InputError for a missing or altered one."""
    return {name: _read(directory, manifest, name) for name in manifest.for_devices}


def open_files(manifest: Manifest, files: Mapping[str, bytes]) -> tuple[GlobalExpert, Sketch]:
    """Build the expert and the sketch from the files for devices.

    Raises InputError for an unknown architecture, for one that does not take the observations, and
    for files that do not hold the right tensors with finite numbers.
    """
    check_architecture(manifest)
    expert = build(manifest.architecture, len(manifest.labels))
    try:
        weights = safetensors.torch.load(files[WEIGHTS])
        sketch = Sketch(**safetensors.torch.load(files[SKETCH]))
        if _shapes(weights) != _shapes(expert.state_dict()) or not _is_sketch_of(expert, sketch):
            raise ValueError
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
        raise InputError(
            f"release: {manifest.name} does not hold a {manifest.architecture} for "
            f"{len(manifest.labels)} classes; fetch a release made for these labels"
        ) from None
    if not all(part.isfinite().all() for part in (*weights.values(), sketch.scale)):
        raise InputError(
            f"release: {manifest.name} holds numbers that are not finite; fetch another release"
        )
    expert.load_state_dict(weights)
    return expert.eval(), sketch


def check_architecture(manifest: Manifest) -> None:
    """Raise InputError for an unknown architecture and one that takes other observations."""
    takes = find_architecture(manifest.architecture).observation
    if manifest.observation != takes:
        raise InputError(
            f"observation: {manifest.name} gives {manifest.observation} to a "
            f"{manifest.architecture}, which takes {takes}; fetch another release"
        )


def publish(
    directory: Path,
    expert: GlobalExpert,
    architecture: str,
    sketch: Sketch,
    generic: WriterSet,
    trained_on: list[str],
    validation: dict[str, float],
    privacy: dict[str, float] | None = None,
    made_from: str = "",
) -> None:
    """Write a release to `directory`, whole or not at all; a registry gives it its version.

    `generic` are public observations that no expert was trained on; `privacy` is the epsilon and
    delta of people's data spent in making it, zeros for public data alone. `made_from` is a digest
    of all that decides the result. Raises InputError when `directory` exists.
    """
    check_new(directory)
    told = {"trained_on": sorted(trained_on), "made_from": made_from}
    training = json.dumps(told, ensure_ascii=False, indent=1)
    anonymous = WriterSet.of(
        generic.observations,
        generic.labels,
        writer=np.zeros(len(generic), np.uint32),
        names=["generic"],
        classes=generic.classes,
    )
    with replacing(directory) as unfinished:
        unfinished.mkdir()
        for name, tensors in ((WEIGHTS, expert.state_dict()), (SKETCH, sketch._asdict())):
            # Where the disk is full, their own writer raises no OSError.
            (unfinished / name).write_bytes(safetensors.torch.save(tensors))
        save_npz(unfinished / GENERIC, anonymous)
        (unfinished / TRAINING).write_text(training, encoding="utf-8")
        names = (*FOR_DEVICES, *FOR_RESEARCH)
        manifest = Manifest(
            version=0,
            parent=None,
            restores=None,
            architecture=architecture,
            observation=generic.observation,
            labels=generic.classes,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            files={name: sha256((unfinished / name).read_bytes()) for name in names},
            validation=validation,
            privacy=privacy or {"epsilon": 0.0, "delta": 0.0},
        )
        (unfinished / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def check_new(directory: Path) -> None:
    """Raise InputError when there is something at `directory`."""
    if directory.exists():
        raise InputError(f"out: {directory} exists and releases never change; give a new directory")


def sha256(content: bytes) -> str:
    """Return the digest of a file's content, as in manifests."""
    return hashlib.sha256(content).hexdigest()


def _read(directory: Path, manifest: Manifest, name: str) -> bytes:
    path = directory / name
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"release: {path} is missing; fetch the release again") from None
    except OSError as error:
        raise InputError(
            f"release: {path} cannot be read ({error.strerror}); fetch the release again"
        ) from None
    if manifest.files.get(name) != sha256(content):
        raise InputError(
            f"release: {path} is not the file in the manifest; fetch the release again"
        )
    return content


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _is_sketch_of(expert: GlobalExpert, sketch: Sketch) -> bool:
    (steps, scale), features = sketch, expert.head.in_features
    return (
        (steps.dtype, scale.dtype) == (torch.int8, torch.float32)
        and (steps.ndim, scale.shape) == (2, (features,))
        and len(steps) >= 2
        and steps.shape[1] == features
    )
