import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedhw.personalization.prequential import Prequential


def test_recent_accuracy_forgets_and_total_does_not():
    accuracy = Prequential()
    assert np.isnan(accuracy.total)
    assert np.isnan(accuracy.recent)
    for right in [False] * 500 + [True] * 500:
        accuracy = accuracy.after(right)
    assert accuracy.total == 0.5
    assert accuracy.recent > 0.99


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_the_recent_accuracy_weighs_each_guess_by_its_age(rights):
    accuracy = Prequential()
    for right in rights:
        accuracy = accuracy.after(right)
    weights = 0.99 ** np.arange(len(rights))[::-1]
    assert np.isclose(accuracy.recent, np.average(rights, weights=weights))
    assert accuracy.total == np.mean(rights)


def test_without_recent_guesses_the_total_is_known_all_the_same():
    older = Prequential(guesses=20, right=5)
    assert older.total == 0.25
    assert np.isnan(older.recent)
