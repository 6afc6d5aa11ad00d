"""The example packages of the docs, as if they were installed."""

import os
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import installed_packages


@pytest.fixture(scope="session")
def install(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], dict[str, str]]:
    """Returns the environment of a machine on which the package of a folder is installed."""

    def environment(folder: Path) -> dict[str, str]:
        project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
        site = tmp_path_factory.mktemp("site")
        installed_packages.install(
            site, project["name"], project["entry-points"], project["version"]
        )
        return os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(folder)])}

    return environment
