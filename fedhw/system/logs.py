"""The log: one line of JSON on stderr for each event."""

import sys

import structlog


def log_as_json() -> None:
    """Set up the log of this process."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        # stderr at the time of the event, not of this call.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
