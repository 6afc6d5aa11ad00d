"""One line of JSON on stderr for each thing that happened."""

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
        # Whatever stderr is when something is logged, not when this is called.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
