"""The `jaxpaint` command: parses, calls, prints.

A subcommand is a file: its docstring is the help, a line and examples; `add` describes the options, `run` calls and
prints. Heavy packages are imported where they are needed.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

from jaxpaint.base import __version__, interrupts
from jaxpaint.base.errors import UserError, first_line
from jaxpaint.cli.exits import INTERRUPTED, MISTAKE

COMMANDS = tuple(
    import_module(f"jaxpaint.cli.{name}")
    for name in (
        *("demo", "convert", "export", "eval", "logits", "masked", "generate", "plan", "study", "finetune", "glue"),
        *("results", "report", "doctor", "completion"),
    )
)


class _Parser(argparse.ArgumentParser):
    """Mistakes in the arguments are one line too."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISTAKE, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status: 0, 2 for a user's mistake, 130 after Ctrl-C."""
    given = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args([_with_hyphens(each) for each in given])
    try:
        with interrupts.reraised():
            status = options.run(options)
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"jaxpaint: error: {error}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("jaxpaint: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough. Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"jaxpaint: error: {where}{error.strerror or first_line(error)}", file=sys.stderr)
        return MISTAKE
    except RuntimeError as error:  # jax.errors.JaxRuntimeError, without importing jax
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print("jaxpaint: error: the device is out of memory; try a lower --batch-tokens", file=sys.stderr)
        return MISTAKE


def _with_hyphens(argument: str) -> str:
    """An option as we spell it where it is spelt as lm-eval's are, --num_fewshot."""
    name, equals, value = argument.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if re.fullmatch("--[a-z][a-z_-]*", name) else argument


def script() -> NoReturn:
    """The command: `main`, and the end of the process without Python's teardown.

    After Ctrl-C or a closed pipe XLA's threads may still compute, and a teardown that frees their code crashes.
    """
    status = main()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(status)


def parser() -> argparse.ArgumentParser:
    """The whole command's."""
    whole = _Parser(
        prog="jaxpaint",
        description="Run a frozen pretrained transformer under any layer plan, and score it on standard benchmarks.",
        epilog="Plans: 7 one layer, 0-8 a range, 22-9 backwards, {9-22} side by side and averaged, sum{9 10} with "
        "updates summed, x*3 three times. Try: jaxpaint plan '0-8 {9-22}*3 23-31' --layers 32",
    )
    whole.add_argument("--version", action="version", version=f"jaxpaint {__version__}")
    commands = whole.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2]
        help, _, examples = (command.__doc__ or "").strip().partition("\n\n")
        added = commands.add_parser(
            name, help=help, description=help, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        added.set_defaults(run=command.run)
        command.add(added)
    return whole
