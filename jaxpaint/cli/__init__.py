"""The `jaxpaint` command: parses, calls, prints.

A subcommand is a file: its docstring is the help, a line and examples; `add` describes the options, `run` calls and
prints. Heavy packages are imported where they are needed, and nothing here before signals and streams are minded.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status.

    0; 2 for a user's mistake and for what the machine does not allow; 1 for a bug; 130 after Ctrl-C, 143 after SIGTERM.
    """
    from jaxpaint.base import interrupts
    from jaxpaint.cli.failures import alone, told
    from jaxpaint.cli.streams import careful
    from jaxpaint.cli.told import telling

    with careful() as output, alone(), telling() as begin:  # until the exception is forgotten, and all that it held
        try:
            with interrupts.handled():
                from jaxpaint.cli.answers import document_alone
                from jaxpaint.cli.hosts import together
                from jaxpaint.cli.memory_watch import watched_memory
                from jaxpaint.cli.parsing import parsed

                options = parsed(sys.argv[1:] if arguments is None else arguments)
                begin(options)
                with watched_memory(), together(options), document_alone(options):
                    status = options.run(options)
                output.flush()
            return status
        except (Exception, KeyboardInterrupt) as error:
            return told(error, output)
        except SystemExit:  # argparse's, which swallows that its help could not be printed
            if (failure := output.failed()) is not None:
                return told(failure, output)
            raise


def script() -> NoReturn:
    """The command: `main`, and the end of the process without Python's teardown.

    After Ctrl-C or a closed pipe XLA's threads may still compute, and a teardown that frees their code crashes.
    """
    try:
        status = main()
    except SystemExit as end:  # argparse's
        status = end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:  # before anything could mind signals, or after all was done
        status = _ended("interrupted", 130)
    except (OSError, MemoryError) as error:  # not even what would say it better could be loaded
        status = _ended(f"error: {error or 'out of memory'}", 2)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # told already
            continue
    os._exit(status)


def _ended(why: str, status: int) -> int:
    try:
        os.write(2, f"jaxpaint: {why}\n".encode(errors="replace"))
    except OSError:
        return status
    return status
