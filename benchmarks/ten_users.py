"""The table of the paper (arXiv 1811.00056): ten users, before and after, custom and generic.

python benchmarks/ten_users.py --release DIR --data FILE [--seed S]
"""

import argparse
from collections.abc import Iterable
from itertools import count
from pathlib import Path

import numpy as np
from tables import show

from fedhw.data.sources import load_source
from fedhw.release.release import Release
from fedhw.research.baselines import METHODS
from fedhw.research.simulation.population import RecordedPopulation, draw_writers
from fedhw.research.simulation.trial import Trial


def percent(shares: Iterable[float]) -> list[str]:
    return [f"{100 * share:.1f}" for share in shares]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--release", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    release, data = Release.load(arguments.release), load_source(arguments.data)
    drawn = draw_writers(release, data, 10, "half", arguments.seed)
    methods = {name: METHODS[name] for name in ("ge", "moe")}
    people = RecordedPopulation.of(data, drawn)
    found = Trial(release, people, methods, "half", arguments.seed).run(range(len(drawn)))
    ge, moe = found.methods["ge"], found.methods["moe"]
    figures = np.stack([ge.custom, moe.custom, ge.generic, moe.generic], axis=1)
    users = [
        [number, classes, learned, *percent(row)]
        for number, classes, learned, row in zip(
            count(1), found.classes, found.learned, figures, strict=False
        )
    ]
    show(
        [
            *("user", "classes", "learned from"),
            *("custom before", "after", "generic before", "after"),
        ],
        [*users, ["mean", "", "", *percent(figures.mean(0))]],
    )
    print(
        f"Extra parameters {moe.parameter_overhead.mean():.2%}, "
        f"extra MACs {moe.mac_overhead.mean():.2%} "
        "of the global expert's."
    )


if __name__ == "__main__":
    main()
