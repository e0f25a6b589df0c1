"""Log-likelihoods of continuations under one plan or many: packed, each distinct beginning of plans once per batch.

For each batch the plans' tree is walked (`jaxpaint.engine.walk`), and the head runs where plans end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxpaint.base.budgets import budgets, on_cpu
from jaxpaint.base.hosts import on_host
from jaxpaint.base.target import platform
from jaxpaint.engine.head import ModelOutputError, target_logprobs
from jaxpaint.engine.model import Model
from jaxpaint.engine.packing import Batch, Request, pack
from jaxpaint.engine.source import Source
from jaxpaint.engine.walk import endings, shards, start_of_stream
from jaxpaint.models.family import require_lm_head
from jaxpaint.models.scalings import border
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.tree import prefix_tree

# Attending to a key costs about twice what its share of the floating-point operations says (softmax, memory).
ATTENTION_OVERHEAD = 2.0
# Tokens of a request from which attention block by block is among the choices: below it gains little.
LONG = 512
# Outputs under way before the host waits for the oldest: keeps the device busy and the progress bar honest.
IN_FLIGHT = 2


@dataclass(frozen=True)
class Scores:
    """Per request, in the order given: summed natural-log likelihood, and whether greedy decoding would produce it.

    `computed_tokens` are the positions that were run, padding included; `request_tokens` those asked for.
    """

    loglikelihoods: Float[np.ndarray, " requests"]
    is_greedy: Bool[np.ndarray, " requests"]
    request_tokens: int
    computed_tokens: int


@dataclass(frozen=True)
class PlanScores:
    """What one batch gave the plans of these indices, which end alike.

    Log-likelihoods (NaN where logits were not finite) and greedy are in the order of `batch.requests`. `executed`
    counts layer applications times positions run since the last scores, padding and recomputation included.
    """

    batch: Batch
    plans: tuple[int, ...]
    loglikelihoods: np.ndarray
    is_greedy: np.ndarray
    executed: int


@dataclass(frozen=True)
class SweepScores:
    """Per plan and request, in the orders given: log-likelihoods (NaN where logits were not finite) and greedy.

    `executed` counts layer applications times positions run, padding and recomputation included; `distinct` those of
    the distinct plan prefixes times the distinct tokens, the least that any order of work could do; `separate` what
    every plan and every request run alone would have taken.
    """

    loglikelihoods: np.ndarray
    is_greedy: np.ndarray
    executed: int
    distinct: int
    separate: int


def score(
    model: Model,
    requests: Sequence[Request],
    plan: Plan | None = None,
    *,
    batch_tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Scores requests under one plan (default: all layers in order).

    `batch_tokens` bounds the positions per batch; `progress` is called with the number of requests' tokens done.

    Raises:
        PlanError: the plan names a layer that the model lacks.
        ModelOutputError: NaN or infinite logits.
    """
    plan = model.checked_plan(plan)
    batches = pack_for(model, requests, batch_tokens)
    totals, greedy = np.zeros(len(requests)), np.ones(len(requests), bool)
    for found in sweep(model, batches, [plan]):
        if not np.isfinite(found.loglikelihoods).all():
            raise not_finite(plan)
        done = found.batch.requests
        totals[done], greedy[done] = found.loglikelihoods, found.is_greedy
        if progress:
            progress(sum(len(requests[i].tokens) for i in done))
    return Scores(totals, greedy, sum(len(r.tokens) for r in requests), sum(batch.tokens.size for batch in batches))


def not_finite(plan: Plan) -> ModelOutputError:
    """What is said of a plan whose scores are not finite."""
    return ModelOutputError(
        f"NaN or infinite logits under plan {plan}: no score was made. Check the checkpoint, or try --dtype float32"
    )


def score_plans(
    model: Model,
    requests: Sequence[Request],
    plans: Sequence[Plan],
    *,
    batch_tokens: int | None = None,
    held_bytes: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> SweepScores:
    """Scores requests under every plan: [plans, requests]. Equal to `score` plan by plan.

    `progress` is called with the number of layer applications times positions just run. Plans whose logits are
    not finite get NaN, and do not stop the others.

    Raises:
        PlanError: a plan names a layer that the model lacks.
    """
    totals = np.zeros((len(plans), len(requests)))
    greedy = np.ones((len(plans), len(requests)), bool)
    executed = 0
    batches = pack_for(model, requests, batch_tokens)
    for found in sweep(model, batches, plans, held_bytes=held_bytes):
        where = np.ix_(np.array(found.plans), found.batch.requests)
        totals[where], greedy[where] = found.loglikelihoods, found.is_greedy
        executed += found.executed
        if progress:
            progress(found.executed)
    return SweepScores(
        totals,
        greedy,
        executed,
        distinct=(prefix_tree(plans).cost if plans else 0) * sum(batch.real_tokens for batch in batches),
        separate=sum(plan.applications for plan in plans) * sum(len(request.tokens) for request in requests),
    )


def sweep(
    model: Model, batches: Sequence[Batch], plans: Sequence[Plan], *, held_bytes: int | None = None
) -> Iterator[PlanScores]:
    """Scores batches under every plan, each distinct prefix of layers once; with each batch every plan comes up once.

    Raises:
        PlanError: a plan names a layer that the model lacks.
    """
    under_way: deque[tuple[Batch, tuple[int, ...], tuple[Array, Array], int]] = deque()
    for batch in batches:
        for ends, state, work in endings(model, start_of_stream(model, batch), plans, held_bytes=held_bytes):
            under_way.append((batch, ends, target_logprobs(model, state, batch), work * batch.tokens.size))
            del state
            if len(under_way) > IN_FLIGHT:
                yield _collect(*under_way.popleft())
    while under_way:
        yield _collect(*under_way.popleft())


def _collect(batch: Batch, ends: tuple[int, ...], output: tuple[Array, Array], executed: int) -> PlanScores:
    loglikelihoods, is_greedy = batch.per_request(*map(on_host, output))
    return PlanScores(batch, ends, np.where(np.isfinite(loglikelihoods), loglikelihoods, np.nan), is_greedy, executed)


def pack_for(model: Model | Source, requests: Sequence[Request], batch_tokens: int | None = None) -> list[Batch]:
    """`pack` with the costs of this model and the sizes of its devices. Raises UserError for an encoder."""
    require_lm_head(model.config, "scoring what follows a text")
    return pack(
        requests,
        batch_tokens=batch_tokens or budgets().score_tokens * shards(model),
        attention_cost=attention_cost(model),
        rows_multiple=shards(model),
        # Its loop over blocks keeps no accelerator busy, and one device of several would run it for all.
        blockwise=on_cpu() and shards(model) == 1 and any(len(each.tokens) >= LONG for each in requests),
        whole_rows=platform() == "gpu",
        border=border(model.config),
    )


def attention_cost(model: Model | Source) -> float:
    """What attending to one more key costs, relative to all else a layer does for a token."""
    config = model.config
    block = sum(leaf.size for leaf in jax.tree.leaves(model.state["blocks"])) / config.num_hidden_layers
    return ATTENTION_OVERHEAD * 4 * config.num_attention_heads * config.head_dim / (2 * block)
