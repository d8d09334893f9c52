"""Errors that are the user's to mend."""


class UserError(ValueError):
    """Bad input. The message is one line: the flag, the value, what is allowed."""
