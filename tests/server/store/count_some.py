"""Counts a report of one device, and one of a device that others count, too, in many windows."""

import sys
from pathlib import Path

import numpy as np

from fedhw.privacy.statistics import WINDOW, Report
from fedhw_server.store.fleet import Fleet
from fedhw_server.store.reports import Accepted


def count(path: Path, device: str, first: int, last: int) -> None:
    fleet = Fleet(path)
    for window in range(first, last):
        reports = [
            Report(name, WINDOW.schema, window, "v1-0123abcd", 50.0, 1e-6, np.ones(79, np.int64))
            for name in (device, "both")
        ]
        assert all(fleet.reports.count([Accepted(report, report.device) for report in reports]))
    fleet.close()


if __name__ == "__main__":
    count(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
