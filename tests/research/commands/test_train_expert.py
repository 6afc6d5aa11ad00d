"""A release, made of a file of writers."""

from pathlib import Path

import pytest

from fedhw.data.npz import save_npz
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.release.release import Release
from tests.command_line import run


def test_it_makes_a_release_and_says_how_good_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, release = tmp_path / "writers.npz", tmp_path / "release"
    save_npz(data, synthetic_writers(range(2000, 2004), 62))
    assert run("train-expert", "--data", data, "--out", release, "--epochs", 1) == 0
    reached = Release.load(release).manifest.validation["generic_accuracy"]
    assert capsys.readouterr().out == f"{release}: generic accuracy {reached:.1%}\n"
