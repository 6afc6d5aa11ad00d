"""A release of the global expert: one directory, written once and never changed."""

import hashlib
import json
from collections.abc import Callable, Mapping
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
    """A global expert and the sketch that devices rehearse on, read from `directory`.

    What only a researcher needs is read from there when it is asked for.
    """

    manifest: Manifest
    expert: GlobalExpert
    sketch: Sketch
    directory: Path

    @classmethod
    def load(cls, directory: Path) -> "Release":
        """Read a release and check what devices need of it against the manifest.

        Raises InputError for a missing or altered file, an unknown architecture, an observation
        that the architecture does not take, and a file that does not fit both and the labels.
        """
        manifest = Manifest.load(directory / MANIFEST)
        return cls(manifest, *open_files(manifest, read_files(directory, manifest)), directory)

    @property
    def observation(self) -> ObservationType:
        """What the expert takes."""
        return self.manifest.observation

    @property
    def labels(self) -> Labels:
        """What the classes are called."""
        return self.manifest.labels

    @property
    def travelled(self) -> bool:
        """Whether it came over the network, without what only a researcher needs."""
        return not all((self.directory / name).is_file() for name in (GENERIC, TRAINING))

    @cached_property
    def generic(self) -> WriterSet:
        """Public observations that nobody trained on; raises InputError if it travelled."""
        self._check_for_research(GENERIC)
        generic = load_npz(self.directory / GENERIC)
        self.check_fits(generic)
        return generic

    @cached_property
    def trained_on(self) -> frozenset[str]:
        """The names of the writers that the expert has seen, so that no simulation tests on them.

        Raises InputError if it travelled.
        """
        self._check_for_research(TRAINING)
        return _names(self.directory / TRAINING)

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

    def _check_for_research(self, name: str) -> None:
        if self.travelled:
            raise InputError(
                f"release: {self.manifest.name} in {self.directory} has travelled without its test "
                "data; give the directory that train-expert made"
            )
        _read(self.directory, self.manifest, name)


def read_files(directory: Path, manifest: Manifest) -> dict[str, bytes]:
    """Return what devices need, by name; raises InputError for a missing or altered file."""
    return {name: _read(directory, manifest, name) for name in manifest.for_devices}


def open_files(manifest: Manifest, files: Mapping[str, bytes]) -> tuple[GlobalExpert, Sketch]:
    """Make the expert and the sketch of what devices get.

    Raises InputError for an unknown architecture, for one that does not take the observations, and
    for files that do not hold the right tensors with finite numbers.
    """
    check_architecture(manifest)
    expert = build(manifest.architecture, len(manifest.labels))
    wanted = expert.state_dict()
    try:
        weights = safetensors.torch.load(files[WEIGHTS])
        tensors = safetensors.torch.load(files[SKETCH])
        sketch = Sketch(tensors.pop("steps"), tensors.pop("scale"))
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError):
        raise _misfit(manifest) from None
    samples = sketch.steps.shape[:1].numel()
    of_sketch = Sketch(
        torch.empty(max(samples, 2), expert.head.in_features, dtype=torch.int8),
        torch.empty(expert.head.in_features),
    )
    if tensors or not (
        _are_alike(weights, wanted) and _are_alike(sketch._asdict(), of_sketch._asdict())
    ):
        raise _misfit(manifest)
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
) -> None:
    """Write a release to `directory`, whole or not at all; a registry gives it its version.

    `generic` are public observations that nobody trained on, `privacy` is the epsilon and delta of
    people's data spent in making it: none where it was made of public data alone. Raises InputError
    when `directory` exists.
    """
    check_new(directory)
    training = json.dumps({"trained_on": sorted(trained_on)}, ensure_ascii=False, indent=1)
    anonymous = WriterSet.of(
        generic.observations,
        generic.labels,
        writer=np.zeros(len(generic), np.uint32),
        names=["generic"],
        classes=generic.classes,
    )
    contents: dict[str, Callable[[Path], object]] = {
        WEIGHTS: lambda path: path.write_bytes(safetensors.torch.save(expert.state_dict())),
        SKETCH: lambda path: path.write_bytes(safetensors.torch.save(sketch._asdict())),
        GENERIC: lambda path: save_npz(path, anonymous),
        TRAINING: lambda path: path.write_text(training, encoding="utf-8"),
    }
    with replacing(directory) as unfinished:
        unfinished.mkdir()
        for name, write in contents.items():
            write(unfinished / name)
        manifest = Manifest(
            version=0,
            parent=None,
            restores=None,
            architecture=architecture,
            observation=generic.observation,
            labels=generic.classes,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            files={name: sha256((unfinished / name).read_bytes()) for name in contents},
            validation=validation,
            privacy=privacy or {"epsilon": 0.0, "delta": 0.0},
        )
        (unfinished / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def check_new(directory: Path) -> None:
    """Raise InputError when there is something at `directory`."""
    if directory.exists():
        raise InputError(f"out: {directory} exists and releases never change; give a new directory")


def sha256(content: bytes) -> str:
    """Return the digest of a file's content as manifests have it."""
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


def _are_alike(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    """Whether both have the same names, each with the same shape and type."""
    return given.keys() == wanted.keys() and all(
        (given[name].shape, given[name].dtype) == (wanted[name].shape, wanted[name].dtype)
        for name in wanted
    )


def _misfit(manifest: Manifest) -> InputError:
    return InputError(
        f"release: {manifest.name} does not hold a {manifest.architecture} for "
        f"{len(manifest.labels)} classes; fetch a release made for these labels"
    )


def _names(path: Path) -> frozenset[str]:
    try:
        return frozenset(map(str, json.loads(path.read_text(encoding="utf-8"))["trained_on"]))
    except (ValueError, KeyError, TypeError):
        raise InputError(f"release: {path} cannot be read; fetch the release again") from None
