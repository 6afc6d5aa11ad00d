"""Labelled observations of many writers, the result of every loader."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhw.errors import InputError
from fedhw.observation import Labels, Observations, ObservationType, index_of_texts

MAX_NAME_CHARACTERS = 256


@dataclass(frozen=True, eq=False)
class WriterSet:
    """Labelled observations, the writer of each, and the order in which each writer made them.

    Shapes: observations [N, *shape], of one `ObservationType`; labels int64 [N], an index into
    `classes`; writer uint32 [N], an index into `names`; order uint32 [N], ascending in time within
    a writer, ties allowed. No two writers have the same name.

    Raises InputError when an array or a name does not fit this.

    >>> glyphs, classes = np.zeros((4, 28, 28), np.uint8), Labels(("left", "right"))
    >>> two = WriterSet.of(glyphs, [0, 1, 0, 1], writer=[0, 0, 1, 1], names="ab", classes=classes)
    >>> two.counts().tolist()
    [2, 2]
    >>> two.rows_of(1).tolist()
    [2, 3]
    """

    observations: Observations
    labels: NDArray[np.int64]
    writer: NDArray[np.uint32]
    names: tuple[str, ...]
    order: NDArray[np.uint32]
    classes: Labels

    def __post_init__(self) -> None:
        self.observation.check_batch(self.observations)
        n = len(self.observations)
        if n == 0:
            raise InputError("observations: there are none; give at least one")
        for field, array in (
            ("labels", self.labels),
            ("writer", self.writer),
            ("order", self.order),
        ):
            if array.ndim != 1 or len(array) != n:
                raise InputError(
                    f"{field}: shape {array.shape} does not fit {n} observations; give one value "
                    "for each"
                )
            if not np.issubdtype(array.dtype, np.integer):
                raise InputError(f"{field}: dtype {array.dtype} is not a whole number; cast it")
        if not self.names:
            raise InputError("names: there are none; give at least one")
        mend = "give each writer another name"
        index_of_texts("names", self.names, mend, MAX_NAME_CHARACTERS)
        _check_below("labels", self.labels, len(self.classes), "classes")
        _check_below("writer", self.writer, len(self.names), "writer names")

    @classmethod
    def of(
        cls,
        observations: Observations,
        labels: Sequence[int] | NDArray[np.integer],
        writer: Sequence[int] | NDArray[np.integer],
        names: Sequence[str],
        classes: Labels,
        order: Sequence[int] | NDArray[Any] | None = None,
    ) -> "WriterSet":
        """Build a set from plain sequences.

        `order` may also be times: any numbers, dates, or texts such as 2024-05-17T12:30. It
        defaults to the order of the rows.
        """
        rows = np.arange(len(observations)) if order is None else _ranked(np.asarray(order))
        return cls(
            observations=observations,
            labels=_whole("labels", labels, np.int64),
            writer=_whole("writer", writer, np.uint32),
            names=tuple(names),
            order=_whole("order", rows, np.uint32),
            classes=classes,
        )

    @property
    def observation(self) -> ObservationType:
        """The type of one observation; raises InputError where it is not supported."""
        return ObservationType(self.observations.shape[1:], self.observations.dtype.name)

    def __len__(self) -> int:
        return len(self.observations)

    def counts(self) -> NDArray[np.int64]:
        """Return the number of observations of each writer, [W]."""
        return np.bincount(self.writer, minlength=len(self.names)).astype(np.int64)

    def rows_of(self, writer: int) -> NDArray[np.int64]:
        """Return the row numbers of one writer in the order of writing."""
        rows = np.flatnonzero(self.writer == writer)
        return rows[np.argsort(self.order[rows], kind="stable")]

    def classes_of(self, writer: int) -> int:
        """Return how many different classes this writer wrote."""
        return len(np.unique(self.labels[self.writer == writer]))

    def take(self, rows: NDArray[np.integer]) -> "WriterSet":
        """Return the set of these rows; writers keep their index and name."""
        return WriterSet(
            self.observations[rows],
            self.labels[rows],
            self.writer[rows],
            self.names,
            self.order[rows],
            self.classes,
        )


def stratified_split(
    labels: NDArray[np.integer], rng: np.random.Generator, shots: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split one writer's rows at random into (learn, test), every class in proportion.

    `shots` is how many rows to learn from, at most half of them, which is the default. Each class
    is halved; an odd row goes to either side at random. The first k rows to learn from are
    stratified for every k, so under one seed only their number depends on `shots`. Raises
    InputError for fewer than two rows or negative shots.

    >>> learn, test = stratified_split(np.array([3, 3, 3, 3, 5, 5]), np.random.default_rng(0))
    >>> len(learn), len(test), sorted(np.array([3, 3, 3, 3, 5, 5])[learn].tolist())
    (3, 3, [3, 3, 5])
    """
    half = len(labels) // 2
    if half < 1:
        raise InputError(f"writer: {len(labels)} characters cannot be split; give at least 2")
    if shots is not None and shots < 0:
        raise InputError(f"shots: {shots} is negative; give 0 or more")
    # As cards are sorted by class, with classes and the rows of each in random order, and dealt to
    # two hands in turn: each hand gets half of every class and half of all rows.
    shuffled = rng.permutation(len(labels))
    rank = rng.permutation(int(labels.max()) + 1)
    cards = shuffled[np.argsort(rank[labels[shuffled]], kind="stable")]
    test, learn = cards[::2], cards[1::2]
    # The k-th of a class's m rows gets the quantile (k + u) / m with a random u of the class, so
    # the rows below any one quantile are the same share of every class, to within one row.
    quantile = np.empty(half)
    for label in np.unique(labels[learn]):
        mine = labels[learn] == label
        quantile[mine] = (np.arange(mine.sum()) + rng.random()) / mine.sum()
    return learn[np.argsort(quantile)][:shots], np.sort(test)


def _ranked(order: NDArray[Any]) -> NDArray[np.integer]:
    """Return the order as small whole numbers: times are replaced by their rank."""
    if order.dtype.kind in "iu" and (
        order.size == 0 or (order.min() >= 0 and order.max() <= np.iinfo(np.uint32).max)
    ):
        return order
    try:
        times = order.astype("datetime64[us]") if order.dtype.kind == "U" else order
        unknown = np.isnat(times) if times.dtype.kind in "mM" else np.isnan(times)
    except (TypeError, ValueError):
        raise InputError(
            f"order: {order.dtype} is no order; give whole numbers, times or dates"
        ) from None
    if unknown.any():
        raise InputError("order: some values are missing; give one for each observation")
    return np.unique(times, return_inverse=True)[1].reshape(times.shape)


def _check_below(field: str, array: NDArray[np.integer], limit: int, what: str) -> None:
    for value in (int(array.min()), int(array.max())):
        if not 0 <= value < limit:
            raise InputError(
                f"{field}: value {value} is outside the {limit} {what}; use 0..{limit - 1}"
            )


def _whole(
    field: str, values: Sequence[int] | NDArray[np.integer], dtype: type[np.integer]
) -> NDArray[Any]:
    array = np.asarray(values)
    if not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"{field}: dtype {array.dtype} is not a whole number; cast it")
    if array.size and (array.min() < 0 or array.max() > np.iinfo(dtype).max):
        raise InputError(
            f"{field}: values {array.min()}..{array.max()} do not fit 0..{np.iinfo(dtype).max}"
        )
    return array.astype(dtype)
