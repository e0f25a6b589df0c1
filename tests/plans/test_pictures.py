"""Plans as SVG and as Mermaid's flowcharts, against what the drawing and the tree hold."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from jaxpaint.plans.mermaid import mermaid
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.svg import HEIGHT, WIDTH, svg

PLANS = ("0-3", "0-8 {9-22}*3 23-31", "0 {1 (2 3)}@0.5 4a", "{0 {1 2}} 3", "sum{4 5}*2")
SPACE = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("text", PLANS)
def test_svg_has_the_drawings_words_and_lines_where_they_stand(text) -> None:
    drawing = Plan.parse(text).draw()
    root = ElementTree.fromstring(svg(drawing))
    grid = [list(" " * len(line)) for line in drawing.splitlines()]
    for word in root.iter(f"{SPACE}text"):
        row, column = (int(word.get("y")) - 5) // HEIGHT - 1, int(word.get("x")) // WIDTH - 1
        grid[row][column : column + len(word.text)] = word.text
    expected = [re.sub("[─│╭╮╰╯┬┴├┤┼]", " ", line) for line in drawing.splitlines()]
    assert ["".join(row) for row in grid] == expected
    width, height = map(float, root.get("viewBox").split()[2:])
    strokes = re.findall(r"M(\S+) (\S+)L(\S+) (\S+?)(?=M|$)", root.find(f"{SPACE}path").get("d"))
    assert len(strokes) == sum(
        {"─": 2, "│": 2, "┼": 4}.get(c, 3 if c in "┬┴├┤" else 2) for c in drawing if c in "─│╭╮╰╯┬┴├┤┼"
    )
    assert all(0 <= float(x) <= width and 0 <= float(y) <= height for x, y, *_ in strokes)


def edges(chart: str) -> set[tuple[str, str]]:
    """Between the texts of a flowchart's boxes."""
    names = dict(re.findall(r'^\s*(\w+)[\[(]+"(.*)"[\])]+$', chart, re.MULTILINE))
    return {(names[a], names[b]) for a, b in re.findall(r"^\s*(\w+) --> (\w+)$", chart, re.MULTILINE)}


def test_mermaid_draws_the_tree() -> None:
    assert edges(mermaid(Plan.parse("0-3").root)) == {("input", "0-3"), ("0-3", "output")}
    chart = mermaid(Plan.parse("0 {1 (2 3)}*3 4").root)
    assert edges(chart) == {
        *{("input", "0"), ("0", "1"), ("0", "2 → 3"), ("1", "mean"), ("2 → 3", "mean"), ("mean", "4"), ("4", "output")}
    }
    assert chart.count("subgraph") == chart.count("  end\n") == 1
    assert '["3 times"]' in chart
    nested = mermaid(Plan.parse("{0 {1 2}} 3").root)
    assert {("1", "mean"), ("2", "mean"), ("0", "mean"), ("mean", "mean"), ("mean", "3")} <= edges(nested)
    assert "update ×0.5" in mermaid(Plan.parse("{0 1}@0.5").root)
