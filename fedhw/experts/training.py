"""Train a global expert on many writers' characters."""

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fedhw.atomic import replacing
from fedhw.errors import InputError
from fedhw.experts.global_expert import GlobalExpert, as_ink


@dataclass(frozen=True)
class Training:
    """How long and how boldly to train.

    AdamW on a one-cycle schedule (Smith and Topin 2018, arXiv 1708.07120); each glyph is seen
    through a small random affine map.
    """

    epochs: int = 70
    batch: int = 256
    rate: float = 8e-3
    decay: float = 0.1
    distortion: float = 1.0
    seed: int = 0


def train_expert(
    expert: GlobalExpert,
    images: NDArray[np.uint8],
    labels: NDArray[np.integer[Any]],
    training: Training,
    checkpoint: Path | None = None,
    after_epoch: Callable[[int], None] = lambda epoch: None,
) -> None:
    """Train `expert` in place on uint8 glyphs [N, 28, 28] and their labels [N].

    With a `checkpoint` path the state is kept after every epoch, a training cut off goes on from
    there, and it ends with the same weights as one that was not. Raises InputError when the
    checkpoint is that of another training or cannot be read.
    """
    ink, target = as_ink(images), torch.from_numpy(labels.astype(np.int64))
    batches = max(1, len(ink) // training.batch)
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
    identity = _identity(expert, images, labels, training)
    first = 0
    if checkpoint is not None and checkpoint.exists():
        saved = _checked(checkpoint, identity)
        for name, part in stateful.items():
            part.load_state_dict(saved[name])
        random.set_state(saved["random"])
        first = saved["epoch"]
    after_epoch(first)
    for epoch in range(first, training.epochs):
        for rows in torch.randperm(len(ink), generator=random).tensor_split(batches):
            scores = expert(distort(ink[rows], training.distortion, random))
            loss = F.cross_entropy(scores, target[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        if checkpoint is not None:
            state = {name: part.state_dict() for name, part in stateful.items()}
            with replacing(checkpoint) as unfinished:
                progress = {"random": random.get_state(), "epoch": epoch + 1}
                torch.save(state | progress | {"identity": identity}, unfinished)
        after_epoch(epoch + 1)
    expert.eval()


def _identity(
    expert: GlobalExpert,
    images: NDArray[np.uint8],
    labels: NDArray[np.integer[Any]],
    training: Training,
) -> str:
    """Tell one training from any other: recipe, architecture, first weights and data."""
    digest = hashlib.sha256(repr((training, expert)).encode())
    for array in (*(p.detach().numpy() for p in expert.parameters()), images, labels):
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


def distort(ink: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """Send each glyph [B, 28, 28] through its own small random affine map.

    At strength 1: rotation to 0.2 rad, shear to 0.25, scale to 12 %, shift to 4 % of the side.
    """
    uniform = strength * (2 * torch.rand(6, len(ink), generator=random) - 1)
    turn, shear, width, height, right, down = uniform * torch.tensor(
        [0.2, 0.25, 0.12, 0.12, 0.08, 0.08]
    ).unsqueeze(1)
    cos, sin, width, height = turn.cos(), turn.sin(), width.exp(), height.exp()
    across = torch.stack([cos * width, cos * shear * width - sin * height, right], 1)
    along = torch.stack([sin * width, sin * shear * width + cos * height, down], 1)
    grid = F.affine_grid(
        torch.stack([across, along], 1), [len(ink), 1, *ink.shape[1:]], align_corners=False
    )
    return F.grid_sample(ink[:, None], grid, align_corners=False)[:, 0]


@torch.no_grad()
def recognised(
    expert: GlobalExpert, images: NDArray[np.uint8], labels: NDArray[np.integer[Any]]
) -> NDArray[np.bool_]:
    """Tell which of the glyphs [N, 28, 28] the expert alone recognises, bool [N]."""
    right = np.zeros(len(images), dtype=bool)
    for start in range(0, len(images), 4096):
        part = slice(start, start + 4096)
        right[part] = expert(as_ink(images[part])).argmax(1).numpy() == labels[part]
    return right


def accuracy(
    expert: GlobalExpert, images: NDArray[np.uint8], labels: NDArray[np.integer[Any]]
) -> float:
    """Return the share of glyphs [N, 28, 28] that the expert alone recognises."""
    return float(recognised(expert, images, labels).mean())
