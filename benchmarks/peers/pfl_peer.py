"""Apple's pfl: FederatedAveraging on its simulated backend, and its local training."""

import sys
import time

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import MinimizeReuseUserSampler
from pfl.hyperparam import HyperParam, NNTrainHyperParams
from pfl.internal.bridge import FrameworkBridgeFactory
from pfl.internal.ops import get_ops
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from task import (
    BATCH,
    FINE_TUNING,
    MOMENTUM,
    Answer,
    Averaging,
    Network,
    Personalising,
    Row,
    main,
)
from torch.nn import functional as F


class Pfl(Network):
    """The network with the methods that pfl asks for."""

    def loss(self, ink: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self(ink), labels)

    def metrics(self, ink: torch.Tensor, labels: torch.Tensor) -> dict:
        return {"loss": Weighted(self.loss(ink, labels).item() * len(ink), len(ink))}


def model_of(network: Pfl, momentum: float = 0.0) -> PyTorchModel:
    def local_optimiser(parameters, lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr, momentum)

    return PyTorchModel(network, local_optimiser, torch.optim.SGD(network.parameters(), 1.0))


class Rounds(HyperParam, TrainingProcessCallback):
    """How many devices each round has, and when it ended."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes, self.ended = sizes, [time.time()]

    def value(self) -> int:
        return self.sizes[min(len(self.ended) - 1, len(self.sizes) - 1)]

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:
        self.ended = [time.time()]
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        self.ended.append(time.time())
        return False, Metrics()


def averaging(task: Averaging) -> Answer:
    devices = list(range(len(task.devices)))
    dataset = FederatedDataset(
        lambda device: Dataset(task.devices[device], user_id=str(device)),
        MinimizeReuseUserSampler(devices),
    )
    network, rounds = Pfl(task.weights), Rounds(task.sizes)
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=len(task.sizes),
            evaluation_frequency=10**9,
            train_cohort_size=rounds,
            val_cohort_size=None,
        ),
        backend=SimulatedBackend(training_data=dataset, val_data=dataset),
        model=model_of(network),
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=task.rate, local_batch_size=task.batch
        ),
        callbacks=[rounds],
        send_metrics_to_platform=False,
    )
    return task.answer(rounds.ended[:-1], rounds.ended[1:], network.weights())


def personalising(task: Personalising) -> list[Row]:
    ops = get_ops().distributed
    mine = range(ops.global_rank, len(task.learn), ops.world_size)
    rows = []
    for method, (rate, epochs) in FINE_TUNING.items():
        network = Pfl(task.weights)
        model = model_of(network, MOMENTUM)
        wanted = NNTrainHyperParams(
            local_num_epochs=epochs, local_learning_rate=rate, local_batch_size=BATCH
        )
        initial, found = model.get_parameters(), {}
        began = time.time()
        for writer in mine:
            FrameworkBridgeFactory.sgd_bridge().do_sgd(model, Dataset(task.learn[writer]), wanted)
            found[writer] = network.weights().copy()
            model.set_parameters(initial)
        everybody = [found]
        if ops.world_size > 1:
            everybody = [None] * ops.world_size
            torch.distributed.all_gather_object(everybody, found)
        seconds = time.time() - began
        all_found = {writer: weights for part in everybody for writer, weights in part.items()}
        networks = [Network(all_found[writer]) for writer in range(len(task.learn))]
        rows.append(task.row(method, len(task.weights), seconds, *task.measure(networks)))
    return rows


if __name__ == "__main__":
    if get_ops().distributed.global_rank:
        sys.stdout = sys.stderr  # the first process answers for all
    main(averaging, personalising)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # or its threads abort the process at times
