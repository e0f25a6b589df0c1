"""Groups of tasks: one that comes back to itself would never be loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jaxpaint.base.documents import require_bounded, shown
from jaxpaint.base.errors import UserError


def refuse_cycles(names: Iterable[str], index: Mapping[str, Any]) -> None:
    """Raises UserError where a group among the names has itself as a member, through however many other groups.

    `index` are lm-eval's entries by name; what it lacks is passed over.
    """
    followed: set[str] = set()

    def follow(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            around = " > ".join(map(shown, (*path[path.index(name) :], name)))
            raise UserError(f"the group of tasks {shown(name)} is a member of itself: {around}; take one of these out")
        entry = index.get(name)
        if name in followed or entry is None or entry.kind.name != "GROUP":
            return
        require_bounded(entry.cfg, f"the group of tasks {shown(name)}")
        for member in _members((entry.cfg or {}).get("task"), index):
            follow(member, (*path, name))
        followed.add(name)

    for name in names:
        follow(name, ())


def _members(listed: Any, index: Mapping[str, Any]) -> Iterator[str]:
    """The names in a group's list; a group that is written out within it has its members there, too."""
    for item in listed if isinstance(listed, list) else []:
        name = item.get("group", item.get("task")) if isinstance(item, dict) else item
        if isinstance(name, str) and name in index:
            yield name
        elif isinstance(item, dict) and "group" in item:
            yield from _members(item.get("task"), index)
