"""Alphabets in the order of EMNIST (Cohen et al. 2017, arXiv 1702.05373): a label is an index."""

import string

BYCLASS = string.digits + string.ascii_uppercase + string.ascii_lowercase
"""62 classes: digits, upper case, lower case."""

BALANCED = string.digits + string.ascii_uppercase + "abdefghnqrt"
"""47 classes: the 15 lower-case letters that look like their upper case are merged into it."""

LETTERS = string.ascii_uppercase
"""26 classes: case merged."""

DIGITS = string.digits
"""10 classes."""
