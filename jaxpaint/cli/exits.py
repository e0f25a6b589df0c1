"""The subcommands of `jaxpaint`, one file each: `add` describes the options, `run` calls and prints."""

MISTAKE = 2  # exit status after a user's mistake, or where part of the work failed
INTERRUPTED = 130  # after Ctrl-C
BROKEN = 1  # where `jaxpaint doctor` finds something that keeps it from running
