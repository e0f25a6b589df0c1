"""Groups of tasks, such as mmlu, as a results store keeps them: their members and how lm-eval makes one score of these.

A group's scores are not stored: `jaxpaint.results.group_scores` makes them of its members' when they are read. Every
function here runs inside its caller's transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from jaxpaint.base.words import text_digest
from jaxpaint.results import checksums
from jaxpaint.results.keys import row_id
from jaxpaint.results.schema import canonical_json, has_table

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class GroupMetric:
    """A metric of a group: the mean of its members', by their documents or each the same.

    `filters` are lm-eval's; None stands for all under which any member has the metric.
    """

    metric: str
    weight_by_size: bool
    filters: tuple[str, ...] | None


@dataclass(frozen=True)
class Group:
    """A group as lm-eval has it: `members` are the tasks in it, those of groups within it too (a task as often as it is
    there), `children` the names of what it lists itself.
    """

    name: str
    version: str
    children: tuple[str, ...]
    members: tuple[str, ...]
    metrics: tuple[GroupMetric, ...]

    def by_size(self, metric: str) -> bool:
        """Whether a metric of the group weights members by their documents."""
        return next(each.weight_by_size for each in self.metrics if each.metric == metric)


@dataclass(frozen=True)
class StoredGroup:
    """A group of a store; `tasks` are its members' ids, and `settings` tell it from others of its name."""

    id: int
    group: Group
    tasks: tuple[int, ...]
    settings: str


def put(connection: sqlite3.Connection, group: Group, tasks: Mapping[str, int]) -> int:
    """The id of a group whose members have these ids; one of equal members gets this definition."""
    members = [tasks[name] for name in group.members]
    marks = "name, version, num_fewshot, bos, settings"
    asked = [connection.execute(f"SELECT {marks} FROM tasks WHERE id = ?", (task,)).fetchone() for task in members]
    key = {"name": group.name, "members": text_digest(canonical_json(asked))}
    definition = canonical_json(
        {
            "version": group.version,
            "children": group.children,
            "metrics": [[each.metric, each.weight_by_size, each.filters] for each in group.metrics],
        }
    )
    found = row_id(connection, "task_groups", key, definition=definition)
    query = "UPDATE task_groups SET definition = ?1 WHERE id = ?2 AND definition <> ?1"
    if connection.execute(query, (definition, found)).rowcount > 0:
        checksums.seal(connection, "task_groups", [found])
    added = connection.executemany(
        "INSERT OR IGNORE INTO group_members (task_group, place, task) VALUES (?, ?, ?)",
        ((found, place, task) for place, task in enumerate(members)),
    )
    if added.rowcount > 0:
        checksums.seal(connection, "group_members", [found])
    return found


def stored(connection: sqlite3.Connection) -> list[StoredGroup]:
    """All, those with most members first; none in an older store."""
    if not has_table(connection, "task_groups"):
        return []
    found = []
    for id, name, members, text in connection.execute("SELECT id, name, members, definition FROM task_groups"):
        query = "SELECT task, name FROM group_members JOIN tasks ON id = task WHERE task_group = ? ORDER BY place"
        if rows := connection.execute(query, (id,)).fetchall():
            said = json.loads(text)
            metrics = tuple(
                GroupMetric(metric, by_size, None if filters is None else tuple(filters))
                for metric, by_size, filters in said["metrics"]
            )
            tasks, names = zip(*rows, strict=True)
            group = Group(name, said["version"], tuple(said["children"]), names, metrics)
            found.append(StoredGroup(id, group, tasks, canonical_json({"members": members})))
    return sorted(found, key=lambda each: (-len(set(each.tasks)), each.id))


def counted(groups: Mapping[Key, Collection[Hashable]]) -> list[Key]:
    """The groups, given with their members, that count in their members' place where tasks are averaged: each but for
    those that share a member with a larger one, such as the groups within it."""
    found: list[Key] = []
    for name, members in sorted(groups.items(), key=lambda item: -len(set(item[1]))):
        if not any(set(members) & set(groups[other]) for other in found):
            found.append(name)
    return found
