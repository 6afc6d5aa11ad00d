import numpy as np

from fedhw.data.writers import WriterSet
from fedhw.experts.orientation import FEWEST_SAMPLES, warn_if_upside_down
from fedhw.release.release import Release


def test_only_what_is_read_far_better_upside_down_is_worth_a_warning(
    release: Release, unseen_writers: WriterSet
) -> None:
    upright, labels = unseen_writers.observations, unseen_writers.labels
    flipped = np.ascontiguousarray(upright[:, ::-1])
    told = warn_if_upside_down(release.expert, flipped, labels)
    assert told is not None
    assert told.endswith("upside down; give strokes with y downward")
    assert warn_if_upside_down(release.expert, upright, labels) is None
    few = FEWEST_SAMPLES - 1
    assert warn_if_upside_down(release.expert, flipped[:few], labels[:few]) is None
