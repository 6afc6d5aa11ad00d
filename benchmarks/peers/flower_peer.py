"""Flower's simulation engine on Ray, an actor for each core; in the ClientApp the bare loops."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from bare_torch import PROCESSES
from task import FINE_TUNING, Answer, Averaging, Network, Personalising, Row, main, mean

os.environ |= {
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_HOME": mkdtemp(prefix="fedhw-peers-flower-"),
    "FLWR_TELEMETRY_ENABLED": "0",
    "PYTHONPATH": str(Path(__file__).parent),
}

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

BETWEEN = 0.01
"""Seconds between two looks for replies; Flower's own loop looks every 3."""

Many = Callable[..., list[np.ndarray]]


def simulated(task: Averaging | Personalising, nodes: int, work: Callable[[Many], None]) -> None:
    """Do the work of a ServerApp, which gets a `map` over as many nodes."""
    kind, folder = type(task), task.folder.resolve()
    client, server = ClientApp(), ServerApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        import bare_torch

        if bare_torch.task is None:
            bare_torch.start(kind, folder)
        asked = dict(message.content["asked"])
        if "weights" in message.content:
            asked["weights"] = message.content["weights"].to_numpy_ndarrays()[0]
        found = getattr(bare_torch, asked.pop("work"))(**asked)
        return Message(RecordDict({"weights": ArrayRecord([found])}), reply_to=message)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        while len(devices := list(grid.get_node_ids())) < nodes:
            time.sleep(BETWEEN)

        def many(asked: Sequence[dict], weights: np.ndarray | None = None) -> list[np.ndarray]:
            common = {} if weights is None else {"weights": ArrayRecord([weights])}
            messages = [
                Message(
                    RecordDict({"asked": ConfigRecord(each), **common}),
                    dst_node_id=device,
                    message_type="train",
                )
                for each, device in zip(asked, devices, strict=False)
            ]
            waiting, found = list(grid.push_messages(messages)), {}
            order = list(waiting)
            while waiting:
                for reply in grid.pull_messages(waiting):
                    if reply.has_error():
                        raise RuntimeError(reply.error.reason)
                    waiting.remove(reply.metadata.reply_to_message_id)
                    weights = reply.content["weights"].to_numpy_ndarrays()[0]
                    found[reply.metadata.reply_to_message_id] = weights
                time.sleep(BETWEEN)
            return [found[one] for one in order]

        work(many)

    logging.getLogger("flwr").setLevel(logging.ERROR)
    resources = {"num_cpus": 1, "num_gpus": 0.0}
    config = {"client_resources": resources, "init_args": {"num_cpus": PROCESSES}}
    run_simulation(server, client, num_supernodes=nodes, backend_config=config)


def averaging(task: Averaging) -> Answer:
    weights, began, ended = task.weights, [], []

    def work(many: Many) -> None:
        nonlocal weights
        for devices in task.rounds():
            began.append(time.time())
            asked = [{"work": "trained", "device": device} for device in devices]
            weights = mean(many(asked, weights))
            ended.append(time.time())

    simulated(task, len(task.devices), work)
    return task.answer(began, ended, weights)


def personalising(task: Personalising) -> list[Row]:
    rows = []

    def work(many: Many) -> None:
        everybody = range(len(task.learn))
        for method, (rate, epochs) in FINE_TUNING.items():
            asked = [
                {"work": "tuned", "writer": writer, "rate": rate, "epochs": epochs}
                for writer in everybody
            ]
            many(asked[:4])  # warm-up
            began = time.time()
            found = many(asked)
            seconds = time.time() - began
            measured = task.measure([Network(weights) for weights in found])
            rows.append(task.row(method, len(task.weights), seconds, *measured))

    simulated(task, len(task.learn), work)
    return rows


if __name__ == "__main__":
    main(averaging, personalising)
