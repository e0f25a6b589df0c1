"""Which YAML file of lm-evaluation-harness, or of ours, defines a task, without building an index of all tasks.

lm-eval's `TaskManager` parses about 14,000 files, some ten seconds, before it can load one task. A task's
file says `task: NAME` at the start of a line, so reading text is enough, and most tasks live in a folder
that is named like them. Groups and tags are different: a tag may come out of an included file and a group's
members may lie anywhere, so whoever asks for one needs the whole index.
"""

import difflib
import functools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from jaxpaint.base.bundled import TASKS, TO_TRAIN_ON

_DEFINES = re.compile(
    r"""^["']?(?P<kind>task|group|tag|class)["']?[ \t]*:[ \t]*["']?(?P<name>[^"'\s#\[{-][^"'\n#]*)""", re.M
)


def find_task_files(names: Sequence[str]) -> dict[str, Path]:
    """The YAML file of each stock or bundled task among the names; groups, tags and unknown names are left out."""
    found = {name: TASKS / f"{name}.yaml" for name in bundled_tasks() if name in names}
    for name in names:
        for folder in _stock_folders_by_word().get(_first_word(name), []):
            if name in (likely := _defined_tasks(folder)):
                found.setdefault(name, likely[name])
    if len(found) < len(set(names)):
        everywhere = _defined_tasks(_stock_folder())
        found |= {name: everywhere[name] for name in names if name in everywhere}
    return found


def bundled_tasks() -> dict[str, dict[str | None, Path]]:
    """The tasks that come with the package, each with the files of its documents, by split (None: to evaluate on)."""
    return {file.stem: {None: file, "train": TO_TRAIN_ON / file.name} for file in sorted(TASKS.glob("*.jsonl"))}


def may_be_group_or_tag(name: str) -> bool:
    """Whether a stock file mentions the name as a whole word; if not, the full index lacks it, too."""
    word = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")
    return any(word.search(text) for text in _texts(_stock_folder()).values())


def near_names(name: str, others: Iterable[str] = ()) -> list[str]:
    """Up to five names of stock tasks, groups or `others` spelled much like `name`, the nearest first."""
    texts = _texts(_stock_folder()).values()
    known = {match["name"].strip() for text in texts for match in _DEFINES.finditer(text)}
    return difflib.get_close_matches(name, sorted({*known, *bundled_tasks(), *others}), n=5)


def _stock_folder() -> Path:
    import lm_eval.tasks

    return Path(lm_eval.tasks.__path__[0])


def _first_word(name: str) -> str:
    return re.split(r"[_\W]", name.lower(), maxsplit=1)[0]


@functools.cache
def _stock_folders_by_word() -> dict[str, list[Path]]:
    folders: dict[str, list[Path]] = {}
    for folder in sorted(path for path in _stock_folder().iterdir() if path.is_dir()):
        folders.setdefault(_first_word(folder.name), []).append(folder)
    return folders


@functools.cache
def _texts(folder: Path) -> dict[Path, str]:
    # Templates that only other files include often have no suffix; a tag may stand in one of them.
    files = (
        Path(parent, file)
        for parent, _, names in os.walk(folder)
        for file in names
        if Path(file).suffix in ("", ".yaml")
    )
    return {path: path.read_text(encoding="utf-8", errors="replace") for path in sorted(files)}


@functools.cache
def _defined_tasks(folder: Path) -> dict[str, Path]:
    tasks: dict[str, Path] = {}
    for path, text in _texts(folder).items():
        defined = {match["kind"]: match["name"].strip() for match in _DEFINES.finditer(text)}
        # As lm-eval reads them: a class is a task, a group is not, a file without the suffix is neither.
        if path.suffix == ".yaml" and "task" in defined and ("class" in defined or "group" not in defined):
            tasks.setdefault(defined["task"], path)
    return tasks
