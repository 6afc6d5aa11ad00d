import pytest
import torch

from fedhw.errors import InputError
from fedhw.experts.global_expert import ARCHITECTURES, GlobalExpert, build, register


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_scores_are_the_head_on_the_features(architecture: str) -> None:
    expert = build(architecture, classes=26)
    ink = torch.rand(3, 28, 28)
    features = expert.features(ink)
    assert features.shape == (3, expert.head.in_features)
    assert torch.equal(expert(ink), expert.head(features))
    assert expert(ink).shape == (3, 26)


def test_the_registry_takes_an_expert_of_ones_own() -> None:
    @register("rows")
    class Rows(GlobalExpert):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.head = torch.nn.Linear(28, classes)

        def features(self, ink: torch.Tensor) -> torch.Tensor:
            return ink.mean(2)

    try:
        assert build("rows", 5)(torch.rand(2, 28, 28)).shape == (2, 5)
    finally:
        del ARCHITECTURES["rows"]


def test_an_unknown_architecture_is_named() -> None:
    with pytest.raises(
        InputError, match=r"architecture: 'lenet6' is not known; use one of .*lenet5"
    ):
        build("lenet6", 62)
