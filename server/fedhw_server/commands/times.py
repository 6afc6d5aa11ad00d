"""Times as text."""

from datetime import UTC, datetime


def ago(moment: float | None, now: float) -> str:
    """Return how long ago a moment was.

    >>> [ago(moment, 200_000.0) for moment in (None, 200_000.5, 199_881.0, 199_880.0, 0.0)]
    ['never', '0 seconds ago', '119 seconds ago', '2 minutes ago', '2 days ago']
    """
    if moment is None:
        return "never"
    seconds = now - moment
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} seconds ago"


def window_span(number: int, length: int) -> str:
    """Return when a window of so many seconds begins and ends.

    >>> window_span(2, 3600)
    '1970-01-01 02:00:00 to 1970-01-01 03:00:00 UTC'
    """
    start, end = (datetime.fromtimestamp(n * length, UTC) for n in (number, number + 1))
    return f"{start:%Y-%m-%d %H:%M:%S} to {end:%Y-%m-%d %H:%M:%S} UTC"
