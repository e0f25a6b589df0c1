"""How long plans take on the device that is here, from call to token: rounds in which every plan has its turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxpaint.base.budgets import budgets, on_cpu
from jaxpaint.base.compilation import MOST_LOADED
from jaxpaint.base.errors import UserError
from jaxpaint.base.machine import machine, processor
from jaxpaint.bench import peak
from jaxpaint.engine.grouping import row_length
from jaxpaint.generation import GenerationSettings, Prompt, generate
from jaxpaint.generation.cache import token_bytes
from jaxpaint.generation.layout import lay_out
from jaxpaint.models.family import Config, require_lm_head
from jaxpaint.models.sharding import MODEL, lanes
from jaxpaint.plans.plan import Plan
from jaxpaint.results.latency import Latency, Setting

if TYPE_CHECKING:
    from jaxpaint.engine.model import Model
    from jaxpaint.engine.source import Source

# Each may have an executable of its own, which must stay loaded from round to round.
MOST_PLANS = MOST_LOADED // 2
SEED = 0


@dataclass(frozen=True)
class Sizes:
    """So many prompts at once, tokens of each, and tokens written after each."""

    batch_size: int = 1
    prompt_length: int = 128
    new_tokens: int = 32

    def check(self, config: Config) -> None:
        """Raises UserError for sizes that cannot be measured, or that the model has no room for."""
        require_lm_head(config, "writing text")
        positions = config.max_position_embeddings
        if self.prompt_length + self.new_tokens > positions:
            raise UserError(
                f"prompts of {self.prompt_length} tokens and {self.new_tokens} new ones are more than the model's "
                f"{positions} positions; give a smaller --prompt-length or --new-tokens"
            )


def setting_of(model: Model | Source, sizes: Sizes) -> Setting:
    """The machine that a model lies on, or will, and the sizes."""
    device = jax.devices()[0] if model.mesh is None else model.mesh.devices.flat[0]
    return Setting(
        device=processor() if on_cpu() else device.device_kind,
        num_devices=1 if model.mesh is None else model.mesh.size,
        threads=machine().cores,
        jax=jax.__version__,
        batch_size=sizes.batch_size,
        prompt_length=sizes.prompt_length,
        new_tokens=sizes.new_tokens,
        tensor_parallel=model.mesh.shape[MODEL] if model.mesh else 1,
        layer_parallel=lanes(model.mesh),
    )


def measure(
    model: Model,
    plans: Sequence[Plan],
    sizes: Sizes,
    rounds: int,
    *,
    progress: Callable[[int], None] = lambda amount: None,
) -> list[Latency]:
    """How long each plan takes, one after the other in each of the rounds, after one round that compiles.

    Prompts are random tokens, the same for all plans, and no token ends a text. Each plan is run as `generate` runs a
    single one. `progress` is called with 1 after each plan of each round, the first one included.

    Raises:
        UserError: more plans than can stay compiled, or prompts that do not fit at once.
        PlanError: a plan names a layer that the model lacks.
    """
    if len(plans) > MOST_PLANS:
        raise UserError(f"{len(plans)} plans; at most {MOST_PLANS} can be measured in turn, so make several runs")
    for plan in plans:
        plan.validate(model.num_layers)
    # Without its checkpoint's files, a tokenizer's end of text ends nothing.
    model = replace(model, store=None)
    rng = np.random.default_rng(SEED)
    shape = (sizes.batch_size, sizes.prompt_length)
    texts = [tuple(row) for row in rng.integers(0, model.config.vocab_size, shape).tolist()]
    _require_room(model, plans, texts, sizes)

    how: Any = {"settings": GenerationSettings(), "batch_size": len(texts), "room": sizes.new_tokens}

    def seconds(plan: Plan, new_tokens: int) -> float:
        prompts = [Prompt(text, new_tokens) for text in texts]
        began = perf_counter()
        found = list(generate(model, prompts, [plan], **how))
        took = perf_counter() - began
        if any(each.ending == "not finite" for each in found):
            raise UserError(f"NaN or infinite logits under plan {plan}; without texts there is nothing to time")
        return took

    first: list[list[float]] = [[] for _ in plans]
    whole: list[list[float]] = [[] for _ in plans]
    peaks: list[int | None] = [None for _ in plans]
    # The first round goes from the plan that needs least to the one that needs most: where a peak cannot be reset,
    # each is then seen. After it every other round goes backwards, so that no plan is always the last.
    by_need = sorted(range(len(plans)), key=lambda index: plans[index].cost)
    for number in range(rounds + 1):
        for index in by_need if number == 0 else range(len(plans))[:: 1 if number % 2 else -1]:
            begun = peak.begin()
            took = seconds(plans[index], 1), seconds(plans[index], sizes.new_tokens)
            reached = peak.since(begun)
            if number == 0 and begun == 0:
                reached = None  # the compiler's
            if number:
                first[index].append(took[0])
                whole[index].append(took[1])
            if reached is not None:
                peaks[index] = max(reached, peaks[index] or 0)
            progress(1)
    setting = setting_of(model, sizes)
    return [Latency(setting, tuple(a), tuple(b), c) for a, b, c in zip(first, whole, peaks, strict=True)]


def _require_room(model: Model, plans: Sequence[Plan], texts: Sequence[tuple[int, ...]], sizes: Sizes) -> None:
    """Raises UserError where memory has no room for all prompts at once: rates would be of fewer."""
    layout = lay_out(
        [text[:-1] for text in texts],
        sizes.new_tokens,
        slots=row_length(max(plan.attentions for plan in plans)),
        chunk_tokens=budgets().prefill_tokens,
        batch_size=len(texts),
        least_rows=budgets().least_rows,
        token_bytes=token_bytes(model),
        cache_bytes=budgets().cache_bytes,
    )
    if layout.shape.rows < len(texts) or len(layout.waves) > 1:
        raise UserError(
            f"keys and values of {len(texts)} prompts of {sizes.prompt_length} tokens do not fit the "
            f"{budgets().cache_bytes / 2**30:.2g} GiB set aside for them; give a smaller --batch-size"
        )
