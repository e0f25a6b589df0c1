"""The folder that a run leaves: figures, curves as CSV, findings as JSON, and one page of Markdown."""

from __future__ import annotations

from pathlib import Path

from jaxpaint.base.folders import new_folder
from jaxpaint.birth import tables
from jaxpaint.birth.figures import figures
from jaxpaint.birth.run import Outcome
from jaxpaint.birth.settings import Settings
from jaxpaint.report.figures import as_bytes, file_stem

PAGE = "birth.md"


def is_ours(folder: Path) -> bool:
    """Whether a folder is such a one, which another may replace."""
    return (folder / PAGE).is_file() and (folder / "birth.json").is_file()


def write(outcome: Outcome, folder: Path, command: str) -> Path:
    """Writes the folder whole, in place of an earlier one of its kind; returns the page. Raises UserError."""
    with new_folder(folder, overwrite=True, replaces=is_ours) as new:
        drawn = []
        for figure in figures(outcome):
            png = new / f"{file_stem(figure)}.png"
            png.write_bytes(as_bytes(figure, "", "png"))
            drawn.append((figure, png.name))
        (new / "steps.csv").write_text(tables.steps_csv(outcome))
        (new / "measured.csv").write_text(tables.measured_csv(outcome))
        (new / "birth.json").write_text(tables.as_json(outcome))
        (new / PAGE).write_text(_page(outcome, drawn, command))
    return folder / PAGE


def _page(outcome: Outcome, drawn: list, command: str) -> str:
    settings = outcome.settings
    parts = [
        "# The birth of an induction head",
        f"`{command}`, {outcome.seconds:.0f} s of training: {_model(settings)}, texts of {settings.length} tokens, "
        f"{settings.rows} a step, {settings.steps} steps of {settings.learning_rate:g}, seeds "
        f"{', '.join(map(str, settings.seeds))}.",
        "## Findings",
        _markdown(
            [["claim", "verdict", "measured"], *([f.claim, f"**{f.verdict}**", f.evidence] for f in outcome.findings)]
        ),
        "## At the end",
        _markdown(tables.end_rows(outcome)),
        "Of all outputs, the first time included, and what attention finds (docs/birth.md):",
        _markdown(tables.behaviour_rows(outcome)),
        "## Layer plans",
        f"In-context accuracy of the written-down head (b {settings.ideal_b:g}) and of trained ones."
        if outcome.written
        else "In-context accuracy.",
        _markdown(tables.plan_rows(outcome)),
        "## Figures",
        *(f"![{figure.title}]({name})\n\n{figure.caption}" for figure, name in drawn),
        "Curves: [steps.csv](steps.csv), each step on its own batch; [measured.csv](measured.csv), on test texts. "
        "[birth.json](birth.json) has the settings and findings.",
    ]
    return "\n\n".join(parts) + "\n"


def _model(settings: Settings) -> str:
    if settings.architecture == "general":
        return f"the general model, {settings.layers} layers of {settings.heads} heads, width {settings.width}"
    return f"width {settings.width}, {settings.positions} positions"


def _markdown(rows: list[list[str]]) -> str:
    first, *others = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in (first, ["---"] * len(first), *others))
