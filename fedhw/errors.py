"""The one error a user can cause: bad input, told in one sentence."""


class InputError(ValueError):
    """Input that cannot be used; the message names the field, the value and the mend.

    The command line prints the message alone and exits with code 2.
    """
