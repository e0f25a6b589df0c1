"""The whole command's parser. A subcommand's file is imported when that subcommand is asked for."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import Any

from jaxpaint.base import __version__
from jaxpaint.base.arguments import ArgumentParser

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "demo": "study painter-16, the small model that comes with jaxpaint: minutes, no network",
        "init": "write a settings file for jaxpaint study, with every setting explained",
        "convert": "convert a checkpoint into a store of stacked parameters, once",
        "compose": "make one model of layers of several, or merge layers into one",
        "export": "write a series plan back as a Hugging Face folder, or a GGUF file as another",
        "eval": "score a model under one plan or several on lm-evaluation-harness tasks",
        "logits": "show the most likely next tokens after a text",
        "run": "run a text under a plan: which steps wrote the next token, and what changes it",
        "lens": "show what each step of a plan would say, were it the last (the logit lens)",
        "routes": "show the routes by which tokens reach what a plan says next",
        "flow": "see how facts reach the last token: attention to a part of the prompt blocked",
        "masked": "score texts under plans of a BERT, each token masked in turn",
        "images": "classify images under plans of a vision transformer, or train it for that",
        "generate": "write on from a prompt under a plan",
        "serve": "answer OpenAI's requests for completions under one or several plans",
        "plan": "draw a layer plan and say what it costs",
        "study": "score a model under many plans on many tasks, every result kept",
        "search": "search for layer plans within a budget, confirmed on documents not seen",
        "finetune": "score a decoder under many plans, as it is and fine-tuned with each in place",
        "heal": "train what a plan runs to say what the full model says, and store the result",
        "glue": "train and score a BERT under many plans on GLUE, every result kept",
        "results": "show what a study's results store holds, or join several stores",
        "report": "draw the figures and write the report of a study, from its store alone",
        "bench": "time plans on the device here, or say what they would cost on another",
        "birth": "train a two-layer model from nothing, and watch its induction head being born",
        "list": "list tasks, models, strategies, or results stores",
        "cache": "show what is kept between runs, what it takes, and remove it",
        "doctor": "say whether it can run here, and what would make it faster",
        "completion": "print a script that completes this command's words in a shell",
    }
)
"""What each says of itself, the first line of its file: `jaxpaint --help` reads no file of a command."""


def command(name: str) -> ModuleType:
    """The file of a subcommand."""
    return import_module(f"jaxpaint.cli.{name}")


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, with `run` to carry them out. Ends (SystemExit) after --help, and after what cannot be parsed.

    Nothing at all is a question, whose answer is the help.
    """
    whole = parser()
    arguments = arguments or ["--help"]
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


class _Command(ArgumentParser):
    """A subcommand's parser, empty until it is asked for anything."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)
        self.color = False  # Python 3.14 colours help, with escapes of its own
        self._is_filled = False

    def fill(self) -> None:
        """Adds the subcommand's options, and those that every one has."""
        if self._is_filled:
            return
        self._is_filled = True
        own = command(self.prog.rpartition(" ")[2])
        self.description, _, self.epilog = (own.__doc__ or "").strip().partition("\n\n")
        self.set_defaults(run=own.run)
        own.add(self)
        from jaxpaint.cli.options import add_output_options

        add_output_options(self, answers=hasattr(own, "Answer"))
        for action in self._actions:
            _name_default(action)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.fill()
        return super().parse_known_args(args, namespace)


def _name_default(action: argparse.Action) -> None:
    """Has the help of an option that takes a value name what it is without: most say so in words of their own."""
    is_open = action.option_strings and action.nargs != 0 and not action.required
    if is_open and action.help is not None and "(default" not in action.help:
        default = "none" if action.default in (None, "", []) else "%(default)s"
        action.help = f"{action.help} (default: {default})"


def parser(*, filled: bool = False) -> ArgumentParser:
    """The whole command's; its subcommands are `filled`, or fill themselves as they are used."""
    whole = ArgumentParser(
        prog="jaxpaint",
        description="Run a frozen pretrained transformer under any layer plan, and score it on standard benchmarks.",
        epilog="Plans: 7 one layer, 0-8 a range, 22-9 backwards, {9-22} side by side and averaged, sum{9 10} with "
        "updates summed, x*3 three times. Try: jaxpaint plan '0-8 {9-22}*3 23-31'. Converted models and compiled code "
        "are kept in JAXPAINT_CACHE, or the user's cache folder: jaxpaint cache ls.",
    )
    whole.color = False  # type: ignore[attr-defined]
    whole.add_argument("--version", action="version", version=f"jaxpaint {__version__}")
    commands = whole.add_subparsers(metavar="COMMAND", required=True, parser_class=_Command)
    for name, help in COMMANDS.items():
        added = commands.add_parser(name, help=help)
        if filled:
            added.fill()
    return whole
