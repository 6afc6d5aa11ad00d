"""The example packages of the docs, as if they were installed."""

import os
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def install(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], dict[str, str]]:
    """Returns the environment of a machine on which the package of a folder is installed."""

    def environment(folder: Path) -> dict[str, str]:
        project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
        site = tmp_path_factory.mktemp("site")
        name = project["name"].replace("-", "_")
        about = site / f"{name}-{project['version']}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
        lines = []
        for group, points in project["entry-points"].items():
            lines += [f"[{group}]", *(f"{name} = {place}" for name, place in points.items())]
        (about / "entry_points.txt").write_text("\n".join(lines))
        return os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(folder)])}

    return environment
