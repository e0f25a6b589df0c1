"""train what a plan runs to say what the full model says, and store the result

examples:
  jaxpaint heal --model painter-16 --plan '0-8 12-15' --steps 50 \\
      --output healed --tasks painter_facts
  jaxpaint heal --model llama2-7b --plan '0-20 27-31' \\
      --calibration texts.jsonl --output llama2-7b-healed \\
      --tasks arc_easy,hellaswag --limit 200
  jaxpaint export llama2-7b-healed llama2-7b-short --plan '0-20 27-31'

The full model is the teacher, frozen. Adapters (LoRA) on the kernels of layers
that the plan runs learn its distributions of the next token on the texts, and
are merged into the weights. --adapters 0 trains all weights of these layers.
Embeddings, final norm, head and layers that the plan does not run stay as they
are. A tenth of the texts is held out (--held-out): it says what healing was
worth, as do --tasks, scored before and after. The output is a store as that of
jaxpaint convert: any command takes it as --model. The same command again goes
on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from jaxpaint.base.errors import UserError
from jaxpaint.base.limits import require
from jaxpaint.base.words import count, gigabytes, text_digest
from jaxpaint.cli.answers import give
from jaxpaint.cli.failures import work_is_kept
from jaxpaint.cli.healed import heading, of_tasks, of_texts, table, values
from jaxpaint.cli.loading import source_with_plan
from jaxpaint.cli.options import (
    add_model_options,
    add_plan_options,
    add_task_options,
    check_plan_options,
    plan_line,
)
from jaxpaint.plans.plan import Plan

if TYPE_CHECKING:
    from jaxpaint.engine.model import Model
    from jaxpaint.engine.source import Source
    from jaxpaint.tasks.main_metric import MainMetric
    from jaxpaint.tasks.requests import TaskRequests
    from jaxpaint.training.heal import Healed
    from jaxpaint.training.settings import HealingSettings

_OF_TASKS = ("limit", "num-fewshot", "batch-tokens")
# Options that are settings, by their names there.
_SETTINGS = {
    **{name: name for name in ("length", "steps", "batch_size", "learning_rate", "warmup", "temperature", "held_out")},
    **{"adapters": "rank", "training_seed": "seed"},
}


Healing = TypedDict(
    "Healing",
    {
        "plan": str,
        "from": str | None,
        "settings": dict[str, Any],
        "texts": dict[str, Any],
        "divergence": dict[str, float],
        "perplexity": dict[str, float],
        "measures": list[dict[str, Any]],
        "output": str,
    },
)
"""What healing was worth; `from` is the fingerprint of the model that was healed."""


class Foreseen(TypedDict):
    """With --dry-run: what would be trained, in words."""

    plan: str
    foreseen: list[str]
    output: str


Answer = Healing | Foreseen


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="the store to write (a folder)")
    parser.add_argument("--overwrite", action="store_true", help="replace a store that exists")
    parser.add_argument("--dry-run", action="store_true", help="say what would be trained, and in what memory")
    add_model_options(parser.add_argument_group("model"), parallel=False)
    add_plan_options(parser, "what is healed, such as '0-20 27-31'; this or a --strategy is needed", default="none")
    texts = parser.add_argument_group("texts to train on")
    texts.add_argument(
        "--calibration",
        metavar="FILE",
        type=Path,
        help='one text a line, or JSON lines with "text"; needed, but of painter-16 (default: its own texts)',
    )
    texts.add_argument(
        "--length", type=int, metavar="N", help="texts are joined and cut into rows of so many tokens (default: 256)"
    )
    texts.add_argument(
        "--held-out", type=float, metavar="SHARE", help="share of the texts that is not trained on (default: 0.1)"
    )
    training = parser.add_argument_group("training")
    training.add_argument(
        "--adapters", type=int, metavar="RANK", help="rank of the adapters (LoRA); 0 trains all weights (default: 16)"
    )
    training.add_argument("--steps", type=int, metavar="N", help="how often weights are changed (default: 200)")
    training.add_argument("--batch-size", type=int, metavar="N", help="rows a step (default: 8)")
    training.add_argument(
        "--learning-rate",
        type=float,
        metavar="RATE",
        help="the highest of the run (default: 1e-3, or 1e-4 with --adapters 0)",
    )
    training.add_argument(
        "--warmup",
        type=float,
        metavar="SHARE",
        help="share of the steps in which the learning rate grows to that (default: 0.1)",
    )
    training.add_argument(
        "--temperature",
        type=float,
        metavar="NUMBER",
        help="what logits of teacher and plan are divided by as they are compared (default: 1)",
    )
    training.add_argument(
        "--training-seed",
        type=int,
        metavar="N",
        help="of which texts are held out, their order, and the adapters' first weights (default: 0)",
    )
    tasks = parser.add_argument_group("tasks, scored before and after (--bos holds for the texts, too)")
    add_task_options(tasks, defaults=False, writes=False, keeps=False)


def run(options: argparse.Namespace) -> int:
    check_plan_options(options)
    if options.plan is None and options.strategy is None:
        raise UserError("healing needs a plan, and none is given; give --plan '0-20 27-31', or a --strategy")
    require(computing=True)
    settings, texts = _settings(options), _texts(options)

    from jaxpaint.base.folders import require_new
    from jaxpaint.models.checkpoint import is_store
    from jaxpaint.models.family import Config, require_lm_head
    from jaxpaint.training.heal import require_healable
    from jaxpaint.training.rows import dealt, tokens_of

    require_new(options.output, overwrite=options.overwrite, replaces=is_store)
    tasks = _tasks(options)

    def check(config: Config, plan: Plan) -> None:
        require_lm_head(config, "healing")
        if settings.length > config.max_position_embeddings:
            raise UserError(
                f"--length is {settings.length}; expected at most the model's {config.max_position_embeddings}"
            )

    options.tensor_parallel, options.layer_parallel, options.offload = 1, 1, False
    source, plan = source_with_plan(options, check)
    source = replace(source, mesh=None)  # one device, though there be others
    require_healable(source)
    tokens = tokens_of(source, options.bos or "auto", texts)
    dealt(source, tokens, settings.length, settings.held_out, settings.seed)  # what is wrong is told now
    if options.dry_run:
        foreseen = list(_foreseen(source, plan, tokens, settings, options.output))
        give(options, {"plan": str(plan), "foreseen": foreseen, "output": str(options.output)}, "\n".join(foreseen))
        return 0
    requests = _requests(options, source, tasks)
    started = time.perf_counter()
    model = source.loaded
    before = _scored(model, requests, [model.full_plan, plan], options.batch_tokens)
    healed = _healed(model, plan, tokens, settings, options)
    after = _scored(healed.model, requests, [plan], options.batch_tokens)
    lines = [*of_texts(healed), *of_tasks(before, after)]
    seconds = time.perf_counter() - started
    if options.json:
        give(options, {**healed.record, "measures": values(lines), "output": str(options.output)}, None)
    else:
        print("\n".join([heading(healed), *table(lines), *_ending(healed, settings, options.output, seconds)]))
    return 0


# --- What is given ----------------------------------------------------------------------------------------


def _settings(options: argparse.Namespace) -> HealingSettings:
    from jaxpaint.studies.settings import checked_options
    from jaxpaint.training.settings import HealingSettings

    numbers = checked_options({name: getattr(options, name.replace("-", "_")) for name in _OF_TASKS})
    for name, value in numbers.items():
        setattr(options, name.replace("-", "_"), value)
    given = {name: getattr(options, option) for option, name in _SETTINGS.items()}
    try:
        return HealingSettings(**{name: value for name, value in given.items() if value is not None})
    except UserError as error:
        raise UserError(_as_option(str(error))) from None


def _as_option(text: str) -> str:
    """A setting's error with the option's name."""
    name, _, rest = text.partition(" ")
    option = next((option for option, setting in _SETTINGS.items() if setting == name), name)
    return f"--{option.replace('_', '-')} {rest}"


def _texts(options: argparse.Namespace) -> tuple[str, ...]:
    from jaxpaint.base.bundled import MODEL
    from jaxpaint.studies.proposing import calibration_texts

    if options.calibration is None and options.model != MODEL:
        raise UserError(
            "healing needs texts, and none are given; give --calibration FILE, a text a line, or JSON lines with 'text'"
        )
    return calibration_texts(options.calibration)


def _tasks(options: argparse.Namespace) -> Mapping[str, Any]:
    """Loaded, if any are named."""
    from convert.sources import require_known

    require_known(options.model)
    names = [name.strip() for name in (options.tasks or "").split(",") if name.strip()]
    if not names:
        if options.data:
            raise UserError("--data is of --tasks, and none are named")
        return {}
    from jaxpaint.tasks.load import load_tasks
    from jaxpaint.tasks.local_data import in_folder, parse_data_option

    texts = options.data or []
    data = parse_data_option(texts if options.data_dir is None else in_folder(options.data_dir, names, texts))
    return load_tasks(names, data=data, num_fewshot=options.num_fewshot, trust=bool(options.trust_tasks))


def _requests(options: argparse.Namespace, source: Source, tasks: Mapping[str, Any]) -> Sequence[TaskRequests]:
    if not tasks:
        return ()
    from jaxpaint.tasks.encoding import Encoding
    from jaxpaint.tasks.main_metric import require_scored
    from jaxpaint.tasks.requests import load_requests

    found = load_requests(Encoding.of(source, options.bos or "auto"), tasks, limit=options.limit)  # type: ignore
    for each in found:
        require_scored(each)
    return found


def _foreseen(
    source: Source, plan: Plan, tokens: Sequence[Sequence[int]], settings: HealingSettings, output: Path
) -> Iterator[str]:
    from jaxpaint.training.heal import own_layers, states_bytes, trained_parameters
    from jaxpaint.training.memory import PARAMETER_BYTES
    from jaxpaint.training.rows import dealt

    rows = dealt(source, tokens, settings.length, settings.held_out, settings.seed)
    parameters, drawn = trained_parameters(source.config, plan, settings.rank), settings.steps * settings.batch_size
    layers = len(own_layers(plan)[1])
    kept = states_bytes(source.config, source.dtype.itemsize, rows.train, drawn)
    own = source.parameter_bytes * (1 + min(1, layers / source.num_layers) * bool(settings.rank))
    yield plan_line(str(plan), plan.cost, plan.depth)
    yield f"would train {_what(settings)} of {count(layers, 'layer')}: {parameters / 1e6:.2f} million parameters"
    yield (
        f"texts: {rows.train_texts} to train on ({count(len(rows.train.tokens), 'row')} of {settings.length} tokens), "
        f"{rows.held_texts} held out ({count(len(rows.held.tokens), 'row')})"
    )
    passes = drawn / len(rows.train.tokens)
    yield f"steps: {settings.steps} of {count(settings.batch_size, 'row')}, {passes:.2g} passes over the texts"
    yield (
        f"memory: about {gigabytes(int(own + parameters * PARAMETER_BYTES))} for weights, gradients and moments, and "
        f"{gigabytes(kept)} on the host for the full model's states; what the way back keeps comes on top"
    )
    yield f"output: {output}, {gigabytes(source.manifest['parameters']['bytes'])}"


# --- The work ---------------------------------------------------------------------------------------------


def _healed(
    model: Model, plan: Plan, tokens: Sequence[Sequence[int]], settings: HealingSettings, options: argparse.Namespace
) -> Healed:
    """Healed and stored by this process alone; ended, it leaves beside the output what it goes on from."""
    from jaxpaint.base.progress import bar, byte_bar
    from jaxpaint.training.checkpoints import TrainingCheckpoints
    from jaxpaint.training.heal import digest_of, heal

    same = [model.manifest["fingerprint"], model.computed_in, str(plan), asdict(settings), digest_of(tokens)]
    with _own_folder(options.output, text_digest(json.dumps(same))[:16]) as folder:
        with bar("healing", "steps") as start:
            advance, done = start(settings.steps), 0

            def progress(steps: int, loss: float) -> None:
                nonlocal done
                advance(steps - done, f"divergence {loss:.3f}")
                done = steps

            healed = heal(model, plan, tokens, settings, checkpoints=TrainingCheckpoints(folder), progress=progress)
        with byte_bar() as writing:
            healed.save(options.output, overwrite=options.overwrite, progress=writing)
    return healed


@contextmanager
def _own_folder(output: Path, name: str) -> Iterator[Path]:
    from jaxpaint.base.locks import remove_abandoned
    from jaxpaint.training.checkpoints import claimed, discard

    kept = output.with_name(f"{output.name}.checkpoints")
    try:
        with claimed(kept / name) as is_ours:
            if not is_ours:
                raise UserError(
                    f"another process is healing this into {output}; wait for it, or choose another --output"
                )
            try:
                yield kept / name
            except BaseException as error:
                if (kept / name).is_dir():
                    work_is_kept(error, f"{kept} keeps what is done, and the same command continues")
                raise
            discard(kept / name)
    finally:
        remove_abandoned(kept)
        with suppress(OSError):  # with what other settings had begun, or what is to go on
            kept.rmdir()


def _scored(
    model: Model, requests: Sequence[TaskRequests], plans: Sequence[Plan], batch_tokens: int | None
) -> dict[str, list[MainMetric]]:
    from jaxpaint.base.progress import say
    from jaxpaint.tasks.main_metric import main_metrics

    found = {}
    for each in requests:
        say(f"scoring {each.name} under {count(len(plans), 'plan')}")
        found[each.name] = main_metrics(model, each, plans, batch_tokens=batch_tokens)
    return found


def _what(settings: HealingSettings) -> str:
    return f"adapters of rank {settings.rank} on the kernels" if settings.rank else "all weights"


def _ending(healed: Healed, settings: HealingSettings, output: Path, seconds: float) -> Iterator[str]:
    texts = healed.record["texts"]
    yield (
        f"{_what(settings)} of {count(len(healed.layers), 'layer')}, {count(settings.steps, 'step')} of "
        f"{count(settings.batch_size, 'row')} of {settings.length} tokens, learning rate {settings.rate:g}, "
        f"{count(texts['train'], 'text')}, {texts['held_out']} held out"
    )
    yield f"healed in {seconds:.0f} s; the store {output} is a model as any other (--model {output})"
    if healed.plan.is_series and not healed.plan.shares_norms:
        yield f"export it: jaxpaint export {output} {output.name}-short --plan {shlex.quote(str(healed.plan))}"
