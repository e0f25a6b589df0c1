"""What people paste into a plan's text: signs that look like its own, and notations that count otherwise."""

from __future__ import annotations

import re

from jaxpaint.plans.nodes import PlanError

SIGNS = dict.fromkeys("‐‑‒–—−﹣－", "-") | dict.fromkeys("×∗＊", "*")
"""Signs that stand for one of the language's: dashes and minus signs, multiplication signs."""

SPACE = re.compile("[\\s\u200b\u2060\ufeff]*")
"""Blanks of every width, none included."""

SLICE = "; a slice of Python's ends before its second number, so that 0:9 is 0-8 here"

_MERGEKIT = re.compile(r"\b(layer_range|slices)\b")
_LAYER_RANGE = re.compile(r"\blayer_range\W{1,20}?([0-9]{1,4})\W{1,20}([0-9]{1,4})\b")
_MODEL = re.compile(r"""\bmodel["']?\s*:\s*["']?([^\s"',}]+)""")


def refuse_mergekit(text: str) -> None:
    """Raises PlanError, with the plan that is meant, for mergekit's `layer_range` and `slices`, which are half-open."""
    found = _MERGEKIT.search(text)
    if found is None:
        return
    ranges = [(int(first), int(end)) for first, end in _LAYER_RANGE.findall(text)]
    message = f"{found[0]} is mergekit's, whose ranges end before their second number"
    if len(set(_MODEL.findall(text))) > 1:
        message += "; a plan has the layers of one model, and here are several"
    elif ranges and all(first < end for first, end in ranges):
        meant = " ".join(half_open(*ends) for ends in ranges)
        message += f"; here ranges have both ends, so write {meant}"
    else:
        message += "; write layer_range: [0, 16] as 0-15, and slices one after the other"
    raise PlanError(message, text, found.start() + 1)


def half_open(first: int, end: int) -> str:
    """The text of the layers from `first` to before `end`."""
    return str(first) if end - first == 1 else f"{first}-{end - 1}"


def two_numbers(first: int, second: int) -> str:
    """Why a pair in brackets is refused."""
    return (
        f"two numbers in brackets may be two layers or a range that ends before the second: write {first} {second} or "
        f"{half_open(first, second)}"
    )
