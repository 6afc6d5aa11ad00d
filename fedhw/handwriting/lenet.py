"""LeNet-5, the network of the launch releases."""

from fedhw.experts.architecture import Architecture
from fedhw.experts.layers import Conv2d, Flatten, Linear, MaxPool2d, Relu
from fedhw.handwriting.augmentation import distort
from fedhw.handwriting.glyph import GLYPH

LENET5 = Architecture(
    GLYPH,
    (
        Conv2d(6, 5, padding=2),
        Relu(),
        MaxPool2d(),
        Conv2d(16, 5),
        Relu(),
        MaxPool2d(),
        Flatten(),
        Linear(120),
        Relu(),
        Linear(84),
        Relu(),
    ),
    augment=distort,
)
"""LeNet-5 with ReLU and max pooling, 66,126 parameters at 62 classes (LeCun et al. 1998)."""
