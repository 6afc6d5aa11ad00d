"""The wider network of LEAF's FEMNIST benchmark."""

from fedhw.experts.architecture import Architecture
from fedhw.experts.layers import Conv2d, Flatten, Linear, MaxPool2d, Relu
from fedhw.handwriting.augmentation import distort
from fedhw.handwriting.glyph import GLYPH

LEAF_CNN = Architecture(
    GLYPH,
    (
        Conv2d(32, 5, padding=2),
        Relu(),
        MaxPool2d(),
        Conv2d(64, 5, padding=2),
        Relu(),
        MaxPool2d(),
        Flatten(),
        Linear(2048),
        Relu(),
    ),
    augment=distort,
)
"""The CNN of LEAF's FEMNIST benchmark, 6.6 M parameters at 62 classes (Caldas et al. 2018)."""
