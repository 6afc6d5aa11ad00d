"""A person who never stops: is the agent's memory flat?

    python benchmarks/soak.py --release DIR --data FILE.npz [--minutes 3] [--rate 60]

A real agent is sent characters of the file at a fixed rate, each recognised and then corrected;
its resident memory is read from /proc every second. Claim: the mean of the last third is within
5 % of that of the second.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from tables import show

from fedhw.data.npz import load_npz
from fedhw_client.commands.replay_writer import resident_memory, running_agent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--release", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--rate", type=float, default=60)
    given = parser.parse_args()
    writers = load_npz(given.data)
    total = round(given.minutes * 60 * given.rate)
    memory: list[float] = []
    with (
        tempfile.TemporaryDirectory() as place,
        running_agent(Path(place), given.release) as (device, process),
    ):
        began = time.perf_counter()
        for number in track(range(total), "characters", console=Console(stderr=True)):
            time.sleep(max(0.0, began + number / given.rate - time.perf_counter()))
            row = number % len(writers)
            device.recognize(writers.observations[row])
            device.learn(writers.observations[row], writers.classes[writers.labels[row]])
            if number % round(given.rate) == 0:
                memory.append(resident_memory(process.pid))
        took = time.perf_counter() - began
        mixtures = device.status().personal_version
    thirds = [part.mean() for part in np.array_split(np.array(memory), 3)]
    show(
        [
            *("characters", "minutes", "mixtures learned", "MiB, first third", "second", "last"),
            *("most", "last to second"),
        ],
        [
            [
                *(f"{total:,}", f"{took / 60:.1f}", mixtures),
                *(f"{third:.1f}" for third in (*thirds, max(memory))),
                f"{thirds[2] / thirds[1] - 1:+.1%}",
            ]
        ],
    )


if __name__ == "__main__":
    main()
