"""Alphabets in the order of EMNIST (Cohen et al. 2017, arXiv 1702.05373): a label is an index."""

import string

from fedhw.observation import Labels

BYCLASS = Labels.characters(string.digits + string.ascii_uppercase + string.ascii_lowercase)
"""62 classes: digits, upper case, lower case."""

BALANCED = Labels.characters(string.digits + string.ascii_uppercase + "abdefghnqrt")
"""47 classes: the 15 lower-case letters that look like their upper case are merged into it."""

LETTERS = Labels.characters(string.ascii_uppercase)
"""26 classes: case merged."""

DIGITS = Labels.characters(string.digits)
"""10 classes."""
