"""Calls into tasks' own code, of many authors: what goes wrong in it is told as the task's, and nothing is printed."""

import contextlib
import functools
import logging
import traceback
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING

from jaxpaint.base.errors import UserError, first_line
from jaxpaint.base.limits import limit
from jaxpaint.tasks.local_data import quiet_datasets
from jaxpaint.tasks.trust import sandboxed_templates

if TYPE_CHECKING:
    from lm_eval.api.task import Task


@contextlib.contextmanager
def told_of(names: Sequence[str]) -> Iterator[None]:
    """What goes wrong while tasks load, before there is any task to name, becomes a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a task file may hold anything
        _raise_limit(error)
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"cannot load {', '.join(names)}: {reason}") from error


@contextlib.contextmanager
def in_tasks() -> Iterator[None]:
    """For calls into tasks' own code: the libraries are silent, and what goes wrong in it becomes a UserError."""
    with _quiet(), sandboxed_templates():
        try:
            yield
        except UserError:
            raise
        except ImportError as error:
            _raise_limit(error)
            raise UserError(f"a task needs a package that is not installed: {first_line(error)}") from error
        except Exception as error:  # tasks run code of many authors: any type may come
            frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
            task = next((frame.f_locals["self"] for frame in frames if _runs_a_task(frame)), None)
            _raise_limit(error)
            if task is None:
                raise
            raise UserError(_explain(error, task, frames)) from error


def _raise_limit(error: Exception) -> None:
    """Raises what the machine does not allow, where that is it: no fault of the task's."""
    if (words := limit(error)) is not None:
        raise UserError(words) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the libraries say on the way: errors are told once, by whoever catches them."""
    import lm_eval.api.task as module
    from tqdm import tqdm

    logger = logging.getLogger("lm_eval")
    level = logger.level
    try:
        logger.setLevel(logging.WARNING)
        # Building prompts shows its bar only on a terminal, and only where it takes a while.
        module.tqdm = functools.partial(tqdm, desc="building prompts", disable=None, delay=3, leave=False)
        with quiet_datasets():
            yield
    finally:
        module.tqdm = tqdm
        logger.setLevel(level)


def _runs_a_task(frame: FrameType) -> bool:
    from lm_eval.api.task import Task

    return isinstance(frame.f_locals.get("self"), Task)


def _explain(error: Exception, task: "Task", frames: Sequence[FrameType]) -> str:
    config = task.config
    name = getattr(config, "task", None) or type(task).__name__
    dataset = getattr(config, "dataset_path", None)
    files = (getattr(config, "dataset_kwargs", None) or {}).get("data_files")
    if any(frame.f_code.co_name == "download" for frame in frames):
        return (
            f"cannot load the dataset {dataset!r} of task {name!r}: {first_line(error)}; without a network, "
            f"give --data {name}=FILE, or fill the datasets cache on a machine that has one and set "
            "HF_DATASETS_OFFLINE=1"
        )
    reason = f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, KeyError):
        reason = f"no column {error}"
    document = next((frame.f_locals["doc_id"] for frame in frames if "doc_id" in frame.f_locals), None)
    where = f", document {document}" if document is not None else ""
    if not isinstance(files, Mapping):
        return f"task {name!r}{where} cannot be built from its dataset {dataset!r}: {reason}"
    columns = {column for rows in getattr(task, "dataset", {}).values() for column in rows.column_names}
    return (
        f"task {name!r}{where} cannot use {', '.join(map(str, files.values()))}: {reason} "
        f"(columns: {', '.join(sorted(columns))})"
    )
