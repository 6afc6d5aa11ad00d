"""Small random shifts of log-mel frames, for training on more voices than were recorded."""

# --8<-- [start:shift]
import torch
from torch import Tensor


def shift(frames: Tensor, strength: float, random: torch.Generator) -> Tensor:
    """Move each recording [B, frames, bands] a little in time and pitch.

    At strength 1: up to 6 frames (96 ms) and 2 bands; what stands at an edge is repeated.
    """

    def moved(places: int, most: int) -> Tensor:
        far = round(strength * most)
        by = torch.randint(-far, far + 1, (len(frames), 1), generator=random)
        return (torch.arange(places) + by).clamp(0, places - 1)

    times, bands = moved(frames.shape[1], 6), moved(frames.shape[2], 2)
    return frames[torch.arange(len(frames))[:, None, None], times[:, :, None], bands[:, None]]


# --8<-- [end:shift]
