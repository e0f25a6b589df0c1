"""All of a model over rows of texts or images, compiled: embedding, the layers of a plan, and what reads their end."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxpaint.base.budgets import on_cpu
from jaxpaint.base.compilation import jit
from jaxpaint.engine import compiled, interpreted
from jaxpaint.engine import layers as stack
from jaxpaint.engine.layers import are_offloaded, layer_stack
from jaxpaint.engine.rows import Inputs
from jaxpaint.plans.nodes import fold
from jaxpaint.plans.plan import Plan

# Of a group whose layers run at once: tokens of all of its branches together.
AT_ONCE_TOKENS = 16384


def _merge_for(plan: Plan, graphdef: Any, state: Any, at_once: bool) -> Any:
    """The model to compile a plan into. Kernels are not there under `vmap`: cuDNN's pairs rows with wrong masks."""
    model, vmapped = nnx.merge(graphdef, state), at_once and not plan.is_series
    if vmapped and model.config.capabilities.decoder:
        model.kernel = None
    for _, module in nnx.iter_modules(model.blocks):
        if hasattr(module, "products_apart"):
            module.products_apart = not on_cpu()
        if vmapped and hasattr(module, "implementation") and module.implementation == "cudnn":
            module.implementation = "einsum"
    return model


def groups_at_once(plan: Plan, blocks: Any, tokens: int) -> bool:
    """Whether groups of a compiled plan run at once, by `vmap`, on so many tokens.

    Not on a CPU, which has no room to. Elsewhere the group's weights are copied out of the stack for it: worth it where
    layers are so small that starting one after the other takes longer.
    """
    widest = fold(
        plan.root,
        layer=lambda _: 1,
        series=lambda _, widths: max(widths),
        parallel=lambda _, widths: sum(widths),
        repeat=lambda _, width: width,
        weighted=lambda _, width: width,
    )
    if on_cpu() or are_offloaded(blocks):
        return False
    return stack.layer_bytes(blocks) <= stack.LARGE_LAYER_BYTES and widest * tokens <= AT_ONCE_TOKENS


def run_rows(model: Any, instructions: Array, length: Array, room: int, inputs: Inputs) -> Float[Array, "B S D"]:
    block, stacked = layer_stack(model)
    return interpreted.run_program(block, stacked, instructions, length, room, *start(model, inputs))


def start(model: Any, inputs: Inputs) -> tuple[Float[Array, "B S D"], Any]:
    """The first hidden state of a merged `nnx` model, and the context that its layers read."""
    tokens, lengths, token_types = inputs
    types = () if token_types is None else (token_types,)
    return model.embed(tokens, jnp.arange(tokens.shape[1])[None], *types), model.row_context(lengths, tokens.shape[1])


@jit("graphdef", "room")
def logits(graphdef, state, instructions, length, room, inputs):
    model = nnx.merge(graphdef, state)
    return model.logits(run_rows(model, instructions, length, room, inputs))


@jit("graphdef")
def logits_of(graphdef, state, states):
    return nnx.merge(graphdef, state).logits(states)


@jit("graphdef", "room")
def pooled(graphdef, state, instructions, length, room, inputs):
    model = nnx.merge(graphdef, state)
    return model.pooled(run_rows(model, instructions, length, room, inputs), inputs.lengths)


@jit("graphdef")
def class_logits(graphdef, state, pooled):
    return nnx.merge(graphdef, state).class_logits(pooled)


@jit("graphdef", "plan", "mesh")
def static_logits(graphdef, state, plan, inputs, mesh=None):
    at_once = groups_at_once(plan, state["blocks"], math.prod(inputs[0].shape[:2]))
    model = _merge_for(plan, graphdef, state, at_once)
    block, stacked = layer_stack(model)
    return model.logits(compiled.run(block, stacked, plan, *start(model, inputs), at_once=at_once, mesh=mesh))


@jit("graphdef", "plan", "mesh")
def hidden_states(graphdef, state, plan, inputs, mesh=None):
    at_once = groups_at_once(plan, state["blocks"], math.prod(inputs[0].shape[:2]))
    model = _merge_for(plan, graphdef, state, at_once)
    block, stacked = layer_stack(model)
    return compiled.run_with_states(block, stacked, plan, *start(model, inputs), at_once=at_once, mesh=mesh)[1]
