"""How real are the synthetic writers, and how true are re-drawn strokes?

Trains LeNet-5 on synthetic writers alone and tests it on real handwriting; then trains one on real
handwriting and tests it on its own images and on the same characters re-drawn from their strokes.

    python benchmarks/synthetic_realism.py ../shared/data

The folder holds `unipen62.npz` and `unipen62_strokes.npz`. A few minutes on one core.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedhw.data.alphabet import BYCLASS
from fedhw.data.strokes import StrokeFile, rasterise
from fedhw.data.synthetic import synthetic_writers
from fedhw.experts.global_expert import GlobalExpert, as_ink, build
from fedhw.experts.training import Training, accuracy, train_expert

CASE_ALIKE = "cijklmopsuvwxyz"  # the letters that EMNIST 'balanced' merges
MERGED = np.array([BYCLASS.index(c.upper() if c in CASE_ALIKE else c) for c in BYCLASS])


def trained(
    images: NDArray[np.uint8], labels: NDArray[np.uint8], training: Training
) -> GlobalExpert:
    torch.manual_seed(training.seed)
    expert = build("lenet5", len(BYCLASS))
    train_expert(expert, images, labels, training)
    return expert


@torch.no_grad()
def predictions(expert: GlobalExpert, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.concatenate([expert(part).argmax(1).numpy() for part in as_ink(images).split(4096)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--characters", type=int, default=100_000, help="synthetic, to train on")
    parser.add_argument("--epochs", type=int, default=15)
    arguments = parser.parse_args()
    training = Training(epochs=arguments.epochs)
    torch.set_num_threads(1)
    with np.load(arguments.data / "unipen62.npz", allow_pickle=False) as archive:
        images, labels, writer = (archive[name] for name in ("images", "labels", "writer"))
    strokes = StrokeFile.read(arguments.data / "unipen62_strokes.npz")

    begin = time.perf_counter()
    synthetic = synthetic_writers(arguments.characters // len(BYCLASS), characters=len(BYCLASS))
    seconds = (time.perf_counter() - begin) / len(synthetic) * 10_000
    expert = trained(synthetic.images, synthetic.labels, training)
    predicted = predictions(expert, images)
    print(f"synthetic writers: 10,000 characters made in  {seconds:7.2f} s")
    print(f"trained on them, tested on real, 62 classes:  {(predicted == labels).mean():7.1%}")
    merged = (MERGED[predicted] == MERGED[labels]).mean()
    print(f"  case-alike letters merged, 47 classes:      {merged:7.1%}")

    test = writer % 5 == 0  # whole writers are held out
    expert = trained(images[~test], labels[~test], training)
    begin = time.perf_counter()
    redrawn = np.stack([rasterise(strokes[row]) for row in np.flatnonzero(test)])
    seconds = (time.perf_counter() - begin) / len(redrawn) * 10_000
    difference = np.abs(redrawn.astype(float) - images[test]).mean() / 255
    original = accuracy(expert, images[test], labels[test])
    again = accuracy(expert, redrawn, labels[test])
    print(f"strokes: 10,000 characters drawn in           {seconds:7.2f} s")
    print(f"mean absolute pixel difference to originals:  {difference:7.4f}")
    print(f"trained on real, tested on unseen originals:  {original:7.1%}")
    print(f"the same, re-drawn from their strokes:        {again:7.1%}")


if __name__ == "__main__":
    main()
