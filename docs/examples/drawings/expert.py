"""A global expert of one's own."""

# --8<-- [start:expert]
from torch import Tensor, nn

from fedhw.experts.architecture import Architecture
from fedhw.experts.global_expert import GlobalExpert
from fedhw.handwriting.augmentation import distort
from fedhw.handwriting.glyph import GLYPH


class DrawingExpert(GlobalExpert):
    """A small residual network, with strides in place of pooling."""

    def __init__(self, architecture: Architecture, classes: int) -> None:
        super().__init__(architecture)
        self.first = nn.Sequential(nn.Conv2d(1, 8, 5, stride=2, padding=2), nn.ReLU())
        self.block = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)
        )
        self.last = nn.Sequential(
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 7 * 7, 64),
            nn.ReLU(),
        )
        self.head = nn.Linear(64, classes)

    def features(self, scaled: Tensor) -> Tensor:
        """Return 64 features [B, D] of scaled glyphs [B, 28, 28], ink 1 on paper 0."""
        seen = self.first(scaled[:, None])
        return self.last(seen + self.block(seen))


DRAWINGS = Architecture(GLYPH, DrawingExpert, augment=distort)

# --8<-- [end:expert]
