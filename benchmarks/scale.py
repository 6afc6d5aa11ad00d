"""A thousand, ten thousand and a hundred thousand synthetic writers through `fedhw simulate`.

Each learns from 20 characters and is tested on 20 others; seconds and memory from the command's
start to its report, for all its processes together:

    python benchmarks/scale.py [--release DIR]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from memory import most
from tables import show

WRITERS = (1_000, 10_000, 100_000)
SHOTS, EPOCHS = 20, 12


def fedhw(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "fedhw", *map(str, arguments)]


def run(writers: int, release: Path, folder: Path) -> tuple[float, float, dict[str, float]]:
    """Return (seconds, most MiB at once, figures of the mixture)."""
    figures = folder / f"{writers}.json"
    command = fedhw(
        *("simulate", "--release", release, "--writers", writers, "--shots", SHOTS),
        *("--methods", "moe", "--out", folder / str(writers), "--json", figures),
    )
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=sys.stderr) as process:
        peak = most(process)
    seconds = time.perf_counter() - began
    if process.returncode:
        sys.exit(f"simulate: {writers} writers ended with exit code {process.returncode}")
    return seconds, peak / 2**20, json.loads(figures.read_text())["methods"]["moe"]


def exponent(sizes: list[int], values: list[float]) -> float:
    """Fit values = a * size^k and return k."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--release", type=Path, help="a quick one is trained without")
    parser.add_argument("--writers", type=int, nargs="+", default=WRITERS)
    arguments = parser.parse_args()
    sizes, seconds, memory, rows = sorted(arguments.writers), [], [], []
    with tempfile.TemporaryDirectory() as folder:
        release = arguments.release or Path(folder) / "release"
        if arguments.release is None:
            train = fedhw("train-expert", "--out", release, "--epochs", EPOCHS)
            subprocess.run(train, check=True, stdout=sys.stderr)
        for writers in sizes:
            took, peak, moe = run(writers, release, Path(folder))
            seconds.append(took)
            memory.append(peak)
            rows.append(
                [
                    f"{writers:,}",
                    f"{took:.0f}",
                    f"{writers / took:.0f}",
                    f"{peak:,.0f}",
                    f"{100 * moe['custom_gain']:+.2f}",
                    f"{100 * moe['generic_change']:+.2f}",
                    f"{100 * moe['writers_hurt']:.1f}",
                ]
            )
    show(
        ["writers", "seconds", "writers/s", "memory, MiB", "gain", "generic change", "hurt %"], rows
    )
    if len(sizes) > 1:
        apart = [
            f"{(b - a) / (m - n):.2e}"
            for a, b, n, m in zip(seconds, seconds[1:], sizes, sizes[1:], strict=False)
        ]
        print(
            f"Fitted exponents: seconds {exponent(sizes, seconds):.2f}, "
            f"memory {exponent(sizes, memory):.2f}; seconds for each writer more, step by step: "
            f"{', '.join(apart)}."
        )


if __name__ == "__main__":
    main()
