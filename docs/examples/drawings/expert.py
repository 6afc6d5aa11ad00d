"""A global expert of one's own, entered into the registry under a name."""

# --8<-- [start:expert]
from torch import Tensor, nn

from fedhw.experts.global_expert import GlobalExpert, register


@register("drawings")
class DrawingExpert(GlobalExpert):
    """A small residual network, with strides in place of pooling."""

    def __init__(self, classes: int) -> None:
        super().__init__()
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

    def features(self, ink: Tensor) -> Tensor:
        """Return 64 features [B, D] of float glyphs [B, 28, 28], ink 1 on paper 0."""
        seen = self.first(ink[:, None])
        return self.last(seen + self.block(seen))


# --8<-- [end:expert]
