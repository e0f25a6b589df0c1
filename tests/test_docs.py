"""The pages of docs/: links lead somewhere, and what one is told to run runs."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import nbformat
import pytest

from jaxpaint import cli
from jaxpaint.cli.parsing import COMMANDS, command
from jaxpaint.models import FAMILIES
from tests.helpers.tiny_results import PLANS, make_store
from tests.test_structure import ORDER

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "RESULTS.md",
    *(ROOT / "docs").rglob("*.md"),
]
NOTEBOOK = ROOT / "examples" / "first_hour.ipynb"


def commands(text: str) -> list[list[str]]:
    """The `jaxpaint` commands in the blocks of a text, as a shell splits them."""
    blocks = re.findall(r"^```([^\n]*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = (
        "\n".join(block for language, block in blocks if language in ("", "sh", "bash"))
        .replace("\\\n", " ")
        .splitlines()
    )
    found = [
        re.sub(r".*?jaxpaint ", "jaxpaint ", part.strip(), count=1)
        for line in lines
        for part in re.split(r" && |; | \| ", line)
        if re.match(r"(\$ )?(\S*/bin/)?jaxpaint ", part.strip())
    ]
    return [shlex.split(command, comments=True)[1:] for command in found]


def links(page: Path) -> set[Path]:
    """The files that a page links to."""
    targets = re.findall(r"\]\(([^)#]+)", page.read_text())
    found = {(page.parent / target).resolve() for target in targets if "://" not in target}
    return {file for file in found if file.parent != ROOT / "docs" / "reference" / "commands"}  # made with the site


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page) -> None:
    assert [str(target) for target in links(page) if not target.is_file()] == []


def test_every_page_is_linked_from_the_readme() -> None:
    """Or, of the questions, from their list; of the site's own, from its navigation (tests/test_site.py)."""
    own = {"index.md"}
    pages = {page for page in (ROOT / "docs").glob("*.md") if page.name not in own}
    assert pages <= links(ROOT / "README.md")
    questions = ROOT / "docs" / "how-to"
    assert set(questions.glob("*.md")) - {questions / "index.md"} <= links(questions / "index.md")


@pytest.mark.parametrize("page", [*PAGES, NOTEBOOK], ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_spelled_as_the_command_line_has_them(page, monkeypatch, capsys) -> None:
    """Each is parsed by its own subcommand, which then does nothing."""
    for name in COMMANDS:
        monkeypatch.setattr(command(name), "run", lambda options: 0)
    text = page.read_text()
    if page == NOTEBOOK:
        text = "\n".join(cell.source for cell in nbformat.read(page, as_version=4).cells)
    refused = []
    for words in commands(text):
        try:
            cli.main(words)
        except SystemExit:
            refused.append((words, capsys.readouterr().err))
    assert refused == []


def test_every_command_is_shown_at_work() -> None:
    named = {words[0] for page in PAGES for words in commands(page.read_text()) if words}
    assert named >= COMMANDS.keys() - {"completion", "demo", "doctor"}


def test_the_house_is_drawn_as_it_is() -> None:
    """A line for every room in the order of imports."""
    (tree,) = re.findall(r"```\n(room .*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    assert [line.split()[0] for line in tree.splitlines()[1:]] == list(ORDER)


def test_results_are_read_with_pandas(tmp_path, monkeypatch, capsys) -> None:
    """The page's own snippet on a store of eight layers and other tasks."""
    make_store(tmp_path / "study.sqlite")
    text = (ROOT / "docs" / "results.md").read_text()
    snippet = next(code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "import pandas" in code)
    monkeypatch.chdir(tmp_path)
    for theirs, ours in (("0-31", "0-7"), ("arc_challenge", "arc_easy"), ("acc_norm", "acc")):
        snippet = snippet.replace(theirs, ours)
    exec(snippet, {})
    out = capsys.readouterr().out
    assert [row for row in PLANS if row.label not in out or row.text not in out] == []


@pytest.mark.slow
def test_readme_has_every_family_as_its_file_begins() -> None:
    rows = []
    for family in FAMILIES:
        said = (sys.modules[family.read.__module__].__doc__ or "").partition("\n")[0]
        said = said.removesuffix(" is tested.").rpartition(" Parity with ")[0] or said
        rows.append(f"| {', '.join(f'`{name}`' for name in family.model_types)} | {said} |")
    assert "\n".join(["| `model_type` | |", "|---|---|", *sorted(rows)]) in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "python.md"], ids=lambda page: page.name)
@pytest.mark.slow
def test_python_by_example_runs(page, tmp_path, monkeypatch, capsys) -> None:
    """The page's blocks as they stand, in order; what it says of an error is what is printed."""
    text = page.read_text()
    monkeypatch.chdir(tmp_path)
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), {})
    printed = capsys.readouterr().out
    assert "hare" in printed
    for said in re.findall(r"print\(error\)  # (.*)", text):
        assert said in printed


def test_plans_in_python_are_what_the_page_says() -> None:
    """Each line of the page's block with a plan in its comment."""
    block = next(
        code
        for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "plans.md").read_text(), re.DOTALL)
        if "without" in code
    )
    known: dict[str, object] = {}
    lines = block.splitlines()
    exec("\n".join(line for line in lines if line.startswith(("import", "plan ="))), known)
    said = [line.split("  # ") for line in lines if re.search(r"  # [0-9({]\S*( [0-9({]\S*)*(:|;|$)", line)]
    assert len(said) == 6
    for code, comment in said:
        assert str(eval(code, known)) == re.split("[:;]", comment)[0]
