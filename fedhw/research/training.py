"""Train a global expert on many writers' observations."""

import hashlib
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from fedhw.errors import InputError
from fedhw.experts.global_expert import GlobalExpert
from fedhw.observation import Observations
from fedhw.system.atomic import replacing


@dataclass(frozen=True)
class Training:
    """The recipe: AdamW on a one-cycle schedule (Smith and Topin 2018, arXiv 1708.07120).

    The architecture augments each observation with the strength `distortion`; 0 is none.
    """

    epochs: int = 70
    batch: int = 256
    rate: float = 8e-3
    decay: float = 0.1
    distortion: float = 1.0
    seed: int = 0


def train_expert(
    expert: GlobalExpert,
    observations: Observations,
    labels: NDArray[np.int64],
    training: Training,
    checkpoint: Path | None = None,
    after_epoch: Callable[[int], None] = lambda epoch: None,
) -> None:
    """Train `expert` in place on observations [N, *shape] and their labels [N].

    With a `checkpoint` path the state is saved after every epoch. An interrupted training continues
    from there, and has the same weights in the end as an uninterrupted one. Raises InputError when
    the checkpoint is of another training or cannot be read, and when the weights become infinite.
    """
    scaled, target = expert.scale(observations), torch.from_numpy(labels)
    batches = max(1, len(scaled) // training.batch)
    random = torch.Generator().manual_seed(training.seed)
    optimiser = torch.optim.AdamW(
        expert.parameters(), lr=training.rate, weight_decay=training.decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, training.rate, total_steps=training.epochs * batches, pct_start=0.2
    )
    stateful: dict[str, Any] = {
        "expert": expert,
        "optimiser": optimiser,
        "schedule": schedule,
    }
    identity = _identity(expert, observations, labels, training)
    first = 0
    if checkpoint is not None and checkpoint.exists():
        saved = _checked(checkpoint, identity)
        for name, part in stateful.items():
            part.load_state_dict(saved[name])
        random.set_state(saved["random"])
        first = saved["epoch"]
    after_epoch(first)
    for epoch in range(first, training.epochs):
        for rows in torch.randperm(len(scaled), generator=random).tensor_split(batches):
            scores = expert(expert.augment(scaled[rows], training.distortion, random))
            loss = F.cross_entropy(scores, target[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        if not all(weights.isfinite().all() for weights in expert.parameters()):
            raise InputError(
                f"data: the training diverged in epoch {epoch + 1}; remove extreme values, or let "
                "the architecture scale them"
            )
        if checkpoint is not None:
            state = {name: part.state_dict() for name, part in stateful.items()}
            progress = {"random": random.get_state(), "epoch": epoch + 1}
            content = io.BytesIO()  # where the disk is full, torch's own writer has no OSError
            torch.save(state | progress | {"identity": identity}, content)
            with replacing(checkpoint) as unfinished:
                unfinished.write_bytes(content.getbuffer())
        after_epoch(epoch + 1)
    expert.eval()


def _identity(
    expert: GlobalExpert,
    observations: Observations,
    labels: NDArray[np.int64],
    training: Training,
) -> str:
    """Return a digest of recipe, architecture, first weights and data."""
    digest = hashlib.sha256(repr((training, expert)).encode())
    for array in (*(p.detach().numpy() for p in expert.parameters()), observations, labels):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _checked(checkpoint: Path, identity: str) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = torch.load(checkpoint, weights_only=True)
        known = saved["identity"]
    except (RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError):
        known = None
    if known != identity:
        raise InputError(
            f"checkpoint: {checkpoint} is unreadable or of another training; delete it or give "
            "the same command again"
        )
    return saved
