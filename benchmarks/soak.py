"""Ten minutes of a person who never stops: is the agent's memory flat?

    python benchmarks/soak.py RELEASE --data FILE.npz [--minutes 10] [--rate 20]

A real agent is sent characters of the file at a fixed rate, each recognised and then corrected;
its resident memory is read from /proc every second. Claim: the mean of the last third is within
5 % of that of the second.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from fedhw.data.npz import load_npz
from fedhw_client.replay import resident_memory, running_agent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("release", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=float, default=20)
    arguments = parser.parse_args()
    writers = load_npz(arguments.data)
    total = round(arguments.minutes * 60 * arguments.rate)
    memory: list[float] = []
    with (
        tempfile.TemporaryDirectory() as place,
        running_agent(Path(place), arguments.release) as (device, process),
    ):
        began = time.perf_counter()
        for number in range(total):
            time.sleep(max(0.0, began + number / arguments.rate - time.perf_counter()))
            row = number % len(writers)
            device.recognize(writers.images[row])
            device.learn(writers.images[row], writers.alphabet[writers.labels[row]])
            if number % round(arguments.rate) == 0:
                memory.append(resident_memory(process.pid))
        took = time.perf_counter() - began
        status = device.status()
    first, second, third = (part.mean() for part in np.array_split(np.array(memory), 3))
    print(f"{total} characters in {took:.0f} s, {status.personal_version} mixtures")
    print(f"memory, thirds: {first:.1f}, {second:.1f}, {third:.1f} MiB; most {max(memory):.1f}")
    print(f"last third against the second: {third / second - 1:+.1%}")


if __name__ == "__main__":
    main()
