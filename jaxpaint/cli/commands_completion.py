"""jaxpaint completion: a script that completes the command's words in a shell."""

from __future__ import annotations

import argparse
from functools import partial

from jaxpaint.cli.completion import SHELLS, script
from jaxpaint.cli.options import add_command


def add(commands, parser: argparse.ArgumentParser) -> None:
    """`parser` is that of the whole command, which the script is about."""
    add_command(
        commands,
        "completion",
        partial(run, parser),
        "print a script that completes this command's words in a shell",
        """examples:
  jaxpaint completion bash > ~/.local/share/bash-completion/completions/jaxpaint
  jaxpaint completion zsh > ~/.zfunc/_jaxpaint
  jaxpaint completion fish > ~/.config/fish/completions/jaxpaint.fish

Make the folder first. bash needs its package bash-completion; without that, or
to try it, use: source <(jaxpaint completion bash). zsh needs these lines in
~/.zshrc: fpath+=~/.zfunc; autoload -U compinit; compinit""",
    ).add_argument("shell", choices=SHELLS, help="whose script")


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    print(script(parser, options.shell), end="")
    return 0
