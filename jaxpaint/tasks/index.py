"""What tasks there are: lm-eval's own index and the tasks that come with the package, and whose data is here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxpaint.tasks.calls import in_tasks
from jaxpaint.tasks.files import bundled_tasks


def index(is_meant: Callable[[str], bool], *, offline: bool = False) -> list[dict[str, str]]:
    """Rows {name, kind} of the tasks, groups and tags whose names are meant, by name; nothing is downloaded.

    With `offline` tasks alone, whose data set is in the package or in the folder of `datasets`.
    """
    from lm_eval.tasks import TaskManager

    with in_tasks():
        manager = TaskManager()
    own = set(bundled_tasks())
    names = sorted(name for name in {*manager.task_index, *own} if is_meant(name))
    kinds = {name: "task" if name in own else _kind(manager.task_index[name]) for name in names}
    if offline:
        kept = _kept_datasets()
        names = [name for name in names if name in own or (kept and _data_set(manager.task_index[name]) in kept)]
    return [{"name": name, "kind": kinds[name]} for name in names]


def _kind(entry: Any) -> str:
    return {"GROUP": "group", "TAG": "tag"}.get(entry.kind.name, "task")


def _kept_datasets() -> set[str]:
    """The data sets that `datasets` has prepared here, by their names on the hub."""
    import datasets

    with_owner = [folder.replace("___", "/") for folder in _folders(Path(datasets.config.HF_DATASETS_CACHE))]
    return {name.lower() for name in with_owner}


def _folders(folder: Path) -> Iterator[str]:
    if folder.is_dir():
        yield from (entry.name for entry in os.scandir(folder) if entry.is_dir())


def _data_set(entry: Any) -> str | None:
    """The data set that a task reads; None of groups, tags and tasks that do not say."""
    from lm_eval.tasks._yaml_loader import load_yaml

    if _kind(entry) != "task" or entry.yaml_path is None:
        return None
    name = load_yaml(entry.yaml_path, resolve_func=False).get("dataset_path")
    return name.lower() if isinstance(name, str) else None
