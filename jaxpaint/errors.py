"""The errors a user can cause. The command line prints them on one line and exits with status 2."""


class UserError(Exception):
    """What was wrong, the value, and what to do about it, in words for the person at the keyboard."""
