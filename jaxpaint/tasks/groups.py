"""Groups of tasks: what makes one score of them, and those that could never be loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from jaxpaint.base.documents import require_bounded, shown
from jaxpaint.base.errors import UserError
from jaxpaint.results.groups import Group, GroupMetric

if TYPE_CHECKING:
    from lm_eval.tasks.manager import TaskDict

MOST_TASKS = 10_000  # of a group; the largest of lm-eval's own have some thousands, and each is built by itself


def groups_of(tasks: TaskDict) -> tuple[Group, ...]:
    """The groups of loaded tasks (`jaxpaint.tasks.load.load_tasks`), those within groups too, that have a score."""
    return tuple(
        Group(
            group.name,
            group.version,
            tuple(group.child_names),
            tuple(task.task_name for task in group.get_all_tasks()),
            tuple(
                GroupMetric(
                    each.metric, each.weight_by_size, None if each.filter_list is None else tuple(each.filter_list)
                )
                for each in group.aggregate_metric_list or ()
            ),
        )
        for group in tasks.get("groups", {}).values()
        if group.has_aggregation and group.get_all_tasks()
    )


def named_in(names: Iterable[str], index: Mapping[str, Any]) -> set[str]:
    """The names, and those that the groups among them list, through however many groups of the index."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            if (entry := index.get(name)) is not None and entry.kind.name == "GROUP":
                todo += filter(None, _members((entry.cfg or {}).get("task"), index))
    return found


def refuse_endless(names: Iterable[str], index: Mapping[str, Any]) -> None:
    """Raises UserError for a group among the names that has itself as a member, through however many other groups, or
    that stands for more than `MOST_TASKS` tasks, one of several groups counted for each.

    `index` are lm-eval's entries by name; what it lacks counts as a task.
    """
    sizes: dict[str, int] = {}  # a group that many others list is counted once

    def size(name: str, path: tuple[str, ...]) -> int:
        if name in path:
            around = " > ".join(map(shown, (*path[path.index(name) :], name)))
            raise UserError(f"the group of tasks {shown(name)} is a member of itself: {around}; take one of these out")
        entry = index.get(name)
        if entry is None or entry.kind.name != "GROUP":
            return len(entry.tags) if entry is not None and entry.kind.name == "TAG" else 1
        if name not in sizes:
            require_bounded(entry.cfg, f"the group of tasks {shown(name)}")
            members = _members((entry.cfg or {}).get("task"), index)
            sizes[name] = sum(1 if member is None else size(member, (*path, name)) for member in members)
            if sizes[name] > MOST_TASKS:
                raise UserError(
                    f"the group of tasks {shown(name)} stands for {sizes[name]:,} tasks, through the groups that are "
                    f"its members; expected at most {MOST_TASKS:,}; list fewer, or each once"
                )
        return sizes[name]

    for name in names:
        size(name, ())


def _members(listed: Any, index: Mapping[str, Any]) -> Iterator[str | None]:
    """The names in a group's list, None for a task without one; a group that is written out within it, and not in the
    index, has its members there, too."""
    for item in listed if isinstance(listed, list) else []:
        name = item.get("group", item.get("task")) if isinstance(item, dict) else item
        known = isinstance(name, str) and name in index
        if isinstance(item, dict) and "group" in item and not known:
            yield from _members(item.get("task"), index)
        else:
            yield name if isinstance(name, str) else None
