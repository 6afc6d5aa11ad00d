"""`fedhw export` as an app's maker gives it, in process."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from typer.testing import CliRunner

from fedhw.cli import app
from fedhw.data.writers import WriterSet
from fedhw.observation import Labels
from fedhw.personalization.learner import Learner
from fedhw.personalization.method import extract_features
from fedhw.personalization.stream import Personalizer
from fedhw.release.manifest import FOR_RESEARCH
from fedhw.release.release import Release
from fedhw_client.store.profile import Profile
from fedhw_client.store.stored_sample import StoredSample
from tests import command_line

PASSPHRASE = "correct horse"


def run(*arguments: object) -> int:
    """Return the exit code of `fedhw export arguments`."""
    return command_line.run("export", *arguments)


def sealed(data: WriterSet, characters: int) -> bytes:
    """The profile of the first writer after so many corrections."""
    rows = [
        StoredSample(
            position=i,
            id=f"{i}",
            at=float(i),
            observation=data.observations[r].tobytes(),
            label=data.classes[data.labels[r]],
            ge_right=True,
            right=True,
        )
        for i, r in enumerate(data.rows_of(0)[:characters])
    ]
    return Profile(rows, data.observation, data.classes).seal(PASSPHRASE)


@pytest.fixture(scope="module")
def profile(unseen_writers: WriterSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profiles") / "anna.profile"
    path.write_bytes(sealed(unseen_writers, 80))
    return path


@pytest.fixture
def passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDHW_PASSPHRASE", PASSPHRASE)


Said = Callable[[], tuple[str, str]]


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Said:
    """What was printed since it was asked last, to stdout and to stderr."""

    def read() -> tuple[str, str]:
        captured = capfd.readouterr()
        return captured.out, captured.err

    return read


def test_without_a_profile_it_is_for_anybody(release: Release, tmp_path: Path, said: Said) -> None:
    out = tmp_path / "new" / "[anybody].onnx"
    assert run(release.directory, out) == 0
    printed, complaints = said()
    assert printed == f"{out}: {release.manifest.name}, for anybody, {size(out)} kB\n"
    assert complaints == ""
    session = onnxruntime.InferenceSession(out)
    glyph = release.generic.observations[:1]
    scores, gate, _ = session.run(None, {"glyphs": glyph})
    person = Personalizer(release.expert, release.sketch, release.labels)
    expected = person.predict_one(glyph[0])
    np.testing.assert_allclose(softmax(scores[0]), expected.probabilities, atol=1e-4)
    assert gate[0, 0] == expected.opening == 0


def test_with_a_profile_it_reads_as_the_device_would(
    release: Release,
    unseen_writers: WriterSet,
    profile: Path,
    passphrase: None,
    tmp_path: Path,
    said: Said,
) -> None:
    out = tmp_path / "anna.onnx"
    assert run(release.directory, out, "--profile", profile, "--rank", 4) == 0
    printed, _ = said()
    assert printed == (
        f"{out}: {release.manifest.name}, rank 4, {size(out)} kB\n"
        "private: what it learned is one person's handwriting; keep it as you keep the profile\n"
    )
    person = Personalizer(release.expert, release.sketch, release.labels, Learner(rank=4))
    rows = unseen_writers.rows_of(0)
    for r in rows[:80]:
        person.keep(
            unseen_writers.observations[r], unseen_writers.classes[unseen_writers.labels[r]]
        )
    assert person.relearn(forced=True)
    session = onnxruntime.InferenceSession(out)
    scores, gate, _ = session.run(None, {"glyphs": unseen_writers.observations[rows]})
    for r, score, opening in zip(rows, scores, gate[:, 0], strict=True):
        expected = person.predict_one(unseen_writers.observations[r])
        np.testing.assert_allclose(softmax(score), expected.probabilities, atol=1e-3)
        assert opening == pytest.approx(expected.opening, abs=1e-3)
    assert gate.max() > 0.5


def test_the_columns_of_a_personal_file_are_in_order(
    release: Release,
    unseen_writers: WriterSet,
    profile: Path,
    passphrase: None,
    tmp_path: Path,
) -> None:
    assert run(release.directory, tmp_path / "a.onnx", "--profile", profile) == 0
    tensors = {
        each.name: onnx.numpy_helper.to_array(each)
        for each in onnx.load(tmp_path / "a.onnx").graph.initializer
    }
    u, v = tensors["u"][0], tensors["v"][0]
    assert (u.shape, v.shape) == ((84, 10), (10, 62))
    np.testing.assert_allclose(v @ v.T, np.eye(10), atol=1e-5)
    images = unseen_writers.observations[None, unseen_writers.rows_of(0)[:80]]
    features = extract_features(release.expert, images).features[0].numpy()
    worth = np.square(features @ u).sum(0)
    assert (worth[:-1] > worth[1:]).all()


def test_int8_is_smaller(
    release: Release, profile: Path, passphrase: None, tmp_path: Path, said: Said
) -> None:
    small, whole = tmp_path / "small.onnx", tmp_path / "whole.onnx"
    assert run(release.directory, whole, "--profile", profile) == 0
    said()
    assert run(release.directory, small, "--profile", profile, "--int8") == 0
    printed, complaints = said()
    assert f"rank 10, int8, {size(small)} kB" in printed
    assert complaints == ""
    assert small.stat().st_size < 0.45 * whole.stat().st_size


def test_the_passphrase_is_asked_for(
    release: Release, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEDHW_PASSPHRASE", raising=False)
    given = map(str, ("export", release.directory, tmp_path / "a.onnx", "--profile", profile))
    result = CliRunner().invoke(app, [*given], input=f"{PASSPHRASE}\n")
    assert result.exit_code == 0
    assert PASSPHRASE not in result.output
    assert (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("{release}", "{folder}"), "out: {folder} is a directory; give a file"),
        (("{nowhere}", "{out}"), "release: {nowhere}/manifest.json does not exist"),
        (("{release}", "{out}", "--rank", 4), "rank: 4 applies to a profile"),
        (
            ("{release}", "{out}", "--profile", "{profile}", "--rank", 63),
            "rank: 63 is more than the 62 classes",
        ),
        (("{release}", "{out}", "--profile", "{nowhere}"), "{nowhere}: No such file"),
        (("{release}", "{out}", "--profile", "{release}/manifest.json"), "is not a profile"),
        (("{release}", "{out}", "--profile", "{empty}"), "holds no corrections"),
        (("{release}", "{out}", "--profile", "{foreign}"), "labels of 2 corrections are not"),
        (("{travelled}", "{out}", "--int8"), "has travelled without its test data"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(
    arguments: tuple[object, ...],
    sentence: str,
    release: Release,
    unseen_writers: WriterSet,
    profile: Path,
    passphrase: None,
    tmp_path: Path,
    said: Said,
) -> None:
    places = {
        name: tmp_path / name
        for name in ("folder", "nowhere", "out", "empty", "foreign", "travelled")
    }
    places |= {"release": release.directory, "profile": profile}
    places["folder"].mkdir()
    places["empty"].write_bytes(sealed(unseen_writers, 0))
    foreign = WriterSet.of(
        unseen_writers.observations[:2], [0, 1], [0, 0], ["one"], Labels(("ä", "ö"))
    )
    places["foreign"].write_bytes(sealed(foreign, 2))
    shutil.copytree(release.directory, places["travelled"])
    for name in FOR_RESEARCH:
        (places["travelled"] / name).unlink()
    assert run(*(str(each).format(**places) for each in arguments)) == 2
    _, complaint = said()
    assert sentence.format(**places) in complaint
    assert complaint.count("\n") == 1
    assert not places["out"].exists()


def test_a_wrong_passphrase_opens_nothing(
    release: Release,
    profile: Path,
    tmp_path: Path,
    said: Said,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FEDHW_PASSPHRASE", "wrong horse")
    assert run(release.directory, tmp_path / "out", "--profile", profile) == 2
    assert "the passphrase is wrong" in said()[1]
    assert not (tmp_path / "out").exists()


def size(path: Path) -> str:
    return f"{path.stat().st_size / 1000:.0f}"


def softmax(scores: np.ndarray) -> np.ndarray:
    odds = np.exp(scores - scores.max())
    return odds / odds.sum()
