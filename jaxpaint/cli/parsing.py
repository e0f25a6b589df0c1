"""The whole command's parser."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from importlib import import_module

from jaxpaint.base import __version__
from jaxpaint.base.arguments import ArgumentParser

COMMANDS = tuple(
    import_module(f"jaxpaint.cli.{name}")
    for name in (
        *("demo", "convert", "compose", "export", "eval", "logits", "run", "lens", "routes", "flow", "masked"),
        *("generate", "serve", "plan", "study", "search", "finetune", "heal", "glue", "results", "report"),
        *("bench", "birth", "doctor", "completion"),
    )
)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, with `run` to carry them out. Ends (SystemExit) after --help, and after what cannot be parsed."""
    whole = parser()
    for word in arguments:
        try:
            word.encode()
        except UnicodeEncodeError:
            # It could become no prompt, and as a name it could stand in no results store, JSON or report.
            whole.error(f"the argument {word} is not UTF-8 text; if it names a file or folder, rename that")
    return whole.parse_args([_with_hyphens(each) for each in arguments])


def _with_hyphens(argument: str) -> str:
    """An option as we spell it where it is spelt as lm-eval's are, --num_fewshot."""
    name, equals, value = argument.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if re.fullmatch("--[a-z][a-z_-]*", name) else argument


def parser() -> ArgumentParser:
    """The whole command's."""
    whole = ArgumentParser(
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
    # Python 3.14 colours help, with escapes of its own.
    for each in (whole, *commands.choices.values()):
        each.color = False  # type: ignore[attr-defined]
    return whole
