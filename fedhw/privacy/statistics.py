"""The one door: all that the statistics plane sends is declared, bounded and noised here.

`WINDOW` and `SHADOW` say what leaves a device, `make_report` is the only way out.
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
"""Stands before a report's bytes where it is signed, so that the signature is of nothing else."""

LATENCIES = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1)
"""Upper bounds of the latency buckets in seconds; one more bucket is for all that took longer."""

REACH = 10
"""Standard deviations of noise that a server accepts; what `make_report` draws ends at 9.4."""


@dataclass(frozen=True)
class Statistic:
    """One row of what is sent: `size` entries, one for each class of the alphabet where it is None.

    Each entry is clipped to [`low`, `high`]. A single entry is mapped from there to [-1, 1]; many
    are shares of one whole, so their L2 norm is at most 1 as they are. Then they are multiplied by
    `weight`: what is weighed more drowns less in noise. `of_active` marks what exists only where
    there were corrections; without any a device sends the middle, which says nothing.
    """

    name: str
    meaning: str
    unit: str
    size: int | None
    low: float
    high: float
    weight: float
    of_active: bool = False

    @property
    def centre(self) -> float:
        """What is sent as 0."""
        return (self.low + self.high) / 2 if self.size == 1 else 0.0

    @property
    def scale(self) -> float:
        """How much of the unit an entry of 1 is."""
        return ((self.high - self.low) / 2 if self.size == 1 else 1.0) / self.weight


@dataclass(frozen=True)
class Table:
    """What a kind of report says: its rows, in this order, under the number that it is sent with.

    The squares of the weights sum to 1, so that a vector in range lies in the ball of radius 1 by
    itself. Any change to a table takes a number that none had before.
    """

    schema: int
    rows: tuple[Statistic, ...]


STATISTICS = (
    Statistic(
        "samples",
        "corrections in the window",
        "corrections",
        *(1, 0, 500),
        weight=math.sqrt(0.03),
    ),
    Statistic(
        "active",
        "whether there was a correction",
        "share of devices",
        *(1, 0, 1),
        weight=math.sqrt(0.10),
    ),
    Statistic(
        "ge_accuracy",
        "corrections where the global expert was right",
        "share of corrections",
        *(1, 0, 1),
        weight=math.sqrt(0.10),
        of_active=True,
    ),
    Statistic(
        "le_accuracy",
        "corrections where the local expert by itself was right",
        "share of corrections",
        *(1, 0, 1),
        weight=math.sqrt(0.04),
        of_active=True,
    ),
    Statistic(
        "gain",
        "accuracy of the mixture less that of the global expert",
        "share of corrections",
        *(1, -0.5, 0.5),
        weight=math.sqrt(0.60),
        of_active=True,
    ),
    Statistic(
        "gate_open",
        "corrections where the gate was above 0.5",
        "share of corrections",
        *(1, 0, 1),
        weight=math.sqrt(0.04),
        of_active=True,
    ),
    Statistic(
        "correction_rate",
        "corrections for each recognition",
        "corrections per recognition",
        *(1, 0, 1),
        weight=math.sqrt(0.03),
    ),
    Statistic(
        "error_share",
        "characters that the mixture got wrong, by their true class",
        "share of corrections",
        *(None, 0, 1),
        weight=math.sqrt(0.03),
        of_active=True,
    ),
    Statistic(
        "latency_share",
        "recognitions by the time they took; zeros where there were none",
        "share of recognitions",
        *(len(LATENCIES) + 1, 0, 1),
        weight=math.sqrt(0.03),
    ),
)
"""What is sent of a window. The gain has most of the weight: it is what the fleet is run for. The
mixture's accuracy is not sent: it is `ge_accuracy` and `gain` together."""

WINDOW = Table(1, STATISTICS)
"""How a window went."""

SHADOW = Table(
    2,
    (
        Statistic(
            "active",
            "whether there were corrections to judge by",
            "share of devices",
            *(1, 0, 1),
            weight=math.sqrt(0.10),
        ),
        Statistic(
            "ge_gain",
            "accuracy of the candidate's global expert less that of the one in use",
            "share of corrections",
            *(1, -0.5, 0.5),
            weight=math.sqrt(0.45),
            of_active=True,
        ),
        Statistic(
            "gain",
            "accuracy of the mixture learned for the candidate less that of the one in use",
            "share of corrections",
            *(1, -0.5, 0.5),
            weight=math.sqrt(0.45),
            of_active=True,
        ),
    ),
)
"""What a candidate for the next release would be to this person, while the one in use goes on."""

TABLES = {table.schema: table for table in (WINDOW, SHADOW)}


@dataclass(frozen=True)
class Tally:
    """Raw counts of one window of one device; they stay there.

    Of the `corrections`, `ge_right`, `le_right` and `right` count those where the global expert,
    the local expert by itself and the mixture were right, `opened` those where the gate was above
    0.5, and `errors` [C] those where the mixture was wrong, by true class. `latencies` [10] counts
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
        for name in ("corrections", "recognitions"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}: {getattr(self, name)} is below zero; count anew")
        for name in ("ge_right", "le_right", "right", "opened"):
            value = getattr(self, name)
            if not 0 <= value <= self.corrections:
                raise InputError(
                    f"{name}: {value} is not among {self.corrections} corrections; count anew"
                )
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
        """Count both; raises ValueError where their alphabets differ."""
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
        """Return what each statistic is before clipping and noise, and the mixture's accuracy.

        A share of corrections is NaN where there were none.
        """
        corrections = self.corrections or math.nan
        figures: dict[str, float | NDArray[np.float64]] = {
            "samples": self.corrections,
            "active": self.corrections > 0,
            "ge_accuracy": self.ge_right / corrections,
            "le_accuracy": self.le_right / corrections,
            "moe_accuracy": self.right / corrections,
            "gain": (self.right - self.ge_right) / corrections,
            "gate_open": self.opened / corrections,
            "correction_rate": self.corrections / max(1, self.recognitions),
            "error_share": np.array(self.errors) / corrections,
            "latency_share": np.array(self.latencies) / max(1, sum(self.latencies)),
        }
        return {name: np.array(figure, float, ndmin=1) for name, figure in figures.items()}


@dataclass(frozen=True)
class Evaluation:
    """Raw counts of a candidate and of the release in use on one device; they stay there.

    Of the corrections `held_back`, which neither an expert nor a mixture has learned from,
    `candidate_ge_right` and `ge_right` count those where the global experts were right,
    `candidate_right` and `right` those where the mixtures were. Raises InputError where counts
    contradict each other.
    """

    table: ClassVar[Table] = SHADOW

    held_back: int
    candidate_ge_right: int
    ge_right: int
    candidate_right: int
    right: int

    def __post_init__(self) -> None:
        if self.held_back < 0:
            raise InputError(f"held_back: {self.held_back} is below zero; count anew")
        for name in ("candidate_ge_right", "ge_right", "candidate_right", "right"):
            if not 0 <= getattr(self, name) <= self.held_back:
                raise InputError(
                    f"{name}: {getattr(self, name)} is not among {self.held_back} corrections; "
                    "count anew"
                )

    def figures(self) -> dict[str, NDArray[np.float64]]:
        """Return what each statistic is before clipping and noise.

        Both gains are NaN where nothing was held back.
        """
        held_back = self.held_back or math.nan
        figures = {
            "active": self.held_back > 0,
            "ge_gain": (self.candidate_ge_right - self.ge_right) / held_back,
            "gain": (self.candidate_right - self.right) / held_back,
        }
        return {name: np.array(figure, float, ndmin=1) for name, figure in figures.items()}


@dataclass(frozen=True, eq=False)
class Report:
    """What leaves a device: one vector after clipping and noise.

    `steps` int64 [D] in steps of 1/1024, laid out as the table of that `schema` has it; `window`
    counts windows since 1970. A report of the table `WINDOW` is of that window, and `release` is
    the name of the release in use; one of the table `SHADOW` was made in that window, and `release`
    is the name of the candidate.
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
        """What a device reports of once: the window, or the candidate."""
        return self.release if self.schema == SHADOW.schema else self.window


def layout(classes: int, table: Table = WINDOW) -> dict[str, slice]:
    """Return where each statistic of a table stands in the vector of an alphabet."""
    places, start = {}, 0
    for statistic in table.rows:
        stop = start + (classes if statistic.size is None else statistic.size)
        places[statistic.name] = slice(start, stop)
        start = stop
    return places


def length(classes: int, table: Table = WINDOW) -> int:
    """Return D, the entries of the vector of an alphabet."""
    return sum(classes if row.size is None else row.size for row in table.rows)


def vector(counts: Tally | Evaluation) -> NDArray[np.float64]:
    """Return a table's statistics clipped, mapped and weighed, [D], of L2 norm at most 1."""
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
    """Turn counts into what may leave the device; nothing else of it does.

    The report is (epsilon, delta)-differentially private for everything that ever happened on the
    device, as long as one is made where there is nothing to count, too. Several cost what the
    ledger says.
    """
    steps = mechanism.privatise(vector(counts))
    schema = counts.table.schema
    return Report(device, schema, window, release, mechanism.epsilon, mechanism.delta, steps)


def check_report(report: Report, classes: int) -> None:
    """Raise InputError where a report cannot be what `make_report` makes for an alphabet."""
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
