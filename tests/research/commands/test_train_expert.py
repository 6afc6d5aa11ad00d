"""A release, made of a file of writers."""

import signal
import subprocess
import sys
import time
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_training_that_is_cut_off_says_that_it_goes_on(number: int, tmp_path: Path) -> None:
    save_npz(tmp_path / "writers.npz", synthetic_writers(range(2000, 2004), 10))
    command = [sys.executable, "-m", "fedhw", "train-expert", "--epochs", "100000"]
    command += ["--data", "writers.npz", "--out", "release"]
    # Who runs the tests in the background may have them ignore the signal.
    command = ["env", "--default-signal=INT", *command]
    with subprocess.Popen(command, cwd=tmp_path, stderr=-1, text=True) as process:
        while not (tmp_path / ".release.training").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "fedhw: cut off; give the same command again to continue"
    # A signal in the middle of its removal leaves the folder of a step, which the next run removes.
    kept = {path.name for path in tmp_path.iterdir() if ".release.training." not in path.name}
    assert kept == {"writers.npz", ".release.training"}
