import pytest
import torch

from fedhw.experts.per_writer_projection import project_per_writer


@pytest.mark.parametrize(("shown", "writers"), [(1, 1), (4, 4), (1, 4)])
def test_it_is_the_product(shown, writers):
    random = torch.Generator().manual_seed(0)
    seen = torch.randn(shown, 7, 5, generator=random)
    matrices = torch.randn(writers, 5, 3, generator=random)
    torch.testing.assert_close(project_per_writer(seen, matrices), seen @ matrices)
