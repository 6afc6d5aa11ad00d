"""Text from elsewhere, made safe for a terminal or a page.

A device's name, a label or a refusal may hold escape sequences that rewrite a terminal, or marks
that turn the direction of writing, so that something else is read than is there (CVE-2021-42574).
"""

import re

LONGEST_SENTENCE_CHARACTERS = 2000
"""Characters of a sentence that are shown; the rest is cut off."""

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    r"""Return text whose control characters are escaped as in JSON, except tabs and line feeds.

    So are lone surrogates, what changes the direction of writing, and what is not seen, except the
    two joiners that some scripts need.

    >>> print(printable("\x1b[2Jcafé\u202e"))
    \u001b[2Jcafé\u202e
    """
    return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def sentence(text: str) -> str:
    r"""Return printable text on one line, cut off where it is too long.

    >>> print(sentence("no room\nfedhw: all is well"))
    no room\nfedhw: all is well
    """
    line = printable(text).replace("\n", "\\n")
    whole = len(line) <= LONGEST_SENTENCE_CHARACTERS
    return line if whole else f"{line[:LONGEST_SENTENCE_CHARACTERS]}…"
