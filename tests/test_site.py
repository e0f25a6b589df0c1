"""The documentation's site: it is built without a warning, and its search answers what people ask."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("mkdocs", reason="needs jaxpaint[docs]")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")
    return folder


@pytest.fixture(scope="module")
def searched(site) -> Callable[[str], list[str]]:
    """The pages that the site's own search finds, best first: the index that it loads, and the library that it is."""
    lunr = pytest.importorskip("lunr", reason="needs jaxpaint[docs]").lunr
    documents = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    fields = [{"field_name": "title", "boost": 10}, "text"]
    index = lunr(ref="location", fields=fields, documents=documents)
    return lambda words: [found["ref"] for found in index.search(words)]


@pytest.mark.parametrize(
    ("question", "page"),
    [
        ("resume a killed study", "resume"),
        ("read results in pandas", "pandas"),
        ("run on a SLURM array", "slurm"),
        ("add a model family", "family"),
        ("compare two plans with a test", "compare"),
        ("move or clear the cache", "cache"),
        ("work offline on a compute node", "offline"),
        ("score my own JSONL questions", "own-questions"),
        ("chat template of an Instruct model", "chat"),
        ("logit lens attention patching", "look-inside"),
        ("measure a plan's latency", "latency"),
        ("publish a shortened model", "publish"),
        ("cite jaxpaint", "cite"),
    ],
)
def test_the_search_finds_the_page(searched, question: str, page: str) -> None:
    assert searched(question)[0] == f"how-to/{page}/"


def test_every_page_has_its_place(site) -> None:
    """In the navigation, so that nobody has to know of it; but for files that pages link to, and commands' help."""
    home = (site / "index.html").read_text()
    pages = {page.relative_to(ROOT / "docs").with_suffix("") for page in (ROOT / "docs").rglob("*.md")}
    lost = {str(page) for page in pages if page.name != "index" and f'href="{page}/"' not in home}
    assert not lost


def test_every_command_has_a_page(site) -> None:
    from jaxpaint.cli.parsing import COMMANDS

    for name in COMMANDS:
        assert f"usage: jaxpaint {name}" in (site / "reference" / "commands" / name / "index.html").read_text()
