"""The log: one line of JSON on stderr for each event."""

import sys
from typing import Any

import structlog
from structlog.typing import EventDict

from fedhw.system.printable import LONGEST_SENTENCE_CHARACTERS


def _shortened(_: Any, __: str, event: EventDict) -> EventDict:
    """Cut off long texts; outsiders choose some of them."""
    most = LONGEST_SENTENCE_CHARACTERS
    return {name: each[:most] if isinstance(each, str) else each for name, each in event.items()}


def log_as_json() -> None:
    """Set up the log of this process."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            _shortened,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        # stderr at the time of the event, not of this call.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
