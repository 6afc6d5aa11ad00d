"""Where the time of `fedhw simulate` goes, and how far each hot part is from what is possible.

One cohort of synthetic writers (20 characters to learn from, 20 to test on), one thread. The limits
are measured in the same run: the rate of a large matrix product, the bandwidth of a copy beyond the
caches, and the rate of exponentials in the cache:

    python benchmarks/where_time_goes.py --release DIR [--flame FILE.svg]

`--flame` draws a flame graph of the processes of `fedhw simulate`, sampled by py-spy.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from math import prod
from pathlib import Path

import flame
import numpy as np
import torch
from tables import show
from torch.profiler import ProfilerActivity, profile

from fedhw.personalization.method import extract_features, pad_cohort
from fedhw.release.release import Release
from fedhw.research.baselines import METHODS
from fedhw.research.simulation.population import COHORT, SyntheticPopulation
from fedhw.research.simulation.trial import AT_ONCE, Trial

SHOTS, WRITERS, RUNS = 20, 2_000, 5

PRODUCTS = {"aten::mm", "aten::bmm", "aten::baddbmm", "aten::addmm", "aten::conv2d"}

READERS = {
    *(PRODUCTS | {"aten::_softmax", "aten::maximum", "aten::argmax", "aten::topk"}),
    *("aten::mul", "aten::mul_", "aten::add_", "aten::sub", "aten::sub_", "aten::copy_"),
    *("aten::cat", "aten::relu", "aten::sigmoid", "aten::sum", "aten::index_select"),
    *("aten::lerp", "aten::lerp_", "aten::_linalg_eigh", "aten::div_"),
}
"""What does the work; the operations that lead to these are given the same once more."""


def quickest(work: Callable[[], object]) -> float:
    work()
    seconds = []
    for _ in range(RUNS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def limits() -> tuple[float, float, float]:
    """Return (multiplications and additions, bytes copied, exponentials), 1e9 a second."""
    square, large, small = torch.randn(1024, 1024), torch.randn(2**26), torch.randn(2**14)
    target = torch.empty_like(large)
    return (
        2 * 1024**3 / quickest(lambda: square @ square) / 1e9,
        2 * 4 * len(large) / quickest(lambda: target.copy_(large)) / 1e9,
        len(small) / quickest(lambda: torch.exp(small, out=small)) / 1e9,
    )


def multiplied(work: Callable[[], object]) -> float:
    """Count 1e9 multiplications and additions."""
    with profile(activities=[ProfilerActivity.CPU], with_flops=True) as recorded:
        work()
    return sum(event.flops for event in recorded.key_averages() if event.key in PRODUCTS) / 1e9


def read(work: Callable[[], object]) -> float:
    """Count 1e9 bytes that the operations are given; each must at least be read."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        work()
    return sum(
        4e-9 * event.count * sum(prod(shape) for shape in event.input_shapes if shape)
        for event in recorded.key_averages(group_by_input_shape=True)
        if event.key in READERS
    )


def kinds(work: Callable[[], object]) -> list[tuple[str, float, float]]:
    """Return (kind of operation, seconds, 1e9 of work)."""
    with profile(
        activities=[ProfilerActivity.CPU], record_shapes=True, with_flops=True
    ) as recorded:
        work()
    names = ("matrix products", "softmax", "eigenvectors", "the rest")
    found = {name: [0.0, 0.0] for name in names}
    for event in recorded.key_averages(group_by_input_shape=True):
        kind, done = "the rest", 0.0
        if event.key in PRODUCTS:
            kind, done = "matrix products", event.flops
        elif event.key == "aten::_softmax":
            kind, done = "softmax", event.count * prod(event.input_shapes[0])
        elif event.key == "aten::_linalg_eigh":
            kind = "eigenvectors"
        found[kind][0] += event.self_cpu_time_total / 1e6
        found[kind][1] += done / 1e9
    return [(kind, seconds, done) for kind, (seconds, done) in found.items()]


def draw_flames(release: Path, path: Path) -> None:
    """Sample the stacks of a simulation's processes while they work on cohorts."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "stacks.txt"
        spy = Path(sys.executable).with_name("py-spy")
        subprocess.run(
            [
                *(spy, "record", "--subprocesses", "--function", "--full-filenames"),
                *("--format", "raw", "--output", raw, "--"),
                *(sys.executable, "-m", "fedhw", "simulate", "--release", release),
                *("--writers", str(WRITERS), "--shots", str(SHOTS), "--methods", "moe"),
                *("--out", Path(folder) / "report"),
            ],
            check=True,
            stdout=sys.stderr,
        )
        flame.draw(flame.stacks_of(raw.read_text(), "fedhw: Trial.run"), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--release", type=Path, required=True)
    parser.add_argument("--flame", type=Path, help="where the flame graph goes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    release = Release.load(arguments.release)
    population = SyntheticPopulation.for_shots(COHORT, SHOTS, 0)
    methods = {name: METHODS[name] for name in ("ge", "moe")}
    product, copy, exponential = limits()
    print(
        f"One thread: matrix product {product:.0f} GFLOP/s, copy {copy:.1f} GB/s, exponentials "
        f"{exponential:.2f} G/s.\n"
    )
    trial = Trial(release, population, methods, SHOTS, 0)
    expert, cohort = release.expert, range(COHORT)
    data = population.write(cohort)
    rows = np.array([data.rows_of(w) for w in cohort])
    learn = pad_cohort(
        expert, list(data.observations[rows[:, :SHOTS]]), list(data.labels[rows[:, :SHOTS]])
    )
    personal = METHODS["moe"].learn(expert, learn, release.sketch, 0)
    generic = extract_features(expert, release.generic.observations[None])

    def read_generic() -> None:
        for i in range(0, len(release.generic), AT_ONCE):
            personal.scores(generic.between(i, i + AT_ONCE)).argmax(-1)

    stages = {
        "drawing the glyphs": lambda: population.write(cohort),
        "features of the global expert": lambda: extract_features(expert, data.observations[rows]),
        "learning": lambda: METHODS["moe"].learn(expert, learn, release.sketch, 0),
        "reading generic characters": read_generic,
    }
    whole = quickest(lambda: trial.run(cohort))
    taken = {stage: quickest(work) for stage, work in stages.items()}
    table = []
    for stage, work in stages.items():
        reached = ["", "", "", ""]
        if done := multiplied(work):
            rate, bandwidth = done / taken[stage], read(work) / taken[stage]
            reached = [f"{rate:.1f}", f"{rate / product:.0%}"]
            reached += [f"{bandwidth:.1f}", f"{bandwidth / copy:.0%}"]
        share = f"{taken[stage] / whole:.0%}"
        table.append([stage, f"{1e3 * taken[stage]:.0f}", share, *reached])
    rest = whole - sum(taken.values())
    table.append(["the rest", f"{1e3 * rest:.0f}", f"{rest / whole:.0%}", *[""] * 4])
    table.append(["in all", f"{1e3 * whole:.0f}", *[""] * 5])
    show(
        [
            *("stage", "ms a cohort of 50", "share", "GFLOP/s", "of a large product's"),
            *("GB/s read", "of a copy's"),
        ],
        table,
    )

    limit = {"matrix products": (product, "GFLOP/s"), "softmax": (exponential, "G/s")}
    table = []
    found = kinds(stages["learning"])
    for kind, seconds, done in found:
        reached = ["", ""]
        if kind in limit:
            most, unit = limit[kind]
            reached = [f"{done / seconds:.3g} {unit}", f"{done / seconds / most:.0%}"]
        share = seconds / sum(taken for _, taken, _ in found)
        table.append([kind, f"{1e3 * seconds:.0f}", f"{share:.0%}", *reached])
    show(["of learning", "ms", "share", "rate", "of what is possible"], table)
    if arguments.flame:
        draw_flames(arguments.release, arguments.flame)


if __name__ == "__main__":
    main()
