"""What plans are proposed from: numbers by layer or state of the full model, on calibration texts.

The numbers of the analyses (`jaxpaint.analysis.states`), and of perplexity: that of the texts under the model without
each of its layers, or sublayers, of all tokens but each text's first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from jaxpaint.analysis.states import BY_NAME, analyse, analysis_rows
from jaxpaint.base.errors import UserError
from jaxpaint.engine.given import GivenTexts, token_ids
from jaxpaint.engine.model import Model
from jaxpaint.engine.packing import Request
from jaxpaint.engine.rows import checked_texts
from jaxpaint.engine.score import score_plans
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.proposals import MEASURED, halves, stand_ins, without_halves
from jaxpaint.plans.strategies import Variant, proposed, skip_one

PERPLEXITY = "perplexity"
SUBLAYER_INFLUENCE = "sublayer_influence"  # Block Influence of each attention and each feed-forward, in turn


SUBLAYER_PERPLEXITY = "sublayer_perplexity"  # without each attention and each feed-forward, in turn


def measure(
    model: Model, names: Sequence[str], texts: Sequence[Sequence[int]], *, batch_tokens: int | None = None
) -> dict[str, list[Any]]:
    """The measurements `names` of texts, given as token ids, by name: nested lists of finite numbers.

    One run of the full model gives all analyses, and one more those of sublayers. The same on the same machine, so
    plans are proposed again.

    Raises:
        UserError: as `analyse`; a measurement that is not finite; for perplexity no text of two tokens.
    """
    found = _analysed(model, [name for name in names if name in BY_NAME], texts, model.full_plan, batch_tokens)
    if SUBLAYER_INFLUENCE in names:
        influence = _analysed(model, ["block_influence"], texts, halves(model.num_layers), batch_tokens)
        found[SUBLAYER_INFLUENCE] = influence["block_influence"]
    layers = range(model.num_layers)
    without = {
        PERPLEXITY: [skip_one(model.num_layers, layer) for layer in layers],
        SUBLAYER_PERPLEXITY: without_halves(model.num_layers),
    }
    for name, plans in without.items():  # in this order, in all processes that compute together
        if name in names:
            found[name] = _perplexities(model, texts, plans, batch_tokens)
    for name, value in found.items():
        if not _is_finite(value):
            raise UserError(
                f"the model's {name} on the calibration texts is not finite; check them, or --dtype float32"
            )
    return found


def propose(model: Model, strategy: str, texts: GivenTexts, *, count: int) -> Variant:
    """A plan for the model by one of the strategies that measure it (`jaxpaint.plans.proposals.MEASURED`).

    `texts` are such, or token ids, as `analyse` takes them; `count` layers are left out, or fewer deep.

    Raises:
        UserError: another strategy, a count out of range (both before anything is measured), or as `measure`.
    """
    needed = MEASURED[strategy].measurement if strategy in MEASURED else None
    standing = stand_ins(model.num_layers)
    proposed(strategy, model.num_layers, standing.get(needed or ""), count)
    assert needed is not None
    return proposed(strategy, model.num_layers, measure(model, [needed], token_ids(model, texts))[needed], count)


def _analysed(
    model: Model, names: Sequence[str], texts: Sequence[Sequence[int]], plan: Plan, batch_tokens: int | None
) -> dict[str, Any]:
    """Analyses of one plan, by name."""
    if not names:
        return {}
    probes = [BY_NAME[name] for name in names]
    (analysis,) = analyse(model, texts, [plan], probes=probes, batch_tokens=batch_tokens)
    rows = {name: value for name, _, value in analysis_rows(analysis, {}, probes)}
    return {name: rows[name] for name in names}


def _perplexities(
    model: Model, texts: Sequence[Sequence[int]], plans: Sequence[Plan], batch_tokens: int | None
) -> list[float]:
    """Of the texts under each plan."""
    checked = [text.tolist() for text in checked_texts(texts, model.config)]
    requests = [Request(tuple(text[:-1]), tuple(text[1:])) for text in checked if len(text) > 1]
    if not requests:
        raise UserError("no calibration text has two tokens, so nothing follows; give longer ones")
    scores = score_plans(model, requests, plans, batch_tokens=batch_tokens)
    tokens = sum(len(request.targets) for request in requests)
    return [math.exp(min(-total / tokens, 700.0)) for total in scores.loglikelihoods.sum(axis=1).tolist()]


def _is_finite(value: Any) -> bool:
    return all(map(_is_finite, value)) if isinstance(value, list) else value is not None and math.isfinite(value)
