"""How the writers' matrices read what the global expert saw."""

from torch import Tensor


def project_per_writer(seen: Tensor, matrices: Tensor) -> Tensor:
    """Return `seen @ matrices`, [W, N, r], for matrices [W, D, r].

    What was seen is each writer's own, [W, N, D], or the same for all, [1, N, D]: that goes through
    their matrices side by side, in one large product instead of many thin ones.

    >>> import torch
    >>> alike, matrices = torch.rand(1, 5, 84), torch.rand(3, 84, 8)
    >>> torch.allclose(project_per_writer(alike, matrices), alike @ matrices)
    True
    """
    if len(seen) == len(matrices):
        return seen @ matrices
    writers, depth, rank = matrices.shape
    beside = seen[0] @ matrices.transpose(0, 1).reshape(depth, -1)
    return beside.view(-1, writers, rank).transpose(0, 1)
