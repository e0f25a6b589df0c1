"""The errors a user can cause. The command line prints them on one line and exits with status 2."""


class UserError(Exception):
    """What was wrong, the value, and what to do about it, in words for the person at the keyboard."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type where there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
