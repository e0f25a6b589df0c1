"""score texts under plans of a BERT, each token masked in turn

examples:
  jaxpaint masked --model google-bert/bert-base-uncased \\
      --text 'The capital of France is Paris.'
  jaxpaint masked --model google-bert/bert-large-uncased --text-file texts.txt \\
      --strategies skip,reverse,looped-parallel --plan '0-5 {6-17}*3 18-23'

Each token is masked by itself and predicted from all others. Shown are the mean
log-probability of a token (the pseudo-log-likelihood per token, arXiv
1910.14659) and the share of tokens that are the most likely ones at their
places. The full model is always scored, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from jaxpaint.base.errors import UserError
from jaxpaint.base.texts import read_text
from jaxpaint.base.words import count
from jaxpaint.cli.answers import give
from jaxpaint.cli.loading import model_config, model_source
from jaxpaint.cli.options import add_host_options, add_model_options, add_variant_options, variant_options
from jaxpaint.studies.settings import checked_options
from jaxpaint.studies.spec import numbered, variants_of

if TYPE_CHECKING:
    from jaxpaint.engine.masked import MaskedScores
    from jaxpaint.plans.strategies import Variant


class Scored(TypedDict):
    """`loglikelihood` is the mean log-probability of a masked token, None where it is no number."""

    plan: str
    label: str
    loglikelihood: float | None
    accuracy: float


class Answer(TypedDict):
    """The full model first, then every plan."""

    texts: int
    masked: int
    computed_in: str
    plans: list[Scored]


def add(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser, decoder=False)
    parser.add_argument(
        "--text", "--prompt", action="append", default=[], metavar="TEXT", help="a text; may be given several times"
    )
    parser.add_argument("--text-file", type=Path, metavar="FILE", help="texts, one a line")
    add_host_options(parser)
    add_variant_options(parser.add_argument_group("plans"))


def run(options: argparse.Namespace) -> int:
    values = checked_options(variant_options(options))
    texts = [*options.text, *(_lines(options.text_file) if options.text_file else [])]
    if not texts:
        raise UserError("there is no text to score; give --text or --text-file")
    config = model_config(options.model, options.revision)
    values["plans"] = numbered(values.get("plans", ()), options.model)
    variants = variants_of(config.num_hidden_layers, **values)

    from jaxpaint.base.progress import bar
    from jaxpaint.engine.masked import encode_texts, require_masked_head, score_masked

    require_masked_head(config)
    source = model_source(options)
    encoded = encode_texts(source, texts)
    model = source.loaded
    with bar("scoring") as progress:
        scores = score_masked(
            model,
            encoded.tokens,
            [variant.plan for variant in variants],
            mask_token=encoded.mask_token,
            special_tokens=encoded.special_tokens,
            progress=progress(encoded.masked),
        )
    answer: Answer = {
        "texts": len(texts),
        "masked": encoded.masked,
        "computed_in": model.computed_in,
        "plans": [
            {
                "plan": str(variant.plan),
                "label": variant.label,
                "loglikelihood": float(score.pseudo_loglikelihoods.sum() / score.masked.sum()),
                "accuracy": float(score.accuracy),
            }
            for variant, score in zip(variants, scores, strict=True)
        ],
    }
    head = f"{count(len(texts), 'text')}, {encoded.masked} tokens masked, {model.computed_in}"
    give(options, answer, f"{head}\n{_table(variants, scores)}")
    return 0


def _lines(file: Path) -> list[str]:
    found = [line.strip() for line in read_text(file).splitlines()]
    if not any(found):
        raise UserError(f"{file} has no text; write one a line")
    return [line for line in found if line]


def _table(variants: Sequence[Variant], scores: Sequence[MaskedScores]) -> str:
    names = ["strategy", *(variant.label for variant in variants)]
    plans = ["plan", *(str(variant.plan) for variant in variants)]
    width = max(map(len, names))
    lines = [f"{'log-prob.':>9}  {'accuracy':>8}"]
    for score in scores:
        mean = score.pseudo_loglikelihoods.sum() / score.masked.sum()
        lines.append(f"{mean:9.3f}  {score.accuracy:8.3f}" if mean == mean else f"{'not finite':>19}")
    return "\n".join(
        f"{numbers}  {name:<{width}}  {plan}" for numbers, name, plan in zip(lines, names, plans, strict=True)
    )
