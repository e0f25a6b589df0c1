"""The bridge to lm-evaluation-harness: its tasks, prompts, few-shot examples, filters and metrics."""

import math
import random
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxpaint.base.documents import require_bounded, require_regular, shown
from jaxpaint.base.errors import UserError, first_line
from jaxpaint.base.memory import require_memory
from jaxpaint.tasks.asking import USUAL, Asking, refuse_both
from jaxpaint.tasks.calls import in_tasks, told_of
from jaxpaint.tasks.files import bundled_tasks, find_task_files, may_be_group_or_tag, near_names
from jaxpaint.tasks.groups import named_in, refuse_endless
from jaxpaint.tasks.local_data import LocalFiles, check_local_data, with_local_data
from jaxpaint.tasks.own import OwnTask
from jaxpaint.tasks.sense import refuse_nonsense
from jaxpaint.tasks.stderrs import bootstrap_in_process
from jaxpaint.tasks.trackers import first_requests_told
from jaxpaint.tasks.trust import without_code_of_users

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks.manager import TaskDict

USUAL_SHOTS = 64
# Bytes of addresses that lm-eval and what it reads data with reserve: 2.08 GB on Linux with two cores. With fewer their
# threads may wait for one another without end.
ADDRESSES = 2_250_000_000
MOST_REPEATS = 1000  # of a request; lm-eval's own tasks have at most 64


def load_tasks(
    names: Sequence[str | OwnTask],
    *,
    data: Mapping[str, LocalFiles] | None = None,
    num_fewshot: int | None = None,
    include_path: str | Path | Sequence[str | Path] | None = None,
    trust: bool = False,
    asking: Asking = USUAL,
) -> "TaskDict":
    """Load lm-eval tasks, ready for `evaluate` or `lm_eval.evaluator.evaluate`.

    Args:
        names: Tasks, groups, tags, patterns (`mmlu_*`) or paths of task YAML files, and tasks of one's own
            (`jaxpaint.tasks.own`).
        data: Local files in place of a task's dataset, as from `parse_data_option`.
        num_fewshot: Examples in the prompt, as in lm-eval's `simple_evaluate`: None keeps each task's own
            number (0 if it has none), and a task that sets 0 itself keeps 0.
        include_path: Folders with task YAML files of the user's own, which go before lm-eval's.
        trust: Whether a user's own task files may bring code: functions in Python, metrics from the hub.
        asking: What else lm-eval's command line may say; the same goes to `evaluate` or `build_instances`.

    Raises:
        UserError: An unknown task (with near names), unusable local data, a dataset that cannot be reached, code in
            a task file that is not trusted. Of a document whose choices or right answer make no sense, when requests
            are made of it.
    """
    if not names:
        raise UserError("no tasks given; name at least one, such as lambada_openai")
    if num_fewshot is not None and num_fewshot < 0:
        raise UserError(f"num_fewshot is {num_fewshot}; expected 0 or more examples")
    if "lm_eval.tasks" not in sys.modules:
        require_memory(0, "loading lm-eval's tasks", "allow more", addresses=ADDRESSES)
    made = _made(names)
    asked = [str(name) for name in names]
    _set_seeds(asking)
    own_files = bool(include_path) or bool(made) or any(map(_is_file, asked))
    with told_of(asked), in_tasks(), without_code_of_users(trust=trust, own_files=own_files):
        manager, known_names = _manager(asked, include_path, made)
        data = _with_own_data(data or {}, made, named_in(known_names, manager.task_index))
        for name, files in data.items():
            _use_local_data(manager, name, files, num_fewshot)
        try:
            tasks = manager.load(known_names)
        except ValueError as error:
            if "Duplicate task" not in str(error):
                raise
            raise UserError(f"{first_line(error)}; name each task once") from error
    if unused := sorted(set(data) - set(tasks["tasks"])):
        raise _not_asked_for(unused[0], tasks["tasks"])
    for name, task in tasks["tasks"].items():
        if name in made:
            made[name].require_columns(task)
        shots = _shots(task.get_config("num_fewshot"), num_fewshot)
        if name in data and shots and not _shots(manager.task_index[name].cfg.get("num_fewshot"), num_fewshot):
            raise UserError(
                f"a group gives {name!r} {shots} few-shot examples, the task itself none; with --data, ask "
                f"for them by --num-fewshot {shots}"
            )
        require_bounded(dict(vars(task.config)), f"the configuration of task {name!r}")
        _check_shots(name, task, shots)
        _check_repeats(name, getattr(task.config, "repeats", 1))
        task.set_config("num_fewshot", shots)
        task.set_fewshot_seed(asking.seeds["fewshot_seed"])
        if asking.gen_kwargs and task.OUTPUT_TYPE == "generate_until":
            own_kwargs = task.get_config("generation_kwargs") or {}
            task.set_config("generation_kwargs", {**own_kwargs, **asking.gen_kwargs})
        refuse_nonsense(task, asking.documents(name))
    for name in asking.samples:
        _check_samples(name, asking, tasks["tasks"])
    return tasks


def evaluate(
    lm: "LM",
    tasks: "TaskDict",
    *,
    limit: int | float | None = None,
    log_samples: bool = False,
    bootstrap_iters: int = 100_000,
    asking: Asking = USUAL,
    write_out: bool = False,
) -> dict[str, Any]:
    """Evaluate a model on loaded tasks; the same tasks may be evaluated again and again, on equal prompts.

    Args:
        lm: Scores the requests. Errors it raises pass through unchanged.
        tasks: From `load_tasks`.
        limit: Documents per task; below 1, the fraction of the task's documents.
        log_samples: Keep each document with its prompts and answers under "samples".
        bootstrap_iters: Resamples for standard errors that have no closed form; 0 gives no standard errors.
        asking: As in `load_tasks`. A chat template is `lm`'s.
        write_out: Tell each task's first document and request.

    Returns lm-eval's results, and under "config" these settings. Raises UserError for documents that a task cannot
    read, or a limit that is not positive.
    """
    from lm_eval import evaluator

    _begin_anew(tasks, limit, asking)
    chosen = {name: asking.documents(name) for name in tasks["tasks"]} if asking.samples else None
    with in_tasks(), bootstrap_in_process(), first_requests_told() if write_out else nullcontext():
        # lm-eval's request cache is keyed by task and tokenizer alone, so no two plans may share it.
        results = evaluator.evaluate(
            lm,
            tasks,
            limit=limit,
            samples=chosen,
            log_samples=log_samples,
            write_out=write_out,
            bootstrap_iters=bootstrap_iters,
            cache_requests=False,
            system_instruction=asking.system_instruction,
            apply_chat_template=asking.apply_chat_template,
            fewshot_as_multiturn=asking.multiturn,
        )
    return {**results, "config": {"limit": limit, "bootstrap_iters": bootstrap_iters, **asking.described()}}


def build_instances(
    tasks: "TaskDict",
    *,
    limit: int | float | None = None,
    asking: Asking = USUAL,
    chat_template: Callable[..., str] | None = None,
) -> None:
    """Build every task's `instances` (prompts with their answers), the same as `evaluate` would. Errors as there.

    `chat_template` makes a text of a conversation, as the `apply_chat_template` of lm-eval's models does.
    """
    from lm_eval.evaluator_utils import get_sample_size

    _begin_anew(tasks, limit, asking)
    with in_tasks():
        for name, task in tasks["tasks"].items():
            documents = asking.documents(name)
            task.build_all_requests(
                limit=get_sample_size(task, limit),
                samples=documents,
                system_instruction=asking.system_instruction,
                apply_chat_template=bool(asking.apply_chat_template),
                fewshot_as_multiturn=asking.multiturn,
                chat_template=chat_template,
            )
            if documents is not None:
                for instance in task.instances:
                    instance.doc_id = documents[instance.doc_id]  # lm-eval counts the chosen ones


def only_predicted(tasks: "TaskDict") -> None:
    """Has loaded tasks keep what the model says and score nothing, as lm-eval's --predict_only does."""
    for task in tasks["tasks"].values():
        task.override_metric(metric_name="bypass")


def results_table(results: Mapping[str, Any]) -> str:
    """lm-eval's Markdown table of the results, with a second one for groups where there are any."""
    from lm_eval.utils import make_table

    columns = ["results", "groups"] if results.get("groups") else ["results"]
    return "\n".join(make_table(results, column) for column in columns)


def _begin_anew(tasks: "TaskDict", limit: int | float | None, asking: Asking) -> None:
    """Checks the limit, and seeds: a second run on the first one's random numbers would draw other examples."""
    if limit is not None and not (isinstance(limit, Real) and 0 < limit < math.inf):
        raise UserError(f"limit is {limit}; expected a number of documents per task, or a fraction below 1")
    refuse_both(limit, asking)
    _set_seeds(asking)
    for task in tasks["tasks"].values():
        task.set_fewshot_seed(asking.seeds["fewshot_seed"])


def _check_samples(name: str, asking: Asking, tasks: Mapping[str, Any]) -> None:
    if name not in tasks:
        raise UserError(f"--samples: {name!r} is not among the tasks asked for: {', '.join(tasks)}")
    documents, size = asking.documents(name) or [0], len(tasks[name].eval_docs)
    if documents[-1] >= size:
        raise UserError(f"--samples: document {documents[-1]} of {name}, which has {size}, numbered from 0")


def _shots(own: int | None, asked: int | None) -> int:
    # As in lm_eval.evaluator.simple_evaluate: a task that sets 0 itself is never given examples.
    return (own or 0) if asked is None or own == 0 else asked


def _check_shots(name: str, task: "Task", shots: int) -> None:
    """Raises UserError for more examples than there are documents, before any model is loaded."""
    if shots < 0:
        raise UserError(f"task {name!r} sets num_fewshot to {shots}; expected 0 or more examples")
    if shots <= USUAL_SHOTS:  # asking for the documents, lm-eval may warn once more
        return
    with in_tasks():
        documents = task.fewshot_docs()
    size = shots if documents is None else len(documents)
    if shots > size:
        raise UserError(f"num_fewshot is {shots}, and {name} has {size} documents to take examples from; give fewer")


def _check_repeats(name: str, repeats: Any) -> None:
    """Raises UserError for a number of times to ask each request that no evaluation would ever end with."""
    if not isinstance(repeats, int) or isinstance(repeats, bool) or not 1 <= repeats <= MOST_REPEATS:
        raise UserError(f"task {name!r} sets repeats to {shown(repeats)}; expected a whole number, 1 to {MOST_REPEATS}")


def _set_seeds(asking: Asking) -> None:
    import numpy as np

    if (seed := asking.seeds["random_seed"]) is not None:
        random.seed(seed)
    if (seed := asking.seeds["numpy_seed"]) is not None:
        np.random.seed(seed)


def _with_own_data(
    data: Mapping[str, LocalFiles], made: Mapping[str, OwnTask], named: Collection[str]
) -> dict[str, LocalFiles]:
    """The data that was given, and that of tasks of one's own and of those that come along, named or members of groups
    that are."""
    own: dict[str, LocalFiles] = {name: files for name, files in bundled_tasks().items() if name in named}
    own |= {name: {None: task.path} for name, task in made.items()}
    only_train = [name for name in own.keys() & data.keys() if data[name].keys() == {"train"}]
    return {**own, **data, **{name: {**own[name], **data[name]} for name in only_train}}


def _made(names: Sequence[str | OwnTask]) -> dict[str, OwnTask]:
    """The tasks of one's own, by name. Raises UserError for a name that is asked for twice."""
    made: dict[str, OwnTask] = {}
    for task in names:
        if isinstance(task, OwnTask):
            if [str(name) for name in names].count(task.name) > 1:
                raise UserError(f"two tasks are called {task.name!r}; give this one another name")
            made[task.name] = task
    return made


def _manager(
    names: Sequence[str], include_path: str | Path | Sequence[str | Path] | None, made: Mapping[str, OwnTask]
) -> tuple["TaskManager", list[str]]:
    """A TaskManager that knows the tasks asked for (and perhaps no others), and their names in its index."""
    from lm_eval.tasks import TaskManager

    folders = _folders(include_path)
    files = {name: _entry(Path(name)) for name in names if _is_file(name)}
    own = {entry.name: entry for entry in files.values()} | {name: _made_entry(task) for name, task in made.items()}
    manager = TaskManager(include_defaults=False, include_path=folders)
    refuse_endless([*own, *names], {**manager.task_index, **own})  # told before the whole index is made
    others = [name for name in names if name not in files and name not in made]
    known = {**manager.task_index, **own}
    members = named_in([*others, *own], known)
    wanted = [name for name in others if not _is_task(known.get(name))]
    absent = [name for name in sorted(members) if name not in known]
    stock = find_task_files(absent)
    written_out = set(absent) - stock.keys() - set(others)  # within a group's own file, if no other defines them
    if (
        all(name in stock or _is_group(known.get(name)) for name in wanted)
        and not any(known[name].kind.name == "TAG" for name in members & known.keys())
        and not any(map(may_be_group_or_tag, written_out))
    ):
        manager.task_index.update({name: _entry(path) for name, path in stock.items()})
    else:
        # Groups and tags gather members over many files and their includes: only the whole index has them.
        # An unknown one is told before that is made, which takes long.
        for name in wanted:
            is_known = name in stock or name in manager.task_index
            if not is_known and not _is_pattern(name) and not may_be_group_or_tag(name):
                raise _unknown(name, manager)
        manager = TaskManager(include_path=folders)
        ours = {name: path for name, path in stock.items() if name in bundled_tasks()}
        manager.task_index.update({name: _entry(path) for name, path in ours.items()})
    manager.task_index.update(own)
    found = chain.from_iterable([files[name].name] if name in files else _matches(manager, name) for name in names)
    asked = list(dict.fromkeys(found))
    refuse_endless(asked, manager.task_index)
    return manager, asked


def _folders(include_path: str | Path | Sequence[str | Path] | None) -> list[str | Path]:
    folders = [include_path] if isinstance(include_path, str | Path) else list(include_path or [])
    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError(f"include path {str(folder)!r} is not a folder")
        for file in Path(folder).rglob("*.yaml"):  # lm-eval reads all, and would wait for a pipe
            require_regular(file)
    return folders


def _matches(manager: "TaskManager", name: str) -> list[str]:
    """The tasks and groups of a name or a pattern."""
    matches = sorted(manager.match_tasks([name])) if _is_pattern(name) else [name]
    if not matches or matches[0] not in manager.task_index:
        raise _unknown(name, manager)
    return matches


def _entry(path: Path) -> Any:
    import yaml
    from lm_eval.tasks._index import TaskIndex
    from lm_eval.tasks._yaml_loader import load_yaml

    path = path.expanduser().resolve()
    require_regular(path)
    try:
        entry = TaskIndex.entry_from_config(load_yaml(path, resolve_func=False))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the task file {path}: {first_line(error)}") from error
    if entry is None:
        raise UserError(f"the task file {path} names no task; give it a line `task: NAME`")
    entry.yaml_path = path
    return entry


def _made_entry(task: OwnTask) -> Any:
    from lm_eval.tasks._index import TaskIndex

    entry = TaskIndex.entry_from_config(dict(task.config))
    entry.cfg = dict(task.config)
    return entry


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _is_task(entry: Any) -> bool:
    return entry is not None and entry.kind.name in ("TASK", "PY_TASK")


def _is_group(entry: Any) -> bool:
    return entry is not None and entry.kind.name == "GROUP"


def _is_pattern(name: str) -> bool:
    return any(character in name for character in "*?[")


def _unknown(name: str, manager: "TaskManager") -> UserError:
    near = near_names(name, manager.task_index)
    hint = f"; near names: {', '.join(near)}" if near else "; `lm_eval ls tasks` lists them all"
    return UserError(f"unknown task {name!r}{hint}")


def _not_asked_for(name: str, asked: Iterable[str]) -> UserError:
    return UserError(f"--data {name}=...: {name!r} is not among the tasks asked for: {', '.join(asked)}")


def _use_local_data(manager: "TaskManager", name: str, files: LocalFiles, num_fewshot: int | None) -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    entry = manager.task_index.get(name)
    if entry is None:
        raise _not_asked_for(name, (known for known, entry in manager.task_index.items() if _is_task(entry)))
    if not _is_task(entry):
        raise UserError(f"--data {name}=...: {name!r} is a group of tasks; give each task its own file")
    config = load_yaml(entry.yaml_path) if entry.yaml_path else dict(entry.cfg)
    local = with_local_data(config, files, _shots(config.get("num_fewshot"), num_fewshot))
    check_local_data(name, local)
    entry.cfg, entry.yaml_path = local, None
