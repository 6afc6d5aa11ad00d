import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedhw.experts.evaluation import looks_worse


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=80))
def test_who_looks_worse_has_lost_more_than_chance_explains(judged):
    new, old = (np.array([pair[i] for pair in judged], bool) for i in range(2))
    lost, won = (old & ~new).sum(), (new & ~old).sum()
    assert looks_worse(new, old) == (lost > won and (lost - won) ** 2 > lost + won)
    assert not looks_worse(new, new)
    assert not (looks_worse(new, old) and looks_worse(old, new))
