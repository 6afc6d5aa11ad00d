"""What devices have told by their own ledgers, and what the coordinator has heard: the same."""

import hashlib
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedhw.privacy.estimate import Sums
from fedhw.privacy.ledger import Ledger
from fedhw.privacy.statistics import Report
from fedhw.v1 import statistics_pb2 as pb
from tests.integration.conftest import CoordinatorProcess
from tests.waiting import until


class Account(NamedTuple):
    """Digests of reports by what they are about and device, and their sums by that and release."""

    reports: dict[tuple[int | str, str], str]
    sums: dict[tuple[int | str, str], Sums]


def told(homes: Iterable[Path]) -> Account:
    """Everything that these devices have paid for; none of it may ever be refused."""
    reports: dict[tuple[int | str, str], str] = {}
    sums: dict[tuple[int | str, str], Sums] = {}
    for home in homes:
        for charge in Ledger.open(home / "ledger.db").history():
            assert charge.refused is None, charge.refused
            content = pb.SendReportRequest.FromString(charge.message).report
            report = pb.Report.FromString(content)
            reports[charge.about, report.device] = hashlib.sha256(content).hexdigest()
            group, one = (charge.about, report.release), sums_of(report)
            sums[group] = sums[group] + one if group in sums else one
    return Account(reports, sums)


def heard(home: Path) -> Account:
    """Everything that a coordinator has counted."""
    with closing(sqlite3.connect(home / "fleet.db")) as db:
        reports = db.execute("SELECT about, device, digest FROM reports").fetchall()
        sums = db.execute("SELECT about, release, content FROM sums").fetchall()
    return Account(
        {(about, device): digest for about, device, digest in reports},
        {(about, release): Sums.from_bytes(content) for about, release, content in sums},
    )


def sums_of(report: pb.Report) -> Sums:
    """What one report adds."""
    named = {name: getattr(report, name) for name in ("device", "schema", "window", "release")}
    steps = np.array(report.steps, np.int64)
    return Sums.of(Report(**named, epsilon=report.epsilon, delta=report.delta, steps=steps))


def missing_windows(home: Path) -> set[int]:
    """Those of which a device that never ended made no report."""
    charges = Ledger.open(home / "ledger.db").history()
    windows = [charge.about for charge in charges if isinstance(charge.about, int)]
    return set(range(min(windows), max(windows) + 1)) - set(windows)


def until_settled(coordinator: CoordinatorProcess, homes: Iterable[Path]) -> None:
    """Wait until all that was told was heard, each report once, and nothing else was."""
    known = list(homes)
    until(lambda: heard(coordinator.home) == told(known))
