"""Run benchmarks and put what they print into docs/results.md, with the commit and the machine.

    python benchmarks/results.py            everything, from nothing: releases are trained anew
    python benchmarks/results.py NAME ...   these sections, with the releases of the last run

Sections that only count what is right run two at a time with one thread each, those that take time
run by themselves. A section that fails keeps its old block.
"""

import argparse
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from string import Formatter

from page import blocks, replaced
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fedhw.errors import InputError
from fedhw.system.atomic import replacing

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
WORK = ROOT / "out" / "bench"
DATA = ROOT.parent / "shared" / "data" / "unipen62.npz"

SEEDS = (0, 1, 2)
BESIDE = 2
"""Sections at a time."""

MADE = "page"
"""The block that says how the page was made."""


def asked_for(command: str) -> set[str]:
    """The names in a command's braces."""
    return {name for _, name, _, _ in Formatter().parse(command) if name}


@dataclass(frozen=True)
class Section:
    """A block of the page.

    `tables` are the commands that print it, one after another; before them come `runs`, side by
    side, of which only the files are kept. In a command {data} and {strokes} are the real writers,
    {release-0} to {release-2} the releases trained on them, {spoken} real speakers, and {work} is a
    folder of its own. What is measured `alone` has the machine to itself.
    """

    name: str
    tables: tuple[str, ...]
    runs: tuple[str, ...] = ()
    alone: bool = False

    @property
    def needs(self) -> set[str]:
        """The names that its commands ask for."""
        return set().union(*map(asked_for, (*self.runs, *self.tables)))


def each_seed(command: str) -> tuple[str, ...]:
    """The same for every seed, which SEED stands for."""
    return tuple(command.replace("SEED", str(seed)) for seed in SEEDS)


TRAIN = "fedhw train-expert --data {data} --out {release-SEED} --seed SEED"

# In the order in which they start: what needs no release comes first, while the last one is still
# being trained, and then the longest, so that nothing long is left at the end.
SECTIONS = (
    Section("private_improvement", ("python benchmarks/private_improvement.py",)),
    Section("spoken_digits", ("python benchmarks/spoken_digits.py {spoken}",)),
    Section("adversaries", ("python benchmarks/adversaries.py",)),
    Section("privacy_audit", ("python benchmarks/privacy_audit.py",)),
    Section(
        "improvement",
        runs=each_seed(
            "python benchmarks/improvement.py --data {data} --release {release-SEED} --seed SEED "
            "--json {work}/improvement-SEED.json"
        ),
        tables=(
            "python benchmarks/improvement.py {work}/improvement-0.json {work}/improvement-1.json "
            "{work}/improvement-2.json",
        ),
    ),
    Section(
        "replay",
        runs=each_seed(
            "python benchmarks/replay.py --data {data} --release {release-SEED} --seed SEED "
            "--json {work}/replay-SEED.json"
        ),
        tables=(
            "python benchmarks/replay.py {work}/replay-0.json {work}/replay-1.json "
            "{work}/replay-2.json",
        ),
    ),
    Section("soak", ("python benchmarks/soak.py --release {release-0} --data {data}",)),
    Section("streaming", ("python benchmarks/streaming.py --data {data} --release {release-0}",)),
    Section(
        "synthetic_realism",
        (
            "python benchmarks/synthetic_realism.py --data {data} --strokes {strokes} "
            "--release {release-0}",
        ),
    ),
    Section(
        "pictures",
        ("python benchmarks/pictures.py --data {data} --strokes {strokes} --release {release-0}",),
    ),
    Section(
        "seeds",
        runs=each_seed(
            "fedhw simulate --release {release-SEED} --data {data} --seed SEED "
            "--methods all --out {work}/report-SEED --json {work}/figures-SEED.json"
        ),
        tables=(
            "python benchmarks/seeds.py {work}/figures-0.json {work}/figures-1.json "
            "{work}/figures-2.json",
        ),
    ),
    Section("ten_users", ("python benchmarks/ten_users.py --release {release-0} --data {data}",)),
    Section(
        "cost",
        runs=("fedhw cost {release-0} --json > {work}/cost.json",),
        tables=("python benchmarks/cost.py {work}/cost.json",),
    ),
    Section("recognition", ("python benchmarks/recognition.py {release-0}",), alone=True),
    Section(
        "statistics_service", ("python benchmarks/statistics_service.py {release-0}",), alone=True
    ),
    Section("coordinator", ("python benchmarks/coordinator.py",), alone=True),
    Section("secure_sum", ("python benchmarks/secure_sum.py",), alone=True),
    Section(
        "peers",
        ("python benchmarks/peers/run.py --data {data} {release-0} {release-1} {release-2}",),
        alone=True,
    ),
    Section(
        "profile",
        (
            "python benchmarks/where_time_goes.py --release {release-0} "
            "--flame docs/diagrams/simulate.svg",
        ),
        alone=True,
    ),
    Section("edge", ("python benchmarks/edge.py --data {data} --release {release-0}",), alone=True),
    Section("scale", ("python benchmarks/scale.py",), alone=True),
)


class FailedError(Exception):
    """A command that did not end well; the message is its last words."""


@dataclass(frozen=True)
class Done:
    """What commands printed, and the seconds that they took, one after another."""

    output: str
    seconds: float


def run(command: str, places: dict[str, Path], threads: int) -> Done:
    """Run a command in the repository; what it says of its progress goes to a log in its folder.

    Raises FailedError.
    """
    places["work"].mkdir(parents=True, exist_ok=True)
    line = command.format_map({name: shlex.quote(str(place)) for name, place in places.items()})
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": str(threads),
        "COLUMNS": "100",
    }
    began = time.monotonic()
    ended = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    seconds = time.monotonic() - began
    said = f"$ {line}\n{ended.stderr}"
    with (places["work"] / "log.txt").open("a", encoding="utf-8") as log:
        print(said, file=log)
    if ended.returncode != 0:
        raise FailedError(f"{said.splitlines()[-1]} ({log.name})")
    return Done(ended.stdout, seconds)


class Releases:
    """The releases that sections share, trained when first asked for and kept for the next run."""

    def __init__(self, data: Path | None) -> None:
        self.places: dict[str, Path] = {}
        if data is not None:
            digest = hashlib.sha256(data.read_bytes()).hexdigest()[:8]
            self.places = {f"release-{seed}": WORK / digest / f"release-{seed}" for seed in SEEDS}
        self.data = data
        self.training: dict[str, Future[Done]] = {}

    def forget(self) -> None:
        """Let all be trained anew."""
        for place in self.places.values():
            shutil.rmtree(place.parent, ignore_errors=True)

    def train(self, names: set[str], pool: ThreadPoolExecutor) -> None:
        """Begin to train those of these names that are not there."""
        for seed in SEEDS:
            place = self.places.get(f"release-{seed}")
            if place is not None and place.name in names and not place.exists():
                self.training[place.name] = pool.submit(self._train, seed, place)

    def _train(self, seed: int, place: Path) -> Done:
        command = TRAIN.replace("SEED", str(seed))
        work = WORK / "training" / place.name
        places = {"data": self.data or DATA, "work": work, place.name: place}
        place.parent.mkdir(parents=True, exist_ok=True)
        place.with_suffix(".commit").write_text(commit(), encoding="utf-8")
        return run(command, places, threads=1)

    def await_all(self, names: set[str]) -> None:
        """Wait for these; raises FailedError for one that was not trained."""
        for name in sorted(names & self.training.keys()):
            try:
                self.training[name].result()
            except FailedError as error:
                raise FailedError(f"{name} was not trained: {error}") from None

    def older(self, names: set[str]) -> list[str]:
        """Those of these that another commit has trained, and which."""
        made_by = {
            name: self.places[name].with_suffix(".commit").read_text(encoding="utf-8")
            for name in sorted(names & self.places.keys())
        }
        return [f"{name} of {by}" for name, by in made_by.items() if by != commit()]


@cache
def commit() -> str:
    """The short hash of the commit, and a plus where the tree differs from it, results aside."""
    git = ["git", "-C", str(ROOT)]
    changed = [*git, "status", "--porcelain", "--", ".", ":!docs/results.md", ":!docs/diagrams"]
    try:
        short = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], text=True).strip()
        return short + ("+" if subprocess.check_output(changed) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine() -> str:
    """Processor, cores and memory."""
    about = Path("/proc/cpuinfo")
    models = [
        line.partition(":")[2].strip()
        for line in (about.read_text(encoding="utf-8").splitlines() if about.exists() else ())
        if line.startswith("model name")
    ]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"{[*models, platform.machine()][0]}, {os.cpu_count()} cores, {memory:.0f} GiB"


def stamp(seconds: float, older: Sequence[str] = ()) -> str:
    """A line that says what made the figures above it."""
    parts = (
        f"Commit {commit()}",
        *older,
        f"{datetime.now(UTC):%Y-%m-%d}",
        machine(),
        f"Python {platform.python_version()}",
        f"torch {version('torch')}",
        f"{seconds:.0f} s",
    )
    return f"*{', '.join(parts)}.*\n"


class Bench:
    """Runs sections; `ended` are those that went well and their seconds, `failed` the others."""

    def __init__(self, releases: Releases, shown: Progress) -> None:
        self.releases, self.shown = releases, shown
        self.ended: dict[str, float] = {}
        self.failed: dict[str, str] = {}

    def run(self, sections: Sequence[Section]) -> None:
        """Run sections, and rewrite the page as each of them ends."""
        bar = self.shown.add_task("sections", total=len(sections))
        with ThreadPoolExecutor(BESIDE) as pool:
            self.releases.train(set().union(*(section.needs for section in sections)), pool)
            runs: dict[Section, list[Future[Done]]] = {}
            tables: dict[Future[Done], Section] = {}
            for section in (each for each in sections if not each.alone):
                if section.runs:
                    runs[section] = [pool.submit(self._run, section, run) for run in section.runs]
                else:
                    tables[pool.submit(self._tables, section)] = section
            # What waits for runs comes last, or it would keep a place that one of them could take.
            tables |= {
                pool.submit(self._tables, section, before): section
                for section, before in runs.items()
            }
            try:
                for future in as_completed(tables):
                    self._end(tables[future], future.result)
                    self.shown.advance(bar)
            except BaseException:
                pool.shutdown(cancel_futures=True)  # what is queued would still be run
                raise
        for section in (each for each in sections if each.alone):
            self._end(section, partial(self._tables, section))
            self.shown.advance(bar)

    def _run(self, section: Section, command: str) -> Done:
        self.releases.await_all(asked_for(command))
        data = self.releases.data or DATA
        places = {
            "data": data,
            "strokes": data.with_name(f"{data.stem}_strokes.npz"),
            "spoken": data.with_name("spoken_digits.npz"),
            "work": WORK / section.name,
            **self.releases.places,
        }
        return run(command, places, threads=BESIDE if section.alone else 1)

    def _tables(self, section: Section, runs: Sequence[Future[Done]] = ()) -> Done:
        before = sum(future.result().seconds for future in runs)
        printed = [self._run(section, command) for command in section.tables]
        output = "".join(done.output for done in printed).strip()
        if not output:
            raise FailedError("it printed nothing")
        return Done(output, before + sum(done.seconds for done in printed))

    def _end(self, section: Section, result: Callable[[], Done]) -> None:
        try:
            done = result()
            older = self.releases.older(section.needs)
            rewrite(section.name, f"{done.output}\n\n{stamp(done.seconds, older)}")
        except (FailedError, InputError) as error:
            self.failed[section.name] = str(error)
            self.shown.console.print(
                f"{section.name} failed: {error}", markup=False, soft_wrap=True
            )
        else:
            self.ended[section.name] = done.seconds
            self.shown.console.print(
                f"{section.name}: {done.seconds:.0f} s", markup=False, soft_wrap=True
            )


def rewrite(name: str, content: str) -> None:
    """Put this into a block of the page, which others may have changed meanwhile."""
    page = replaced(PAGE.read_text(encoding="utf-8"), name, content)
    with replacing(PAGE) as unfinished:
        unfinished.write_text(page, encoding="utf-8")


def how_made(bench: Bench, wall: float) -> str:
    """A table of what ran and for how long."""
    lines = ["| section | s | runs |", "| --- | --- | --- |"]
    for name, future in bench.releases.training.items():
        if future.exception() is None:
            lines.append(f"| {name}, trained | {future.result().seconds:.0f} | beside another |")
    for section in SECTIONS:
        if section.name in bench.ended:
            how = "alone" if section.alone else "beside another"
            lines.append(f"| {section.name} | {bench.ended[section.name]:.0f} | {how} |")
    lines.append(f"| all, wall clock | {wall:.0f} | |")
    return "\n".join([*lines, "", stamp(wall)])


def chosen(names: Sequence[str]) -> list[Section]:
    """Return the sections of these names, all for none; raises InputError for another name."""
    known = [section.name for section in SECTIONS]
    for name in names:
        if name not in known:
            raise InputError(f"section: {name!r} is none of {', '.join(known)}; give one of them")
    return [section for section in SECTIONS if not names or section.name in names]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="of sections; all if left out")
    parser.add_argument(
        "--data", type=Path, default=DATA, help="npz of real writers, see docs/data.md"
    )
    given = parser.parse_args()
    told = Console(stderr=True)
    commit()  # as it is now, not when the first section ends
    try:
        sections = chosen(given.names)
        places = blocks(PAGE.read_text(encoding="utf-8"))
        for name in (MADE, *(section.name for section in sections)):
            if name not in places:
                raise InputError(f"page: {PAGE.name} has no block {name!r}; add its marks")
    except InputError as error:
        told.print(f"results: {error}", markup=False, soft_wrap=True)
        return 2
    data = given.data.resolve() if given.data.exists() else None
    if data is None:
        left = [section.name for section in sections if section.needs - {"work"}]
        told.print(
            f"{given.data} is not there, so these stay as they are: {', '.join(left)}. "
            "docs/data.md says where to get it; then give --data FILE.",
            markup=False,
            soft_wrap=True,
        )
        sections = [section for section in sections if section.name not in left]
    releases = Releases(data)
    if not given.names:
        releases.forget()
    for section in sections:
        shutil.rmtree(WORK / section.name, ignore_errors=True)
    began = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=told) as shown:
        bench = Bench(releases, shown)
        bench.run(sections)
    if not given.names:
        rewrite(MADE, how_made(bench, time.monotonic() - began))
    for name, why in bench.failed.items():
        told.print(f"{name} failed and keeps its old block: {why}", markup=False, soft_wrap=True)
    return 1 if bench.failed else 0


if __name__ == "__main__":
    sys.exit(main())
