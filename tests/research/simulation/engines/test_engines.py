"""One check suite for every engine: what works on the cohorts changes no outcome."""

import importlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.release.release import Release
from fedhw.research.baselines import METHODS
from fedhw.research.simulation.engines.engine import Engine
from fedhw.research.simulation.engines.flower import MOST, FlowerEngine
from fedhw.research.simulation.engines.local import LocalEngine
from fedhw.research.simulation.engines.ray import RayEngine
from fedhw.research.simulation.population import RecordedPopulation, SyntheticPopulation
from fedhw.research.simulation.trial import Outcome, Trial
from tests.full_disk import disk_of

ENGINES = [LocalEngine(1), LocalEngine(2), RayEngine(), FlowerEngine()]


def named(engine: Engine) -> str:
    return f"{type(engine).__name__}-{ENGINES.index(engine)}"


PATIENCE = 60.0


@pytest.fixture(scope="module")
def trial(release: Release, unseen_writers: WriterSet) -> Trial:
    chosen = {name: METHODS[name] for name in ("ge", "moe")}
    population = RecordedPopulation.of(unseen_writers, (4, 1, 2))
    return Trial(release, population, chosen, "half", seed=0)


@pytest.fixture(scope="module")
def expected(trial: Trial) -> Outcome:
    return trial.run(range(3))


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Populations that go wrong, where other processes find them, too."""
    here = str(Path(__file__).parent)
    monkeypatch.syspath_prepend(here)
    monkeypatch.setenv("PYTHONPATH", here)
    return importlib.import_module("mortal")


def ran(engine: Engine, trial: Trial) -> Outcome:
    cohorts = trial.population.cohorts()
    found = dict(engine.run(trial, cohorts))
    assert set(found) == set(cohorts)
    return Outcome.joined([found[cohort] for cohort in cohorts])


@pytest.mark.parametrize("engine", ENGINES, ids=named)
def test_an_engine_changes_no_outcome(
    engine: Engine, trial: Trial, expected: Outcome, alike: Callable[[Outcome, Outcome], None]
) -> None:
    alike(ran(engine, trial), expected)


@pytest.mark.parametrize("engine", ENGINES[1:], ids=named)
def test_what_a_writer_cannot_do_is_told(engine: Engine, trial: Trial, odd: ModuleType) -> None:
    unable = replace(trial, population=odd.Unable(4, 40, 0))
    with pytest.raises(InputError, match=r"data: the third writer has lost the pen; give another$"):
        ran(engine, unable)


def test_an_actor_that_is_killed_is_started_again(
    trial: Trial, odd: ModuleType, alike: Callable[[Outcome, Outcome], None], tmp_path: Path
) -> None:
    mortal = replace(trial, population=odd.Mortal(4, 62, 0, marks=tmp_path))
    found = ran(RayEngine(), mortal)
    assert len(list(tmp_path.iterdir())) == 1
    alike(found, replace(trial, population=SyntheticPopulation(4, 62, 0)).run(range(4)))


def test_an_actor_that_is_killed_again_and_again_is_told(
    trial: Trial, odd: ModuleType, tmp_path: Path
) -> None:
    mortal = replace(trial, population=odd.Mortal(4, 62, 0, marks=tmp_path, times=99))
    with pytest.raises(InputError, match=r"^engine: an actor was killed again and again"):
        ran(RayEngine(actors=1), mortal)


def test_a_process_that_is_killed_is_told(trial: Trial, odd: ModuleType, tmp_path: Path) -> None:
    mortal = replace(trial, population=odd.Mortal(4, 62, 0, marks=tmp_path))
    with pytest.raises(InputError, match=r"^engine: a process was killed.*; give the same command"):
        ran(LocalEngine(2), mortal)
    assert len(list(tmp_path.iterdir())) == 1


def test_processes_need_hardly_any_shared_memory(
    trial: Trial, expected: Outcome, alike: Callable[[Outcome, Outcome], None]
) -> None:
    """A limit on the size of files stands for a small /dev/shm, as containers have it."""
    with disk_of(20_000):
        alike(ran(LocalEngine(2), trial), expected)
    with (
        disk_of(0),
        pytest.raises(InputError, match=r"no shared memory for processes .*; make /dev/shm larger"),
    ):
        ran(LocalEngine(2), trial)


@pytest.fixture
def cluster() -> Iterator[str]:
    """The address of a Ray cluster of one processor that is there already."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets want a short path
    ray = Path(sys.executable).with_name("ray")
    command = [ray, "start", "--head", "--block", "--num-cpus=1", "--include-dashboard=false"]
    command += ["--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={place}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as head:
        try:
            end = time.monotonic() + PATIENCE
            while True:
                try:
                    RayEngine(f"127.0.0.1:{port}")
                    break
                except InputError:
                    assert time.monotonic() < end
                    assert head.poll() is None
                    time.sleep(0.2)
            yield f"127.0.0.1:{port}"
        finally:
            head.terminate()
            head.wait(PATIENCE)
            shutil.rmtree(place, ignore_errors=True)


def test_a_cluster_that_runs_is_used_and_left_running(
    cluster: str, trial: Trial, expected: Outcome, alike: Callable[[Outcome, Outcome], None]
) -> None:
    for _ in range(2):
        alike(ran(RayEngine(cluster), trial), expected)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "ray://127.0.0.1:1"])
def test_a_cluster_that_does_not_answer_is_told(address: str) -> None:
    with pytest.raises(InputError, match=f"^address: no Ray cluster answers at {address} "):
        RayEngine(address)


def test_flower_takes_no_more_writers_than_homes_have_room(trial: Trial) -> None:
    many = replace(trial, population=SyntheticPopulation(MOST + 1, 40, 0))
    with pytest.raises(InputError, match=r"^writers: 1001 are more than the 1000 devices"):
        ran(FlowerEngine(), many)
