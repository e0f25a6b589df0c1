"""Local files in place of a task's dataset: `--data TASK=FILE` and `--data TASK:SPLIT=FILE`."""

import glob
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from jaxpaint.base.errors import UserError, first_line
from jaxpaint.tasks.csv_files import csv_options
from jaxpaint.tasks.reach import without_waiting

_TEXT = {".jsonl": "json", ".json": "json", ".csv": "csv"}
BUILDERS = {**_TEXT, **{f"{kind}.gz": builder for kind, builder in _TEXT.items()}, ".parquet": "parquet"}
"""The builders of `datasets`, by how the names of their files end."""

_NAMES = {"json": "JSON", "csv": "CSV", "parquet": "Parquet"}
_SPLIT_KEYS = ("training_split", "validation_split", "test_split", "fewshot_split")

LocalFiles = Mapping[str | None, Path]  # split -> file; None is the split that the task evaluates on
Data: TypeAlias = str | Sequence[str] | Mapping[str, str | Path]
"""Local files as users of Python give them (`data_options`)."""


def kind_of(path: Path) -> str:
    """How a file's name ends, .gz with what is before it; "" where it does not end."""
    endings = [ending.lower() for ending in path.suffixes]
    return "".join(endings[-2:] if endings[-1:] == [".gz"] else endings[-1:])


def builder_of(path: Path, files: Sequence[Path], texts: Sequence[str] = ()) -> tuple[str, dict[str, Any]]:
    """The builder of `datasets` for a file and those of its other splits, and its options; `texts` are columns that
    hold text whatever it looks like. Raises UserError for CSV files that cannot be read."""
    builder = BUILDERS[kind_of(path)]
    return builder, csv_options(files, texts) if builder == "csv" else {}


def parse_data_option(
    texts: Sequence[str], kinds: Collection[str] = tuple(BUILDERS), *, folders: bool = False
) -> dict[str, dict[str | None, Path]]:
    """Parse `TASK=FILE` and `TASK:SPLIT=FILE` into {task: {split or None: absolute path}}.

    None stands for the split that the task evaluates on, or in place of FILE a folder, where `folders` may be. Raises
    UserError for a text of another form, a file that is missing, empty or not of the `kinds`, and a split given twice.
    """
    data: dict[str, dict[str | None, Path]] = {}
    for text in texts:
        target, equals, file = text.partition("=")
        task, colon, split = target.partition(":")
        if not (equals and task and file) or (colon and not split):
            raise UserError(
                f"--data {text!r}: expected TASK=FILE or TASK:SPLIT=FILE, as in hellaswag=hellaswag.jsonl or "
                "gsm8k:train=train.jsonl"
            )
        splits, key = data.setdefault(task, {}), split or None
        if key in splits:
            raise UserError(f"--data gives {target!r} twice: {splits[key]} and {file}; give each split once")
        splits[key] = _checked(file, f"--data {text!r}", kinds, folders)
    return data


SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "dev": "validation", "test": "test"}
"""How files of a folder say which split they are, TASK_SPLIT.jsonl."""


def in_folder(folder: Path, tasks: Sequence[str], data: Sequence[str] = ()) -> tuple[str, ...]:
    """`data`, texts TASK[:SPLIT]=FILE, with the files in a folder that are named after one of the `tasks`.

    TASK.jsonl (or another kind) is of the split that the task evaluates on, TASK_SPLIT.jsonl of that split. What `data`
    gives itself goes before. Raises UserError for a folder that is none or has no file of any task.
    """
    if not folder.is_dir():
        raise UserError(f"--data-dir {folder} is not a folder")
    given = {text.partition("=")[0] for text in data}
    found: dict[str, Path] = {}
    is_named = False
    for path in sorted(folder.iterdir()):
        if not path.is_file() or kind_of(path) not in BUILDERS:
            continue
        stem = path.name[: -len(kind_of(path))]
        task, _, split = stem.rpartition("_")
        target = stem if stem in tasks else f"{task}:{SPLITS[split]}" if task in tasks and split in SPLITS else None
        is_named |= target is not None
        if target is None or target in given:
            continue
        if target in found:
            raise UserError(f"--data-dir {folder} has {found[target].name} and {path.name} for {target}; leave one")
        found[target] = path
    if not is_named:
        raise UserError(
            f"--data-dir {folder} has no file named after {' or '.join(tasks) or 'a task'}, as "
            f"{(*tasks, 'TASK')[0]}.jsonl; the kinds are {', '.join(BUILDERS)}"
        )
    return (*data, *(f"{target}={path}" for target, path in found.items()))


def data_options(data: Data) -> tuple[str, ...]:
    """Local files as `parse_data_option` takes them: of {"TASK": FILE} or {"TASK:SPLIT": FILE}, or texts already.

    Raises UserError for anything else.
    """
    if isinstance(data, str):
        return (data,)
    if isinstance(data, Mapping):
        return tuple(f"{task}={file}" for task, file in data.items())
    if isinstance(data, Sequence) and all(isinstance(text, str) for text in data):
        return tuple(data)
    raise UserError(f'data is {data!r}; expected {{"TASK": FILE}}, or texts TASK=FILE')


def data_file(path: str | Path, option: str) -> Path:
    """The file, absolute. Raises UserError, which names the `option`, for none or of a kind that is not known."""
    return _checked(str(path), option, tuple(BUILDERS), folders=False)


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """Silences `datasets` and the hub on the way: errors are told once, by whoever catches them, and soon."""
    import datasets

    loggers = {logging.getLogger("datasets"): logging.CRITICAL, logging.getLogger("huggingface_hub"): logging.ERROR}
    levels = {logger: logger.level for logger in loggers}
    bars_were_off = datasets.are_progress_bars_disabled()
    try:
        for logger, level in loggers.items():
            logger.setLevel(level)
        datasets.disable_progress_bars()
        with without_waiting():
            yield
    finally:
        if not bars_were_off:
            datasets.enable_progress_bars()
        for logger, level in levels.items():
            logger.setLevel(level)


def with_local_data(config: Mapping[str, Any], files: LocalFiles, num_fewshot: int) -> dict[str, Any]:
    """A copy of lm-eval's `config` of a task, includes resolved, that reads its splits from local files, no network.

    `num_fewshot`, the examples that a prompt will hold, decides whether their split is needed. Raises UserError for a
    split that the task does not use, files of different kinds, a split that is needed and not given, or a task that
    reads its data with code of its own.
    """
    task = config["task"]
    if "class" in config:
        raise UserError(
            f"--data {task}=...: {task!r} reads its dataset with Python code of its own, so a local file "
            "cannot take its place; fill the datasets cache instead"
        )
    evaluated = config.get("test_split") or config.get("validation_split")
    fewshot = _fewshot_split(config)
    splits = [config.get(key) for key in _SPLIT_KEYS] + [fewshot]
    given = _by_split(task, files, evaluated, list(dict.fromkeys(split for split in splits if split)))
    if evaluated not in given:
        raise UserError(
            f"task {task!r} is evaluated on its {evaluated!r} split, which has no local file; "
            f"add --data {task}:{evaluated}=FILE"
        )
    if num_fewshot and fewshot and fewshot not in given:
        raise UserError(
            f"task {task!r} takes its {num_fewshot} few-shot examples from its {fewshot!r} split, which has "
            f"no local file; add --data {task}:{fewshot}=FILE or use --num-fewshot 0"
        )
    builders = {_NAMES[BUILDERS[kind_of(path)]] for path in given.values()}
    if len(builders) > 1:
        raise UserError(f"--data gives {task!r} both {' and '.join(sorted(builders))} files; use one kind for all")
    builder, options = builder_of(given[evaluated], list(given.values()))
    local = dict(config)
    # What the task says about its dataset (a revision, files, a loader) describes the published copy only.
    local |= {
        "custom_dataset": None,
        "dataset_path": builder,
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {split: glob.escape(str(path)) for split, path in given.items()},
            **options,
        },
    }
    # lm-eval looks up every split that the configuration names, used or not.
    for key in _SPLIT_KEYS:
        if local.get(key) not in given:
            local[key] = None
    examples = local.get("fewshot_config")
    if isinstance(examples, dict) and examples.get("split") not in given:
        local["fewshot_config"] = {key: value for key, value in examples.items() if key != "split"}
    return local


def check_local_data(task: str, local: Mapping[str, Any]) -> None:
    """Read the files of a configuration from `with_local_data`; UserError names one that cannot be read."""
    builder, options = local["dataset_path"], dict(local["dataset_kwargs"])
    files = options.pop("data_files")
    try:
        _load(builder, files, options)
    except Exception as error:  # `datasets` and its readers raise a dozen unrelated types here
        for split, file in files.items():
            try:
                _load(builder, {split: file}, options)
            except Exception as cause:
                raise UserError(f"cannot read {file}, the {split!r} split of task {task!r}: {reason(cause)}") from cause
        # Each is fine alone.
        raise UserError(
            f"cannot read {', '.join(files.values())} together, the splits of task {task!r}: their columns differ"
        ) from error


def _load(builder: str, files: Mapping[str, str], options: Mapping[str, Any]) -> None:
    import datasets

    for split, rows in datasets.load_dataset(builder, data_files=dict(files), **options).items():
        if not len(rows):
            raise ValueError(f"no rows for the split {split!r}")


def reason(error: BaseException) -> str:
    """Why `datasets` could not read a file, in one line."""
    deepest = error.__cause__ or error
    if isinstance(deepest, UnicodeDecodeError):
        return "it is not UTF-8 text"
    if isinstance(deepest, StopIteration) or "corresponds to no data" in str(deepest):
        return "it holds no rows"
    return first_line(deepest)


def _checked(file: str, option: str, kinds: Collection[str], folders: bool) -> Path:
    path = Path(file).expanduser().resolve()
    if path.is_dir():
        if folders:
            return path
        raise UserError(f"{option}: {file} is a folder; give a file")
    if not path.is_file():
        raise UserError(f"{option}: there is no file {file}")
    if kind_of(path) not in kinds:
        raise UserError(f"{option}: unknown kind of file {kind_of(path) or path.name!r}; expected {', '.join(kinds)}")
    if path.stat().st_size == 0:
        raise UserError(f"{option}: the file {file} is empty")
    return path


def _fewshot_split(config: Mapping[str, Any]) -> str | None:
    """The split that lm-eval draws few-shot examples from, None where the configuration lists them."""
    examples = config.get("fewshot_config") or {}
    if split := examples.get("split", config.get("fewshot_split")):
        return str(split)
    if examples.get("samples") is not None:
        return None
    return config.get("training_split") or config.get("validation_split") or config.get("test_split")


def _by_split(task: str, files: LocalFiles, evaluated: str | None, used: list[str]) -> dict[str, Path]:
    given: dict[str, Path] = {}
    for split, path in files.items():
        name = split or evaluated
        if name is None or name not in used:
            asked = f"split {split!r}" if split else "split to evaluate on"
            raise UserError(
                f"--data {task}: task {task!r} has no {asked}; it uses {', '.join(map(repr, used)) or 'none'}"
            )
        if name in given:
            raise UserError(
                f"--data gives the {name!r} split of task {task!r} twice: {given[name]} and {path} "
                f"(without :SPLIT, a file stands for {evaluated!r})"
            )
        given[name] = path
    return given
