"""How real are the synthetic writers, and how true are re-drawn strokes?

Trains LeNet-5 on synthetic writers alone and tests it on real handwriting; then shows a release the
characters of writers whom it has never seen, as they are and re-drawn from their strokes.

    python benchmarks/synthetic_realism.py --data FILE.npz --strokes FILE.npz --release DIR
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from tables import show

from fedhw.data.npz import load_npz
from fedhw.experts.evaluation import accuracy
from fedhw.experts.global_expert import build
from fedhw.handwriting.alphabet import BYCLASS
from fedhw.handwriting.stroke_file import StrokeFile
from fedhw.handwriting.strokes import rasterise
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.release.release import Release
from fedhw.research.training import Training, train_expert

CASE_ALIKE = "cijklmopsuvwxyz"  # the letters that EMNIST 'balanced' merges
MERGED = np.array([BYCLASS.index(c.upper() if c in CASE_ALIKE else c) for c in BYCLASS])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--strokes", type=Path, required=True, help="of the same rows")
    parser.add_argument("--release", type=Path, required=True)
    parser.add_argument("--characters", type=int, default=100_000, help="synthetic, to train on")
    parser.add_argument("--epochs", type=int, default=10)
    given = parser.parse_args()
    torch.set_num_threads(1)
    data, release = load_npz(given.data), Release.load(given.release)

    began = time.perf_counter()
    synthetic = synthetic_writers(given.characters // len(BYCLASS), characters=len(BYCLASS))
    made = (time.perf_counter() - began) / len(synthetic) * 10_000
    torch.manual_seed(0)
    expert = build("lenet5", len(BYCLASS))
    train_expert(expert, synthetic.observations, synthetic.labels, Training(epochs=given.epochs))
    with torch.no_grad():
        parts = expert.scale(data.observations).split(4096)
        predicted = np.concatenate([expert(part).argmax(1).numpy() for part in parts])
    right = predicted == data.labels
    merged = MERGED[predicted] == MERGED[data.labels]

    unseen = [w for w, name in enumerate(data.names) if name not in release.trained_on]
    rows = np.flatnonzero(np.isin(data.writer, unseen))
    own, strokes = data.take(rows), StrokeFile.read(given.strokes)
    began = time.perf_counter()
    redrawn = np.stack([rasterise(strokes[row]) for row in rows])
    drawn = (time.perf_counter() - began) / len(rows) * 10_000
    difference = np.abs(redrawn.astype(float) - own.observations).mean() / 255
    as_given = accuracy(release.expert, own.observations, own.labels)
    again = accuracy(release.expert, redrawn, own.labels)

    show(
        ["measure", "figure"],
        [
            [
                f"trained on {len(synthetic):,} synthetic characters alone, tested on all "
                f"{len(data):,} real ones, 62 classes",
                f"{right.mean():.1%}",
            ],
            ["the same, case-alike letters merged, 47 classes", f"{merged.mean():.1%}"],
            [
                f"the release, tested on {len(rows):,} characters of writers it has never seen",
                f"{as_given:.1%}",
            ],
            [
                "the same, re-drawn from their strokes by `fedhw.handwriting.strokes`",
                f"{again:.1%}",
            ],
            ["mean absolute pixel difference of re-drawn glyphs", f"{difference:.4f}"],
            ["10,000 synthetic characters made, one thread", f"{made:.1f} s"],
            ["10,000 characters drawn from strokes, one thread", f"{drawn:.1f} s"],
        ],
    )


if __name__ == "__main__":
    main()
