"""print a script that completes this command's words in a shell

examples:
  jaxpaint completion bash > ~/.local/share/bash-completion/completions/jaxpaint
  jaxpaint completion zsh > ~/.zfunc/_jaxpaint
  jaxpaint completion fish > ~/.config/fish/completions/jaxpaint.fish

Make the folder first. bash needs its package bash-completion; without that, or
to try it, use: source <(jaxpaint completion bash). zsh needs these lines in
~/.zshrc: fpath+=~/.zfunc; autoload -U compinit; compinit
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jaxpaint.plans.strategies import EVERY, STRATEGIES
from jaxpaint.studies.settings import PAPER, PRESETS
from jaxpaint.studies.spec import ANALYSES

# By how --help names what an argument is.
FOLDERS = ("MODEL", "SRC", "DST", "STORE", "DIR")
FILES = ("FILE", "FILE.toml", "OUT")
# Names that are checked by words of our own rather than by argparse: one of these, or several by commas.
ONE_OF: Mapping[str, Iterable[str]] = {"strategy": tuple(STRATEGIES), "preset": tuple(PRESETS)}
SOME_OF: Mapping[str, Iterable[str]] = {
    "strategies": tuple(EVERY),
    "analysis_strategies": tuple(EVERY),
    "analyses": ANALYSES,
    "tasks": tuple(PAPER["tasks"]),  # lm-eval has thousands; these are the paper's
}
# Each is given the word so far, of which what comes after the last comma is completed.
_LISTS = {
    "bash": """
_jaxpaint_{name}() {{
  local before=""
  [[ $1 == *,* ]] && before="${{1%,*}},"
  compgen -P "$before" -W "{words}" -- "${{1##*,}}"
}}
""",
    "fish": """
function _jaxpaint_{name}
  set -l word (string replace -r '^--[^=]*=' '' -- (commandline -ct))
  set -l before (string match -r '.*,' -- $word)
  printf "$before%s\\n" {words}
end
""",
}


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="whose script")


def run(options: argparse.Namespace) -> int:
    """shtab writes it from the parser; the script is static, so completing a word starts no Python."""
    import shtab

    from jaxpaint.cli.parsing import parser

    whole = parser(filled=True)
    for command, argument in _arguments(whole):
        completer = _completer(command, argument)
        if completer is not None:
            argument.complete = completer  # type: ignore[attr-defined]
        elif argument.dest in ONE_OF:
            argument.choices = ONE_OF[argument.dest]
    print(shtab.complete(whole, options.shell).rstrip())
    return 0


def _arguments(parser: argparse.ArgumentParser, command: str = "") -> Iterator[tuple[str, argparse.Action]]:
    """Every argument of a parser and of its subcommands, with the subcommand's name."""
    for argument in parser._actions:
        if isinstance(argument, argparse._SubParsersAction):
            for name, subparser in argument.choices.items():
                yield from _arguments(subparser, name)
        else:
            yield command, argument


def _completer(command: str, argument: argparse.Action) -> Any:
    """What shtab is told of an argument, None if nothing."""
    import shtab

    if argument.dest == "tasks" and command == "glue":
        from jaxpaint.tasks.glue import TASKS

        return _by_commas("glue_tasks", TASKS)
    if argument.dest in SOME_OF:
        return _by_commas(argument.dest, SOME_OF[argument.dest])
    if argument.metavar in FOLDERS:
        return shtab.DIRECTORY
    if argument.metavar in FILES:
        return shtab.FILE
    return None


def _by_commas(name: str, words: Iterable[str]) -> dict[str, Any]:
    words = " ".join(words)
    return {
        "bash": f"_jaxpaint_{name}",
        "zsh": f"_values -s , {name} {words}",
        "fish": f"(_jaxpaint_{name})",
        "preamble": {shell: text.format(name=name, words=words) for shell, text in _LISTS.items()},
    }
