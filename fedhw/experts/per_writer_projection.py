"""The product of features with a matrix of each writer."""

from torch import Tensor


def project_per_writer(features: Tensor, matrices: Tensor) -> Tensor:
    """Return `features @ matrices`, [W, N, r], for matrices [W, D, r].

    Features are each writer's own, [W, N, D], or the same for all, [1, N, D]. The latter are
    multiplied by all matrices side by side: one large product instead of many thin ones.

    >>> import torch
    >>> alike, matrices = torch.rand(1, 5, 84), torch.rand(3, 84, 8)
    >>> torch.allclose(project_per_writer(alike, matrices), alike @ matrices)
    True
    """
    if len(features) == len(matrices):
        return features @ matrices
    writers, depth, rank = matrices.shape
    beside = features[0] @ matrices.transpose(0, 1).reshape(depth, -1)
    return beside.view(-1, writers, rank).transpose(0, 1)
