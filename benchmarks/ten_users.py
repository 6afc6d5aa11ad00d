"""The table of the paper (arXiv 1811.00056): ten users, before and after, custom and generic.

python benchmarks/ten_users.py --release DIR --data FILE [--seed S]
"""

import argparse
from pathlib import Path

from fedhw.data.sources import load_source
from fedhw.personalization.baselines import METHODS
from fedhw.release.release import Release
from fedhw.simulation.experiment import draw_writers, run_experiment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--release", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    release, data = Release.load(arguments.release), load_source(arguments.data)
    splits = draw_writers(release, data, 10, "half", arguments.seed)
    methods = {name: METHODS[name] for name in ("ge", "moe")}
    done = run_experiment(release, data, splits, methods, "half", arguments.seed)
    ge, moe = done.methods["ge"], done.methods["moe"]
    print("| user | classes | learned from | custom before | after | generic before | after |")
    print("|---|---|---|---|---|---|---|")
    for i, split in enumerate(splits):
        figures = (ge.custom[i], moe.custom[i], ge.generic[0], moe.generic[i])
        cells = " | ".join(f"{100 * figure:.1f}" for figure in figures)
        print(f"| {i + 1} | {split.classes} | {len(split.learn)} | {cells} |")
    means = (ge.custom.mean(), moe.custom.mean(), ge.generic.mean(), moe.generic.mean())
    print(f"| mean | | | {' | '.join(f'{100 * mean:.1f}' for mean in means)} |")
    print(
        f"\nExtra parameters {moe.parameter_overhead:.2%}, extra MACs {moe.mac_overhead:.2%} "
        "of the global expert's."
    )


if __name__ == "__main__":
    main()
