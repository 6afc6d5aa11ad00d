"""What an app does with the agent of its device."""

import numpy as np
from numpy.typing import NDArray

# --8<-- [start:app]
from fedhw_client import Device
from spoken.log_mel import log_mel


def hear(agent: Device, samples: NDArray[np.int16], meant: str) -> str:
    """Return the word that was heard, and correct the agent where another was meant."""
    frames = log_mel(samples)
    heard = agent.recognize(frames).label
    if heard != meant:
        agent.learn(frames, meant)
    return heard


# --8<-- [end:app]
