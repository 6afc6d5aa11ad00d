"""`python -m drawings.learn`: a release from sixty people, then twelve whom it has never seen."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from drawings.expert import DRAWINGS
from drawings.loader import draw
from fedhw.data.writers import WriterSet, stratified_split
from fedhw.experts.architecture import register
from fedhw.personalization.learner import Learner
from fedhw.personalization.method import Cohort, extract_features, pad_cohort
from fedhw.personalization.stream import Personalizer
from fedhw.release.release import Release
from fedhw.research.train_release import make_release
from fedhw.research.training import Training

# --8<-- [start:release]
register("drawings", DRAWINGS)  # in this process; an installed package has its entry point


def train(directory: Path) -> Release:
    """Train a global expert on people 0 to 59, and keep what devices need of it."""
    recipe = Training(epochs=12, batch=64)
    make_release(directory, draw(range(60), 50), "drawings", recipe, hold_out=0)
    return Release.load(directory)


# --8<-- [end:release]


# --8<-- [start:learner]
class Outcome(NamedTuple):
    """Accuracies by the global expert alone and by the mixtures."""

    before: NDArray[np.float64]
    after: NDArray[np.float64]
    generic_before: float
    generic_after: float


def personalise(release: Release, people: WriterSet) -> Outcome:
    """Let everybody learn from half of their drawings; test on the rest."""
    rng = np.random.default_rng(0)
    halves = []
    for person in range(len(people.names)):
        rows = people.rows_of(person)
        learn, test = stratified_split(people.labels[rows], rng)
        halves.append((rows[learn], rows[test]))
    learn, test = (cohort(release, people, half) for half in zip(*halves, strict=True))

    mixtures = Learner().learn(release.expert, learn, release.sketch, seed=0)

    everybody = release.generic  # drawings that nobody was trained on
    generic = extract_features(release.expert, everybody.observations[None])
    return Outcome(
        before=right(test.activations.scores, test.labels.numpy()).mean(1),
        after=right(mixtures.scores(test.activations), test.labels.numpy()).mean(1),
        generic_before=right(generic.scores, everybody.labels).mean(),
        generic_after=right(mixtures.scores(generic), everybody.labels).mean(),
    )


def cohort(release: Release, people: WriterSet, rows: tuple[NDArray[np.int64], ...]) -> Cohort:
    """What the global expert makes of each person's rows."""
    observations = [people.observations[own] for own in rows]
    labels = [people.labels[own] for own in rows]
    return pad_cohort(release.expert, observations, labels)  # all have as many


def right(scores: Tensor, labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Tell which drawings have their highest score at their label."""
    return scores.argmax(-1).numpy() == labels


# --8<-- [end:learner]


# --8<-- [start:stream]
def live(release: Release, drawings: WriterSet) -> Personalizer:
    """Let one person draw and correct, a drawing at a time."""
    me = Personalizer(release.expert, release.sketch, release.labels)
    for glyph, label in zip(drawings.observations, drawings.labels, strict=True):
        me.predict_one(glyph)  # what an app shows; changes nothing
        me.learn_one(glyph, release.labels[label])
    return me


# --8<-- [end:stream]

if __name__ == "__main__":
    release = train(Path("out/drawings"))
    outcome = personalise(release, draw(range(1000, 1012), 60))
    for number, (before, after) in enumerate(zip(outcome.before, outcome.after, strict=True), 1000):
        print(f"person {number}: {before:.0%} before, {after:.0%} after")
    print(f"all twelve: {outcome.before.mean():.1%} before, {outcome.after.mean():.1%} after")
    print(f"generic: {outcome.generic_before:.1%} before, {outcome.generic_after:.1%} after")
    me = live(release, draw([1000], 150))
    shares = f"{me.ge_accuracy.total:.1%} by the global expert, {me.accuracy.total:.1%} by both"
    print(f"a stream: {shares}")
