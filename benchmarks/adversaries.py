"""What devices that lie do to an improvement, and what each defence keeps of it.

    python benchmarks/adversaries.py

Synthetic writers: some for the launch, one for each device, and some whom nobody trains on. All
devices take part in all rounds, without noise, which would hide liars, too. A candidate that passes
on public data would go on to the shadow evaluation.
"""

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from lying_devices import (
    Defence,
    Device,
    Improved,
    LabelFlipped,
    NotANumber,
    Scaled,
    improve,
)
from rich.console import Console
from rich.progress import track
from tables import show

from fedhw.experts.evaluation import accuracy
from fedhw.experts.global_expert import GlobalExpert
from fedhw.handwriting.synthetic import synthetic_writers
from fedhw.improvement.contribution import Task
from fedhw.improvement.improvement import Improvement, Recipe
from fedhw.improvement.local_update import flat
from fedhw.improvement.public import Public
from fedhw.improvement.server_optimiser import FedMuon
from fedhw.improvement.verdicts import Outcome
from fedhw.privacy.discrete_gaussian import discrete_gaussian
from fedhw.release.release import Release
from fedhw.research.train_release import make_release
from fedhw.research.training import Training

DEVICES, CHARACTERS = 20, 62
LAUNCH = synthetic_writers(10, 2 * CHARACTERS)
OWN = synthetic_writers(range(300, 300 + DEVICES), CHARACTERS)
UNSEEN = synthetic_writers(range(400, 420), CHARACTERS)
RECIPE = Recipe(
    rounds=15, rate=0.01, noise=0.0, writers=6, radius=50.0, optimiser=FedMuon(0.1, 0.9)
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


def cell(found: Improved) -> str:
    """Accuracy on unseen writers in percent, and what became of rounds and candidate."""
    told = [f"{100 * accuracy(found.expert, UNSEEN.observations, UNSEEN.labels):.1f}"]
    if found.dropped:
        told.append(f"{found.dropped} rounds dropped")
    if found.verdict.outcome is Outcome.REJECT:
        told.append("rejected")
    return ", ".join(told)


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
    cases = [(name, liar, count) for name, (liar, counts) in LIES.items() for count in counts]
    rows = []
    for name, liar, count in track(cases, "lies", console=Console(stderr=True)):
        devices = [(liar if number < count else Device(), one) for number, one in enumerate(own)]
        found = [improve(improvement, devices, defence) for defence in Defence]
        rows.append([name, f"{count / DEVICES:.0%}", *map(cell, found)])
    before = f"{100 * accuracy(running.expert, UNSEEN.observations, UNSEEN.labels):.1f}"
    show(["lie", "liars", *Defence], [["before", "", *[before] * len(Defence)], *rows])
    show(
        ["noise", "times the length up to which a lie is not seen in the masked sum"],
        [[f"{noise:g}", unseen(running.expert, noise)] for noise in (0.0, 0.1, Recipe().noise)],
    )


if __name__ == "__main__":
    main()
