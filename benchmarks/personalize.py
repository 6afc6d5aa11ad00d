"""How many writers a second: the learner batched, one at a time, and as a ClientApp in Flower.

Same recipe, same 200 writers of 60 samples, the global expert's features included, one run:

    python benchmarks/personalize.py [--release DIR --data FILE]
"""

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from fedhw.data.sources import load_source
from fedhw.data.writers import WriterSet
from fedhw.experts.global_expert import build
from fedhw.personalization.learner import Learner
from fedhw.personalization.method import gather, observe
from fedhw.release.release import Release
from fedhw.release.sketch import Sketch

WRITERS, SAMPLES, COHORT = 200, 60, 50


def writers_of(data: WriterSet) -> tuple[np.ndarray, np.ndarray]:
    """Glyphs [W, N, 28, 28] and labels [W, N]; writers with few characters share their turn."""
    rows = [data.rows_of(w)[:SAMPLES] for w in np.flatnonzero(data.counts() >= SAMPLES)]
    chosen = np.stack([rows[i % len(rows)] for i in range(WRITERS)])
    return data.images[chosen], data.labels[chosen]


def personalise(
    expert: torch.nn.Module, sketch: Sketch, images: np.ndarray, labels: np.ndarray
) -> float:
    """Learn these writers at once and return their accuracy on what they learned from."""
    cohort = gather(expert, list(images), list(labels))
    scores = Learner().learn(expert, cohort, sketch, seed=0).scores(cohort.seen)
    return float((scores.argmax(-1) == cohort.labels).float().mean())


def in_cohorts(
    size: int, expert: torch.nn.Module, sketch: Sketch, images: np.ndarray, labels: np.ndarray
) -> float:
    parts = [
        personalise(expert, sketch, images[i : i + size], labels[i : i + size])
        for i in range(0, len(images), size)
    ]
    return float(np.mean(parts))


def in_flower(
    folder: Path, expert: torch.nn.Module, sketch: Sketch, images: np.ndarray, labels: np.ndarray
) -> tuple[float, float, float]:
    """Return (accuracy, seconds from the first reply to the last, seconds in all).

    Before the first reply Ray's actors start and import torch: the second figure leaves that out.
    """
    os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
    from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    logging.getLogger("flwr").setLevel(logging.ERROR)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    torch.save((expert, tuple(sketch)), folder / "release.pt")
    client, server, result = ClientApp(), ServerApp(), {}

    @client.train()
    def train(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)
        own, tensors = torch.load(folder / "release.pt", weights_only=False)
        writer = slice(int(context.node_config["partition-id"]), None)
        glyphs = np.load(folder / "images.npy", mmap_mode="r")[writer][:1]
        named = np.load(folder / "labels.npy", mmap_mode="r")[writer][:1]
        reached = personalise(own, Sketch(*tensors), glyphs, named)
        return Message(RecordDict({"m": MetricRecord({"accuracy": reached})}), reply_to=message)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        while len(nodes := list(grid.get_node_ids())) < WRITERS:
            time.sleep(0.05)
        content = RecordDict({"c": ConfigRecord({})})
        asked = {
            *grid.push_messages(
                [Message(content, dst_node_id=node, message_type="train") for node in nodes]
            )
        }
        reached, replied = [], []
        while asked:
            for reply in grid.pull_messages(list(asked)):
                if reply.has_error():
                    raise RuntimeError(reply.error.reason)
                asked.discard(reply.metadata.reply_to_message_id)
                reached.append(float(reply.content["m"]["accuracy"]))
                replied.append(time.perf_counter())
            time.sleep(0.02)
        result["seconds"] = replied[-1] - replied[0]
        result["accuracy"] = float(np.mean(reached))

    began = time.perf_counter()
    run_simulation(
        server,
        client,
        num_supernodes=WRITERS,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    return result["accuracy"], result["seconds"], time.perf_counter() - began


def best_of(runs: int, work: Callable[[], float]) -> tuple[float, float]:
    """Return (accuracy, seconds of the fastest run)."""
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        reached = work()
        seconds.append(time.perf_counter() - began)
    return reached, min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--release", type=Path, help="release directory; untrained without")
    parser.add_argument("--data", default="synthetic")
    arguments = parser.parse_args()
    data = load_source(arguments.data, 0, range(WRITERS))
    images, labels = writers_of(data)
    if arguments.release:
        release = Release.load(arguments.release)
        expert, sketch = release.expert, release.sketch
    else:
        torch.manual_seed(0)
        expert = build("lenet5", 62).eval()
        sketch = Sketch.of(observe(expert, images[:, :20]).features.flatten(0, 1))

    batched = best_of(3, lambda: in_cohorts(COHORT, expert, sketch, images, labels))
    single = best_of(3, lambda: in_cohorts(1, expert, sketch, images, labels))
    with tempfile.TemporaryDirectory() as folder:
        reached, running, whole = in_flower(Path(folder), expert, sketch, images, labels)
    shown = Table(
        "engine", "writers/s", "batched is faster by", "own accuracy", title=f"{arguments.data}"
    )
    for name, accuracy, seconds in (
        (f"batched, cohorts of {COHORT}", *batched),
        ("one writer at a time", *single),
        ("Flower on Ray, actors warm", reached, running),
        ("Flower on Ray, with start-up", reached, whole),
    ):
        shown.add_row(
            name, f"{WRITERS / seconds:.0f}", f"{seconds / batched[1]:.1f} x", f"{accuracy:.3f}"
        )
    Console().print(shown)


if __name__ == "__main__":
    main()
