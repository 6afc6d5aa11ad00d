import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fedhw.errors import InputError
from fedhw.experts.evaluation import accuracy
from fedhw.experts.global_expert import build
from fedhw.handwriting.alphabet import DIGITS
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.observation import Labels, ObservationType
from fedhw.release.manifest import FOR_DEVICES, MANIFEST
from fedhw.release.release import Release, sha256
from fedhw.release.sketch import Sketch
from fedhw.research.train_release import make_release
from fedhw.research.training import Training
from tests.release.conftest import rewrite


def test_a_release_holds_what_it_says(release: Release) -> None:
    assert sum(p.numel() for p in release.expert.parameters()) == 66126
    reached = accuracy(release.expert, release.generic.observations, release.generic.labels)
    assert release.manifest.validation["generic_accuracy"] == pytest.approx(reached)
    assert len(release.trained_on) == 24
    assert release.sketch.steps.dtype == torch.int8
    assert release.generic.names == ("generic",)


def test_held_out_writers_are_not_trained_on(release: Release) -> None:
    everybody = set(synthetic_writers(30, 1).names)
    assert len(everybody - release.trained_on) == 6


def test_nothing_is_left_of_the_training(tmp_path: Path) -> None:
    place = tmp_path / "release"
    make_release(place, synthetic_writers(3, 40), "lenet5", Training(epochs=1), hold_out=0)
    assert list(tmp_path.iterdir()) == [place]


def test_the_same_seed_makes_the_same_weights(tmp_path: Path) -> None:
    writers = synthetic_writers(3, 40)
    hashes = []
    for name in ("a", "b"):
        make_release(tmp_path / name, writers, "lenet5", Training(epochs=1), hold_out=0)
        hashes.append(Release.load(tmp_path / name).manifest.files)
    assert hashes[0]["weights.safetensors"] == hashes[1]["weights.safetensors"]


def test_a_release_is_never_written_over(release_directory: Path) -> None:
    with pytest.raises(InputError, match="exists and releases never change; give a new directory"):
        make_release(
            release_directory, synthetic_writers(3, 40), "lenet5", Training(epochs=1), hold_out=0
        )


def test_too_many_held_out_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="hold-out: 9 writers are more than the 3"):
        make_release(
            tmp_path / "x", synthetic_writers(3, 150), "lenet5", Training(epochs=1), hold_out=9
        )
    assert list(tmp_path.iterdir()) == []


def other_architecture(directory: Path) -> None:
    """Weights of another architecture, honestly hashed."""
    path = directory / "weights.safetensors"
    safetensors.torch.save_model(build("leaf-cnn", 62), str(path))
    rewrite(directory)


def other_format(directory: Path) -> None:
    path = directory / "manifest.json"
    path.write_text(path.read_text().replace('"format": 3', '"format": 4'))


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (shutil.rmtree, r"manifest.json does not exist; give a release directory"),
        (lambda d: (d / "sketch.safetensors").unlink(), r"sketch.safetensors is missing"),
        (
            lambda d: (d / "weights.safetensors").write_bytes(b"x"),
            r"weights.safetensors is not the file in the manifest",
        ),
        (lambda d: (d / "manifest.json").write_text("{"), r"manifest.json cannot be read"),
        (lambda d: (d / "manifest.json").write_text("[]"), r"is not a manifest"),
        (lambda d: rewrite(d, version="two"), r"version in .* is 'two'"),
        (other_format, r"format 4 of .* is not one of 1 to 3; update fedhw"),
        (lambda d: rewrite(d, architecture="vgg"), r"architecture: 'vgg' is not known"),
        (lambda d: rewrite(d, labels=Labels(("a", "b"))), r"does not hold a lenet5 for 2 classes"),
        (other_architecture, r"does not hold a lenet5 for 62 classes"),
        (
            lambda d: rewrite(d, observation=ObservationType((49, 32), "float32")),
            r"gives float32 \[49, 32\] to a lenet5, which takes uint8 \[28, 28\]; fetch another",
        ),
    ],
)
def test_a_bad_release_is_one_sentence(
    release_directory: Path, tmp_path: Path, harm: Callable[[Path], object], sentence: str
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(release_directory, broken)
    harm(broken)
    with pytest.raises(InputError, match=sentence) as caught:
        Release.load(broken)
    assert "\n" not in str(caught.value)


def test_a_release_that_no_registry_has_published_is_version_0(release: Release) -> None:
    assert (release.manifest.version, release.manifest.parent) == (0, None)
    assert release.manifest.privacy == {"epsilon": 0.0, "delta": 0.0}


def test_a_release_of_the_older_format_still_loads(
    release_directory: Path, release: Release, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(release_directory, old)
    rewrite(old, version=1, format=1)
    text = (old / MANIFEST).read_text()
    assert "restores" not in text
    assert "privacy" not in text
    loaded = Release.load(old)
    assert loaded.manifest.name == f"v1-{sha256(text.encode())[:8]}"
    assert len(loaded.generic) == len(release.generic)


def test_what_travelled_recognises_and_says_what_it_lacks(
    release_directory: Path, release: Release, tmp_path: Path
) -> None:
    for name in (MANIFEST, *FOR_DEVICES):
        shutil.copy(release_directory / name, tmp_path)
    travelled = Release.load(tmp_path)
    assert travelled.travelled
    assert not release.travelled
    assert travelled.manifest == release.manifest
    for name, weights in travelled.expert.state_dict().items():
        assert torch.equal(weights, release.expert.state_dict()[name])
    for ask in (lambda: travelled.generic, lambda: travelled.trained_on):
        with pytest.raises(InputError, match="travelled without its test data; give the"):
            ask()


@pytest.mark.parametrize(
    ("name", "ask"),
    [
        ("generic.npz", lambda release: release.generic),
        ("training.json", lambda release: release.trained_on),
    ],
)
def test_what_a_researcher_reads_is_the_file_in_the_manifest(
    release_directory: Path, tmp_path: Path, name: str, ask: Callable[[Release], object]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(release_directory, copy)
    (copy / name).write_bytes(b"{}")
    release = Release.load(copy)
    with pytest.raises(InputError, match=f"{name} is not the file in the manifest"):
        ask(release)


def test_data_of_other_labels_or_observations_is_refused(release: Release) -> None:
    writers = synthetic_writers(2, 10)
    digits = writers.take((writers.labels < 10).nonzero()[0])
    other = type(digits).of(digits.observations, digits.labels, digits.writer, digits.names, DIGITS)
    with pytest.raises(InputError, match="labels: 0123456789 are not the release's 0123"):
        release.check_fits(other)
    smaller = replace(writers, observations=writers.observations[:, 1:])
    with pytest.raises(InputError, match=r"observation: uint8 \[27, 28\] is not the release's"):
        release.check_fits(smaller)


def test_a_sketch_is_true_to_half_a_step() -> None:
    features = torch.rand(50, 84) * torch.rand(84)
    sketch = Sketch.of(features)
    assert ((sketch.features() - features).abs() <= sketch.scale / 2 + 1e-7).all()
