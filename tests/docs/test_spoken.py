"""The plug-in of docs/examples/spoken: recordings instead of pictures, from its source to a round.

Most tests hear tones that stand in for words; one hears real recordings, where they are.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import nn

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.experts.architecture import register
from fedhw.experts.evaluation import accuracy
from fedhw.experts.one_sample import compile_for_one_sample
from fedhw.improvement.candidate import make_candidate
from fedhw.improvement.improvement import Improvement, Recipe
from fedhw.improvement.public import Public
from fedhw.personalization.method import extract_features
from fedhw.release.release import Release
from fedhw_client import Device, connect
from tests.fed_avg_m import FedAvgM

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "spoken"
RECORDINGS = Path(__file__).parents[3] / "shared" / "data" / "spoken_digits.npz"

PITCHES = {"anna": 0.9, "bo": 1.0, "carl": 1.1, "dora": 1.3, "emil": 0.75}
"""Of the speakers; the last two are above and below those whom the expert is trained on."""

RECORDED = 40
"""Recordings of each speaker."""


def tones(digit: int, pitch: float, random: np.random.Generator) -> NDArray[np.int16]:
    """A word of two tones, of which the second glides."""
    seconds = np.arange(int(8000 * random.uniform(0.3, 0.5))) / 8000
    low, high = 250 * 1.13**digit * pitch, (2200 - 130 * digit) * pitch
    glide = high * (1 + 0.2 * (digit % 2) * seconds)
    sound = np.sin(2 * np.pi * low * seconds) + np.sin(2 * np.pi * glide * seconds)
    loud = random.uniform(2000, 9000) * np.hanning(len(seconds))
    return (loud * (sound + random.normal(0, 0.2, len(seconds)))).astype(np.int16)


def save_recordings(path: Path, speakers: list[str], **changes: object) -> Path:
    """Write recordings as `spoken:FILE` reads them."""
    random = np.random.default_rng(0)
    labels = np.tile(np.arange(10), RECORDED // 10 * len(speakers))
    speaker = np.repeat(np.arange(len(speakers)), RECORDED)
    spoken = [
        tones(digit, PITCHES[speakers[who]] * random.normal(1, 0.02), random)
        for digit, who in zip(labels, speaker, strict=True)
    ]
    arrays = {
        "audio": np.concatenate(spoken),
        "offsets": np.cumsum([0, *map(len, spoken)]).astype(np.uint32),
        "labels": labels.astype(np.uint8),
        "speaker": speaker.astype(np.uint8),
        "speakers": np.array(speakers),
        "order": np.tile(np.arange(RECORDED), len(speakers)).astype(np.uint32),
        "rate": np.array(8000),
    }
    np.savez_compressed(path, **(arrays | changes))
    return path


class Machine:
    """A machine on which the example is installed, with recordings and a release in a folder."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self._environment = environment
        save_recordings(folder / "three.npz", ["anna", "bo", "carl"])
        save_recordings(folder / "five.npz", [*PITCHES])

    def run(self, command: str) -> str:
        """What `fedhw COMMAND` prints; it is run in the folder."""
        done = subprocess.run(
            [sys.executable, "-m", "fedhw", *command.split()],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def agent(self, home: str) -> Iterator[Device]:
        """An agent with this home, for as long as a `with` block lasts."""
        command = [sys.executable, "-m", "fedhw", "client", "--release", "release"]
        with subprocess.Popen(
            [*command, "--home", home],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert process.stdout.readline()  # it says where it listens
                with connect(self.folder / home) as device:
                    yield device
            finally:
                process.terminate()
                process.wait(60)

    def figures(self, name: str) -> dict[str, object]:
        return json.loads((self.folder / name).read_text("utf-8"))


@pytest.fixture(scope="module")
def spoken() -> Iterator[ModuleType]:
    """The loader's module, as if the example's folder were on the path."""
    sys.path.insert(0, str(EXAMPLE))
    register("spoken-cnn", import_module("spoken.network").SPOKEN_CNN)
    yield import_module("spoken.recordings")
    sys.path.remove(str(EXAMPLE))


@pytest.fixture(scope="module")
def machine(
    install: Callable[[Path], dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Machine:
    machine = Machine(tmp_path_factory.mktemp("spoken"), install(EXAMPLE))
    machine.run(
        "train-expert --data spoken:three.npz --architecture spoken-cnn --epochs 8 --hold-out 0 "
        "--out release"
    )
    return machine


def test_a_recording_becomes_frames_whatever_its_length_and_loudness(spoken: ModuleType):
    random = np.random.default_rng(1)
    word = tones(3, 1.0, random)
    for samples in (word, word // 4, word[:100], np.tile(word, 9), word[:0], 0 * word):
        frames = spoken.log_mel(samples)
        spoken.LOG_MEL.check(frames)
        assert abs(frames.mean()) < 1e-4
        assert frames.std() == pytest.approx(1, abs=1e-3) or not samples.any()
    np.testing.assert_allclose(spoken.log_mel(word), spoken.log_mel(3 * (word // 4)), atol=0.2)


def test_recordings_keep_who_said_what_and_when(spoken: ModuleType, tmp_path: Path):
    path = save_recordings(tmp_path / "two.npz", ["anna", "bo"])
    writers = spoken.load_recordings(str(path), seed=0)
    assert writers.names == ("anna", "bo")
    assert writers.counts().tolist() == [RECORDED, RECORDED]
    assert writers.observation == spoken.LOG_MEL
    assert [writers.classes[label] for label in writers.labels[:3]] == ["zero", "one", "two"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rate": np.array(16000)}, "rate: 16000 is not 8000; resample"),
        ({"labels": np.full(RECORDED, 10)}, "labels: value 10 is outside the 10 classes"),
        ({"offsets": np.zeros(3, np.uint32)}, "labels: shape (40,) does not fit 2 observations"),
        ({"order": np.full(RECORDED, np.nan)}, "order: some values are missing; give one"),
    ],
)
def test_recordings_that_cannot_be_used_are_refused_in_one_sentence(
    spoken: ModuleType, tmp_path: Path, changes: dict[str, object], told: str
):
    path = save_recordings(tmp_path / "bad.npz", ["anna"], **changes)
    with pytest.raises(InputError, match=re.escape(told)):
        spoken.load_recordings(str(path), seed=0)


def test_a_file_of_something_else_is_refused(spoken: ModuleType, tmp_path: Path):
    (tmp_path / "text.npz").write_text("digits")
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    for name in ("text.npz", "other.npz", "missing.npz", "."):
        with pytest.raises(InputError, match=r"is no file of recordings .+; give spoken:FILE"):
            spoken.load_recordings(str(tmp_path / name), seed=0)


def test_a_simulation_personalises_to_speakers(machine: Machine):
    machine.run(
        "simulate --release release --data spoken:five.npz --methods ge,moe --out report "
        "--json figures.json"
    )
    ge, moe = (machine.figures("figures.json")["methods"][name] for name in ("ge", "moe"))
    assert moe["custom_gain"] > 0.1, (ge, moe)
    assert moe["generic_accuracy"] > ge["generic_accuracy"] - 0.1
    report = (machine.folder / "report" / "index.html").read_text("utf-8")
    assert "dora" in report
    assert "seven" in report


def test_single_recordings_are_recognised_without_torch(spoken: ModuleType, machine: Machine):
    expert = Release.load(machine.folder / "release").expert
    recordings = spoken.load_recordings(str(machine.folder / "five.npz"), seed=0).observations
    look = compile_for_one_sample(expert)
    scores = np.stack([look(each)[1] for each in recordings[:50]])
    together = extract_features(expert, recordings[None, :50]).scores[0].numpy()
    np.testing.assert_allclose(scores, together, atol=1e-4)
    nn.init.zeros_(expert.head.weight)  # of which numpy has its own copy
    np.testing.assert_array_equal(look(recordings[0])[1], scores[0])


def test_a_replay_learns_words(spoken: ModuleType, machine: Machine):
    machine.run(
        "client --release release --replay spoken:five.npz --writer dora --rate 0 --home home "
        "--json replay.json"
    )
    figures = machine.figures("replay.json")
    five = spoken.load_recordings(str(machine.folder / "five.npz"), seed=0)
    own = five.take(five.rows_of(five.names.index("dora")))
    expert = Release.load(machine.folder / "release").expert
    assert figures["samples"] == RECORDED
    assert figures["ge_accuracy"] == accuracy(expert, own.observations, own.labels)
    assert figures["moe_accuracy"] > 0


def test_an_app_corrects_its_agent(spoken: ModuleType, machine: Machine):
    hear = import_module("spoken.app").hear
    random = np.random.default_rng(2)
    with machine.agent("app") as agent:
        meant = [spoken.WORDS[digit] for digit in [3, 7] * 20]
        said = [tones(spoken.WORDS.index(word), PITCHES["dora"], random) for word in meant]
        heard = [hear(agent, *pair) for pair in zip(said, meant, strict=True)]
        wrong = sum(word != other for word, other in zip(heard, meant, strict=True))
        assert agent.status().kept == wrong
        assert set(heard) <= set(spoken.WORDS)
        assert agent.forget(label="three") == sum(word != "three" for word in heard[::2])


def test_a_fleet_of_speakers_reports(machine: Machine):
    machine.run(
        "fleet --release release --data spoken:five.npz --devices 2 --rate 0 --window 4 "
        "--json fleet.json"
    )
    figures = machine.figures("fleet.json")
    assert figures["failures"] == []
    for device in figures["devices"]:
        assert (device["written"], device["running"]) == (RECORDED, figures["release"])
        assert device["reports"] >= 1


def test_a_simulated_fleet_lives_with_speakers(machine: Machine):
    machine.run(
        "simulate --fleet --release release --data spoken:five.npz --days 3 --out fleet "
        "--json days.json"
    )
    figures = machine.figures("days.json")
    assert figures["writers"] == 2


def test_two_speakers_improve_the_expert_of_three(spoken: ModuleType, machine: Machine):
    everybody = spoken.load_recordings(str(machine.folder / "five.npz"), seed=0)
    release = Release.load(machine.folder / "release")
    speakers = [everybody.take(everybody.rows_of(speaker)) for speaker in (3, 4)]
    optimiser = FedAvgM(1.0, 0.5)
    recipe = Recipe(rounds=8, rate=0.05, writers=3, noise=0.0, optimiser=optimiser)
    improvement = Improvement(release.expert, Public.of(everybody, release), recipe)
    state = improvement.begin()
    for number in range(recipe.rounds):
        task = improvement.task(state, devices=2, survivors=2)
        start = improvement.start(state)
        updates = [
            recipe.training.update(start, own.observations, own.labels, task.rate, number)
            for own in speakers
        ]
        total = sum(task.contribution(update) for update in updates)
        state = improvement.advance(state, task, total, devices=2)
    improved = improvement.expert(state)
    own = everybody.take(np.flatnonzero(everybody.writer >= 3))
    before, after = (
        accuracy(expert, own.observations, own.labels) for expert in (release.expert, improved)
    )
    assert after > before + 0.05, (before, after)
    make_candidate(machine.folder / "candidate", improved, release, improvement.public, {})
    candidate = Release.load(machine.folder / "candidate")
    assert accuracy(candidate.expert, own.observations, own.labels) == after
    assert (candidate.observation, candidate.labels) == (spoken.LOG_MEL, spoken.WORDS)


@pytest.mark.skipif(not RECORDINGS.exists(), reason="the shared recordings are not beside this")
def test_frames_of_real_recordings_tell_words_apart(spoken: ModuleType):
    writers: WriterSet = spoken.load_recordings(str(RECORDINGS), seed=0)
    assert writers.names == ("jackson", "lucas", "theo", "yweweler")
    assert writers.counts().tolist() == [500] * 4
    for speaker in range(4):
        own = writers.take(writers.rows_of(speaker))
        frames, labels = own.observations.reshape(500, -1), own.labels
        means = np.stack([frames[:250][labels[:250] == word].mean(0) for word in range(10)])
        nearest = np.square(frames[250:, None] - means).sum(2).argmin(1)
        assert (nearest == labels[250:]).mean() > 0.6
