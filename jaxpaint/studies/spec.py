"""What a study is: one model, many plans, many tasks, one results store. How it runs is `jaxpaint.studies.run`'s."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jaxpaint.base.errors import UserError, first_line
from jaxpaint.base.precision import WEIGHTS, require_float_weights
from jaxpaint.plans.names import Names
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.proposals import MEASURED
from jaxpaint.plans.shards import shard_of
from jaxpaint.plans.strategies import CUSTOM, EVERY, Variant, family, proposed, require_few
from jaxpaint.plans.strategies import starts as all_starts
from jaxpaint.studies import values
from jaxpaint.tasks.asking import Asking, refuse_both
from jaxpaint.tasks.own import OwnTask
from jaxpaint.training.settings import DECODER, TrainingSettings

ANALYSES = (
    *("similarity", "variance", "block_influence", "angular_distance"),
    *("logit_lens", "entropy", "agreement", "cka", "clock", "ridge_lens"),
)
ANALYSES_OF_PREDICTIONS = ("logit_lens", "entropy", "agreement", "ridge_lens")  # which take a model with a head
ANALYSIS_TASK = "lambada_openai"  # whose texts the paper's analyses run on
ANALYSIS_SAMPLES = 100
# Of all plans one by one. The paper's study of 80 layers has less than a million; what is beyond has no room in memory.
MAX_TOTAL_COST = 10_000_000
NOT_MEASURED: Mapping[str, Any] = MappingProxyType({})
_STRATEGIES = values.names_of(EVERY, "strategy", "strategies")


def _setting(kind: values.Kind, default: Any, help: str, metavar: str | None = None) -> Any:
    """A field whose values, as people write them, are of a kind; what --help says of it, and calls what it takes."""
    return field(default=default, metadata={"kind": kind, "help": help, "metavar": metavar})


@dataclass(frozen=True)
class StudySpec:
    """The settings of a study, each declared here alone: the command's options, the keys of its settings files with
    their schema, and the arguments in Python are all made of these (`jaxpaint.studies.settings`). Paths are as the user
    gave them.

    `starts` None is every start that the model has, a range those that are in it; `shard` (i, n) the i-th of n parts,
    1 <= i <= n; `plans` texts of plans, in which names of a composed model's layers become numbers at once; `analyses`
    run for the plans of `analysis_strategies` (none named: for all plans).

    In Python `plans` may be Plans, `tasks` tasks of one's own (`jaxpaint.tasks.own`), and `data` a mapping of tasks to
    files. Raises UserError for a value of another kind than its setting's.

    `jaxpaint.studies.settings.spec_from` makes one of options and a TOML file.
    """

    model: str = _setting(
        values.text,
        MISSING,
        "a converted store, a Hugging Face or Meta folder, a GGUF file, or a hub id (converted into a cache on first "
        "use); painter-16 comes with jaxpaint",
        "MODEL",
    )
    store: Path = _setting(  # noqa: RUF009
        values.path, MISSING, "the results store (SQLite), made or continued", "FILE"
    )
    tasks: tuple[str | OwnTask, ...] = _setting(
        values.tasks, (), "tasks, groups or task YAML files, by commas", "TASK,TASK"
    )
    revision: str | None = _setting(
        values.text, None, "branch, tag or commit of a hub id, as owner/name@NAME (default: main)", "NAME"
    )
    dtype: str = _setting(
        values.choice("auto", "float32", "bfloat16"),
        "auto",
        "of the computation; auto is float32 on CPU and bfloat16 on accelerators",
    )
    weights: str = _setting(
        values.choice(*WEIGHTS),
        "float",
        "what the layers' kernels are kept in: as --dtype says, or integers, in a half or a third of bfloat16's "
        "memory; not for fine-tuning",
    )
    tensor_parallel: int = _setting(
        values.whole(1),
        1,
        "devices that share each weight, for models larger than one device; the others share the rows",
        "N",
    )
    layer_parallel: int = _setting(
        values.whole(1),
        1,
        "lanes of devices that run the branches of parallel groups side by side, each with all weights",
        "N",
    )
    offload: bool = _setting(
        values.switch, False, "keep the layers' kernels in the host's memory, from which each comes as its layer runs"
    )
    data: tuple[str, ...] = _setting(
        values.data,
        (),
        "a local JSONL, CSV or Parquet file in place of a task's dataset; give it once per split",
        "TASK[:SPLIT]=FILE",
    )
    num_fewshot: int | None = _setting(values.whole(0), None, "examples in the prompt (default: the task's)", "N")
    limit: float | None = _setting(values.limit, None, "documents per task, or a fraction below 1 (default: all)", "N")
    bos: str = _setting(
        values.choice("auto", "on", "off"), "auto", "begin texts with the BOS token; auto leaves it to the tokenizer"
    )
    kv: str = _setting(
        values.choice("exact", "mean"),
        "exact",
        "keys and values while generating: each executed layer's own, or a parallel group's mean, as the paper's code "
        "has it",
    )
    strategies: tuple[str, ...] = _setting(_STRATEGIES, (), f"by commas, of {', '.join(EVERY)}", "NAME,NAME")
    starts: tuple[int, ...] | range | None = _setting(
        values.starts, None, "start layers; /3 for each third that the model has (default: all)", "NUMBERS"
    )
    seeds: tuple[int, ...] = _setting(
        values.count_or_numbers, tuple(range(10)), f"of random; {values.SEVERAL_SEEDS} (default: 10)", "NUMBERS"
    )
    loops: tuple[int, ...] = _setting(values.counts, (3,), "iterations of looped-parallel", "NUMBERS")
    times: tuple[int, ...] = _setting(values.counts, (2, 3), "of block-repeat", "NUMBERS")
    counts: tuple[int, ...] = _setting(
        values.counts, (), f"layers left out, or put in parallel, of {', '.join(MEASURED)}", "NUMBERS"
    )
    calibration: Path | None = _setting(  # noqa: RUF009
        values.path,
        None,
        'texts that those measure the model on: one a line, or JSON lines with "text" (painter-16 has its own)',
        "FILE",
    )
    plans: tuple[str, ...] = _setting(values.plans, (), "a plan of your own; may be given several times", "PLAN")
    analyses: tuple[str, ...] = _setting(
        values.names_of(ANALYSES, "analysis", "analyses"), (), f"by commas, of {', '.join(ANALYSES)}", "NAME,NAME"
    )
    analysis_strategies: tuple[str, ...] = _setting(
        _STRATEGIES, (), "run them on the plans of these strategies (default: on all)", "NAME,NAME"
    )
    analysis_samples: int = _setting(values.whole(1), ANALYSIS_SAMPLES, "texts to run them on, at most", "N")
    analysis_task: str = _setting(values.text, ANALYSIS_TASK, "whose texts", "TASK")
    shard: tuple[int, int] = _setting(
        values.shard, (1, 1), "the I-th of N parts of nearly equal work; I from 1 (default: all in one)", "I/N"
    )
    batch_tokens: int | None = _setting(values.whole(1), None, "tokens per batch (default: by device)", "N")
    trust_tasks: bool = _setting(
        values.switch, False, "let task YAML files of your own run the Python that they name (!function)"
    )
    max_length: int | None = _setting(
        values.whole(1), None, "longest text in tokens (default: the model's positions)", "N"
    )
    no_document_texts: bool = _setting(
        values.switch,
        False,
        "keep no questions and right answers in the store, which the report shows beside what flipped",
    )
    include_path: Path | None = _setting(  # noqa: RUF009
        values.path, None, "a folder with task YAML files of your own", "DIR"
    )
    apply_chat_template: bool | str = _setting(
        values.template,
        False,
        "write prompts by the checkpoint's chat template, or by the one of that name",
        "NAME",
    )
    system_instruction: str | None = _setting(values.text, None, "what the system says first", "TEXT")
    fewshot_as_multiturn: bool | None = _setting(
        values.true_or_false, None, "examples are turns of the chat (default: true with --apply-chat-template)", "BOOL"
    )
    gen_kwargs: Mapping[str, Any] | None = _setting(
        values.pairs,
        None,
        "generation settings, by commas or as JSON; they go before a task's own and the checkpoint's",
        "NAME=VALUE",
    )
    samples: Mapping[str, Sequence[int]] | None = _setting(
        values.samples, None, "of tasks the documents to ask, by index, as JSON or a file of it", "JSON"
    )
    seed: tuple[int | None, ...] | None = _setting(
        values.seeds,
        None,
        "of Python, NumPy, drawn tokens and few-shot examples, by commas, or one for all (default: 0,1234,1234,1234)",
        "SEEDS",
    )

    def __post_init__(self) -> None:
        for setting in fields(self):
            if (value := getattr(self, setting.name)) is not setting.default:
                checked = values.checked(setting.name, value, setting.metadata["kind"])
                object.__setattr__(self, setting.name, checked)
        object.__setattr__(self, "plans", numbered(self.plans, self.model))
        require_few_plans(self)

    @property
    def asking(self) -> Asking:
        """How documents are asked. Raises UserError for settings that do not go together."""
        names = [setting.name for setting in fields(Asking)]
        asking = Asking(**{name: value for name in names if (value := getattr(self, name)) is not None})
        refuse_both(self.limit, asking)
        return asking

    @property
    def measurements(self) -> tuple[str, ...]:
        """What has to be measured of the model before its plans are known."""
        asked = (MEASURED[name].measurement for name in self.strategies if name in MEASURED)
        return tuple(dict.fromkeys(name for name in asked if name is not None))

    def variants(self, num_layers: int, measured: Mapping[str, Any] = NOT_MEASURED) -> tuple[Variant, ...]:
        """Every variant of the whole study on a model of `num_layers` layers, as `variants_of`."""
        of_options = self.starts, self.seeds, self.loops, self.times, self.counts
        return variants_of(num_layers, self.strategies, self.plans, *of_options, measured)

    def analysed_plans(self, variants: Sequence[Variant]) -> tuple[Plan, ...]:
        """The plans of variants that the analyses run on."""
        chosen = (
            variant.plan
            for variant in variants
            if self.analyses and (not self.analysis_strategies or variant.strategy in self.analysis_strategies)
        )
        return tuple(dict.fromkeys(chosen))

    def shard_variants(self, num_layers: int, measured: Mapping[str, Any] = NOT_MEASURED) -> tuple[Variant, ...]:
        """The variants of this spec's shard. Errors as `variants`."""
        variants, (index, count) = self.variants(num_layers, measured), self.shard
        shards = shard_of([variant.plan for variant in variants], count)
        return tuple(variant for variant, shard in zip(variants, shards, strict=True) if shard == index)


@dataclass(frozen=True)
class FinetuneSpec:
    """What `jaxpaint finetune` runs: the plans of `study` on its tasks, as they are and fine-tuned, into its store.

    Each task's plans are trained on the first `limit_train` of its training documents (None: on all). Raises UserError
    for no plan to fine-tune, integer weights, several seeds, or analyses or shards, which this command does not have.
    """

    study: StudySpec
    training: TrainingSettings = DECODER
    limit_train: int | None = None

    def __post_init__(self) -> None:
        require_float_weights(self.study.weights)
        if not self.study.tasks:
            raise UserError("there is no task to fine-tune on; give --tasks arc_challenge")
        if not self.study.strategies and not self.study.plans:
            raise UserError("there is no plan to fine-tune; give --strategies skip")
        if self.study.asking != Asking() or self.study.max_length is not None:
            raise UserError("fine-tuning asks documents as the tasks say; other ways to ask them are jaxpaint study's")
        refuse_measured(self.study.strategies)
        if self.study.analyses or self.study.shard != (1, 1):
            raise UserError("fine-tuning has neither analyses nor shards; run those with jaxpaint study")
        if len(self.training.seeds) > 1:
            raise UserError(f"seeds are {list(self.training.seeds)}; a decoder is trained once, so give one")
        if self.limit_train is not None and self.limit_train < 1:
            raise UserError(f"limit_train is {self.limit_train}; expected 1 or more training documents")

    def trained_variants(self, num_layers: int) -> tuple[Variant, ...]:
        """What is fine-tuned: every variant of the study, the full model only where its strategies name it."""
        asked = (*self.study.strategies, CUSTOM)
        return tuple(variant for variant in self.study.variants(num_layers) if variant.strategy in asked)


def numbered(plans: Sequence[str], model: str) -> tuple[str, ...]:
    """Texts of plans in which layers of a composed model have their numbers in place of names. Raises UserError."""
    if not any(":" in text for text in plans):
        return tuple(plans)
    from convert.layer_names import names_of

    names = names_of(model)
    return tuple(str(_parsed(text, names)) if ":" in text else text for text in plans)


def refuse_measured(strategies: Sequence[str]) -> None:
    """Raises UserError for a strategy that takes measurements, where none are made."""
    if (name := next((name for name in strategies if name in MEASURED), None)) is not None:
        raise UserError(
            f"strategy {name} takes measurements of a model, which jaxpaint study makes; give the plans that it found "
            "in a file, by --plans-file"
        )


def variants_of(
    num_layers: int,
    strategies: Sequence[str] = (),
    plans: Sequence[str] = (),
    starts: Sequence[int] | None = None,
    seeds: Sequence[int] = tuple(range(10)),
    loops: Sequence[int] = (3,),
    times: Sequence[int] = (2, 3),
    counts: Sequence[int] = (),
    measured: Mapping[str, Any] = NOT_MEASURED,
) -> tuple[Variant, ...]:
    """The full model, every variant of the strategies, and plans of one's own (strategy "custom"), each once.

    Two variants may have equal plans, such as one iteration of looped-parallel and parallel. `measured` has the numbers
    of each measurement that strategies take, by its name (`jaxpaint.analysis.measurements`), or stands in for them
    (`jaxpaint.plans.proposals.stand_ins`).

    Raises:
        UserError: a start, a count or a plan that does not fit the model; more of them than a study may have; a
            strategy that takes a measurement which `measured` lacks.
    """
    if isinstance(starts, range):
        starts = tuple(start for start in all_starts(num_layers) if start in starts)
    _require_few(strategies, plans, starts, seeds, loops, times, counts, num_layers)

    def of_strategy(name: str) -> Iterable[Variant]:
        needed = MEASURED[name].measurement if name in MEASURED else None
        if needed is not None and needed in measured:
            return (proposed(name, num_layers, measured[needed], each) for each in counts)
        return family(name, num_layers, starts=starts, seeds=seeds, iterations=loops, times=times)

    of_strategies = chain.from_iterable(map(of_strategy, ("full", *strategies)))
    found, cost = [], 0.0
    for variant in chain(of_strategies, (_custom(text, num_layers) for text in plans)):
        found.append(variant)
        cost += variant.plan.cost
        if cost > MAX_TOTAL_COST:
            raise UserError(
                f"the study's plans apply layers more than {MAX_TOTAL_COST:,} times a token in all ({len(found):,} of "
                "them do); give fewer or smaller loops or times, or fewer starts, seeds or plans"
            )
    return tuple(dict.fromkeys(found))


def require_few_plans(spec: Any) -> None:
    """Raises UserError where a spec that has what `variants_of` takes makes too many plans, whatever the model."""
    counts = getattr(spec, "counts", ())
    _require_few(spec.strategies, spec.plans, spec.starts, spec.seeds, spec.loops, spec.times, counts, None)


def _require_few(
    strategies: Sequence[str],
    plans: Sequence[str],
    starts: Sequence[int] | None,
    seeds: Sequence[int],
    loops: Sequence[int],
    times: Sequence[int],
    counts: Sequence[int],
    num_layers: int | None,
) -> None:
    given = {"seed": len(seeds), "iterations": len(loops), "times": len(times), "count": len(counts)}
    if isinstance(starts, range):  # which the model has an end for
        starts = None
    require_few(
        dict.fromkeys(("full", *strategies)),
        num_layers,
        given | {"start": None if starts is None else len(starts)},
        len(plans),
    )


def _custom(text: str, num_layers: int) -> Variant:
    return Variant(CUSTOM, _parsed(text, None, num_layers), num_layers)


def _parsed(text: str, names: Names | None, num_layers: int | None = None) -> Plan:
    try:
        plan = Plan.parse(text, names)
        return plan if num_layers is None else plan.validate(num_layers)
    except UserError as error:
        raise UserError(f"plan {text!r} of this study: {first_line(error)}") from None
