"""A small network over log-mel frames, declared as data."""

# --8<-- [start:network]
from fedhw.experts.architecture import Architecture
from fedhw.experts.layers import Conv2d, Flatten, Linear, MaxPool2d, Relu
from spoken.augmentation import shift
from spoken.log_mel import LOG_MEL

SPOKEN_CNN = Architecture(
    LOG_MEL,
    (
        Conv2d(8, 3, padding=1),
        Relu(),
        MaxPool2d(),
        Conv2d(16, 3, padding=1),
        Relu(),
        MaxPool2d(),
        Conv2d(32, 3, padding=1),
        Relu(),
        MaxPool2d(),
        Flatten(),
        Linear(64),
        Relu(),
    ),
    augment=shift,
)
"""55,754 parameters at 10 words, 1.0 million multiply-accumulates a recording."""
# --8<-- [end:network]
