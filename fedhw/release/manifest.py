"""The manifest of a release: what it is, in a file that a person can read."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from fedhw.errors import InputError

FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """What a release says of itself.

    `files` maps the name of each file to its SHA-256 in hexadecimal; `validation` holds
    accuracies as fractions and the counts behind them; `created` is ISO 8601 in UTC.
    """

    version: int
    parent: int | None
    architecture: str
    alphabet: str
    created: str
    files: dict[str, str]
    validation: dict[str, float]
    format: int = FORMAT

    def to_json(self) -> str:
        """Return the manifest as JSON text."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

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
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"release: {path} does not exist; give a release directory") from None
        except (OSError, ValueError) as error:
            raise InputError(
                f"release: {path} cannot be read ({error}); fetch the release again"
            ) from None
        return cls._checked(path, content)

    @classmethod
    def _checked(cls, path: Path, content: Any) -> "Manifest":
        kinds: dict[str, type | tuple[type, ...]] = {
            "version": int,
            "parent": (int, type(None)),
            "architecture": str,
            "alphabet": str,
            "created": str,
            "files": dict,
            "validation": dict,
            "format": int,
        }
        names = {field.name for field in fields(cls)}
        if not isinstance(content, dict) or set(content) != names:
            raise InputError(f"release: {path} is not a manifest; fetch the release again")
        for name, kind in kinds.items():
            if not isinstance(content[name], kind):
                raise InputError(
                    f"release: {name} in {path} is {content[name]!r}; fetch the release again"
                )
        figures = content["validation"].values()
        if not all(isinstance(figure, int | float) for figure in figures):
            raise InputError(
                f"release: validation in {path} is not all numbers; fetch the release again"
            )
        if content["format"] != FORMAT:
            raise InputError(
                f"release: format {content['format']} of {path} is not {FORMAT}; update fedhw"
            )
        return cls(**content)
