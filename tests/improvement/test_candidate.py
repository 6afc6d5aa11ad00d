import math
from pathlib import Path

import numpy as np
import pytest

from fedhw.improvement.candidate import make_candidate, validate
from fedhw.improvement.local_update import flat, unflatten
from fedhw.improvement.public import Public
from fedhw.improvement.verdicts import Outcome
from fedhw.release.release import Release


def test_a_candidate_is_a_whole_release(public: Public, running: Release, tmp_path: Path) -> None:
    privacy = {"epsilon": 3.5, "delta": 1e-6}
    make_candidate(tmp_path / "candidate", running.expert, running, public, privacy)
    made = Release.load(tmp_path / "candidate")
    assert made.manifest.privacy == privacy
    assert made.manifest.labels == running.labels
    assert made.trained_on == running.trained_on
    np.testing.assert_array_equal(made.generic.observations, public.validation.observations)
    np.testing.assert_array_equal(flat(made.expert), flat(running.expert))


def test_the_running_expert_itself_is_not_worse(public: Public, running: Release) -> None:
    assert validate(running.expert, running.expert, public).outcome is Outcome.PASS


@pytest.mark.parametrize("poison", ["noise", "signs", "not a number"])
def test_a_poisoned_expert_is_rejected_on_public_data(
    poison: str, public: Public, running: Release
) -> None:
    parameters = flat(running.expert)
    if poison == "noise":
        parameters += np.random.default_rng(0).normal(0, 0.1, len(parameters)).astype(np.float32)
    elif poison == "signs":
        parameters = -parameters
    else:
        parameters[100] = math.nan
    verdict = validate(unflatten(running.expert, parameters), running.expert, public)
    assert verdict.outcome is Outcome.REJECT
