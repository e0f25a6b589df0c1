"""Information flow routes through a run of any plan: of which parts a prediction's state is made, and those of which.

Every state is a sum of parts, and each has a share of it (`jaxpaint.analysis.shares`). States are nodes and shares are
edges; from a prediction's last state a route leads over all edges above a threshold.

- The state after attention: the state before it, the residual, and each head's part from each source token. An edge
  adds up its heads; a token's attention to itself is an edge beside the residual.
- The state after a layer: that after attention, and what the feed-forward wrote. Where both halves read the same state
  (GPT-NeoX) there is none between them, and the state after the layer has all of these parts.
- A join, where an averaged group ends: each branch's state over the number of branches. Of `sum{}`: the state before
  the group, and what each branch added.
- A bias of attention's output comes from no token, and is a part of its own.

Nodes carry the numbers of events, not of layers: a layer that runs three times is there three times. Ferrando and
Voita, arXiv 2403.00824, for layers in order; groups and repeats are ours.
"""

from __future__ import annotations

import math
import operator
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxpaint.analysis.route_graph import Graph, RouteEdge, RouteNode
from jaxpaint.base.errors import UserError
from jaxpaint.engine.interventions import Knockout, places
from jaxpaint.engine.run import Run
from jaxpaint.models.family import require_decoder
from jaxpaint.plans.plan import Plan

if TYPE_CHECKING:
    import pandas as pd

THRESHOLD = 0.04  # as the paper's tool has it


@dataclass(frozen=True)
class Routes:
    """What a token's last state is made of: the nodes that edges above `threshold` lead to from it, the last node.

    Nodes are in the order that they run in, edges in that of their targets. Shares of one target add up to 1 if they
    were `renormalised`, else with those that were left out; a target none of whose shares is above the threshold is an
    end. `left_out` are the coordinates that no share counts, `texts` the tokens as parts of the text, where the model
    has a tokenizer.
    """

    plan: Plan
    tokens: tuple[int, ...]
    texts: tuple[str, ...] | None
    position: int
    threshold: float
    renormalised: bool
    left_out: tuple[int, ...]
    nodes: tuple[RouteNode, ...]
    edges: tuple[RouteEdge, ...]

    @cached_property
    def into(self) -> tuple[tuple[RouteEdge, ...], ...]:
        """For each node, by its place, the edges that lead into it, the largest share first."""
        found: list[list[RouteEdge]] = [[] for _ in self.nodes]
        for edge in self.edges:
            found[edge.target].append(edge)
        return tuple(tuple(sorted(each, key=lambda edge: -edge.share)) for each in found)

    def frame(self) -> pd.DataFrame:
        """A row for each edge, with what its source and its target are."""
        import pandas as pd

        columns: dict[str, Any] = {name: [getattr(edge, name) for edge in self.edges] for name in ("kind", "share")}
        for end in ("source", "target"):
            places = [getattr(edge, end) for edge in self.edges]
            columns[end] = places
            for field in fields(RouteNode):
                values = [getattr(self.nodes[place], field.name) for place in places]
                # A column of whole numbers some of which are lacking.
                columns[f"{end}_{field.name}"] = values if field.name == "kind" else pd.array(values, dtype="Int64")
        return pd.DataFrame(columns)

    to_frame = frame

    def to_json(self) -> dict[str, Any]:
        """Lists and dicts of plain values; nodes have an `id`, by which edges name them."""
        texts = self.texts or (None,) * len(self.tokens)
        return {
            "plan": str(self.plan),
            "tokens": [{"id": token, "text": text} for token, text in zip(self.tokens, texts, strict=True)],
            "position": self.position,
            "threshold": self.threshold,
            "renormalised": self.renormalised,
            "left_out": list(self.left_out),
            "nodes": [{"id": number, **asdict(node)} for number, node in enumerate(self.nodes)],
            "edges": [{**asdict(edge), "heads": list(edge.heads)} for edge in self.edges],
        }


def routes(
    run: Run,
    position: int = -1,
    row: int = 0,
    *,
    threshold: float = THRESHOLD,
    renormalise: bool = True,
    without: int = 0,
) -> Routes:
    """What the state is made of that predicts the token after `position`, in one row of a run.

    Edges of at most `threshold` are left out, and the others' shares divided by their sum if `renormalise`. A threshold
    of 0 leaves out parts of zeros alone. Some models have a few coordinates hundreds of times as large as the others,
    which are only passed on and so count for the residual: `without` leaves out so many, those that are largest
    anywhere in the row.

    What the run does not hold of attention and sublayers' outputs is computed in one pass, of all events and rows.

    Raises:
        UserError: an encoder, whose norms lie on the path; a run whose states were changed between steps, or whose
            attention was scaled or replaced, which no head wrote; numbers out of range; too little memory.
    """
    _check(run, threshold, without)
    if not 0 <= _whole("row", row) < len(run.lengths):
        raise UserError(f"row {row} is not among the run's {len(run.lengths)}, from 0")
    length = int(run.lengths[row])
    (place,) = places([_whole("position", position)], length)
    run.keep("reads", "attention", "values", "attention_out", "mlp_out")
    left_out = _largest(run, row, length, without)
    counted = jnp.ones(run.model.config.hidden_size).at[jnp.array(left_out, jnp.int32)].set(0.0)
    graph = Graph(run, row, place, counted, threshold, renormalise)
    tokens = tuple(run.inputs.tokens[row, :length].tolist())
    texts = run.texts(row) if run.model.store is not None else None
    found = graph.nodes(), tuple(graph.edges())
    return Routes(run.plan, tokens, texts, place, threshold, renormalise, left_out, *found)


def _largest(run: Run, row: int, length: int, count: int) -> tuple[int, ...]:
    """So many coordinates, those that are furthest from 0 in any state of the row."""
    own: list[Float[Array, "E S D"]] = [
        each[:, row, :length].astype(jnp.float32) for each in (run.reads, run.attention_out, run.mlp_out)
    ]
    sizes = jnp.maximum(jnp.abs(own[0]), jnp.abs(sum(own[1:], own[0]))).max(axis=(0, 1))
    return tuple(sorted(np.argsort(-np.asarray(sizes), kind="stable")[:count].tolist()))


def _check(run: Run, threshold: float, without: int) -> None:
    require_decoder(run.model.config, "routes")
    traits: Any = run.model.config.traits  # type: ignore[attr-defined]
    if traits.norms[1]:
        raise UserError(f"a {run.model.config.model_type} norms attention's output, which mixes its heads")
    changed = {each.what for each in run.interventions if not isinstance(each, Knockout)}
    if "state" in changed:
        raise UserError("a state was changed between steps, which no event wrote: its parts would not add up")
    if "attention" in changed:
        raise UserError("attention was scaled or replaced, so it is no longer the sum of its heads")
    if not 0 <= _number(threshold) < 1:
        raise UserError(f"threshold is {threshold}; give 0, for all edges, or more, below 1")
    size = run.model.config.hidden_size
    if not 0 <= _whole("without", without) < size:
        raise UserError(f"without is {without}; give how many of the {size} coordinates to leave out, below {size}")


def _number(value: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _whole(name: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise UserError(f"{name} is {value!r}; give one whole number") from None
