"""The manifest of a release: what it is, in a file that a person can read."""

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from fedhw.errors import InputError

FORMAT = 2
MAX_MANIFEST_BYTES = 64 * 1024
"""Bytes; a manifest has about a thousand."""

MANIFEST = "manifest.json"
WEIGHTS, SKETCH = "weights.safetensors", "sketch.safetensors"
GENERIC, TRAINING = "generic.npz", "training.json"

FOR_DEVICES = (WEIGHTS, SKETCH)
"""What travels; the rest stays with the researcher, for one thing because it names writers."""

FOR_RESEARCH = (GENERIC, TRAINING)

_SINCE_2 = {"restores": None, "privacy": {"epsilon": 0.0, "delta": 0.0}}
"""What format 1 had not, and what it meant."""

_LONGEST = 64
_MOST_CLASSES = 1024


@dataclass(frozen=True)
class Manifest:
    """What a release says of itself.

    `version` counts what a registry has published, 0 before; `parent` is the version that this one
    follows and `restores` the one that it is a rollback to. `files` maps the name of each file to
    its SHA-256 in hexadecimal; `validation` holds accuracies as fractions and the counts behind
    them; `privacy` is the epsilon and delta of people's data spent in making it; `created` is
    ISO 8601 in UTC.
    """

    version: int
    parent: int | None
    restores: int | None
    architecture: str
    alphabet: str
    created: str
    files: dict[str, str]
    validation: dict[str, float]
    privacy: dict[str, float]
    format: int = FORMAT

    def to_json(self) -> str:
        """Return the manifest as JSON text; its UTF-8 bytes are what is signed."""
        content = asdict(self)
        if self.format == 1:
            content = {name: content[name] for name in content if name not in _SINCE_2}
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest in hexadecimal, and so of everything in the release."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def name(self) -> str:
        """What people call the release: its version and the beginning of its digest."""
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
        """Take a manifest from bytes that are found `where`.

        Raises InputError unless they are, byte for byte, what `to_json` returns.
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
        if manifest.to_json().encode() != content:
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
                f"release: format {found['format']} of {where} is not {FORMAT}; update fedhw"
            )
        if found["format"] == 1:
            found = found | _SINCE_2 if not found.keys() & _SINCE_2.keys() else {}
        if found.keys() != {field.name for field in fields(cls)}:
            raise InputError(f"release: {where} is not a manifest; fetch the release again")
        for name, is_good in _good(found).items():
            if not is_good:
                raise InputError(
                    f"release: {name} in {where} is {repr(found[name])[:80]}; fetch the release "
                    "again"
                )
        return cls(**found)


def _good(found: dict[str, Any]) -> dict[str, bool]:
    version, alphabet = found["version"], found["alphabet"]
    return {
        "version": _is_whole(version),
        "parent": _is_earlier(found["parent"], version),
        "restores": _is_earlier(found["restores"], version),
        "architecture": _is_text(found["architecture"]),
        "alphabet": _is_text(alphabet, _MOST_CLASSES) and len(set(alphabet)) == len(alphabet),
        "created": _is_time(found["created"]),
        "files": _are_files(found["files"]),
        "validation": _are_figures(found["validation"]),
        "privacy": _are_figures(found["privacy"])
        and found["privacy"].keys() == {"epsilon", "delta"}
        and min(found["privacy"].values()) >= 0,
    }


def _is_whole(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_earlier(value: Any, version: Any) -> bool:
    return value is None or (_is_whole(value) and _is_whole(version) and value < version)


def _is_text(value: object, longest: int = _LONGEST) -> bool:
    # Lone surrogates can be told in JSON but not in UTF-8.
    return (
        isinstance(value, str)
        and 0 < len(value) <= longest
        and not any("\ud800" <= character <= "\udfff" for character in value)
    )


def _is_time(value: object) -> bool:
    try:
        return _is_text(value) and datetime.fromisoformat(str(value)).tzinfo is not None
    except ValueError:
        return False


def _are_files(value: object) -> bool:
    return (
        isinstance(value, dict)
        and set(FOR_DEVICES) <= value.keys() <= {*FOR_DEVICES, *FOR_RESEARCH}
        and all(
            isinstance(digest, str) and re.fullmatch(r"[0-9a-f]{64}", digest)
            for digest in value.values()
        )
    )


def _are_figures(value: object) -> bool:
    return (
        isinstance(value, dict)
        and all(map(_is_text, value))
        and all(type(figure) in (int, float) for figure in value.values())
        and all(map(_is_finite, value.values()))
    )


def _is_finite(figure: float) -> bool:
    try:
        return math.isfinite(figure)
    except OverflowError:  # a whole number beyond all floats
        return False
