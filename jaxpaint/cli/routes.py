"""show the routes by which tokens reach what a plan says next

examples:
  jaxpaint routes --model painter-16 --plan '0-3 {4-11}*2 12-15' \\
      --text 'question : what is the animal of lumor ? answer :'
  jaxpaint routes --model smollm2 --text 'Beats Music is owned by' --without 3

From the last state down, what share of it the state before has, the layer's
feed-forward, and what its attention brought from which token; at a join, the
last layers of the branches. Then the same of all those. Shares of at most
--threshold are left out. Ferrando and Voita, arXiv 2403.00824.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from jaxpaint.base.limits import require
from jaxpaint.base.shown import visible
from jaxpaint.base.words import count
from jaxpaint.cli.answers import give
from jaxpaint.cli.loading import source_with_plan
from jaxpaint.cli.options import add_model_options, add_plan_options, add_text_option, check_plan_options, plan_line

if TYPE_CHECKING:
    from jaxpaint.analysis.route_graph import RouteNode
    from jaxpaint.analysis.routes import Routes

WIDTH = 80


class Answer(TypedDict):
    """`nodes` of the graph have an id, by which `edges` name them; shares are of what flows into a node."""

    plan: str
    tokens: list[dict[str, Any]]
    position: int
    threshold: float
    renormalised: bool
    left_out: list[int]
    nodes: list[dict[str, Any]]
    edges: list[dict[str, Any]]


TOKEN = 14  # characters; longer tokens are cut
HEAD = f"{'layer':>5}  {'event':>5}  {'token':<{TOKEN + 5}}before   mlp  attention to"
INDENT = " " * HEAD.index("attention to")
HELD = "\xa0"  # a space that lines are not broken at


def add(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser, parallel=False)
    add_text_option(parser, "the text to read")
    parser.add_argument("--position", type=int, default=-1, metavar="N", help="of the token (default: -1, the last)")
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.04,
        metavar="SHARE",
        help="shares above it are followed (default: %(default)s)",
    )
    parser.add_argument("--all-shares", action="store_true", help="do not divide shares by the sum of those followed")
    parser.add_argument(
        "--without", type=int, default=0, metavar="N", help="of the largest coordinates to leave out (default: none)"
    )
    add_plan_options(parser, "what runs, for example '0-8 {9-22} 23-31'")


def run(options: argparse.Namespace) -> int:
    check_plan_options(options)
    require(computing=True)
    from jaxpaint.analysis.routes import routes
    from jaxpaint.engine.interventions import places
    from jaxpaint.engine.next_tokens import encoded
    from jaxpaint.models.family import require_decoder

    options.tensor_parallel = options.layer_parallel = 1
    options.offload = False
    source, plan = source_with_plan(options, lambda config, _: require_decoder(config, "routes"))
    tokens = encoded(source, options.text)  # what cannot be read is told before the weights are
    places([options.position], len(tokens))
    seen = source.loaded.run([tokens], plan)
    found = routes(
        seen,
        options.position,
        threshold=options.threshold,
        renormalise=not options.all_shares,
        without=options.without,
    )
    give(options, found.to_json(), "\n".join(_lines(found)))
    return 0


def _lines(found: Routes) -> Iterator[str]:
    yield plan_line(str(found.plan), found.plan.cost, found.plan.depth)
    sizes = f"{count(len(found.nodes), 'node')}, {count(len(found.edges), 'edge')}"
    yield f"to what follows {_token(found, found.position)}, over shares above {found.threshold:g}: {sizes}"
    yield "(without states that are only passed on)"
    if found.left_out:
        numbers = ", ".join(map(str, found.left_out))
        yield from _wrapped(f"without {count(len(found.left_out), 'coordinate')}, the largest: {numbers}", "  ")
    yield HEAD
    for number, node in reversed(list(enumerate(found.nodes))):
        if node.kind in ("state", "join"):
            yield from _line(found, number)


def _line(found: Routes, number: int) -> list[str]:
    """Of a layer's state, with that of its attention, or of a join; none of a state that is passed on whole."""
    node, before, mlp, others = found.nodes[number], 0.0, 0.0, []
    for kind, source, share in sorted(_made_of(found, number), key=lambda part: -part[2]):
        if kind == "residual":
            before += share
        elif kind == "mlp":
            mlp += share
        else:
            others.append(f"{_source(found, node, source)} {share:.2f}".replace(" ", HELD))
    if node.kind == "state" and before and not (mlp or others):
        return []
    what, event = ("join", node.join) if node.layer is None else (node.layer, node.event)
    numbers = "".join(f"{share:>6.2f}" if share else "      " for share in (before, mlp))
    begin = f"{what:>5}  {event:>5}  {_token(found, node.position):<{TOKEN + 5}}{numbers}  "
    if not (before or mlp or others):
        others = ["nothing above the threshold"]
    return _wrapped(begin + ", ".join(others), INDENT)


def _made_of(found: Routes, number: int) -> Iterator[tuple[str, RouteNode, float]]:
    """The kinds, sources and shares of a node's parts, those of its attended state in that one's place."""
    for edge in found.into[number]:
        source = found.nodes[edge.source]
        if source.kind != "attention":
            yield edge.kind, source, edge.share
        for own in found.into[edge.source] if source.kind == "attention" else ():
            yield own.kind, found.nodes[own.source], own.share * edge.share


def _source(found: Routes, target: RouteNode, source: RouteNode) -> str:
    if source.kind == "bias":
        return "bias"
    if target.kind == "join":
        return f"join {source.join}" if source.layer is None else f"layer {source.layer}"
    return "itself" if source.position == target.position else _token(found, source.position)


def _token(found: Routes, position: int) -> str:
    """Such as `7 ' lumor'`."""
    text = visible(repr(found.texts[position])) if found.texts else str(found.tokens[position])
    return f"{position} {text if len(text) <= TOKEN else f'{text[: TOKEN - 1]}…'}"


def _wrapped(line: str, indent: str) -> list[str]:
    """Of at most 80 columns, broken at spaces that are not held."""
    lines = textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
    return [each.replace(HELD, " ") for each in lines]
