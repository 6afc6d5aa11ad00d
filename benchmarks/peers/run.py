"""fedhw beside its peers: federated averaging and personalising; same data, network and cores.

    python benchmarks/peers/run.py --data writers.npz RELEASE ...

Each peer has a virtual environment of its own, made at its first run from `requirements/` under
.venv/peers; fedhw runs in the one that this runs in. The peers take turns, so that a busy machine
hits all alike: two turns of averaging, from the first release, and one of personalising for each
release, for the writers that it has not seen. Times are medians.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from threading import Thread

import numpy as np

from fedhw.data.sources import load_source
from fedhw.data.writers import WriterSet, stratified_split
from fedhw.experts.evaluation import accuracy
from fedhw.experts.global_expert import build
from fedhw.improvement.local_update import flat, unflatten
from fedhw.release.release import Release
from fedhw.research.simulation.population import draw_writers

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from memory import most  # noqa: E402
from tables import show, spread  # noqa: E402

CORES = 2
SIZES = (10, 10, 10, 10, 100, 100, 100)
"""Devices of each round; the first is a warm-up."""

DEVICES, CHARACTERS, BATCH, RATE = 100, 100, 10, 0.02
"""Batches of 10, as in McMahan et al. 2017 and the peers' own benchmarks."""

GENERIC = 1000


@dataclass(frozen=True)
class Peer:
    """A framework and how it is given both cores: so many processes with the cores shared out."""

    name: str
    script: str
    processes: int = 1
    launcher: tuple[str, ...] = ()

    @property
    def environment(self) -> str:
        return self.script.split("_")[0]

    def python(self) -> Path:
        """Return the interpreter, of an environment that is made if it is not there."""
        if self.environment == "fedhw":
            return Path(sys.executable)
        folder = HERE.parents[1] / ".venv" / "peers" / self.environment
        if not (folder / "ready").exists():
            print(f"making {folder.name}'s environment", file=sys.stderr)
            wanted = HERE / "requirements" / f"{self.environment}.txt"
            for step in (
                [sys.executable, "-m", "venv", folder],
                [folder / "bin/pip", "install", "--quiet", "--requirement", wanted],
            ):
                subprocess.run(step, check=True, stdout=sys.stderr)
            (folder / "ready").touch()
        return folder / "bin" / "python"

    def answer(self, task: str, folder: Path, measured: bool) -> dict | list:
        """Run the peer; where `measured`, an averaging's answer tells its `memory` in bytes."""
        command = [self.python(), *self.launcher, HERE / self.script, task, folder]
        threads = str(CORES // self.processes)
        settings = {"OMP_NUM_THREADS": threads, "PROCESSES": str(self.processes)}
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(
                [str(part) for part in command],
                env={**os.environ, **settings, "STARTED": str(time.time())},
                stdout=subprocess.PIPE,
                stderr=said,
                cwd=folder,
                text=True,
            )
            peak = Peak(process) if measured else None
            printed, _ = process.communicate()
            if process.returncode:
                said.seek(0)
                sys.exit(f"{self.name} failed:\n{said.read()[-4000:]}")
        answer = json.loads(printed.splitlines()[-1])
        return answer | {"memory": peak.bytes()} if peak else answer


class Peak(Thread):
    """The most memory that a process and all its descendants have had."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        super().__init__(daemon=True)
        self._process, self._most = process, 0
        self.start()

    def bytes(self) -> int:
        self.join()
        return self._most

    def run(self) -> None:
        self._most = most(self._process)


PEERS = (
    Peer("**fedhw**", "fedhw_peer.py"),
    Peer("bare torch", "bare_torch.py", CORES),
    Peer(
        "pfl 0.6.0",
        "pfl_peer.py",
        CORES,
        ("-m", "torch.distributed.run", f"--nproc-per-node={CORES}"),
    ),
    Peer("Flower 1.41.0 on Ray 2.55.1", "flower_peer.py", CORES),
    Peer("fluke 0.8.1", "fluke_peer.py"),
)
OURS = PEERS[0]
ALONE = (
    Peer("bare torch, one process", "bare_torch.py"),
    Peer("pfl 0.6.0, one process", "pfl_peer.py"),
)
"""Peers that were to average in one process, too."""


def averaging_task(data: WriterSet, release: Release, folder: Path) -> WriterSet:
    """Write the task of averaging and return the characters of everybody else."""
    random = np.random.default_rng(0)
    able = random.permutation(np.flatnonzero(data.counts() >= CHARACTERS))[:DEVICES]
    if len(able) < DEVICES:
        sys.exit(f"data: {len(able)} writers have {CHARACTERS} characters; give {DEVICES} such")
    rows = np.stack([random.permutation(data.rows_of(int(w)))[:CHARACTERS] for w in able])
    np.savez(
        folder / "averaging.npz",
        images=data.observations[rows],
        labels=data.labels[rows],
        weights=flat(release.expert),
        sizes=SIZES,
        batch=BATCH,
        rate=RATE,
    )
    return data.take(np.flatnonzero(~np.isin(data.writer, able)))


def personalising_task(data: WriterSet, release: Release, folder: Path) -> tuple[float, float]:
    """Write the task of personalising; return the accuracies of the expert alone, 0 to 1.

    It is for the writers that the release did not see, half of each to test with.
    """
    random = np.random.default_rng(0)
    writers = [data.rows_of(w) for w in draw_writers(release, data, None, "half", seed=0)]
    halves = [[own[half] for half in stratified_split(data.labels[own], random)] for own in writers]
    learn, test = zip(*halves, strict=True)
    some = random.permutation(len(release.generic))[:GENERIC]
    parts = {"learn": (data, learn), "test": (data, test), "generic": (release.generic, [some])}
    arrays, alone = {"weights": flat(release.expert)}, {}
    for name, (source, rows) in parts.items():
        arrays[f"{name}_images"] = source.observations[np.concatenate(rows)]
        arrays[f"{name}_labels"] = source.labels[np.concatenate(rows)]
        arrays[f"{name}_ends"] = np.cumsum([len(own) for own in rows])
        right = [accuracy(release.expert, source.observations[r], source.labels[r]) for r in rows]
        alone[name] = float(np.mean(right))
    np.savez(folder / "personalising.npz", **arrays)
    (folder / "release").symlink_to(release.directory.resolve())
    return alone["test"], alone["generic"]


def averaged(turns: int, folder: Path) -> dict[str, list[dict]]:
    """Return the answers of every peer, one a turn; weights stay in the folder as NAME.npy."""
    answers: dict[str, list[dict]] = {peer.name: [] for peer in (*PEERS, *ALONE)}
    for turn in range(turns):
        for peer in (*PEERS, *ALONE):
            print(f"averaging, turn {turn + 1} of {turns}: {peer.name}", file=sys.stderr)
            answers[peer.name].append(peer.answer("averaging", folder, measured=turn == 0))
            (folder / "weights.npy").rename(folder / f"{peer.name}.npy")
    return answers


def averaging_rows(answers: dict[str, list[dict]]) -> list[list[str]]:
    """Return the rows of the table of averaging, without what came of it."""

    def seconds(name: str, size: int) -> float:
        timed = [
            each
            for answer in answers[name]
            for each, devices in zip(answer["seconds"], SIZES[1:], strict=True)
            if devices == size
        ]
        return median(timed)

    rows = []
    for name, turns in answers.items():
        row = [name]
        for size in sorted(set(SIZES)):
            took = seconds(name, size)
            row += [f"{took:.3f}", f"{took / seconds(OURS.name, size):.1f}"]
        startup = median(answer["startup"] for answer in turns)
        rows.append([*row, f"{startup:.1f}", f"{turns[0]['memory'] / 2**20:,.0f}"])
    return rows


def show_averaging(answers: dict[str, list[dict]], others: WriterSet, folder: Path) -> None:
    weights = {name: np.load(folder / f"{name}.npy") for name in answers}
    architecture = build("lenet5", len(others.classes))
    headings = ["peer"]
    for size in sorted(set(SIZES)):
        headings += [f"{size} devices, s a round", "x ours"]
    headings += ["start-up, s", "memory, MiB", "accuracy after, %", "farthest weight from ours"]
    rows = []
    for row in averaging_rows(answers):
        own = weights[row[0]]
        right = accuracy(unflatten(architecture, own), others.observations, others.labels)
        apart = np.abs(own - weights[OURS.name]).max()
        rows.append([*row, f"{100 * right:.2f}", f"{apart:.0e}"])
    show(headings, rows)


def personalised(folders: Sequence[Path]) -> dict[str, list[list[dict]]]:
    """Return what every peer's methods came to, for each task."""
    answers: dict[str, list[list[dict]]] = {peer.name: [] for peer in PEERS}
    for turn, folder in enumerate(folders, 1):
        for peer in PEERS:
            print(f"personalising, turn {turn} of {len(folders)}: {peer.name}", file=sys.stderr)
            answers[peer.name].append(peer.answer("personalising", folder, measured=False))
    return answers


def personalising_rows(answers: dict[str, list[list[dict]]]) -> list[list[str]]:
    """Return the rows of the table of personalising, a row for each method of each peer."""
    ours = median(methods[0]["seconds"] for methods in answers[OURS.name])
    rows = []
    for name, tasks in answers.items():
        for found in zip(*tasks, strict=True):
            took = median(each["seconds"] for each in found)
            rows.append(
                [
                    name,
                    found[0]["method"],
                    spread([each["writer"] for each in found]),
                    spread([each["generic"] for each in found]),
                    f"{1000 * took:.1f}",
                    f"{took / ours:.1f}",
                    f"{found[0]['numbers']:,}",
                ]
            )
    return rows


def show_personalising(
    answers: dict[str, list[list[dict]]], alone: Sequence[tuple[float, float]]
) -> None:
    writer, generic = (spread(shares) for shares in zip(*alone, strict=True))
    show(
        ["peer", "method", "writer, %", "generic, %", "ms a writer", "x ours", "numbers kept"],
        [
            ["", "global expert alone", writer, generic, "", "", "0"],
            *personalising_rows(answers),
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="npz file of real writers")
    parser.add_argument("--turns", type=int, default=2, help="of averaging")
    parser.add_argument("releases", nargs="+", type=Path, help="trained on some of them")
    arguments = parser.parse_args()
    data = load_source(arguments.data, 0)
    releases = [Release.load(place) for place in arguments.releases]
    for peer in PEERS:
        peer.python()
    with tempfile.TemporaryDirectory(prefix="fedhw-peers-") as directory:
        folders = [Path(directory) / str(i) for i in range(len(releases))]
        for folder in folders:
            folder.mkdir()
        others = averaging_task(data, releases[0], folders[0])
        show_averaging(averaged(arguments.turns, folders[0]), others, folders[0])
        tasks = zip(releases, folders, strict=True)
        alone = [personalising_task(data, release, folder) for release, folder in tasks]
        show_personalising(personalised(folders), alone)


if __name__ == "__main__":
    main()
