"""What devices that lie do to an improvement, and what each defence keeps of it.

    python benchmarks/adversaries.py

Synthetic writers: some for the launch, one for each device, and some whom nobody trains on. All
devices take part in all rounds, without noise, which would hide liars, too. A candidate that passes
on public data would go on to the canary devices.
"""

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fedhw.data.synthetic import synthetic_writers
from fedhw.experts.global_expert import GlobalExpert
from fedhw.experts.training import Training, accuracy
from fedhw.improvement.contribution import Task
from fedhw.improvement.improvement import Improvement, Recipe
from fedhw.improvement.local_update import flat
from fedhw.improvement.public import Public
from fedhw.improvement.server_optimiser import FedMuon
from fedhw.privacy.discrete_gaussian import discrete_gaussian
from fedhw.release.making import make_release
from fedhw.release.release import Release
from fedhw.simulation.adversaries import (
    Defence,
    Device,
    LabelFlipped,
    NotANumber,
    Scaled,
    improve,
)

DEVICES, CHARACTERS = 20, 62
LAUNCH = synthetic_writers(10, 2 * CHARACTERS)
OWN = synthetic_writers(range(300, 300 + DEVICES), CHARACTERS)
UNSEEN = synthetic_writers(range(400, 420), CHARACTERS)
RECIPE = Recipe(
    rounds=20, rate=0.01, noise=0.0, writers=6, radius=50.0, optimiser=FedMuon(0.1, 0.9)
)

LIES = {
    "none": (Device(), (0,)),
    "a hundredfold": (Scaled(100), (1, 4)),
    "sign flipped": (Scaled(-1), (1, 4)),
    "sign flipped, tenfold": (Scaled(-10), (1, 4)),
    "labels flipped": (LabelFlipped(), (1, 4)),
    "no number": (NotANumber(), (1, 4)),
}
"""Who lies how, and how many of them do."""


def figures(expert: GlobalExpert, public: Public) -> tuple[str, str]:
    generic = public.validation
    return (
        f"{accuracy(expert, UNSEEN.images, UNSEEN.labels):.1%}",
        f"{accuracy(expert, generic.images, generic.labels):.1%}",
    )


def unseen(running: GlobalExpert, noise: float) -> int:
    """How many times as long as an honest contribution may be a lie that the sum does not show."""
    task = Task(flat(running).tobytes(), 0.01, 1.0, noise, DEVICES, DEVICES)
    total = discrete_gaussian(task.sigma * math.sqrt(DEVICES), task.entries)
    lie = np.zeros_like(total)
    lie[0] = math.ceil(task.longest)
    return max(times for times in range(1000) if task.is_plausible(total + times * lie, DEVICES))


def main() -> None:
    torch.set_num_threads(1)
    with TemporaryDirectory() as directory:
        place = Path(directory) / "launch"
        make_release(place, LAUNCH, "lenet5", Training(epochs=8, batch=32), hold_out=0)
        running = Release.load(place)
        public = Public.of(LAUNCH, running)
    improvement = Improvement(running.expert, public, RECIPE)
    own = [OWN.take(OWN.rows_of(number)) for number in range(DEVICES)]
    shown = Table(
        *("lie", "liars", "defence", "unseen writers", "generic", "rounds dropped", "candidate"),
        title=f"{RECIPE.rounds} rounds over {DEVICES} devices",
    )
    shown.add_row("before", "", "", *figures(running.expert, public))
    runs = [
        (name, liar, count, defence)
        for name, (liar, counts) in LIES.items()
        for count in counts
        for defence in Defence
    ]
    for name, liar, count, defence in track(runs):
        devices = [(liar if number < count else Device(), one) for number, one in enumerate(own)]
        found = improve(improvement, devices, defence)
        shown.add_row(
            *(name, f"{count / DEVICES:.0%}", defence),
            *figures(found.expert, public),
            *(f"{found.dropped}", found.verdict.outcome),
        )
    Console(width=120).print(shown)
    for noise in (0.0, 0.1, Recipe().noise):
        times = unseen(running.expert, noise)
        print(f"noise {noise:g}: a lie is not seen in the sum up to {times} times the length")


if __name__ == "__main__":
    main()
