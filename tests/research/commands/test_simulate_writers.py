"""Simulations as a user asks for them; bad input ends in one sentence and code 2."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedhw.data.npz import save_npz
from fedhw.data.writers import WriterSet
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.release.release import Release
from fedhw.research.baselines import METHODS
from fedhw.research.commands.trained_release import quick_place
from tests.command_line import run

WRITERS = synthetic_writers(range(2000, 2004), 62)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    save_npz(tmp_path / "writers.npz", WRITERS)
    return tmp_path / "writers.npz"


def test_simulate_writes_a_report_and_figures(
    release_directory: Path, data: Path, tmp_path: Path
) -> None:
    report, figures = tmp_path / "report", tmp_path / "figures.json"
    asked = ("--methods", "moe,prior", "--shots", 20, "--json", figures)
    code = run("simulate", "--release", release_directory, "--data", data, "--out", report, *asked)
    assert code == 0
    assert (report / "index.html").stat().st_size > 10_000
    found = json.loads(figures.read_text())
    assert (found["writers"], found["shots"], found["seed"]) == (4, 20, 0)
    assert list(found["methods"]) == ["ge", "moe", "prior"]


@pytest.mark.parametrize(("asked", "left_out"), [((), {"full"}), (("--methods", "all"), set())])
def test_heavy_methods_are_left_out_unless_they_are_asked_for(
    asked: tuple[str, ...],
    left_out: set[str],
    release_directory: Path,
    data: Path,
    tmp_path: Path,
) -> None:
    given = ["--release", release_directory, "--data", data, "--shots", 4]
    assert run("simulate", *given, *asked, "--out", tmp_path / "report") == 0
    found = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert METHODS.keys() - found["methods"].keys() == left_out


def cut_off(command: list[object], is_time: Callable[[], object]) -> str:
    """Interrupt a command as a terminal does, with all its children; returns what it said."""
    # Who runs the tests in the background may have them ignore the signal.
    with subprocess.Popen(
        ["env", "--default-signal=INT", *map(str, command)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        while not is_time():
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    return said


def test_a_simulation_that_was_cut_off_goes_on(release_directory: Path, tmp_path: Path) -> None:
    def kept() -> int:
        return len(list(tmp_path.glob(".report.unfinished/*/*.npz")))

    simulate: list[object] = [
        *(Path(sys.executable).with_name("fedhw"), "simulate", "--release", release_directory),
        *("--methods", "moe", "--out", tmp_path / "report", "--shots", 10, "--writers"),
    ]
    for least in (1, 3):
        said = cut_off([*simulate, 400], lambda least=least: kept() >= least)
        assert "cut off; give the same command again to continue" in said
        assert "Traceback" not in said
    done = kept()
    assert done >= 3
    assert not (tmp_path / "report").exists()
    subprocess.run(list(map(str, [*simulate, 8])), check=True, stderr=subprocess.DEVNULL)
    assert kept() == done  # another simulation does not touch it
    subprocess.run(list(map(str, [*simulate, 400])), check=True, stderr=subprocess.DEVNULL)
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    assert json.loads((tmp_path / "report" / "summary.json").read_text())["writers"] == 400


def test_no_process_outlives_a_simulation_that_is_killed(
    release_directory: Path, tmp_path: Path
) -> None:
    fedhw = Path(sys.executable).with_name("fedhw")
    command = [fedhw, "simulate", "--release", release_directory, "--writers", "2000"]
    command += ["--shots", "10", "--methods", "moe", "--out", tmp_path / "report"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        while not list(tmp_path.glob(".report.unfinished/*/*.npz")):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    end = time.monotonic() + 60
    while subprocess.run(["pgrep", "--session", str(process.pid)], stdout=-3).returncode == 0:
        assert time.monotonic() < end
        time.sleep(0.1)


def test_simulate_trains_a_release_of_its_own(tmp_path: Path) -> None:
    """Beside the report, where the next simulation finds it; half of the writers are held out."""
    save_npz(tmp_path / "writers.npz", synthetic_writers(range(2000, 2004), 186))
    asked = ("--data", tmp_path / "writers.npz", "--methods", "ge", "--out", tmp_path / "report")
    assert run("simulate", *asked, "--json", tmp_path / "figures.json") == 0
    assert json.loads((tmp_path / "figures.json").read_text())["writers"] == 2
    [place] = tmp_path.glob("report-release-*")
    made = Release.load(place)
    assert made.trained_on < set(WRITERS.names)
    assert run("simulate", *asked, "--shots", 4) == 0
    assert Release.load(place).manifest == made.manifest
    assert list(tmp_path.glob("report-release-*")) == [place]


@pytest.mark.parametrize("second", ["почерки.npz", "a_b.npz", "a/b.npz"])
def test_other_data_get_another_release(second: str, tmp_path: Path) -> None:
    """Whatever both files are called, and also where the second replaces the first."""
    places = []
    for seed, file in enumerate(("писатели.npz", second, second)):
        save_npz(tmp_path / file, synthetic_writers(range(2000, 2002), 2, seed))
        places.append(quick_place(tmp_path / "report", str(tmp_path / file), 0))
    assert len(set(places)) == 3
    (tmp_path / file).rename(tmp_path / "moved.npz")
    assert quick_place(tmp_path / "report", str(tmp_path / "moved.npz"), 0) == places[-1]


def test_a_finished_simulation_is_taken_as_it_is(
    release_directory: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, figures = tmp_path / "report", tmp_path / "figures.json"
    given = ["--release", release_directory, "--data", data, "--methods", "ge", "--out", report]
    assert run("simulate", *given, "--json", figures) == 0
    first, page = figures.read_bytes(), (report / "index.html").stat()
    assert run("simulate", *given, "--json", figures) == 0
    assert "has the report of this command already" in capsys.readouterr().out
    assert figures.read_bytes() == first
    assert (report / "index.html").stat() == page
    save_npz(data, synthetic_writers(range(2000, 2003), 62))  # other data of the same name
    assert run("simulate", *given, "--json", figures) == 0
    assert json.loads(figures.read_text())["writers"] == 3


def test_two_simulations_of_one_report_take_turns(tmp_path: Path) -> None:
    save_npz(tmp_path / "writers.npz", synthetic_writers(range(2000, 2004), 150))
    command = [Path(sys.executable).with_name("fedhw"), "simulate", "--data", "writers.npz"]
    command += ["--methods", "ge", "--shots", "4", "--out", "report"]
    both = [
        subprocess.Popen(command, cwd=tmp_path, stdout=-1, stderr=-1, text=True) for _ in range(2)
    ]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted("already" in out for out, _ in said) == [False, True]
    assert sorted("another command is writing report" in err for _, err in said) == [False, True]
    assert len(list(tmp_path.iterdir())) == 3  # the data, one release and the report


def test_an_engine_that_is_not_installed_is_told_before_a_release_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "fedhw.research.simulation.engines.ray", raising=False)
    assert run("simulate", "--engine", "ray", "--out", tmp_path / "report") == 2
    said = "fedhw: ray: is not installed; pip install 'fedhw[simulation]' brings it\n"
    assert capsys.readouterr().err == said
    assert list(tmp_path.iterdir()) == []


def test_who_is_tested_is_known_before_a_release_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_npz(tmp_path / "few.npz", synthetic_writers(range(2000, 2004), 140))
    asked = ("--data", tmp_path / "few.npz", "--out", tmp_path / "report")
    assert run("simulate", *asked) == 2
    assert "fewer than two writers have 150 characters" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["few.npz"]


def test_turned_data_are_told(
    release_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turned = np.ascontiguousarray(255 - WRITERS.observations.swapaxes(1, 2))
    save_npz(tmp_path / "turned.npz", replace(WRITERS, observations=turned))
    given = ["--release", release_directory, "--data", tmp_path / "turned.npz", "--methods", "ge"]
    assert run("simulate", *given, "--out", tmp_path / "report") == 0
    assert "of them inverted and transposed; give them that way" in capsys.readouterr().err


def npz(path: Path, **changes: object) -> Path:
    """Write a good file with some arrays replaced."""
    arrays = {
        "observations": WRITERS.observations,
        "labels": WRITERS.labels,
        "classes": np.array(WRITERS.classes.texts),
        "writer": WRITERS.writer,
        "writers": np.array(WRITERS.names),
        "order": WRITERS.order,
    }
    np.savez_compressed(path, **(arrays | changes))
    return path


def few(characters: int, classes: int) -> WriterSet:
    """One writer of so many characters and classes."""
    labels = np.arange(characters) % classes
    some = WRITERS.observations[:characters]
    return WriterSet.of(some, labels, [0] * characters, ["one"], WRITERS.classes)


BAD_DATA = {
    "doubles": (lambda p: npz(p, observations=np.zeros((248, 28, 28))), "observation"),
    "NaN": (
        lambda p: npz(p, observations=np.full((248, 28, 28), np.nan, np.float32)),
        "observation: it holds NaN",
    ),
    "wrong size": (
        lambda p: npz(p, observations=WRITERS.observations[:, :20]),
        "observation: uint8 [20, 28] is not",
    ),
    "a label outside": (lambda p: npz(p, labels=np.full(248, 62, np.uint8)), "labels"),
    "objects": (lambda p: npz(p, labels=np.array([{}] * 248, dtype=object)), "labels"),
    "no characters": (lambda p: npz(p, observations=WRITERS.observations[:0]), ""),
    "an empty file": (lambda p: p.touch(), "npz"),
    "a truncated file": (lambda p: p.write_bytes(npz(p).read_bytes()[:5000]), "npz"),
    "another alphabet": (
        lambda p: npz(p, labels=WRITERS.labels % 10, classes=np.array(list("0123456789"))),
        "labels: 0123456789 are not the release's",
    ),
    "a writer of one sample": (lambda p: save_npz(p, few(1, 1)), "data: no writer"),
    "a writer of one class": (lambda p: save_npz(p, few(60, 1)), "of two classes or more"),
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_data_is_one_sentence(
    kind: str, release_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, word = BAD_DATA[kind]
    make(tmp_path / "bad.npz")
    report = tmp_path / "report"
    asked = ("--data", tmp_path / "bad.npz", "--out", report)
    assert run("simulate", "--release", release_directory, *asked) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith("fedhw: ")
    assert word in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.npz"]


def test_nothing_of_the_users_is_replaced(
    release_directory: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    given = ["--release", release_directory, "--data", data, "--methods", "ge"]
    assert run("simulate", *given, "--out", mine) == 2
    assert "holds something else; give a directory of its own" in capsys.readouterr().err
    assert run("simulate", *given, "--out", tmp_path / "report", "--json", mine) == 2
    assert "is a directory; give a file" in capsys.readouterr().err
    assert (mine / "letter.txt").read_text() == "dear"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "writers.npz"]


def test_figures_have_their_place_outside_the_report(
    release_directory: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report"
    given = ["--release", release_directory, "--data", data, "--methods", "ge", "--out", report]
    for _ in range(2):
        assert run("simulate", *given, "--json", tmp_path / "figures.json") == 0
    assert run("simulate", *given, "--json", report / "figures.json") == 2
    assert "is in the report, which has summary.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--shots", "0"], "shots: '0' is not a count"),
        (["--shots", "some"], "shots: 'some' is not a count"),
        (["--shots", "900"], "data: no writer"),
        (["--days", "9"], "days: 9 is for a fleet; give --fleet, too"),
        (["--noise", "1"], "noise: 1.0 is for a fleet; give --fleet, too"),
        (["--address", "head:6379"], "address: head:6379 is for Ray; give --engine ray, too"),
        (["--engine", "ray", "--address", "127.0.0.1:1"], "address: no Ray cluster answers at"),
        (["--fleet", "--engine", "ray"], "engine: ray is not for a fleet; leave one of both out"),
        (["--fleet", "--shots", "9"], "shots: 9 is not for a fleet; leave one of both out"),
        (["--fleet", "--writers", "5"], "writers: 5 cannot be drawn from the 4"),
        (["--fleet"], "data: none of its 4 writers is among those"),
        (["--methods", "moe,magic"], "methods: 'magic' is unknown; use some of ge,moe"),
        (["--writers", "5"], "writers: 5 cannot be drawn from the 4"),
        (["--release", "nowhere"], "release: nowhere/manifest.json does not exist"),
        (["--data", "paper.pdf"], "data: 'paper.pdf' is not a source"),
        (["--data", "emnist:letters"], "data: emnist:letters names no writers"),
    ],
)
def test_a_bad_option_is_one_sentence(
    arguments: list[str],
    sentence: str,
    release_directory: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["--release", release_directory, "--data", data, "--out", tmp_path / "report"]
    assert run("simulate", *given, *arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"fedhw: {sentence}")
    assert message.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["writers.npz"]
