"""The pages of docs/: links lead somewhere, and what one is told to run runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tiny_results import PLANS, make_store

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "RESULTS.md",
    *(ROOT / "docs").glob("*.md"),
]


def links(page: Path) -> set[Path]:
    """The files that a page links to."""
    targets = re.findall(r"\]\(([^)#]+)", page.read_text())
    return {(page.parent / target).resolve() for target in targets if "://" not in target}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page) -> None:
    assert [str(target) for target in links(page) if not target.is_file()] == []


def test_every_page_is_linked_from_the_readme() -> None:
    assert set((ROOT / "docs").glob("*.md")) <= links(ROOT / "README.md")


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
