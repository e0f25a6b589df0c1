"""The settings of a study, read and checked: from options, a TOML file with the same names, and presets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jaxpaint.base import documents
from jaxpaint.base.bundled import MODEL
from jaxpaint.base.errors import UserError
from jaxpaint.base.texts import read_text
from jaxpaint.plans.proposals import MEASURED
from jaxpaint.plans.strategies import STRATEGIES, taking
from jaxpaint.studies import values
from jaxpaint.studies.spec import ANALYSES, StudySpec
from jaxpaint.tasks.local_data import in_folder

PAPER: Mapping[str, Any] = MappingProxyType(
    {
        "tasks": ["lambada_openai", "hellaswag", "arc_challenge", "winogrande", "gsm8k"],
        "bos": "off",
        "kv": "mean",
        "strategies": [name for name, strategy in STRATEGIES.items() if strategy.in_paper],
        "seeds": 10,
        "loops": "1-28",
        "times": "2,3",
        "analyses": ["similarity", "variance"],
        "analysis-strategies": ["full", "skip", "middle-repeat"],
        "analysis-samples": 100,
        "analysis-task": "lambada_openai",
    }
)
"""The paper's study: figures 2 to 11, 15 and 17. It generated GSM8K's answers with a mean cache."""

DEMO: Mapping[str, Any] = MappingProxyType(
    {
        "model": MODEL,
        "tasks": [f"painter_{kind}" for kind in ("facts", "work", "sales", "places", "arithmetic", "letters")],
        "limit": 100,
        "strategies": ["skip", "middle-repeat", "reverse", "random", "parallel", "looped-parallel", "skip-one"],
        "starts": "1-6",
        "seeds": 3,
        "loops": "2,3,5",
        "analyses": ["similarity", "variance"],
        "analysis-strategies": ["full", "skip", "middle-repeat"],
        "analysis-samples": 50,
        "analysis-task": "painter_places",
        "store": f"{MODEL}.sqlite",
    }
)
"""A study of the model that comes with the package, made to end within minutes on a laptop."""

DEMO_REPORT = Path(f"{MODEL}-report")

QUICK: Mapping[str, Any] = MappingProxyType(
    {
        "limit": 100,
        "strategies": [name for name, strategy in STRATEGIES.items() if strategy.ranked],
        "starts": "/3",
        "seeds": 3,
    }
)
"""A first look at any model: the six strategies that the paper ranks, at few starts, on 100 documents."""

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType({"quick": QUICK, "paper": PAPER, "demo": DEMO})


@dataclass(frozen=True)
class Setting:
    """What may be set, by its name on the command line without the dashes in front.

    `text` is what the help says of it; `metavar` what it calls the value.
    """

    name: str
    kind: values.Kind
    default: Any
    text: str
    metavar: str | None = None

    @property
    def help(self) -> str:
        """The text, with the default."""
        if "(default" in self.text or self.default in (None, MISSING, False, ()):
            return self.text
        default = ",".join(map(str, self.default)) if isinstance(self.default, tuple) else self.default
        return f"{self.text} (default: {default})"


_BESIDE_FIELDS = {  # what becomes something else before there is a spec, by the field that it stands beside
    "model": (
        Setting("models", values.names, None, "several, by commas, in place of --model", "MODEL,MODEL"),
        Setting("preset", values.choice(*PRESETS), None, f"settings to begin with: {', '.join(PRESETS)}", "NAME"),
    ),
    "store": (Setting("report", values.path, None, "write the report at the end", "DIR"),),
    "data": (
        Setting(
            *("data-dir", values.path, None),
            "where files of the tasks lie, as TASK.jsonl or TASK_SPLIT.jsonl (or .csv, .parquet); --data goes before",
            "DIR",
        ),
    ),
    "plans": (Setting("plans-file", values.path, None, "more of them, one a line, # for comments", "FILE"),),
}


def _declared() -> Iterator[Setting]:
    for each in fields(StudySpec):
        about = each.metadata
        yield Setting(each.name.replace("_", "-"), about["kind"], each.default, about["help"], about["metavar"])
        yield from _BESIDE_FIELDS.get(each.name, ())


SETTINGS: Mapping[str, Setting] = MappingProxyType({setting.name: setting for setting in _declared()})
"""All of them: the fields of StudySpec, and what files and options have beside those."""
KINDS: Mapping[str, values.Kind] = MappingProxyType({name: setting.kind for name, setting in SETTINGS.items()})

ONE_OR_SEVERAL = {"model": "models", "models": "model"}  # what is given of either goes before both elsewhere
# Trust is no file's to give.
COMMAND_LINE_ONLY = ("dry-run", "compile-for", "trust-tasks", "ray", "ray-worker")
OF_FILES: Mapping[str, Setting] = MappingProxyType(
    {name: setting for name, setting in SETTINGS.items() if name not in COMMAND_LINE_ONLY}
)
"""Those that a file may have."""
YAML = (".yaml", ".yml")
PLACES = (".toml", *YAML)
"""How names of settings files end."""
_TAKERS = {
    **{"seeds": taking("seed"), "loops": taking("iterations"), "times": taking("times")},
    **{"counts": taking("count"), "calibration": taking("count")},
}


def spec_from(options: Mapping[str, Any], file: Path | None = None) -> StudySpec:
    """The spec that `options` (None: not given) and a file of settings, TOML or YAML, make. An option goes before the
    file's value, and that before the preset's.

    Names are those of the command line without the dashes in front, such as "num-fewshot"; the file may also have
    `plans`, a list of texts. Paths are relative to the working directory. Raises UserError for a file that cannot be
    read, an unknown name, a value of the wrong kind, or where something is missing.
    """
    given, settings = _merged(options, file)
    if "models" in settings:
        raise UserError("models is of jaxpaint study alone, which studies each of them; give one model")
    return _spec(given, settings)


def specs_from(options: Mapping[str, Any], file: Path | None = None) -> tuple[StudySpec, ...]:
    """As `spec_from`, a spec for each of `models` where there are several, all of one store."""
    given, settings = _merged(options, file)
    if "models" not in settings:
        return (_spec(given, settings),)
    names = settings.pop("models")
    if "revision" in settings:
        raise UserError("--revision is of one model, and --models are several; leave one of the two away")
    return tuple(_spec(given.keys() - {"models"}, settings | {"model": name}) for name in names)


def _merged(options: Mapping[str, Any], file: Path | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options that were given, and all settings."""
    in_file = _checked_all(f"{file}: ", read_settings(file)) if file is not None else {}
    given = _checked_all("--", options)
    settings = {name: value for name, value in in_file.items() if ONE_OR_SEVERAL.get(name) not in given} | given
    if ONE_OR_SEVERAL.keys() <= settings.keys():
        raise UserError("--model names one model and --models several; leave one of the two away")
    settings.pop("report", None)
    if (preset := settings.pop("preset", None)) is not None:
        settings = _checked_all(f"preset {preset}: ", PRESETS[preset]) | settings
        if "models" in settings:
            settings.pop("model", None)
    _take_plans(settings)
    _take_data(settings)
    return given, settings


def _spec(given: Iterable[str], settings: Mapping[str, Any]) -> StudySpec:
    _refuse_incomplete(settings)
    _refuse_uncounted(settings)
    _refuse_unused(given, settings)
    spec = StudySpec(**{name.replace("-", "_"): value for name, value in settings.items()})
    spec.asking  # noqa: B018  what does not go together is told now
    return spec


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of other commands that are named as a study's (None: not given), checked and converted.

    A file of plans becomes `plans`, a folder of data `data`. Raises UserError as `spec_from`.
    """
    settings = _checked_all("--", options)
    _take_plans(settings)
    _take_data(settings)
    _refuse_unused(settings, settings)
    return settings


def report_from(file: Path) -> Path | None:
    """Where a file of settings wants the report, None where it wants none. Raises UserError as `spec_from`."""
    return _checked_all(f"{file}: ", {"report": read_settings(file).get("report")}).get("report")


def checked_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Options by their names, checked and converted, whatever lacks. Raises UserError."""
    return _checked_all("--", settings)


def read_settings(file: Path) -> dict[str, Any]:
    """The settings in a file, YAML if its name says so, else TOML; names are checked, values not yet."""
    if file.suffix in YAML:
        settings = documents.read_yaml(file)
        if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
            raise UserError(f'{file} holds no settings; expected lines such as model: "llama2-7b"')
    else:
        settings = documents.read_toml(file)
    for name in settings:
        if name in COMMAND_LINE_ONLY:
            raise UserError(f"{file}: {name!r} belongs on the command line: --{name}")
        if name not in OF_FILES:
            raise UserError(f"{file}: unknown key {name!r}; {values.hint(name, OF_FILES, 'the keys are')}")
    return settings


def read_plans(file: Path) -> tuple[str, ...]:
    """The plans of a text file, one a line, in canonical form; `#` begins a comment.

    Raises UserError for a file that cannot be read or has no plan, or a line that is not a plan, which it names.
    """
    texts = [line.partition("#")[0].strip() for line in read_text(file).split("\n")]
    found = [values.plan(text, f"{file}, line {number}") for number, text in enumerate(texts, 1) if text]
    if not found:
        raise UserError(f"{file} has no plan; write one a line, such as 0-8 {{9-22}}*3 23-31")
    return tuple(found)


def _refuse_incomplete(settings: Mapping[str, Any]) -> None:
    for name, example in (("model", "llama2-7b"), ("store", "study.sqlite")):
        if name not in settings:
            other = ", or try --preset demo" if name == "model" else ""
            raise UserError(
                f'a study needs a {name}; give --{name} {example}, or {name} = "{example}" in a TOML file{other}'
            )
    if not settings.get("tasks") and not settings.get("analyses"):
        raise UserError("a study needs tasks; give --tasks lambada_openai,hellaswag, or --preset paper")


def _refuse_uncounted(settings: Mapping[str, Any]) -> None:
    """Strategies of measurements without the number of layers that they leave out."""
    if (taker := next((name for name in settings.get("strategies", ()) if name in MEASURED), None)) is None:
        return
    if not settings.get("counts"):
        raise UserError(f"strategy {taker} needs the number of layers that it changes; give --counts 2,4")
    if settings["model"] != MODEL and settings.get("calibration") is None:
        raise UserError(
            f"strategy {taker} measures the model on texts, and none are given; give --calibration FILE, a text a line "
            '(or JSON lines with "text"), a hundred or so of what the model should do well; only '
            f"{MODEL} brings its own"
        )


def _refuse_unused(options: Iterable[str], settings: Mapping[str, Any]) -> None:
    """Options that the study would not look at: a strategy, or the analyses, were forgotten."""
    strategies = settings.get("strategies", ())
    for name in options:
        if name in _TAKERS and not {*_TAKERS[name]} & {*strategies}:
            takers = " or ".join(_TAKERS[name])
            raise UserError(f"--{name} is of strategy {takers}, which is not among --strategies; add it")
        if name == "starts" and not {*taking("start")} & {*strategies}:
            raise UserError("--starts is of strategies with a start layer, and none is given; add --strategies")
        if name.startswith("analysis-") and not settings.get("analyses"):
            raise UserError(f"--{name} is of analyses, and none is given; add --analyses {','.join(ANALYSES[:2])}")


def _checked_all(where: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in settings.items() if value is not None}
    return {name: values.checked(f"{where}{name}", value, KINDS[name]) for name, value in given.items()}


def _take_plans(settings: dict[str, Any]) -> None:
    """A file's plans come after the others."""
    if "plans-file" in settings:
        settings["plans"] = (*settings.get("plans", ()), *read_plans(settings.pop("plans-file")))


def _take_data(settings: dict[str, Any]) -> None:
    """A folder's files are those of the tasks; what `data` says goes before."""
    if "data-dir" in settings:
        folder = settings.pop("data-dir")
        texts = [settings.get("analysis-task")] if settings.get("analyses") else []
        tasks = [*settings.get("tasks", ()), *filter(None, texts)]
        settings["data"] = in_folder(folder, tasks, settings.get("data", ()))
