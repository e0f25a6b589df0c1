"""How every command of the package reads its arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from jaxpaint.base.errors import UserError
from jaxpaint.base.numbers import finite, whole
from jaxpaint.base.shown import visible_name

_MISTAKE = 2  # argparse's own exit status, and ours after any mistake of the user's


class ArgumentParser(argparse.ArgumentParser):
    """Mistakes in the arguments are one line too, and numbers are none that nothing here could run with."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        for kind, number in ((int, whole), (float, finite)):
            self.register("type", kind, partial(_argument, number))

    def error(self, message: str) -> NoReturn:
        self.exit(_MISTAKE, f"{self.prog}: error: {visible_name(message)} (see {self.prog} --help)\n")


def _argument(number: Callable[[str], float], text: str) -> float:
    try:
        return number(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
