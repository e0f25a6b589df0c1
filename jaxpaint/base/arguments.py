"""How every command of the package reads its arguments."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import partial
from typing import Any, NoReturn

from jaxpaint.base.errors import UserError
from jaxpaint.base.numbers import finite, whole
from jaxpaint.base.shown import visible_name

_MISTAKE = 2  # argparse's own exit status, and ours after any mistake of the user's


class ArgumentParser(argparse.ArgumentParser):
    """Mistakes in the arguments are one line too, and numbers are none that nothing here could run with."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **settings})
        for kind, number in ((int, whole), (float, finite)):
            self.register("type", kind, partial(_argument, number))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Options that there are not are told with those that were meant, before what else is wrong."""
        if args is not None and self._subparsers is None:
            for name in map(_option, args[: args.index("--") if "--" in args else None]):
                if name and name not in self._option_string_actions:
                    self.error(f"unrecognized arguments: {name}{_meant(name, self._option_string_actions)}")
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices and (meant := _meant(value, action.choices)):
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}{meant}")
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        self.exit(_MISTAKE, f"{self.prog}: error: {visible_name(message)} (see {self.prog} --help)\n")


def _option(argument: str) -> str | None:
    """The name of a long option, without its value."""
    found = re.match("--[a-z][a-z0-9-]*(?==|$)", argument)
    return found.group() if found else None


def _meant(given: object, known: Iterable[Any]) -> str:
    """The one that begins so, or else the likely one, or nothing."""
    names = {str(name).lstrip("-"): str(name) for name in known}
    begun = str(given).lstrip("-")
    near = [name for name in names if begun and name.startswith(begun)]
    near = near if len(near) == 1 else get_close_matches(begun, names, 1, 0.7)
    return f": did you mean {names[near[0]]}?" if near else ""


def _argument(number: Callable[[str], float], text: str) -> float:
    try:
        return number(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
