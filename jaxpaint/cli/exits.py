"""Exit statuses; those after a signal are `jaxpaint.base.interrupts.status`."""

MISTAKE = 2  # after a user's mistake, or where part of the work failed
BROKEN = 1  # after a bug, or where `jaxpaint doctor` finds something that keeps it from running
