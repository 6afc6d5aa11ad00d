"""How much does correcting it character by character help, and how much of it is rehearsal's?

Shows each unseen writer's characters, in the order of writing, to `Personalizer`: every character
is recognised, then corrected. With rehearsal of earlier characters and without, on the same
streams, as they are and with styles that drift.

    python benchmarks/streaming.py --data FILE.npz --release DIR
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from tables import show
from torch.nn import functional as F

from fedhw.data.npz import load_npz
from fedhw.data.writers import WriterSet
from fedhw.personalization.replay import Floats, Policy, PowerLaw
from fedhw.personalization.stream import Personalizer
from fedhw.release.release import Release


def newest(age: Floats, luck: Floats) -> Floats:
    """Learn from the newest 16 and from nothing older."""
    return np.where(age < 16, -age, -np.inf)


POLICIES: dict[str, Policy] = {"power law": PowerLaw(), "no rehearsal": newest}
"""On streams shorter than what a learning sees, any way of rehearsing is the same."""

DRIFTS = (0.0, 1.0)
ENOUGH = 100  # characters, for a writer to take part


def streams(
    release: Release, data: WriterSet, writers: int, characters: int, drift: float, seed: int
) -> list[WriterSet]:
    """What some writers wrote whom the release has never seen, their style drifting."""
    unseen = [
        index
        for index, name in enumerate(data.names)
        if name not in release.trained_on and data.counts()[index] >= ENOUGH
    ]
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(unseen)[:writers])
    found = [data.take(data.rows_of(index)[:characters]) for index in chosen]
    return [replace(own, observations=drifting(own.observations, drift, rng)) for own in found]


def drifting(
    images: NDArray[np.uint8], drift: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Change the slant and the scales of glyphs [N, 28, 28] more and more, in a random direction.

    At drift 1 the last glyph is slanted by up to 0.6 and scaled by up to a third.
    """
    grown = drift * torch.linspace(0, 1, len(images))
    slant, width, height = rng.uniform(-1, 1, 3) * [0.6, 0.3, 0.3]
    affine = torch.zeros(len(images), 2, 3)
    affine[:, 0, 0], affine[:, 1, 1] = (grown * width).exp(), (grown * height).exp()
    affine[:, 0, 1] = grown * slant
    ink = torch.from_numpy(images).float().div_(255)[:, None]
    grid = F.affine_grid(affine, list(ink.shape), align_corners=False)
    moved = F.grid_sample(ink, grid, align_corners=False)[:, 0]
    return (moved * 255).round().to(torch.uint8).numpy()


def rights(person: Personalizer, own: WriterSet) -> NDArray[np.float64]:
    """Whether the global expert and the mixture were right, [N, 2], before each correction."""
    right = []
    for glyph, label in zip(own.observations, own.labels, strict=True):
        character = own.classes[label]
        guess = person.store(glyph, character)
        if person.due:
            person.relearn()
        right.append((guess.ge_label == character, guess.label == character))
    return np.array(right, float)


def mean_and_error(values: list[float], sign: str = "") -> str:
    """Mean and its standard error over writers, of shares, in percent."""
    error = np.std(values, ddof=1) / len(values) ** 0.5
    return f"{100 * np.mean(values):{sign}.1f} ± {100 * error:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--release", type=Path, required=True)
    parser.add_argument("--writers", type=int, default=16)
    parser.add_argument("--characters", type=int, default=400, help="at most, of each writer")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    release, data = Release.load(given.release), load_npz(given.data)
    rows: list[list[str]] = []
    for drift in DRIFTS:
        people = streams(release, data, given.writers, given.characters, drift, given.seed)
        for name, policy in POLICIES.items():
            runs = []
            for own in track(people, f"{name}, drift {drift:g}", console=Console(stderr=True)):
                person = Personalizer(
                    *(release.expert, release.sketch, release.labels),
                    policy=policy,
                    seed=given.seed,
                )
                runs.append(rights(person, own))
            if name == next(iter(POLICIES)):
                alone = mean_and_error([run[:, 0].mean() for run in runs])
                rows.append([f"{drift:g}", "GE alone", alone, "", ""])
            gains = [run[:, 1] - run[:, 0] for run in runs]
            rows.append(
                [
                    *(f"{drift:g}", name, mean_and_error([run[:, 1].mean() for run in runs])),
                    mean_and_error([gain.mean() for gain in gains], "+"),
                    mean_and_error([gain[-len(gain) // 3 :].mean() for gain in gains], "+"),
                ]
            )
    show(["drift", "rehearsal", "right %", "gain over GE", "gain, last third"], rows)


if __name__ == "__main__":
    main()
