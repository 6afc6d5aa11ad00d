"""The trial of a release before anybody depends on it."""

import numpy as np
import torch

from fedhw.errors import InputError
from fedhw.experts.global_expert import GlobalExpert
from fedhw.release.sketch import Sketch
from fedhw.system.plugins import first_line


@torch.no_grad()
def try_out(name: str, expert: GlobalExpert, sketch: Sketch) -> None:
    """Compute what recognition and learning need of a release, `name`, from its sketch.

    The expert also reads the least and the greatest observation. Raises InputError where it cannot,
    and for numbers that are not finite: finite weights may be large enough for that.
    """
    takes = expert.architecture.observation
    extremes = np.stack([np.full(takes.shape, end, takes.dtype) for end in (0, takes.largest)])
    features = sketch.features()
    try:
        read = expert.features(expert.scale(extremes))
        parts = read, expert.head(read), features.std(0), expert.head(features)
    # The code of a plug-in may raise anything.
    except Exception as error:
        raise InputError(
            f"release: {name} fails when it is tried ({first_line(error)}); train it again"
        ) from error
    if not all(part.isfinite().all() for part in parts):
        raise InputError(
            f"release: {name} gives numbers that are not finite when it is tried; train it again"
        )
