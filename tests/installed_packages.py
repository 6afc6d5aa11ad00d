"""Packages as pip installs them: a module, and a folder that says what it brings."""

from collections.abc import Mapping
from pathlib import Path


def install(
    site: Path, name: str, points: Mapping[str, Mapping[str, str]], version: str = "1"
) -> None:
    """Write a package's metadata to a folder of `sys.path`; `points` are entry points by group."""
    about = site / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    lines = []
    for group, found in points.items():
        lines += [f"[{group}]", *(f"{entry} = {place}" for entry, place in found.items())]
    (about / "entry_points.txt").write_text("\n".join(lines))
