"""Series plans in the notations of tools that copy layers: mergekit's YAML, and exllamav2's list of repeats.

Both count ranges up to before their second number, where a plan's text has both ends.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Any

from jaxpaint.base.errors import UserError
from jaxpaint.plans.nodes import MAX_LAYER
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.text import clip

# What a configuration may say beside its slices without changing which layers run.
BESIDE = {"base_model", "chat_template", "dtype", "merge_method", "name", "out_dtype", "slices", "tokenizer"}
BESIDE |= {"tokenizer_source"}


def from_mergekit(text: str) -> tuple[Plan, str]:
    """The plan that a mergekit configuration makes of one model by `passthrough`, and that model's name.

    Raises:
        UserError: no YAML, another method, several models, weights of tensors, or ranges that name no layers.
    """
    config = _mapping(text)
    method = config.get("merge_method")
    if method != "passthrough":
        raise UserError(f"mergekit's merge_method is {method!r}; only passthrough copies layers as they are")
    if unknown := sorted(set(map(str, config)) - BESIDE):
        raise UserError(f"mergekit's {', '.join(unknown)} may change what layers compute, which no plan can say")
    slices = config.get("slices")
    if not isinstance(slices, list) or not slices:
        raise UserError("the mergekit configuration has no slices; a plan is made of their layer_range")
    models: list[str] = []
    layers: list[int] = []
    for number, part in enumerate(slices, 1):
        model, found = _of_slice(f"mergekit's slice {number}", part)
        models.append(model)
        layers.extend(found)
    if others := sorted(set(models) - {models[0]}):
        raise UserError(f"mergekit's slices are of {models[0]} and {', '.join(others)}; a plan has one model's layers")
    return Plan.of(layers), models[0]


def to_mergekit(plan: Plan, model: str) -> str:
    """The mergekit configuration that copies the model's layers as the plan runs them.

    Raises:
        PlanError: the plan has a parallel group or a weight.
    """
    import yaml

    slices = [
        {"sources": [{"model": model, "layer_range": [first, end]}]} for first, end in _ascending(plan.sequence())
    ]
    return yaml.safe_dump({"merge_method": "passthrough", "slices": slices}, sort_keys=False, default_flow_style=None)


def from_repeats(text: str, num_layers: int) -> Plan:
    """The plan of a list such as `[(0, 20), (10, 30)]`, as exllamav2's `--repeats` takes it (its pull request 275).

    The last pair must reach the model's last layer, or end at it: what it runs goes on to the end.

    Raises:
        UserError: it is no list of pairs, or names no layers of the model.
    """
    form = "[(0, 20), (10, 30)]"
    try:
        pairs = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise UserError(f"{clip(text)!r} is no list of pairs such as {form}") from None
    if not isinstance(pairs, (list, tuple)) or not pairs:
        raise UserError(f"{clip(text)!r} is no list of pairs such as {form}")
    *before, last = (_pair(f"pair {number}", pair) for number, pair in enumerate(pairs, 1))
    if last[1] < num_layers - 1:
        raise UserError(f"the last pair, {last}, ends before the model's last layer, {num_layers - 1}")
    Plan.of(*(range(*pair) for pair in (*before, last))).validate(num_layers)
    return Plan.of(*(range(*pair) for pair in before), range(last[0], num_layers))


def to_repeats(plan: Plan, num_layers: int) -> str:
    """The list of pairs that `from_repeats` reads as the plan.

    Raises:
        PlanError: the plan has a parallel group or a weight.
        UserError: it does not end with the model's last layer, which such a list runs in any case.
    """
    pairs = list(_ascending(plan.sequence()))
    if pairs[-1][1] != num_layers:
        raise UserError(
            f"plan {clip(str(plan))} does not end with the model's last layer, {num_layers - 1}; a list of repeats does"
        )
    return str(pairs)


def _mapping(text: str) -> dict[Any, Any]:
    import yaml

    try:
        config = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"the mergekit configuration is not YAML: {clip(' '.join(str(error).split()), 200)}") from None
    if not isinstance(config, dict):
        raise UserError("the mergekit configuration has no merge_method and slices")
    return config


def _of_slice(where: str, part: Any) -> tuple[str, range]:
    sources = part.get("sources") if isinstance(part, dict) else None
    if not isinstance(sources, list) or len(sources) != 1 or not isinstance(sources[0], dict):
        raise UserError(f"{where} has not one source; passthrough copies the layers of one")
    source = sources[0]
    if unknown := sorted({*map(str, part), *map(str, source)} - {"sources", "model", "layer_range"}):
        raise UserError(f"{where} has {', '.join(unknown)}, which may change what layers compute: no plan can say that")
    model = source.get("model")
    if isinstance(model, dict):  # {model: {path: …}}
        model = model.get("model", model)
        model = model.get("path") if isinstance(model, dict) else model
    if not isinstance(model, str) or not model:
        raise UserError(f"{where} names no model")
    return model, range(*_pair(f"{where}, layer_range", source.get("layer_range")))


def _pair(where: str, found: Any) -> tuple[int, int]:
    numbers = found if isinstance(found, (list, tuple)) and len(found) == 2 else ()
    if not numbers or not all(type(number) is int for number in numbers):
        raise UserError(f"{where} is {clip(repr(found), 40)}; expected two numbers, such as [0, 16] for layers 0 to 15")
    first, end = numbers
    if not 0 <= first < end <= MAX_LAYER + 1:
        raise UserError(f"{where} is [{first}, {end}], which names no layers; [0, 16] are layers 0 to 15")
    return first, end


def _ascending(layers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs of layers, each from its first to before its end."""
    first = before = layers[0]
    for layer in layers[1:]:
        if layer != before + 1:
            yield first, before + 1
            first = layer
        before = layer
    yield first, before + 1
