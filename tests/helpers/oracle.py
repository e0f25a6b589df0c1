"""The executors' oracle: what a plan means in plain Python, layer by layer, sharing nothing with what it checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_never

import jax
import jax.numpy as jnp
from jax import Array

from jaxpaint.plans.plan import Layer, Node, Parallel, Plan, Repeat, Series, Weighted


def run_slowly(block: Callable[..., Array], stacked: Any, plan: Plan, x: Array, context: Any) -> tuple[Array, Array]:
    """`(x, states)` as `jaxpaint.engine.compiled.run_with_states` gives, in plain Python, one layer after the other."""

    def apply(node: Node, x: Array) -> tuple[Array, list[Array]]:
        match node:
            case Layer(index, part, beside):
                how: dict[str, Any] = {} if part == "whole" else {"part": part}
                if beside is not None:
                    how["beside"] = jax.tree.map(lambda leaf: leaf[beside], stacked)
                x = block(jax.tree.map(lambda leaf: leaf[index], stacked), x, context, **how)
                return x, [x]
            case Series(items):
                states: list[Array] = []
                for item in items:
                    x, inner = apply(item, x)
                    states += inner
                return x, states
            case Repeat(body, times):
                return apply(Series((body,) * times), x)
            case Parallel(branches, combine):
                outputs = jnp.stack([apply(branch, x)[0].astype(jnp.float32) for branch in branches])
                y = outputs.mean(axis=0) if combine == "mean" else x + (outputs - x).sum(axis=0)
                return y.astype(x.dtype), [y.astype(x.dtype)]
            case Weighted(body, weight):
                y = x + weight * (apply(body, x)[0].astype(jnp.float32) - x)
                return y.astype(x.dtype), [y.astype(x.dtype)]
            case _:
                assert_never(node)

    result, states = apply(plan.root, x)
    return result, jnp.stack([x, *states])
