from functools import cache
from pathlib import Path

import pytest
import torch

from fedhw.data.writers import WriterSet
from fedhw.errors import InputError
from fedhw.experts.evaluation import accuracy
from fedhw.experts.global_expert import GlobalExpert, build
from fedhw.handwriting.augmentation import distort
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.research.training import Training, train_expert
from tests.full_disk import disk_of


@cache
def writers() -> WriterSet:
    return synthetic_writers(6, 62)


def trained(
    epochs: int, checkpoint: Path | None = None, stop_after: int | None = None
) -> GlobalExpert:
    torch.manual_seed(0)
    expert = build("lenet5", 62)

    def after_epoch(epoch: int) -> None:
        if epoch == stop_after:
            raise KeyboardInterrupt

    training = Training(epochs=epochs, batch=64)
    images, labels = writers().observations, writers().labels
    train_expert(expert, images, labels, training, checkpoint, after_epoch)
    return expert


def test_training_fits_its_data() -> None:
    assert accuracy(trained(40), writers().observations, writers().labels) > 0.5


def test_a_training_cut_off_ends_with_the_same_weights(tmp_path: Path) -> None:
    checkpoint = tmp_path / "training"
    with pytest.raises(KeyboardInterrupt):
        trained(4, checkpoint, stop_after=2)
    resumed, straight = trained(4, checkpoint), trained(4)
    for ours, theirs in zip(resumed.parameters(), straight.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("change", ["epochs", "data", "expert", "file"])
def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path, change: str) -> None:
    checkpoint = tmp_path / "training"
    with pytest.raises(KeyboardInterrupt):
        trained(4, checkpoint, stop_after=2)
    images, expert, epochs = writers().observations, build("lenet5", 62), 4
    if change == "epochs":
        epochs = 5
    elif change == "data":
        images = images[::-1].copy()
    elif change == "expert":
        expert = build("leaf-cnn", 62)
    else:
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    training = Training(epochs=epochs, batch=64)
    with pytest.raises(InputError, match="is unreadable or of another training; delete it or"):
        train_expert(expert, images, writers().labels, training, checkpoint)


def test_a_training_that_diverges_ends_at_once(tmp_path: Path) -> None:
    """Not after the last epoch, with a release that no command takes."""
    training = Training(epochs=50, batch=64, rate=1e30)
    with pytest.raises(InputError, match="data: the training diverged in epoch 1; remove extreme"):
        train_expert(
            build("lenet5", 62),
            writers().observations,
            writers().labels,
            training,
            tmp_path / "kept",
        )
    assert not (tmp_path / "kept").exists()


def test_a_full_disk_keeps_the_state_before(tmp_path: Path) -> None:
    checkpoint = tmp_path / "training"
    with pytest.raises(KeyboardInterrupt):
        trained(2, checkpoint, stop_after=1)
    before = checkpoint.read_bytes()
    with disk_of(100_000), pytest.raises(OSError, match="File too large") as failed:
        trained(2, checkpoint)
    assert failed.value.filename == str(checkpoint)
    assert checkpoint.read_bytes() == before


def test_distortion_grows_with_its_strength() -> None:
    ink = build("lenet5", 62).scale(writers().observations[:32])
    moved = [
        (distort(ink, strength, torch.Generator().manual_seed(0)) - ink).abs().mean().item()
        for strength in (0.0, 0.3, 1.0)
    ]
    assert moved[0] < 1e-4 < moved[1] < moved[2]
