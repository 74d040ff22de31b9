"""The one exception for faults that the user can mend."""


class UserError(Exception):
    """A fault in what the user gave: the message says what is wrong, where, and what to do.

    Command-line programs print the message alone (no traceback) and exit with status 2.
    """
