"""Selected results as tables for documents and programs: by pandas, a row for each plan or for each result."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxpaint.base.shown import csv_cell, markdown_cell, visible_name
from jaxpaint.results.selection import DIFFERENCES, Row, Selection

if TYPE_CHECKING:
    import pandas

GAP = "  "


def csv_text(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """A row for each result: texts as cells that a spreadsheet shows and does not compute."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([csv_cell(row[name]) for name in columns] for row in rows)
    return out.getvalue()


def long_frame(rows: Sequence[Row], columns: Sequence[str]) -> pandas.DataFrame:
    """A row for each result; what is unknown is None."""
    import pandas

    return pandas.DataFrame([[row[name] for name in columns] for row in rows], columns=list(columns), dtype=object)


def wide_frame(rows: Sequence[Row], selection: Selection) -> pandas.DataFrame:
    """A row for each model's plan, a column for each task: its value ± standard error, or with `diff` the difference
    from the full model."""
    import pandas

    of_plans = [name for name in selection.columns if name not in DIFFERENCES] or ["label", "cost", "depth"]
    models = dict.fromkeys((row["fingerprint"], row["dtype"]) for row in rows)
    if len(models) > 1 and "model" not in of_plans:
        of_plans = ["model", *of_plans]
    plans: dict[tuple[Any, ...], Row] = {}
    tasks: dict[str, None] = {}
    named = _names(rows)
    for row in rows:
        key = (row["fingerprint"], row["dtype"], row["plan"], row["label"])
        known = row if row["label"] is not None else row | {"label": row["plan"]}
        own = plans.setdefault(key, {name: known[name] for name in of_plans})
        task = named[_asked(row)]
        tasks[task] = None
        own[task] = shown(row, diff=selection.diff)
    columns = [*of_plans, *tasks]
    return pandas.DataFrame(
        [[own.get(name, "-") for name in columns] for own in plans.values()], columns=columns, dtype=object
    )


def shown(row: Row, *, diff: bool = False) -> str:
    """A result for reading."""
    if row["value"] is None:
        return "not finite" if row["status"] == "not finite" else "running" if row["status"] == "running" else "-"
    value, stderr = (row[name] for name in DIFFERENCES) if diff else (row["value"], row["stderr"])
    if value is None:
        return "-"
    number = (f"{value:+.3f}" if diff else f"{value:.3f}") if abs(value) < 100 else f"{value:.4g}"
    return number if stderr is None else f"{number} ±{stderr:.3f}"


def markdown_text(frame: pandas.DataFrame) -> str:
    head = [markdown_cell(str(name)) for name in frame.columns]
    rows = [[markdown_cell(_text(value)) for value in row] for row in frame.itertuples(index=False)]
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def latex_text(frame: pandas.DataFrame) -> str:
    """A tabular with booktabs' rules."""
    texts = frame.map(_text)
    escaped = texts.map(_latex)
    escaped.columns = [_latex(str(name)) for name in texts.columns]
    return escaped.to_latex(index=False, escape=False, column_format="l" * len(texts.columns))


def html_text(frame: pandas.DataFrame) -> str:
    return f"{frame.map(_text).to_html(index=False, border=0)}\n"


def parquet_bytes(frame: pandas.DataFrame) -> bytes:
    out = io.BytesIO()
    frame.infer_objects().to_parquet(out, index=False)
    return out.getvalue()


def text_lines(frame: pandas.DataFrame, width: int) -> str:
    """For reading, in lines of at most `width` columns, so long as the first column and one other fit; columns that do
    not fit beside each other follow in blocks of their own."""
    first, *others = [_padded(frame, number) for number in range(len(frame.columns))]
    blocks, beside = [], [first]
    for column in others:
        if len(beside) > 1 and sum(len(each[0]) + len(GAP) for each in beside) + len(column[0]) > width:
            blocks.append(beside)
            beside = [first]
        beside.append(column)
    blocks.append(beside)
    return "\n\n".join("\n".join(_lines(block)) for block in blocks) + "\n"


def _padded(frame: pandas.DataFrame, number: int) -> list[str]:
    """A column with its heading, all cells of one width: the first to the left, others to the right."""
    cells = [str(frame.columns[number]), *map(_text, frame.iloc[:, number])]
    width = max(map(len, cells))
    return [cell.rjust(width) if number else cell.ljust(width) for cell in cells]


def _lines(columns: Sequence[Sequence[str]]) -> list[str]:
    return [GAP.join(cells).rstrip() for cells in zip(*columns, strict=True)]


def _asked(row: Row) -> tuple[Any, ...]:
    return row["task"], row["num_fewshot"], row["bos"], row["settings"], row["metric"]


def _names(rows: Sequence[Row]) -> dict[tuple[Any, ...], str]:
    """Of each task as it is asked a column's name, told apart where several have one."""
    asked = dict.fromkeys(map(_asked, rows))
    found: dict[tuple[Any, ...], str] = {}
    for key in asked:
        task, shots, bos, _, metric = key
        alike = [each for each in asked if each[0] == task and each[4] is not None]
        name = task if len(alike) < 2 else f"{task} ({shots}-shot, BOS {bos}, {metric})"
        found[key] = name if name not in found.values() else f"{name} #{len(found)}"
    return found


def _text(value: Any) -> str:
    return "" if value is None else visible_name(f"{value:g}" if isinstance(value, float) else str(value))


_LATEX = str.maketrans(
    {
        **{each: f"\\{each}" for each in "&%$#_{}"},
        **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"},
        **{"±": r"$\pm$", "×": r"$\times$"},
    }
)


def _latex(text: str) -> str:
    return text.translate(_LATEX)
