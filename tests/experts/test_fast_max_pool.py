import pytest
import torch
from torch import nn

from fedhw.experts.fast_max_pool import Halving


@pytest.mark.parametrize("shape", [(3, 28, 28), (5, 6, 10, 4), (2, 1, 7, 8), (2, 1, 8, 7)])
def test_it_is_max_pooling(shape):
    random = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=random)
    x.view(-1)[::5] = x.view(-1)[1]  # many are equal
    x.view(-1)[3] = torch.nan
    expected = nn.MaxPool2d(2)(x)
    assert torch.equal(Halving()(x).nan_to_num(9), expected.nan_to_num(9))
    with torch.no_grad():
        assert torch.equal(Halving()(x).nan_to_num(9), expected.nan_to_num(9))


def test_of_equals_the_first_has_the_gradient():
    x = torch.ones(1, 2, 2, requires_grad=True)
    Halving()(x).sum().backward()
    assert x.grad.tolist() == [[[1, 0], [0, 0]]]
