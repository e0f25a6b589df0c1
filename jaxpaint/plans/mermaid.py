"""A plan as a flowchart in Mermaid's notation, which Markdown pages draw (https://mermaid.js.org)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, groupby

from jaxpaint.plans.nodes import Node, Parallel, Repeat, Series, Weighted, nesting
from jaxpaint.plans.text import weight_text, words


def mermaid(root: Series) -> str:
    """The nodes of a plan in normal form. A chain of layers is one box; repeats and weights are frames."""
    chart = _Chart()
    end = chart.series(root, "input", "  ")
    lines = ['  input(["input"])', *chart.lines, '  output(["output"])', f"  {end} --> output"]
    return "\n".join(["flowchart TD", *lines])


class _Chart:
    """Lines so far; each method adds a node's after the box `before` and returns the box that it ends with."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._numbers = count()

    def series(self, node: Node, before: str, indent: str) -> str:
        items = node.items if isinstance(node, Series) else (node,)
        for is_chain, group in groupby(items, key=lambda each: nesting(each) == 0):
            if is_chain:
                before = self._box(" → ".join(words(tuple(group))), [before], indent)
            else:
                for each in group:
                    before = self._group(each, before, indent)
        return before

    def _group(self, node: Node, before: str, indent: str) -> str:
        if isinstance(node, Parallel):
            ends = [self.series(branch, before, indent) for branch in node.branches]
            return self._box(node.combine, ends, indent, "((", "))")
        if isinstance(node, Repeat | Weighted):
            title = f"{node.times} times" if isinstance(node, Repeat) else f"update ×{weight_text(node.weight)}"
            self.lines.append(f'{indent}subgraph g{next(self._numbers)} ["{title}"]')
            end = self.series(node.body, before, f"{indent}  ")
            self.lines.append(f"{indent}end")
            return end
        return self.series(node, before, indent)

    def _box(self, text: str, before: Sequence[str], indent: str, left: str = "[", right: str = "]") -> str:
        name = f"n{next(self._numbers)}"
        self.lines.append(f'{indent}{name}{left}"{text}"{right}')
        self.lines += [f"{indent}{each} --> {name}" for each in before]
        return name
