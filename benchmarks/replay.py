"""Real writers through the agent, one character at a time: does it pay to correct it?

    python benchmarks/replay.py --data FILE.npz --out DIR [--writers 20] [--seed 0]

Trains a global expert without the largest writers of the file (or takes the one it left in DIR),
then replays each of them in the order of writing through a real agent over gRPC, as
`fedhw client --replay` does. Accuracy is prequential over the whole stream, the first
characters included. Claims: the mixture is ahead of the global expert for 19 of 20 writers, and
by 4 points in the mean.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from fedhw.data.npz import load_npz
from fedhw.experts.training import Training
from fedhw.release.making import make_release
from fedhw_client.replay import characters_of, replay


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--writers", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=20.0)
    arguments = parser.parse_args()
    everybody = load_npz(arguments.data)
    largest = np.argsort(-everybody.counts(), kind="stable")[: arguments.writers]
    release = arguments.out / f"release-{arguments.seed}"
    if not release.exists():
        others = everybody.take(np.flatnonzero(~np.isin(everybody.writer, largest)))
        make_release(release, others, "lenet5", Training(seed=arguments.seed), hold_out=0)
    outcomes = []
    print("| writer | characters | global expert | mixture | gain | recognise p50, p99 | stored |")
    print("|---|---|---|---|---|---|---|")
    for name in (everybody.names[writer] for writer in largest):
        outcome = replay(
            characters_of(everybody, name), name, arguments.rate, release, lambda number: None
        )
        outcomes.append(outcome)
        recognize, learn = outcome.recognize_ms, outcome.learn_ack_ms
        print(
            f"| {name} | {outcome.samples} | {outcome.ge_accuracy:.1%} | "
            f"{outcome.moe_accuracy:.1%} | {outcome.moe_accuracy - outcome.ge_accuracy:+.1%} | "
            f"{recognize.p50:.1f}, {recognize.p99:.1f} ms | {learn.p50:.1f}, {learn.p99:.1f} ms |",
            flush=True,
        )
    gains = np.array([outcome.moe_accuracy - outcome.ge_accuracy for outcome in outcomes])
    print(
        f"\nAhead for {(gains > 0).sum()} of {len(gains)}, by {gains.mean():.1%} in the mean "
        f"(standard deviation {gains.std(ddof=1):.1%}); memory up to "
        f"{max(outcome.rss_mb for outcome in outcomes):.0f} MiB."
    )
    figures = [outcome.as_dict() for outcome in outcomes]
    (arguments.out / f"replay-{arguments.seed}.json").write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
