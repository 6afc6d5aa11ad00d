from collections.abc import Callable

import numpy as np
import pytest

from fedhw.research.simulation.trial import Outcome


@pytest.fixture(scope="session")
def alike() -> Callable[[Outcome, Outcome], None]:
    """Asserts that two outcomes are those of the same writers and the same learning."""

    def check(one: Outcome, other: Outcome) -> None:
        assert one.names.tolist() == other.names.tolist()
        for name in ("classes", "learned", "tested", "changes"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
        assert list(one.methods) == list(other.methods)
        for name, measured in one.methods.items():
            # Not the time; and kNN's cost is counted on the longest memory of a cohort.
            assert np.allclose(measured.array()[:3], other.methods[name].array()[:3], atol=1e-5)
        assert np.allclose(one.curve, other.curve, atol=1e-5, equal_nan=True)
        # A gate on the very edge of a step may fall to either side of it.
        assert np.abs(one.openings - other.openings).sum() <= 1e-3 * one.openings.sum()

    return check
