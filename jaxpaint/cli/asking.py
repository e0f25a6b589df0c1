"""lm-eval's switches for how documents are asked."""

from __future__ import annotations

import argparse
import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from jaxpaint.base.numbers import whole
from jaxpaint.cli.options import add_setting

if TYPE_CHECKING:
    from jaxpaint.tasks.asking import Asking


def add_asking_options(parser) -> None:
    """None where not given. Words with an underscore in place of the hyphen, as lm-eval spells them, are the same."""
    group = parser.add_argument_group("how documents are asked, as lm-eval has it")
    add_setting(group, "apply-chat-template", nargs="?", const=True)
    add_setting(group, "system-instruction")
    add_setting(group, "fewshot-as-multiturn", nargs="?", const=True)
    add_setting(group, "gen-kwargs", nargs="+", action="extend")
    add_setting(group, "include-path")
    add_setting(group, "samples")
    add_setting(group, "seed", action="append")
    add_setting(group, "max-length")


def asking_of(options: argparse.Namespace) -> tuple[Asking, dict[str, Any]]:
    """How to ask, and what else of it concerns loading: `include_path` and `max_length`.

    The seed that is left in the options is the strategy's.

    Raises:
        UserError: a value of another kind, or what does not go together.
    """
    from jaxpaint.studies.settings import KINDS
    from jaxpaint.studies.values import checked
    from jaxpaint.tasks.asking import Asking, refuse_both

    names = [setting.name for setting in fields(Asking)]
    given = {name: getattr(options, name) for name in (*names, "include_path", "max_length")}
    options.seed, given["seed"] = _parted(options.seed or [], options.strategy is not None)
    found = {
        name: checked(f"--{name.replace('_', '-')}", value, KINDS[name.replace("_", "-")])
        for name, value in given.items()
        if value is not None
    }
    others = {name: found.pop(name, None) for name in ("include_path", "max_length")}
    asking = Asking(**found)
    refuse_both(options.limit, asking)
    return asking, others


def _parted(seeds: list[str], has_strategy: bool) -> tuple[int | None, str | None]:
    """A strategy's seed, the first single number where there is one, and lm-eval's seeds."""
    own = next((seed for seed in seeds if has_strategy and re.fullmatch(r"\s*[0-9]+\s*", seed)), None)
    others = [seed for seed in seeds if seed is not own]
    from jaxpaint.studies.values import checked

    return None if own is None else checked("--seed", own, whole), others[-1] if others else None
