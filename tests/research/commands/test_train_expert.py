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


def test_a_finished_training_is_taken_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, release = tmp_path / "writers.npz", tmp_path / "release"
    save_npz(data, synthetic_writers(range(2000, 2004), 10))
    asked = ("train-expert", "--data", data, "--out", release, "--epochs")
    assert run(*asked, 1) == 0
    made = (release / "manifest.json").read_bytes()
    assert run(*asked, 1) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert run(*asked, 2) == 2
    assert "exists and releases never change; give a new directory" in capsys.readouterr().err
    save_npz(data, synthetic_writers(range(2000, 2004), 11))
    assert run(*asked, 1) == 2
    assert (release / "manifest.json").read_bytes() == made
