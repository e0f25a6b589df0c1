"""Exit statuses."""

MISTAKE = 2  # after a user's mistake, or where part of the work failed
INTERRUPTED = 130  # after Ctrl-C
BROKEN = 1  # where `jaxpaint doctor` finds something that keeps it from running
