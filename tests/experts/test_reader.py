import pytest
import torch

from fedhw.experts.reader import read


@pytest.mark.parametrize(("shown", "writers"), [(1, 1), (4, 4), (1, 4)])
def test_it_is_the_product(shown, writers):
    random = torch.Generator().manual_seed(0)
    seen = torch.randn(shown, 7, 5, generator=random)
    matrices = torch.randn(writers, 5, 3, generator=random)
    torch.testing.assert_close(read(seen, matrices), seen @ matrices)
