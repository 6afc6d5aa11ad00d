"""What improving the global expert over devices is worth, beside retraining it on all their data.

    python benchmarks/improvement.py --data FILE --release DIR --seed 0 --json improvement-0.json
    python benchmarks/improvement.py improvement-0.json improvement-1.json improvement-2.json

One seed: some of the writers that a release was trained on launch an expert of their own, all
others of them hold devices. The release itself is what retraining on everybody's characters at one
place gives, which no coordinator may do. Between the two, rounds over the devices, clipped and
rounded as they would be sent, without noise. Tested on writers whom nobody trained on. Given files
of earlier runs, shows them together.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from tables import show, spread

from fedhw.data.npz import load_npz
from fedhw.data.writers import WriterSet, stratified_split
from fedhw.experts.evaluation import accuracy
from fedhw.experts.global_expert import GlobalExpert, build
from fedhw.improvement.improvement import Improvement, Recipe
from fedhw.improvement.local_update import FEWEST, unflatten
from fedhw.improvement.public import Public
from fedhw.personalization.learner import Learner
from fedhw.personalization.method import extract_features, pad_cohort
from fedhw.release.release import Release
from fedhw.release.sketch import SKETCH_SIZE, Sketch
from fedhw.research.simulation.simulated_rounds import take_round
from fedhw.research.train_release import HELD_OUT_CHARACTERS
from fedhw.research.training import Training, train_expert

LAUNCH = 90
"""Writers of the launch."""

COHORT = 40
"""Devices a round."""

RECIPE = replace(Recipe(), noise=0.0, radius=300.0, quantile=0.95)
"""Without noise to be sized for the radius, hardly anything is clipped."""

Figures = Mapping[str, float]


class World:
    """The writers of one seed: who is tested, who launches, who holds a device."""

    def __init__(self, data: WriterSet, release: Release, seed: int) -> None:
        counts = data.counts()
        trained = np.array([name in release.trained_on for name in data.names])
        kept_out = {glyph.tobytes() for glyph in release.generic.observations}
        generic = np.array([glyph.tobytes() in kept_out for glyph in data.observations])
        order = np.random.default_rng(seed).permutation(np.flatnonzero(trained & (counts > 0)))
        launch = np.isin(data.writer, order[:LAUNCH])
        rows = {
            int(w): np.flatnonzero((data.writer == w) & ~generic) for w in np.sort(order[LAUNCH:])
        }
        self.public = Public(
            data.take(np.flatnonzero(launch & ~generic)),
            data.take(np.flatnonzero(launch & generic)),
        )
        self.devices = [data.take(own) for own in rows.values() if len(own) >= FEWEST]
        self.tested = [
            data.take(data.rows_of(int(w)))
            for w in np.flatnonzero(~trained & (counts >= HELD_OUT_CHARACTERS))
        ]

    def figures(self, expert: GlobalExpert) -> Figures:
        """Accuracy on the tested writers, alone and with mixtures of their own, and on generic."""
        alone, mixed = [], []
        images = self.public.rehearsal.observations[:: len(self.public.rehearsal) // SKETCH_SIZE]
        with torch.no_grad():
            sketch = Sketch.of(expert.features(expert.scale(images)))
        for own in track(self.tested, "mixtures", console=Console(stderr=True)):
            alone.append(accuracy(expert, own.observations, own.labels))
            learn, test = stratified_split(own.labels, np.random.default_rng(0))
            cohort = pad_cohort(expert, [own.observations[learn]], [own.labels[learn]])
            mixture = Learner().learn(expert, cohort, sketch, seed=0)
            guesses = mixture.scores(extract_features(expert, own.observations[test][None])).argmax(
                -1
            )[0]
            mixed.append(float((guesses.numpy() == own.labels[test]).mean()))
        generic = self.public.validation
        return {
            "writers": float(np.mean(alone)),
            "generic": accuracy(expert, generic.observations, generic.labels),
            "mixtures": float(np.mean(mixed)),
        }


def launched(world: World, seed: int) -> GlobalExpert:
    """The expert of the launch writers, by the recipe of a release."""
    torch.manual_seed(seed)
    chosen = world.public.rehearsal
    expert = build("lenet5", len(chosen.classes))
    train_expert(expert, chosen.observations, chosen.labels, Training(seed=seed))
    return expert


def improved(
    world: World, launch: GlobalExpert, recipe: Recipe, seed: int
) -> tuple[GlobalExpert, GlobalExpert]:
    """Rounds over the devices, each with a cohort drawn anew; the expert, and the mean behind."""
    improvement = Improvement(launch, world.public, recipe, seed)
    state, random = improvement.begin(), np.random.default_rng(seed)
    for _ in track(range(recipe.rounds), "rounds", console=Console(stderr=True)):
        drawn = random.permutation(len(world.devices))[:COHORT]
        state = take_round(improvement, state, [world.devices[i] for i in drawn], random)
    return improvement.expert(state), unflatten(launch, state.average)


def measured(given: argparse.Namespace) -> dict[str, Figures]:
    """The figures of one seed's experts."""
    release = Release.load(given.release)
    world = World(load_npz(given.data), release, given.seed)
    launch = launched(world, given.seed)
    recipe = replace(RECIPE, rounds=given.rounds)
    candidate, mean = improved(world, launch, recipe, given.seed)
    experts = {
        "launch": launch,
        "retrained on all data": release.expert,
        "improved": candidate,
        "improved, all the way": mean,
    }
    return {name: world.figures(expert) for name, expert in experts.items()}


def table(runs: list[dict[str, Figures]]) -> None:
    def gains(name: str, figure: str) -> list[float]:
        return [run[name][figure] - run["launch"][figure] for run in runs]

    retrained = gains("retrained on all data", "writers")
    rows = []
    for name in runs[0]:
        row = [name]
        for figure in ("writers", "generic", "mixtures"):
            row.append(spread([run[name][figure] for run in runs]))
            row.append("" if name == "launch" else spread(gains(name, figure), "+"))
            if figure == "writers":
                shares = [a / b for a, b in zip(gains(name, figure), retrained, strict=True)]
                row.append("" if name == "launch" else spread(shares, digits=0))
        rows.append(row)
    show(
        [
            *("expert", "unseen writers %", "gain", "of retraining's, %"),
            *("generic %", "change", "mixtures %", "gain"),
        ],
        rows,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figures", nargs="*", type=Path, help="of earlier runs, to show together")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--release", type=Path)
    parser.add_argument("--rounds", type=int, default=RECIPE.rounds)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    given = parser.parse_args()
    torch.set_num_threads(1)
    runs = [json.loads(path.read_text()) for path in given.figures] or [measured(given)]
    if given.json is not None:
        given.json.write_text(json.dumps(runs[0], indent=1))
    table(runs)


if __name__ == "__main__":
    main()
