"""Spoken digits: an expert of three speakers, personalised to the fourth, each speaker in turn.

python benchmarks/spoken_digits.py FILE [--seeds 0 1 2] [--epochs 20]

The plug-in of docs/examples/spoken makes log-mel frames of the recordings and brings the network.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rich.console import Console
from rich.progress import track
from tables import show, spread

from fedhw.data.writers import WriterSet
from fedhw.experts.architecture import register
from fedhw.release.release import Release
from fedhw.research.baselines import METHODS
from fedhw.research.simulation.population import RecordedPopulation, draw_writers
from fedhw.research.simulation.trial import Outcome, Trial
from fedhw.research.train_release import make_release
from fedhw.research.training import Training

sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "examples" / "spoken"))
from spoken.network import SPOKEN_CNN
from spoken.recordings import load_recordings


def personalised(data: WriterSet, speaker: int, training: Training, folder: Path) -> Outcome:
    """What the speaker gains and the others lose by the speaker's own mixture."""
    place = folder / f"{data.names[speaker]}-{training.seed}"
    others = data.take(np.flatnonzero(data.writer != speaker))
    make_release(place, others, "spoken-cnn", training, hold_out=0)
    release = Release.load(place)
    drawn = draw_writers(release, data, 1, "half", training.seed)
    people = RecordedPopulation.of(data, drawn)
    methods = {name: METHODS[name] for name in ("ge", "moe")}
    return Trial(release, people, methods, "half", training.seed).run(range(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="FILE.npz of recordings")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=20)
    given = parser.parse_args()
    register("spoken-cnn", SPOKEN_CNN)
    data = load_recordings(given.data, 0)
    rows, figures = [], []
    with TemporaryDirectory() as folder:
        for speaker in track(range(len(data.names)), "speakers", console=Console(stderr=True)):
            found = []
            for seed in given.seeds:
                training = Training(epochs=given.epochs, batch=64, seed=seed)
                outcome = personalised(data, speaker, training, Path(folder))
                ge, moe = outcome.methods["ge"], outcome.methods["moe"]
                found.append([ge.custom[0], moe.custom[0], ge.generic[0], moe.generic[0]])
            figures.append(found)
            counts = outcome.learned[0], outcome.tested[0]
            rows.append([data.names[speaker], *counts, *map(spread, zip(*found, strict=True))])
    of_seeds = np.mean(figures, axis=0)
    show(
        ["speaker", "learned from", "tested", "speaker before", "after", "others before", "after"],
        [*rows, ["all", "", "", *map(spread, of_seeds.T)]],
    )
    gains = of_seeds[:, 1] - of_seeds[:, 0], of_seeds[:, 3] - of_seeds[:, 2]
    print("Gain {}, others' change {} points.".format(*(spread(gain, "+") for gain in gains)))


if __name__ == "__main__":
    main()
