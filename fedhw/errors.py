"""The error for bad input, with a message of one sentence."""


class InputError(ValueError):
    """The input cannot be used; the message names the field, the value and the remedy.

    The command line prints the message alone and exits with code 2.
    """
