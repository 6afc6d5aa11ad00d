"""A mean of updates that resists a few dishonest devices, for sums that are not masked.

With masks no single update is visible; then only clipping and the validation of the candidate help.
"""

import numpy as np
from numpy.typing import NDArray


def trimmed_mean(updates: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """Return the mean [P] of updates [N, P] without the `share` highest and lowest of each entry.

    If no more than that share of devices is dishonest, each entry is within the range of the honest
    ones. Updates that are not finite are left out first. Raises ValueError where nothing is left.
    Yin, Chen, Ramchandran, Bartlett 2018, arXiv 1803.01498.

    >>> trimmed_mean(np.array([[0.0], [1.0], [2.0], [np.nan], [1e9]]), 0.25).tolist()
    [1.5]
    """
    honest = updates[np.isfinite(updates).all(axis=1)]
    cut = int(share * len(honest))
    if len(honest) <= 2 * cut:
        raise ValueError(f"of {len(honest)} updates nothing is left without {cut} at each end")
    ordered = np.sort(honest, axis=0)[cut : len(honest) - cut]
    mean: NDArray[np.float32] = ordered.mean(axis=0)
    return mean


def clipped(updates: NDArray[np.float32], radius: float) -> NDArray[np.float32]:
    """Return updates [N, P] clipped to the radius; those that are not finite become zeros."""
    finite = np.where(np.isfinite(updates).all(axis=1, keepdims=True), updates, 0)
    norms = np.linalg.norm(finite.astype(np.float64), axis=1, keepdims=True)
    inside: NDArray[np.float32] = (finite / np.maximum(1, norms / radius)).astype(np.float32)
    return inside
