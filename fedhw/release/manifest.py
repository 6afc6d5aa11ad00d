"""The manifest of a release: a description that people can read."""

import hashlib
import json
import re
import sys
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from fedhw.errors import InputError
from fedhw.observation import Labels, ObservationType

FORMAT = 3
MAX_MANIFEST_BYTES = 20 * 1024 * 1024
"""A manifest has about 2 kB; with the most and longest labels it has 17 MB."""

MANIFEST = "manifest.json"
WEIGHTS, SKETCH = "weights.safetensors", "sketch.safetensors"
GENERIC, TRAINING = "generic.npz", "training.json"

FOR_DEVICES = (WEIGHTS, SKETCH)
"""The files of every release that devices fetch, beside those of its parts."""

FOR_RESEARCH = (GENERIC, TRAINING)

KNOWN_PARTS: frozenset[str] = frozenset()
"""The optional parts that this program knows."""

_SINCE_2 = {"restores": None, "privacy": {"epsilon": 0.0, "delta": 0.0}}
"""The fields that format 1 lacks, with the values that it stands for."""

_SINCE_3 = {"observation": {"shape": [28, 28], "dtype": "uint8"}, "parts": {}}
"""The fields that formats 1 and 2 lack; their `alphabet` has one label for each character."""

_LONGEST = 64
_PART_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_PART_FILE = re.compile(r"part-[a-z0-9_-]{1,50}(\.[a-z0-9]{1,12})?")


@dataclass(frozen=True)
class Manifest:
    """The description of a release.

    `version` is 0 until a registry publishes it; `parent` is the version before it and `restores`
    the version that it is a rollback to. `files` maps the name of each file to its SHA-256 in
    hexadecimal; `validation` holds accuracies as fractions and the counts behind them; `privacy` is
    the epsilon and delta of people's data spent in making it; `created` is ISO 8601 in UTC. `parts`
    maps the name of each optional part to whether it is `required` to use the release, and to its
    `value` or the name of its `file`, part-...; a program that does not know a part ignores it,
    unless it is required.
    """

    version: int
    parent: int | None
    restores: int | None
    architecture: str
    observation: ObservationType
    labels: Labels
    created: str
    files: dict[str, str]
    validation: dict[str, float]
    privacy: dict[str, float]
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    format: int = FORMAT

    def to_json(self) -> str:
        """Return the manifest as JSON text; its UTF-8 bytes are what is signed."""
        content = {each.name: getattr(self, each.name) for each in fields(self)}
        content["observation"] = {
            "shape": list(self.observation.shape),
            "dtype": self.observation.dtype,
        }
        content["labels"] = list(self.labels)
        if self.format < 3:
            left_out = {*_SINCE_3, *(_SINCE_2 if self.format == 1 else ())}
            content["labels"] = "".join(self.labels)
            content = {
                "alphabet" if name == "labels" else name: value
                for name, value in content.items()
                if name not in left_out
            }
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @cached_property
    def for_devices(self) -> tuple[str, ...]:
        """The names of the files that devices fetch."""
        parts = [part["file"] for part in self.parts.values() if "file" in part]
        return (*FOR_DEVICES, *parts)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest in hexadecimal, and so of the whole release."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def name(self) -> str:
        """The name of the release: its version and the beginning of its digest."""
        return f"v{self.version}-{self.digest[:8]}"

    @classmethod
    def load(cls, path: Path) -> "Manifest":
        """Read a manifest; raises InputError when it is missing or is not one."""
        try:
            with path.open("rb") as file:
                content = file.read(MAX_MANIFEST_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"release: {path} does not exist; give a release directory") from None
        except OSError as error:
            raise InputError(
                f"release: {path} cannot be read ({error.strerror}); fetch the release again"
            ) from None
        return cls.parse(content, path)

    @classmethod
    def parse(cls, content: bytes, where: Path | str) -> "Manifest":
        """Parse a manifest; `where` it was found is for messages.

        Raises InputError unless the bytes are exactly those that `to_json` returns.
        """
        if len(content) > MAX_MANIFEST_BYTES:
            raise InputError(
                f"release: {where} is over {MAX_MANIFEST_BYTES} bytes; fetch the release again"
            )
        try:
            found = json.loads(content.decode())
        except (ValueError, RecursionError):
            raise InputError(f"release: {where} cannot be read; fetch the release again") from None
        manifest = cls._checked(where, found)
        try:
            is_ours = manifest.to_json().encode() == content
        except (ValueError, RecursionError):  # NaN, lone surrogates or the like
            is_ours = False
        if not is_ours:
            raise InputError(
                f"release: {where} is not as fedhw has written it; fetch the release again"
            )
        return manifest

    @classmethod
    def _checked(cls, where: Path | str, found: Any) -> "Manifest":
        if not isinstance(found, dict) or not _is_whole(found.get("format")):
            raise InputError(f"release: {where} is not a manifest; fetch the release again")
        if not 1 <= found["format"] <= FORMAT:
            raise InputError(
                f"release: format {found['format']} of {where} is not one of 1 to {FORMAT}; update "
                "fedhw"
            )
        newer: dict[str, Any] = {}
        if found["format"] < 3:
            newer |= _SINCE_3 | {"labels": list(str(found.pop("alphabet", "")))}
        if found["format"] < 2:
            newer |= _SINCE_2
        if found.keys() & newer.keys() or {*found, *newer} != {each.name for each in fields(cls)}:
            raise InputError(f"release: {where} is not a manifest; fetch the release again")
        found |= newer
        for name, is_good in _good(found).items():
            if not is_good:
                shown = repr(found[name])[:80]
                raise InputError(f"release: {name} in {where} is {shown}; fetch the release again")
        for name, part in found["parts"].items():
            if part["required"] and name not in KNOWN_PARTS:
                raise InputError(
                    f"release: {where} requires the part {name!r}, which is not known here; update "
                    "fedhw"
                )
        try:
            shape, dtype = tuple(found["observation"]["shape"]), found["observation"]["dtype"]
            observation, labels = ObservationType(shape, dtype), Labels(tuple(found["labels"]))
        except InputError as error:
            raise InputError(f"release: {where}: {error}") from None
        return cls(**found | {"observation": observation, "labels": labels})


def _good(found: dict[str, Any]) -> dict[str, bool]:
    version, files, parts = found["version"], found["files"], found["parts"]
    return {
        "version": _is_whole(version),
        "parent": _is_earlier(found["parent"], version),
        "restores": _is_earlier(found["restores"], version),
        "architecture": _is_text(found["architecture"]),
        "observation": isinstance(found["observation"], dict)
        and found["observation"].keys() == {"shape", "dtype"}
        and isinstance(found["observation"]["shape"], list),
        "labels": isinstance(found["labels"], list),
        "created": _is_time(found["created"]),
        "parts": _are_parts(parts),
        "files": _are_parts(parts) and _are_files(files, parts),
        "validation": _are_figures(found["validation"]),
        "privacy": _are_figures(found["privacy"])
        and found["privacy"].keys() == {"epsilon", "delta"}
        and min(found["privacy"].values()) >= 0,
    }


def _is_whole(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_earlier(value: Any, version: Any) -> bool:
    return value is None or (_is_whole(value) and _is_whole(version) and value < version)


def _is_text(value: object) -> bool:
    # JSON can hold lone surrogates, UTF-8 cannot.
    return (
        isinstance(value, str)
        and 0 < len(value) <= _LONGEST
        and not any("\ud800" <= character <= "\udfff" for character in value)
    )


def _is_time(value: object) -> bool:
    try:
        return _is_text(value) and datetime.fromisoformat(str(value)).tzinfo is not None
    except ValueError:
        return False


def _are_parts(value: object) -> bool:
    return isinstance(value, dict) and all(
        _PART_NAME.fullmatch(name)
        and isinstance(part, dict)
        and part.keys() in ({"required", "value"}, {"required", "file"})
        and isinstance(part["required"], bool)
        and ("value" in part or (_is_text(part["file"]) and _PART_FILE.fullmatch(part["file"])))
        for name, part in value.items()
    )


def _are_files(value: object, parts: dict[str, dict[str, Any]]) -> bool:
    travel = {*FOR_DEVICES, *(part["file"] for part in parts.values() if "file" in part)}
    return (
        isinstance(value, dict)
        and travel <= value.keys() <= {*travel, *FOR_RESEARCH}
        and all(
            isinstance(digest, str) and re.fullmatch(r"[0-9a-f]{64}", digest)
            for digest in value.values()
        )
    )


def _are_figures(value: object) -> bool:
    return isinstance(value, dict) and all(
        _is_text(name)
        and type(figure) in (int, float)
        and abs(figure) <= sys.float_info.max  # not so for NaN
        for name, figure in value.items()
    )
