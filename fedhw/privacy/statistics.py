"""All statistics that leave a device: they are declared, bounded and noised here.

`WINDOW` and `SHADOW` list what leaves a device; `make_report` is the only way out.
"""

import math
from dataclasses import dataclass
from operator import add
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedhw.errors import InputError
from fedhw.privacy.mechanism import GRID, GaussianMechanism

SIGNED = b"fedhw report 1:"
"""Prefix of the bytes of a report when it is signed, so that the signature fits nothing else."""

LATENCIES = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1)
"""Upper bounds of the latency buckets in seconds; one more bucket holds everything slower."""

REACH = 10
"""The most standard deviations of noise that a server accepts; `make_report` draws up to 9.4."""


_SHARE = "share of corrections"


@dataclass(frozen=True)
class Statistic:
    """One row of a report: `size` entries, one for each class where it is None.

    Each entry is clipped to [`low`, `high`]. A single entry is mapped from there to [-1, 1]; many
    entries are shares of one whole, so their L2 norm is at most 1 as they are. Then they are
    multiplied by `weight`, the root of `squared_weight`: a larger weight drowns less in noise.
    """

    name: str
    meaning: str
    unit: str
    size: int | None
    low: float
    high: float
    squared_weight: float

    @property
    def of_active(self) -> bool:
        """Whether it exists only where there were corrections; a device without any sends 0."""
        return self.unit == _SHARE

    @property
    def centre(self) -> float:
        """The value that is sent as 0."""
        return (self.low + self.high) / 2 if self.size == 1 else 0.0

    @property
    def scale(self) -> float:
        """How much of the unit an entry of 1 is."""
        reach = (self.high - self.low) / 2 if self.size == 1 else 1.0
        return reach / math.sqrt(self.squared_weight)


@dataclass(frozen=True)
class Table:
    """The rows of one kind of report, and the number that the kind is sent with.

    The squared weights sum to 1, so every vector in range lies in the ball of radius 1. Each change
    to a table needs a number that no table had before.
    """

    schema: int
    rows: tuple[Statistic, ...]


STATISTICS = (
    Statistic("samples", "corrections in the window", "corrections", 1, 0, 500, 0.03),
    Statistic("active", "whether there was a correction", "share of devices", 1, 0, 1, 0.10),
    Statistic(
        "ge_accuracy", "corrections where the global expert was right", _SHARE, 1, 0, 1, 0.10
    ),
    Statistic(
        "le_accuracy", "corrections where the local expert alone was right", _SHARE, 1, 0, 1, 0.04
    ),
    Statistic(
        "gain", "accuracy of the mixture less that of the global expert", _SHARE, 1, -0.5, 0.5, 0.60
    ),
    Statistic("gate_open", "corrections where the gate was above 0.5", _SHARE, 1, 0, 1, 0.04),
    Statistic(
        "correction_rate",
        "corrections for each recognition",
        "corrections per recognition",
        *(1, 0, 1, 0.03),
    ),
    Statistic("error_share", "errors of the mixture, by true class", _SHARE, None, 0, 1, 0.03),
    Statistic(
        "latency_share",
        "recognitions by the time they took; zeros where there were none",
        "share of recognitions",
        *(len(LATENCIES) + 1, 0, 1, 0.03),
    ),
)
"""What is sent of a window. The gain has most of the weight: it is what the fleet is run for. The
mixture's accuracy is not sent: it is the sum of `ge_accuracy` and `gain`."""

WINDOW = Table(1, STATISTICS)
"""How a window went."""

SHADOW = Table(
    2,
    (
        Statistic(
            "active",
            "whether there were corrections to judge by",
            "share of devices",
            *(1, 0, 1, 0.10),
        ),
        Statistic(
            "ge_gain",
            "accuracy of the candidate's global expert less that of the one in use",
            _SHARE,
            *(1, -0.5, 0.5, 0.45),
        ),
        Statistic(
            "gain",
            "accuracy of the mixture learned for the candidate less that of the one in use",
            _SHARE,
            *(1, -0.5, 0.5, 0.45),
        ),
    ),
)
"""How a candidate for the next release would do for this person, while the one in use goes on."""

TABLES = {table.schema: table for table in (WINDOW, SHADOW)}


@dataclass(frozen=True)
class Tally:
    """Raw counts of one window on one device; they never leave it.

    `ge_right`, `le_right` and `right` count the `corrections` where the global expert, the local
    expert alone and the mixture were right, `opened` those where the gate was above 0.5, and
    `errors` [C] those where the mixture was wrong, by true class. `latencies` [10] counts
    recognitions by the bounds in `LATENCIES`. Raises InputError where counts contradict each other.
    """

    table: ClassVar[Table] = WINDOW

    corrections: int
    ge_right: int
    le_right: int
    right: int
    opened: int
    recognitions: int
    errors: tuple[int, ...]
    latencies: tuple[int, ...]

    def __post_init__(self) -> None:
        _check_counts(self, "corrections", "ge_right", "le_right", "right", "opened")
        _check_counts(self, "recognitions")
        wrong = self.corrections - self.right
        if min(self.errors, default=0) < 0 or sum(self.errors) != wrong:
            raise InputError(f"errors: they do not sum to the {wrong} wrong ones; count anew")
        if len(self.latencies) != len(LATENCIES) + 1 or min(self.latencies) < 0:
            raise InputError(
                f"latencies: they are not {len(LATENCIES) + 1} counts from zero on; count anew"
            )

    @classmethod
    def empty(cls, classes: int) -> "Tally":
        """Return the counts of a window in which nothing happened."""
        return cls(0, 0, 0, 0, 0, 0, (0,) * classes, (0,) * (len(LATENCIES) + 1))

    def __add__(self, other: "Tally") -> "Tally":
        """Return the sum of both; raises ValueError where their numbers of classes differ."""
        if len(self.errors) != len(other.errors):
            raise ValueError(f"{len(self.errors)} classes and {len(other.errors)} do not add")
        return Tally(
            self.corrections + other.corrections,
            self.ge_right + other.ge_right,
            self.le_right + other.le_right,
            self.right + other.right,
            self.opened + other.opened,
            self.recognitions + other.recognitions,
            tuple(map(add, self.errors, other.errors)),
            tuple(map(add, self.latencies, other.latencies)),
        )

    def figures(self) -> dict[str, NDArray[np.float64]]:
        """Return the value of each statistic before clipping and noise, and the mixture's accuracy.

        A share of corrections is NaN where there were none.
        """
        corrections = self.corrections or math.nan
        return _as_arrays(
            samples=self.corrections,
            active=self.corrections > 0,
            ge_accuracy=self.ge_right / corrections,
            le_accuracy=self.le_right / corrections,
            moe_accuracy=self.right / corrections,
            gain=(self.right - self.ge_right) / corrections,
            gate_open=self.opened / corrections,
            correction_rate=self.corrections / max(1, self.recognitions),
            error_share=np.array(self.errors) / corrections,
            latency_share=np.array(self.latencies) / max(1, sum(self.latencies)),
        )


@dataclass(frozen=True)
class Evaluation:
    """Raw counts of a candidate and of the release in use on one device; they never leave it.

    No expert and no mixture has learned from the corrections `held_back`. `candidate_ge_right` and
    `ge_right` count those where the global experts were right, `candidate_right` and `right` those
    where the mixtures were. Raises InputError where counts
    contradict each other.
    """

    table: ClassVar[Table] = SHADOW

    held_back: int
    candidate_ge_right: int
    ge_right: int
    candidate_right: int
    right: int

    def __post_init__(self) -> None:
        _check_counts(
            self, "held_back", "candidate_ge_right", "ge_right", "candidate_right", "right"
        )

    def figures(self) -> dict[str, NDArray[np.float64]]:
        """Return the value of each statistic before clipping and noise.

        Both gains are NaN where nothing was held back.
        """
        held_back = self.held_back or math.nan
        return _as_arrays(
            active=self.held_back > 0,
            ge_gain=(self.candidate_ge_right - self.ge_right) / held_back,
            gain=(self.candidate_right - self.right) / held_back,
        )


def _check_counts(counts: "Tally | Evaluation", whole: str, *parts: str) -> None:
    total = getattr(counts, whole)
    if total < 0:
        raise InputError(f"{whole}: {total} is below zero; count anew")
    for name in parts:
        value = getattr(counts, name)
        if not 0 <= value <= total:
            raise InputError(f"{name}: {value} is not among {total} corrections; count anew")


def _as_arrays(**figures: float | NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    return {name: np.array(figure, float, ndmin=1) for name, figure in figures.items()}


@dataclass(frozen=True, eq=False)
class Report:
    """The message that leaves a device: one vector after clipping and noise.

    `steps` int64 [D] are in steps of 1/1024, laid out as in the table of that `schema`; `window`
    counts windows since 1970. A report of the table `WINDOW` covers that window, and `release`
    names the release in use. A report of the table `SHADOW` was made in that window, and `release`
    names the candidate.
    """

    device: str
    schema: int
    window: int
    release: str
    epsilon: float
    delta: float
    steps: NDArray[np.int64]

    @property
    def about(self) -> int | str:
        """The subject, which a device reports on only once: the window, or the candidate."""
        return self.release if self.schema == SHADOW.schema else self.window


def layout(classes: int, table: Table = WINDOW) -> dict[str, slice]:
    """Return the place of each statistic of a table in the vector for this many classes."""
    places, start = {}, 0
    for statistic in table.rows:
        stop = start + (classes if statistic.size is None else statistic.size)
        places[statistic.name] = slice(start, stop)
        start = stop
    return places


def length(classes: int, table: Table = WINDOW) -> int:
    """Return D, the length of the vector for this many classes."""
    return sum(classes if row.size is None else row.size for row in table.rows)


def vector(counts: Tally | Evaluation) -> NDArray[np.float64]:
    """Return the statistics clipped, mapped and weighted: a vector [D] of L2 norm at most 1."""
    figures = counts.figures()
    parts = []
    for row in counts.table.rows:
        clipped = np.clip(figures[row.name], row.low, row.high)
        parts.append(np.nan_to_num((clipped - row.centre) / row.scale, nan=0.0))
    return np.concatenate(parts)


def make_report(
    counts: Tally | Evaluation,
    device: str,
    window: int,
    release: str,
    mechanism: GaussianMechanism,
) -> Report:
    """Turn counts into the report that may leave the device; nothing else of them does.

    The report is (epsilon, delta)-differentially private for everything that ever happened on the
    device, as long as a report is also made when there is nothing to count. The ledger adds up the
    cost of several reports.
    """
    steps = mechanism.privatise(vector(counts))
    schema = counts.table.schema
    return Report(device, schema, window, release, mechanism.epsilon, mechanism.delta, steps)


def check_report(report: Report, classes: int) -> None:
    """Raise InputError where `make_report` cannot have made this report for this many classes."""
    if report.schema not in TABLES:
        known = " or ".join(map(str, TABLES))
        raise InputError(f"schema: {report.schema} is not {known}; update the device")
    if report.window < 0:
        raise InputError(f"window: {report.window} is before 1970; set the clock")
    mechanism = GaussianMechanism(report.epsilon, report.delta)
    steps, entries = report.steps, length(classes, TABLES[report.schema])
    if steps.shape != (entries,) or not np.issubdtype(steps.dtype, np.integer):
        raise InputError(
            f"steps: {steps.dtype} {list(steps.shape)} is not int [{entries}]; send one for each "
            f"entry of table {report.schema}"
        )
    largest = math.ceil((1 + REACH * mechanism.sigma) / GRID)
    beyond = (steps > largest) | (steps < -largest)
    if beyond.any():
        raise InputError(
            f"steps: {steps[beyond][0]} is beyond {largest}, which noise does not reach; send what "
            "make_report has made"
        )
