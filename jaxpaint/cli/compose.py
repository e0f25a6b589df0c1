"""make one model of layers of several, or merge layers into one

examples:
  jaxpaint compose --model A=llama2-7b --model B=llama2-7b-chat \\
      --layers 'A:0-31 B:0-31' --output both
  jaxpaint eval --model both --plan 'A:0-15 B:16-31' --tasks arc_easy
  jaxpaint compose --model llama2-7b --layers '0-20 merge(21-24) 25-31' \\
      --output collapsed

The output is a store as that of jaxpaint convert: any command takes it as
--model. Its layers are numbered anew, in the order of --layers; plans may name
them instead, as above. So one store of all layers of two checkpoints of one
architecture serves any plan of both. All that is no layer, and the tokenizer,
is the first model's. merge( ) adds to the first layer the differences of the
others from it (LaCo).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from typing_extensions import TypedDict

from jaxpaint.base.errors import UserError
from jaxpaint.base.limits import require
from jaxpaint.base.words import count
from jaxpaint.cli.answers import give

ONLY = "the model"


class Answer(TypedDict):
    """The store that was made, and by their names what it was made of."""

    models: dict[str, str]
    layers: str
    num_layers: int
    store: str


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="[NAME=]MODEL",
        help="a converted store, a folder or a hub id, and what --layers calls it, which one model alone does not "
        "need; may be given several times",
    )
    parser.add_argument(
        "--layers",
        metavar="LAYERS",
        required=True,
        help="the new model's, in order: A's layers 0 to 15 are A:0-15, several as one merge(A:16-18); such as "
        "'A:0-15 merge(A:16-18) B:8-23'",
    )
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="the store to write (a folder)")
    parser.add_argument("--overwrite", action="store_true", help="replace a store that exists")


def run(options: argparse.Namespace) -> int:
    models = _models(options.model)
    require(computing=True)
    from convert import compose, config_for, store_for
    from convert.composing import composed_config
    from convert.composition import composition
    from jaxpaint.base.folders import require_new
    from jaxpaint.base.progress import byte_bar
    from jaxpaint.models.checkpoint import is_store

    origins = composition(options.layers, models)  # what cannot be is told before anything is converted
    composed_config({name: config_for(model) for name, model in models.items()}, origins)
    require_new(options.output, overwrite=options.overwrite, replaces=is_store)
    with byte_bar() as progress:
        stores = {name: store_for(model, progress=progress) for name, model in models.items()}
        how = {"overwrite": options.overwrite, "progress": progress}
        store = compose(stores, options.layers, options.output, **how)
    answer: Answer = {"models": models, "layers": options.layers, "num_layers": len(origins), "store": str(store)}
    give(options, answer, f"composed {count(len(origins), 'layer')} into {store}")
    return 0


def _models(given: Sequence[str]) -> dict[str, str]:
    """By their names. Raises UserError for one without where there are several, or a name given twice."""
    found: dict[str, str] = {}
    for each in given:
        named = re.fullmatch(r"([A-Za-z]\w*)=(.+)", each)
        if named is None and len(given) > 1:
            raise UserError(f"--model {each}: of several models each needs a name, such as A={each}")
        name, model = (named[1], named[2]) if named else (ONLY, each)
        if name in found:
            raise UserError(f"--model {each}: {name} is {found[name]} already")
        found[name] = model
    return found
