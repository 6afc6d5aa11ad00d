"""fluke: its federated averaging, and its algorithms of personalisation, in one process.

Each is a single round in which all writers start from the release, as fluke's rounds always begin.
"""

import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from copy import deepcopy

import torch
from task import BATCH, MOMENTUM, Answer, Averaging, Characters, Network, Personalising, Row, main

# The registry's torchvision is built for CUDA. Beside a CPU torch it lacks the operators that it
# describes when it is imported, which nothing here uses.
missing = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    missing.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from fluke import DDict, FlukeENV  # noqa: E402
from fluke.algorithms import CentralizedFL  # noqa: E402
from fluke.algorithms.apfl import APFL  # noqa: E402
from fluke.algorithms.ditto import Ditto  # noqa: E402
from fluke.algorithms.fedrep import FedRep, FedRepClient  # noqa: E402
from fluke.client import Client  # noqa: E402
from fluke.data import FastDataLoader  # noqa: E402
from fluke.nets import EncoderHeadNet  # noqa: E402
from fluke.server import Server  # noqa: E402


class Split:
    """Every client has its own characters, and nothing is held back."""

    def __init__(self, own: Sequence[Characters], shuffle: bool) -> None:
        self.own, self.shuffle = own, shuffle

    def assign(self, clients: int, batch: int) -> tuple[tuple[list, list], None]:
        loaders = [
            FastDataLoader(
                *own, num_labels=62, batch_size=batch, shuffle=self.shuffle, skip_singleton=False
            )
            for own in self.own
        ]
        return (loaders, [None] * clients), None


class Planned(Server):
    """Takes the clients that the task names, and notes when rounds begin."""

    plan: Sequence[list[int]]

    def get_eligible_clients(self, eligible_perc: float) -> Sequence[Client]:
        self.began = [*getattr(self, "began", []), time.time()]
        return [self.clients[i] for i in self.plan[len(self.began) - 1]]


class PlannedAveraging(CentralizedFL):
    def get_server_class(self) -> type[Server]:
        return Planned

    def finalize(self) -> None:
        """Leave out the sending of the last weights to everybody."""


class OwnNetwork(FedRepClient):
    """Has a network of its own, where fluke gives all clients the same object."""

    def __init__(self, index: int, model: EncoderHeadNet, **kwargs: object) -> None:
        super().__init__(index=index, model=deepcopy(model), **kwargs)


class OwnFedRep(FedRep):
    def get_client_class(self) -> type[Client]:
        return OwnNetwork


def settings(shared: torch.nn.Module, batch: int, **client: object) -> DDict:
    schedule = DDict(name="StepLR", step_size=1, gamma=1)
    common = {"batch_size": batch, "loss": "CrossEntropyLoss", "scheduler": schedule}
    return DDict(model=shared, client=DDict(**common, **client), server=DDict(weighted=False))


def averaging(task: Averaging) -> Answer:
    network, devices = Network(task.weights), len(task.devices)
    Planned.plan = list(task.rounds())
    optimiser = DDict(name="SGD", lr=task.rate)
    # A client that persists would keep its network and optimiser from round to round.
    wanted = settings(network, task.batch, local_epochs=1, optimizer=optimiser, persistency=False)
    algorithm = PlannedAveraging(devices, Split(task.devices, shuffle=False), wanted)
    with redirect_stdout(sys.stderr):
        algorithm.run(n_rounds=len(task.sizes), eligible_perc=0.5)
    began = algorithm.server.began
    return task.answer(began, [*began[1:], time.time()], network.weights())


def personalising(task: Personalising) -> list[Row]:
    everything = len(task.weights)
    momentum = {"momentum": MOMENTUM}
    rows = []
    for method, algorithm, numbers, rate, epochs, more in (
        ("Ditto, for the writer", Ditto, everything, {"lr": 0.02}, 0, {"tau": 10, "lam": 1.0}),
        ("Ditto, gently", Ditto, everything, {"lr": 0.005}, 0, {"tau": 3, "lam": 1.0}),
        ("APFL, for the writer", APFL, everything, {"lr": 0.01} | momentum, 6, {"lam": 0.5}),
        ("APFL, gently", APFL, everything, {"lr": 0.01} | momentum, 6, {"lam": 0.9}),
        ("FedRep's head", OwnFedRep, 85 * 62, {"lr": 0.02} | momentum, 6, {"tau": 0}),
    ):
        network = Network(task.weights)
        shared: torch.nn.Module = network
        own: torch.nn.Module = network
        if algorithm is OwnFedRep:
            shared, own = network.body, EncoderHeadNet(network.body, network.head)
        optimiser = DDict(name="SGD", **rate)
        wanted = settings(
            shared, BATCH, model=own, local_epochs=epochs, optimizer=optimiser, **more
        )
        began = time.time()
        run = algorithm(len(task.learn), Split(task.learn, shuffle=True), wanted)
        with redirect_stdout(sys.stderr):
            run.run(n_rounds=1, eligible_perc=1.0)
        seconds = time.time() - began
        networks = [getattr(one, "personalized_model", one.model) for one in run.clients]
        rows.append(task.row(method, numbers, seconds, *task.measure(networks)))
    return rows


if __name__ == "__main__":
    environment = FlukeENV()
    environment.set_device("cpu")
    environment.set_seed(0)
    environment.set_inmemory(True)
    environment.set_eval_cfg(pre_fit=False, post_fit=False, locals=False, server=False)
    main(averaging, personalising)
