"""What improving the global expert over devices is worth, beside retraining it on all their data.

One seed: 40 writers whom nobody trains on, 90 for the launch, all others hold devices. The launch
expert, the same recipe on everybody's characters at one place (which no coordinator may do), and
100 rounds over the devices, clipped and rounded as they would be sent, without noise:

    python benchmarks/improvement.py --data FILE --seed 0 --out FOLDER

With `--optimisers` the server's optimisers side by side. What was trained is kept in FOLDER.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fedhw.data.sources import load_source
from fedhw.data.writers import WriterSet, stratified_split
from fedhw.experts.global_expert import GlobalExpert, as_ink, build
from fedhw.experts.training import Training, accuracy, recognised, train_expert
from fedhw.improvement.improvement import Improvement, Recipe
from fedhw.improvement.local_update import FEWEST, flat, unflatten
from fedhw.improvement.public import Public
from fedhw.improvement.server_optimiser import FedAdam, FedAvgM, FedYogi
from fedhw.personalization.learner import Learner
from fedhw.personalization.method import gather, observe
from fedhw.release.making import SKETCH_SIZE
from fedhw.release.sketch import Sketch
from fedhw.simulation.rounds import take_round

TESTED, LAUNCH, CHARACTERS = 40, 90, 150
COHORT = 40
"""Devices a round."""

RECIPE = replace(Recipe(), noise=0.0, radius=300.0, quantile=0.95)
"""Without noise to be sized for the radius, hardly anything is clipped."""

OPTIMISERS = {
    "FedAvg": FedAvgM(1.0, 0.0),
    "FedAvgM": FedAvgM(1.0, 0.9),
    "FedAdam": FedAdam(1e-3, 0.9),
    "FedYogi": FedYogi(1e-3, 0.9),
    "FedMuon": RECIPE.optimiser,
}


class World:
    """The writers of one seed: who is tested, who launches, who holds a device."""

    def __init__(self, data: WriterSet, seed: int) -> None:
        self.data = data
        counts, rng = data.counts(), np.random.default_rng(seed)
        self.tested = rng.permutation(np.flatnonzero(counts >= CHARACTERS))[:TESTED]
        rest = rng.permutation(np.setdiff1d(np.flatnonzero(counts), self.tested))
        launch, devices = rest[:LAUNCH], rest[LAUNCH:]
        self.devices = devices[counts[devices] >= FEWEST]
        rows = rng.permutation(np.flatnonzero(np.isin(data.writer, launch)))
        generic, trained = np.split(rows, [len(rows) // 10])
        self.public = Public(data.take(trained), data.take(generic))
        self.everybody = np.concatenate([trained, np.flatnonzero(np.isin(data.writer, devices))])

    def figures(self, expert: GlobalExpert) -> dict[str, float]:
        """Accuracy on the tested writers, alone and with mixtures of their own, and on generic."""
        alone, before, mixed = [], [], []
        images = self.public.rehearsal.images[:: len(self.public.rehearsal) // SKETCH_SIZE]
        with torch.no_grad():
            sketch = Sketch.of(expert.features(as_ink(images)))
        for w in self.tested:
            rows = self.data.rows_of(int(w))
            glyphs, labels = self.data.images[rows], self.data.labels[rows]
            alone.append(accuracy(expert, glyphs, labels))
            learn, test = stratified_split(labels, np.random.default_rng(0))
            cohort = gather(expert, [glyphs[learn]], [labels[learn]])
            mixture = Learner().learn(expert, cohort, sketch, seed=0)
            seen = observe(expert, glyphs[test][None])
            right = mixture.scores(seen).argmax(-1)[0].numpy() == labels[test]
            mixed.append(float(right.mean()))
            before.append(float(recognised(expert, glyphs[test], labels[test]).mean()))
        generic = self.public.validation
        return {
            "writers": float(np.mean(alone)),
            "test_half": float(np.mean(before)),
            "mixtures": float(np.mean(mixed)),
            "generic": accuracy(expert, generic.images, generic.labels),
        }


def trained(path: Path, world: World, rows: NDArray[np.int64] | None, seed: int) -> GlobalExpert:
    """An expert trained on the public writers, or on these rows; from the folder if it is there."""
    chosen = world.public.rehearsal if rows is None else world.data.take(rows)
    torch.manual_seed(seed)
    expert = build("lenet5", len(world.data.alphabet))
    if path.exists():
        return unflatten(expert, np.load(path))
    train_expert(expert, chosen.images, chosen.labels, Training(seed=seed))
    np.save(path, flat(expert))
    return expert


def improved(
    world: World, launch: GlobalExpert, recipe: Recipe, seed: int
) -> tuple[GlobalExpert, GlobalExpert]:
    """Rounds over the devices, each with a cohort drawn anew; the expert, and the mean behind."""
    improvement = Improvement(launch, world.public, recipe, seed)
    state, random = improvement.begin(), np.random.default_rng(seed)
    own = [world.data.take(world.data.rows_of(int(w))) for w in world.devices]
    for _ in track(range(recipe.rounds), "rounds"):
        cohort = [own[i] for i in random.permutation(len(own))[:COHORT]]
        state = take_round(improvement, state, cohort, random)
    return improvement.expert(state), unflatten(launch, state.average)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--optimisers", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    world, seed = World(load_source(chosen.data), chosen.seed), chosen.seed
    chosen.out.mkdir(exist_ok=True)
    launch = trained(chosen.out / f"launch-{seed}.npy", world, None, seed)
    central = trained(chosen.out / f"central-{seed}.npy", world, world.everybody, seed)
    experts = {"launch": launch, "retrained on all data": central}
    seconds = {}
    runs = OPTIMISERS if chosen.optimisers else {"improved": RECIPE.optimiser}
    for name, optimiser in runs.items():
        began = time.monotonic()
        recipe = replace(RECIPE, optimiser=optimiser)
        experts[name], experts[f"{name}, all the way"] = improved(world, launch, recipe, seed)
        seconds[name] = time.monotonic() - began
        np.save(chosen.out / f"{name}-{seed}.npy", flat(experts[name]))
    figures = {name: world.figures(expert) for name, expert in experts.items()}
    shown = Table(
        "expert", "unseen writers %", "gain", "of central", "generic %", "mixtures %", "s"
    )
    for name, found in figures.items():
        gain = found["writers"] - figures["launch"]["writers"]
        central_gain = figures["retrained on all data"]["writers"] - figures["launch"]["writers"]
        shown.add_row(
            name,
            f"{found['writers']:.1%}",
            f"{100 * gain:+.2f}",
            f"{gain / central_gain:.0%}",
            f"{found['generic']:.1%}",
            f"{found['mixtures']:.1%}",
            f"{seconds.get(name, 0):.0f}",
        )
    Console().print(shown)
    kind = "optimisers" if chosen.optimisers else "improvement"
    (chosen.out / f"{kind}-{seed}.json").write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
