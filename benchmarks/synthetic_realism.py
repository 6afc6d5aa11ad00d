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
from torch import nn
from torch.nn import functional as F

from fedhw.data.alphabet import BYCLASS
from fedhw.data.strokes import StrokeFile, rasterise
from fedhw.data.synthetic import synthetic_writers

BATCH = 128
PEAK_RATE = 4e-3
CASE_ALIKE = "cijklmopsuvwxyz"  # the letters that EMNIST 'balanced' merges
MERGED = np.array([BYCLASS.index(c.upper() if c in CASE_ALIKE else c) for c in BYCLASS])


def lenet5() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()),
        nn.Linear(84, len(BYCLASS)),
    )


def as_tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(images).float()[:, None] / 255


def distorted(images: torch.Tensor) -> torch.Tensor:
    """Each image under a small affine map of its own."""
    affine = torch.eye(2, 3) + torch.empty(len(images), 2, 3).uniform_(-0.08, 0.08)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def trained(images: NDArray[np.uint8], labels: NDArray[np.uint8], epochs: int) -> nn.Sequential:
    torch.manual_seed(0)
    net, x, y = lenet5(), as_tensor(images), torch.from_numpy(labels.astype(np.int64))
    optimizer = torch.optim.AdamW(net.parameters(), lr=PEAK_RATE, weight_decay=1e-2)
    steps = epochs * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, steps, pct_start=0.2)
    for _ in range(epochs):
        for rows in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(net(distorted(x[rows])), y[rows]).backward()
            optimizer.step()
            schedule.step()
    return net


def predictions(net: nn.Sequential, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    with torch.no_grad():
        return np.concatenate(
            [net(part).argmax(1).numpy() for part in as_tensor(images).split(4096)]
        )


def percent(hit: NDArray[np.bool_]) -> str:
    return f"{100 * hit.mean():5.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--characters", type=int, default=100_000, help="synthetic, to train on")
    parser.add_argument("--epochs", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with np.load(arguments.data / "unipen62.npz", allow_pickle=False) as archive:
        images, labels, writer = (archive[name] for name in ("images", "labels", "writer"))
    strokes = StrokeFile.read(arguments.data / "unipen62_strokes.npz")

    begin = time.perf_counter()
    synthetic = synthetic_writers(arguments.characters // len(BYCLASS), characters=len(BYCLASS))
    seconds = (time.perf_counter() - begin) / len(synthetic) * 10_000
    net = trained(synthetic.images, synthetic.labels, arguments.epochs)
    predicted = predictions(net, images)
    print(f"synthetic writers: 10,000 characters made in  {seconds:5.2f} s")
    print(f"trained on them, tested on real, 62 classes:  {percent(predicted == labels)}")
    print(
        f"  case-alike letters merged, 47 classes:      "
        f"{percent(MERGED[predicted] == MERGED[labels])}"
    )

    test = writer % 5 == 0  # whole writers are held out
    net = trained(images[~test], labels[~test], arguments.epochs)
    begin = time.perf_counter()
    redrawn = np.stack([rasterise(strokes[row]) for row in np.flatnonzero(test)])
    seconds = (time.perf_counter() - begin) / len(redrawn) * 10_000
    difference = np.abs(redrawn.astype(float) - images[test]).mean() / 255
    print(f"strokes: 10,000 characters drawn in           {seconds:5.2f} s")
    print(f"mean absolute pixel difference to originals:  {difference:.4f}")
    print(
        f"trained on real, tested on unseen originals:  "
        f"{percent(predictions(net, images[test]) == labels[test])}"
    )
    print(
        f"the same, re-drawn from their strokes:        "
        f"{percent(predictions(net, redrawn) == labels[test])}"
    )


if __name__ == "__main__":
    main()
