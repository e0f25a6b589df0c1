"""see how facts reach the last token: attention to a part of the prompt blocked

examples:
  jaxpaint flow --model painter-16 --plan '0-3 {4-11}*2 12-15'
  jaxpaint flow --model llama2-7b --facts known_1000.json --limit 200 \\
      --strategies skip,parallel --starts 8 --figure flow.png

Of the facts that a plan knows, how does the answer's probability change when
the last token does not attend to the subject, to the rest of the prompt, or to
itself: everywhere, and in windows of steps and of layers (Geva et al., arXiv
2304.14767). The full model is always asked, too. FILE is a JSON list of
{"prompt": …, "subject": …, "answer": …}, each prompt ending before its answer.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxpaint.base.errors import UserError
from jaxpaint.base.files import check_writable, write_whole
from jaxpaint.base.limits import require
from jaxpaint.base.words import count
from jaxpaint.cli.loading import loaded, model_config, model_store
from jaxpaint.cli.options import add_model_options, add_variant_options, variant_options
from jaxpaint.study.settings import checked_options
from jaxpaint.study.spec import variants_of

if TYPE_CHECKING:
    from jaxpaint.analysis.extraction import Extraction
    from jaxpaint.analysis.flow import Flow, Mean
    from jaxpaint.plans.strategies import Variant


def add(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser, parallel=False)
    parser.add_argument("--facts", type=Path, metavar="FILE", help="facts as JSON; painter-16 has its own")
    parser.add_argument("--limit", type=int, metavar="N", help="facts to ask for, the first ones (default: all)")
    parser.add_argument("--before", default="", metavar="T", help="examples in front of each prompt")
    parser.add_argument("--window", type=int, metavar="N", help="steps or layers blocked together (default: 9 in 48)")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the curves here, PNG or PDF")
    parser.add_argument("--json", action="store_true", help="print JSON")
    plans = parser.add_argument_group("plans")
    plans.add_argument("--plan", action="append", metavar="PLAN", help="a plan; may be given several times")
    add_variant_options(plans)


def run(options: argparse.Namespace) -> int:
    values = checked_options({**variant_options(options), "plans": options.plan})
    for name in ("limit", "window"):
        if (number := getattr(options, name)) is not None and number < 1:
            raise UserError(f"--{name} {number}: give 1 or more")
    if options.figure is not None:
        if options.figure.suffix not in (".png", ".pdf"):
            raise UserError(f"--figure {options.figure}: give a name that ends in .png or .pdf")
        check_writable(options.figure, "the figure")
    require(computing=True)
    config = model_config(options.model, options.revision)
    variants = variants_of(config.num_hidden_layers, **values)

    from jaxpaint.analysis.facts import read_facts
    from jaxpaint.analysis.flow import flows, window_size
    from jaxpaint.base.progress import bar
    from jaxpaint.engine.source import Source
    from jaxpaint.models.family import require_lm_head

    require_lm_head(config, "what comes next")
    if options.facts is not None:
        facts = read_facts(options.facts)
    elif options.model == "painter-16":
        from jaxpaint.painter.facts import facts as own

        facts = own()
    else:
        raise UserError("--facts FILE is lacking: a JSON list of {'prompt': …, 'subject': …, 'answer': …}")
    facts = facts[: options.limit]
    options.tensor_parallel, options.layer_parallel, options.offload = 1, 1, False
    source = Source.of(model_store(options.model, options.revision), options.dtype, options.weights)
    model = loaded(options, source, None)
    size = options.window or window_size(model.num_layers)
    with bar("blocking") as progress:
        found = flows(
            model,
            facts,
            [variant.plan for variant in variants],
            before=options.before,
            size=size,
            progress=progress,
        )
    if options.json:
        print(json.dumps([_values(each) for each in found]))
    else:
        print("\n\n".join(_shown(variant, each, size) for variant, each in zip(variants, found, strict=True)))
    if options.figure is not None:
        write_whole(_figure(found, size, options.figure.suffix[1:]), options.figure)
    return 0


def _shown(variant: Variant, flow: Flow, size: int) -> str:
    from jaxpaint.analysis.facts import SETS

    known = int(flow.known.sum())
    known, asked = int(flow.known.sum()), count(len(flow.known), "fact")
    head = f"{variant.label}: plan {flow.plan}"
    if not known:
        return f"{head}\nnone of {asked} known, so there is nothing to block"
    lines = [
        head,
        f"{known} of {asked} known; mean change of the answer's probability, per cent",
        f"{'last token blocked from':<24}" + "".join(f"{name:>18}" for name in SETS),
        f"{'  in every event':<24}" + _cells(flow.everywhere, 0),
        f"{'  answers left':<24}" + "".join(f"{share:>18.3f}" for share in flow.left),
    ]
    for name, mean in (("step", flow.by_depth), ("layer", flow.by_layer)):
        if name == "step" or not flow.in_order:
            lines.append(f"{size} {name}s at once, around")
            lines += [f"{f'  {name} {at}':<24}" + _cells(mean, at) for at in range(len(mean.value))]
    if flow.extraction is not None:
        shares = "  ".join(f"{name} {share:.2f}" for name, share in flow.extraction.shares.items())
        lines.append(f"answer on top of an update: {shares}")
    for verdict in flow.verdicts:
        lines.append(f"{verdict.answer}: {verdict.claim}")
        if verdict.prompts > 1:
            found = f"{verdict.mean:+.1f} ± {_error(verdict.stderr)} over {count(verdict.prompts, 'prompt')}"
            lines.append(f"    {found} (below {verdict.below:g} where it holds)")
    return "\n".join(lines)


def _cells(mean: Mean, at: int) -> str:
    """Means and two standard errors, one for each key set."""
    both = zip(mean.value[at], mean.stderr[at], strict=True)
    return "".join(f"{value:>10.1f} ±{_error(error):>6}" for value, error in both)


def _error(stderr: float) -> str:
    """Two standard errors, of one number none."""
    return f"{2 * stderr:.1f}" if math.isfinite(stderr) else "-"


def _figure(found: Sequence[Flow], size: int, kind: str) -> bytes:
    from jaxpaint.analysis.facts import SETS
    from jaxpaint.report.figures.flow import FlowCurves, flow_figure

    curves = []
    for each in found:
        if each.known.any():
            curves.append(FlowCurves(str(each.plan), "step", *each.by_depth))
            curves.append(FlowCurves(str(each.plan), "layer", *each.by_layer))
    if not curves:
        raise UserError("no plan knows any of the facts, so there is no figure to draw")
    return flow_figure(curves, SETS, size, f"the facts that the plan knows of {len(found[0].known)}", kind)


def _values(flow: Flow) -> dict[str, Any]:
    from jaxpaint.analysis.facts import SETS

    def listed(mean: Mean) -> dict[str, Any]:
        return {"value": _numbers(mean.value), "stderr": _numbers(mean.stderr)}

    return {
        "plan": str(flow.plan),
        "sets": SETS,
        "known": flow.known.tolist(),
        "everywhere": listed(flow.everywhere),
        "left": _numbers(flow.left),
        "by_step": listed(flow.by_depth),
        "by_layer": listed(flow.by_layer),
        "extraction": None if flow.extraction is None else _extraction(flow.extraction),
        "verdicts": [
            {**asdict(each), "mean": _numbers(each.mean), "stderr": _numbers(each.stderr)} for each in flow.verdicts
        ],
    }


def _extraction(found: Extraction) -> dict[str, Any]:
    rates = {name: _numbers(getattr(found, name).mean(axis=1)) for name in ("attention", "mlp", "steps")}
    return {"shares": found.shares, "rates": rates}


def _numbers(values: Any) -> Any:
    """JSON has no NaN, and NumPy's arrays are not its own."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    if isinstance(values, list):
        return [_numbers(each) for each in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values
