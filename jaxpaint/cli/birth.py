"""train a two-layer model from nothing, and watch its induction head being born

examples:
  jaxpaint birth
  jaxpaint birth --width 128 --length 128 --batch 128 --learning-rate 0.05 \\
      --arms freezes --freeze W_O2=300 --seeds 1
  jaxpaint birth --loss all --feed-forward linear --arms none
  jaxpaint birth --model general --layers 2 --heads 4

The system of "Birth of a Transformer: A Memory Viewpoint" (arXiv 2306.00802),
about three minutes on two cores: many arms train at once (seeds, matrices that
are frozen at first, other texts, another layer plan), what each matrix stores
is read off step by step, and the paper's claims get a verdict. It writes
birth-report/: birth.md, figures, curves as CSV. The same command again goes on
where a killed one stopped.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from jaxpaint.base.errors import UserError
from jaxpaint.cli.answers import give
from jaxpaint.studies.values import SEVERAL_SEEDS

ARMS = ("freezes", "one-layer", "texts", "plans")
MEMORIES = ("W_K1", "W_K2", "W_O2", "W_F")


class Answer(TypedDict):
    """The paper's claims with their verdicts; the report's folder has the curves."""

    report: str
    seconds: float
    findings: list[dict[str, str]]


def add(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model", choices=("small", "general"), default="small", help="attention alone, or norms, heads and a network"
    )
    model.add_argument("--width", type=int, metavar="N", help="(default: 128, general 64)")
    model.add_argument("--layers", type=int, metavar="N", help="of the general model (default: 2)")
    model.add_argument("--heads", type=int, metavar="N", help="of the general model (default: 4)")
    model.add_argument(
        "--positions", choices=("random", "sinusoidal", "rotary"), help="rotary: in the first layer (default: random)"
    )
    model.add_argument("--start", choices=("default", "orthogonal"), help="of the weights (default: PyTorch's)")
    model.add_argument("--feed-forward", choices=("none", "linear", "mlp"), help="W_F in the second layer")
    model.add_argument("--train-embeddings", action="store_true", help="train w_E and w_U too")

    texts = parser.add_argument_group("texts")
    texts.add_argument("--length", type=int, metavar="N", help="tokens of a text (default: 32, general 64)")
    texts.add_argument(
        "--triggers", choices=("fixed", "random"), help="the most frequent tokens, or drawn for each text"
    )
    texts.add_argument("--trigger-count", type=int, metavar="N", help="(default: 5)")
    texts.add_argument("--skip-frequent", type=int, metavar="N", help="pass N frequent tokens over: rare triggers")
    texts.add_argument("--outputs", choices=("uniform", "bigram"), help="what may follow a trigger (default: uniform)")
    texts.add_argument("--held-out-outputs", action="store_true", help="test on outputs that training texts never have")

    training = parser.add_argument_group("training")
    training.add_argument("--steps", type=int, metavar="N", help="(default: 300, general 400)")
    training.add_argument("--batch", type=int, metavar="N", help="fresh texts a step (default: 32)")
    training.add_argument("--optimizer", choices=("sgd", "adamw"), help="(default: sgd, general adamw)")
    training.add_argument("--learning-rate", type=float, metavar="RATE", help="(default: 0.1, general 0.01)")
    training.add_argument("--weight-decay", type=float, metavar="RATE", help="(default: 1e-4, general 0.01)")
    training.add_argument("--loss", choices=("in-context", "all"), help="positions that it is taken over")
    training.add_argument("--seeds", metavar="NUMBERS", help=f"of weights and texts; {SEVERAL_SEEDS} (default: 3)")
    training.add_argument(
        "--arms",
        metavar="NAME,NAME",
        help=f"beside the one with nothing frozen: {', '.join(ARMS)}, or none (default: all)",
    )
    training.add_argument(
        "--freeze",
        metavar="MATRIX=STEP",
        action="append",
        help=f"an arm with one of {', '.join(MEMORIES)} frozen to a step, or =never released; may be repeated",
    )

    plans = parser.add_argument_group("layer plans")
    plans.add_argument("--plan", metavar="PLAN", action="append", help="try this one during training; may be repeated")
    plans.add_argument(
        "--ideal-b", type=float, metavar="NUMBER", help="sharpness of the written-down head (default: 10)"
    )
    plans.add_argument("--ideal-gamma", metavar="NUMBER,NUMBER", help="scales of what it writes (default: 1,3,10)")

    parser.add_argument(
        *("-o", "--output"), metavar="DIR", type=Path, default=Path("birth-report"), help="(default: birth-report)"
    )


def run(options: argparse.Namespace) -> int:
    from jaxpaint.base.limits import require

    require(computing=True)
    settings = _settings(options)
    from jaxpaint.base.compilation import enable_persistent_cache
    from jaxpaint.base.folders import require_new
    from jaxpaint.base.progress import bar
    from jaxpaint.birth.page import is_ours, write
    from jaxpaint.birth.run import run_birth
    from jaxpaint.birth.spread import cores_as_devices
    from jaxpaint.birth.tables import summary

    cores_as_devices(max(map(len, settings.groups().values())))
    require_new(options.output, overwrite=True, replaces=is_ours)
    enable_persistent_cache()
    unfinished = options.output.with_name(f"{options.output.name}.unfinished")
    with bar("birth", "steps") as start:
        opened: dict[str, Any] = {}

        def progress(name: str, steps: int):
            opened[name] = start(steps)
            return lambda amount, note: opened[name](amount, f"{name}, {note}")

        outcome = run_birth(settings, unfinished, progress)
    page = write(outcome, options.output, shlex.join(["jaxpaint", *sys.argv[1:]]))
    answer: Answer = {
        "report": str(page),
        "seconds": outcome.seconds,
        "findings": [
            {"claim": found.claim, "verdict": found.verdict, "evidence": found.evidence} for found in outcome.findings
        ],
    }
    give(options, answer, f"{summary(outcome)}\n\nreport: {page}")
    return 0


def _settings(options: argparse.Namespace):
    """Raises UserError for what cannot be, before anything is computed."""
    from jaxpaint.base.numbers import finite
    from jaxpaint.birth.data import DataSettings
    from jaxpaint.birth.settings import Settings
    from jaxpaint.studies.values import checked, count_or_numbers

    given = {
        "width": options.width,
        "layers": options.layers,
        "heads": options.heads,
        "positions": options.positions,
        "start": options.start,
        "feed_forward": options.feed_forward,
        "length": options.length,
        "steps": options.steps,
        "rows": options.batch,
        "optimizer": options.optimizer,
        "learning_rate": options.learning_rate,
        "weight_decay": options.weight_decay,
        "loss": options.loss,
        "embeddings": options.train_embeddings or None,
        "seeds": None if options.seeds is None else checked("--seeds", options.seeds, count_or_numbers),
        "kinds": _kinds(options.arms),
        "freezes": dict(map(_freeze, options.freeze)) if options.freeze else None,
        "plans": tuple(options.plan) if options.plan else None,
        "ideal_b": options.ideal_b,
        "ideal_gamma": tuple(map(finite, options.ideal_gamma.split(","))) if options.ideal_gamma else None,
    }
    texts = {
        "triggers": options.triggers,
        "count": options.trigger_count,
        "skip": options.skip_frequent,
        "outputs": options.outputs,
        "held_out": options.held_out_outputs or None,
    }
    data = DataSettings(**{name: value for name, value in texts.items() if value is not None})
    settings = Settings.general if options.model == "general" else Settings
    return settings(data=data, **{name: value for name, value in given.items() if value is not None})


def _kinds(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    found = () if text == "none" else tuple(part.strip() for part in text.split(","))
    for name in found:
        if name not in ARMS:
            raise UserError(f"--arms {name} is none of {', '.join(ARMS)}")
    return found


def _freeze(text: str) -> tuple[str, int]:
    from jaxpaint.base.numbers import whole
    from jaxpaint.birth.layers import NEVER

    name, equals, step = text.partition("=")
    if name not in MEMORIES or not equals:
        raise UserError(f"--freeze {text}; expected one of {', '.join(MEMORIES)} and a step, such as W_O2=300")
    return name, NEVER if step == "never" else whole(step)
