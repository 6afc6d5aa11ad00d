"""A release of the global expert: one directory, written once and never changed."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch

from fedhw.atomic import replacing
from fedhw.data.npz import load_npz, save_npz
from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.experts.global_expert import GlobalExpert, build
from fedhw.release.manifest import Manifest
from fedhw.release.sketch import Sketch

MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
SKETCH = "sketch.safetensors"
GENERIC = "generic.npz"
TRAINING = "training.json"


@dataclass(frozen=True)
class Release:
    """A global expert with what a device and a researcher need beside it.

    `sketch` is for rehearsal on devices; `generic` are public test characters that nobody trained
    on; `trained_on` names the writers the expert has seen, so that no simulation tests on them.
    """

    manifest: Manifest
    expert: GlobalExpert
    sketch: Sketch
    generic: WriterSet
    trained_on: frozenset[str] = field(default_factory=frozenset)

    @property
    def alphabet(self) -> str:
        """The characters that the labels stand for."""
        return self.manifest.alphabet

    @classmethod
    def load(cls, directory: Path) -> "Release":
        """Read a release and check every file against the manifest.

        Raises InputError for a missing or altered file, an unknown architecture, or weights or a
        sketch that do not fit the architecture and the alphabet.
        """
        manifest = Manifest.load(directory / MANIFEST)
        for name in (WEIGHTS, SKETCH, GENERIC, TRAINING):
            path = directory / name
            if not path.is_file():
                raise InputError(f"release: {path} is missing; fetch the release again")
            if manifest.files.get(name) != _sha256(path):
                raise InputError(
                    f"release: {path} is not the file in the manifest; fetch the release again"
                )
        expert = build(manifest.architecture, len(manifest.alphabet))
        try:
            safetensors.torch.load_model(expert, directory / WEIGHTS)
            tensors = safetensors.torch.load_file(directory / SKETCH)
            sketch = Sketch(tensors["steps"], tensors["scale"])
        except (RuntimeError, KeyError, safetensors.SafetensorError):
            raise InputError(
                f"release: {directory} does not hold a {manifest.architecture} for "
                f"{len(manifest.alphabet)} classes; fetch a release made for this alphabet"
            ) from None
        if sketch.steps.shape[1:] != (expert.head.in_features,):
            raise InputError(
                f"release: the sketch in {directory} has {sketch.steps.shape[-1]} features, the "
                f"expert {expert.head.in_features}; fetch the release again"
            )
        trained_on = _names(directory / TRAINING)
        generic = load_npz(directory / GENERIC)
        _check_alphabet(generic.alphabet, manifest.alphabet)
        return cls(manifest, expert.eval(), sketch, generic, trained_on)

    def check_fits(self, writers: WriterSet) -> None:
        """Raise InputError when these writers use another alphabet than the release."""
        _check_alphabet(writers.alphabet, self.alphabet)


def publish(
    directory: Path,
    expert: GlobalExpert,
    architecture: str,
    sketch: Sketch,
    generic: WriterSet,
    trained_on: list[str],
    validation: dict[str, float],
) -> None:
    """Write version 1 of a release to `directory`, whole or not at all.

    Raises InputError when `directory` exists.
    """
    check_new(directory)
    training = json.dumps({"trained_on": sorted(trained_on)}, ensure_ascii=False, indent=1)
    anonymous = WriterSet.of(
        generic.images,
        generic.labels,
        writer=np.zeros(len(generic), np.uint32),
        names=["generic"],
        alphabet=generic.alphabet,
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
            version=1,
            parent=None,
            architecture=architecture,
            alphabet=generic.alphabet,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            files={name: _sha256(unfinished / name) for name in contents},
            validation=validation,
        )
        (unfinished / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def check_new(directory: Path) -> None:
    """Raise InputError when there is something at `directory`."""
    if directory.exists():
        raise InputError(f"out: {directory} exists and releases never change; give a new directory")


def _names(path: Path) -> frozenset[str]:
    try:
        return frozenset(map(str, json.loads(path.read_text(encoding="utf-8"))["trained_on"]))
    except (ValueError, KeyError, TypeError):
        raise InputError(f"release: {path} cannot be read; fetch the release again") from None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _check_alphabet(given: str, wanted: str) -> None:
    if given != wanted:
        raise InputError(
            f"alphabet: {given!r} is not the release's {wanted!r}; use data or a release of the "
            "same alphabet"
        )
