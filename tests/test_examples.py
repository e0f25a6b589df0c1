"""The notebooks of examples/: what they are stored with, and they run from top to bottom without a network."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
FIRST_HOUR = ROOT / "examples" / "first_hour.ipynb"
LOOKING = ROOT / "examples" / "looking_inside.ipynb"
BIRTH = ROOT / "examples" / "birth.ipynb"
MOST_BYTES = 400_000
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


def cells(notebook: Any, kind: str) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def outputs_of(notebook: Any, mime: str) -> list[str]:
    """What was displayed of a kind, such as image/png, in order."""
    outputs = [output for cell in cells(notebook, "code") for output in cell.outputs]
    return [output.data[mime] for output in outputs if mime in output.get("data", {})]


def texts_of(notebook: Any) -> list[str]:
    """All outputs that are text, in order."""
    outputs = [output for cell in cells(notebook, "code") for output in cell.outputs]
    kinds = ("text/plain", "text/html", "text/markdown")
    return [output.text if "text" in output else output.data.get(kind, "") for output in outputs for kind in kinds]


def words_of(notebook: Any) -> list[str]:
    """`texts_of` without digits: other machines round otherwise, and take another time."""
    return [re.sub(r"-?[0-9]+([.e][-+0-9]*)?", "#", text) for text in texts_of(notebook)]


@each_notebook
def test_notebooks_are_stored_with_outputs_of_one_run(path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    code = cells(notebook, "code")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert path.stat().st_size < MOST_BYTES
    assert not any(cell.metadata for cell in code)
    kinds = [(output.output_type, output.get("name")) for cell in code for output in cell.outputs]
    assert not {("error", None), ("stream", "stderr")} & set(kinds)
    shown = "".join(texts_of(notebook))
    assert [place for place in ("/home/", "/root/", "/tmp/", "/work/", f"{Path.home()}/") if place in shown] == []


@each_notebook
def test_code_cells_compile(path) -> None:
    for cell in cells(nbformat.read(path, as_version=4), "code"):
        compile(cell.source, f"{path.name}, cell {cell.id}", "exec")


@each_notebook
def test_links_lead_to_files(path) -> None:
    text = "\n".join(cell.source for cell in cells(nbformat.read(path, as_version=4), "markdown"))
    targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if "://" not in target]
    assert [target for target in targets if not (path.parent / target).is_file()] == []


SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
SAID = {  # in what they print, or the file that they write
    "logit_lens": "15      hare",
    "knockout": "answer: hare",
    "patch": "that after 16 layers, after step 10: goat",
    "similarity_map": "similarity.png",
    "own_questions": "0-3 12-15    1.0",
    "skip_windows": "skip_windows.png",
    "texts_side_by_side": "0-15                 7 - 5 = 2 . 2 * 2 = 4 .",
}


@pytest.mark.parametrize("name", SAID)
@pytest.mark.slow
def test_scripts_run(name: str, tmp_path: Path) -> None:
    script = ROOT / "examples" / f"{name}.py"
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"},
    )
    assert done.returncode == 0, done.stderr
    assert SAID[name] in done.stdout or (tmp_path / SAID[name]).is_file()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_are_short(script: Path) -> None:
    """At most 15 lines without imports, docstring and blank ones."""
    _, *statements = ast.parse(script.read_text()).body
    own = [each for each in statements if not isinstance(each, ast.Import | ast.ImportFrom)]
    assert sum(1 + (each.end_lineno or each.lineno) - each.lineno for each in own) <= 15


@pytest.mark.slow
def test_the_birth_of_an_induction_head_runs_without_a_network(tmp_path, monkeypatch) -> None:
    for name in ("JAXPAINT_CACHE", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    stored, notebook = (nbformat.read(BIRTH, as_version=4) for _ in range(2))
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    assert len(outputs_of(notebook, "image/png")) == 2
    written, watched = outputs_of(notebook, "text/html")
    assert [text for text in ("gamma 10", "{0 1}*3") if text not in written] == []
    assert float(re.findall(r"<td>([0-9.]+)</td>", watched)[-3]) > 0.8  # of the plan 0 1, at the last step
    # What is stored is of the same cells: the same texts, tables of the same rows and columns, like numbers.
    for before, after in zip(cells(stored, "code"), cells(notebook, "code"), strict=True):
        assert [output.output_type for output in before.outputs] == [output.output_type for output in after.outputs]
    assert printed(stored) == printed(notebook)
    for before, after in zip(outputs_of(stored, "text/html"), (written, watched), strict=True):
        assert headings(before) == headings(after)
        old, new = ([float(each) for each in re.findall(r"<td>([0-9.]+)</td>", table)] for table in (before, after))
        assert old == pytest.approx(new, abs=0.15)


def printed(notebook: Any) -> str:
    streams = [output for cell in cells(notebook, "code") for output in cell.outputs if output.output_type == "stream"]
    return "".join(stream.text for stream in streams)


def headings(table: str) -> list[str]:
    return re.findall(r"<th>(.*?)</th>", table)


@pytest.mark.slow
def test_the_induction_heads_script(tmp_path) -> None:
    script = ROOT / "examples" / "induction_head.py"
    lines = [
        line for line in script.read_text().splitlines() if line and not line.startswith(("from ", "import ", '"'))
    ]
    assert len(lines) <= 15
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=True)
    free, frozen = (
        [list(map(float, line.split())) for line in part.splitlines()[1:]] for part in done.stdout.strip().split("\n\n")
    )
    assert free[-1][1] > 0.8 > 0.3 > frozen[2][1]


@pytest.mark.slow
def test_the_first_hour_runs_without_a_network(tmp_path, monkeypatch) -> None:
    for name in ("JAXPAINT_CACHE", "HF_HOME", "IPYTHONDIR", "TMPDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TQDM_DISABLE", "1")
    work = tmp_path / "work"
    work.mkdir()
    notebook = nbformat.read(FIRST_HOUR, as_version=4)
    resources = {"metadata": {"path": str(work)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()

    streams = [output for cell in cells(notebook, "code") for output in cell.outputs if output.output_type == "stream"]
    assert [stream.text for stream in streams if stream.name == "stderr"] == []
    assert len(outputs_of(notebook, "image/png")) == 1
    assert len(outputs_of(notebook, "image/svg+xml")) == 2  # a plan, and the report's figure
    tables = outputs_of(notebook, "text/html")
    (results,) = (table for table in tables if ">arithmetic</th>" in table)
    assert [name for name in ("full", "skip", "random", "looped-parallel") if f">{name}</th>" not in results] == []
    assert ">looped-parallel</th>" in tables[-1]  # the answers beside each other

    shown = "".join([stream.text for stream in streams] + tables + outputs_of(notebook, "text/plain"))
    assert [place for place in (ROOT, tmp_path, Path.home()) if f"{place}/" in shown] == []
    assert words_of(notebook) == words_of(nbformat.read(FIRST_HOUR, as_version=4))
    assert list(work.iterdir()) == []
    assert list((tmp_path / "TMPDIR").glob("**/*.sqlite")) == []


@pytest.mark.slow
def test_looking_inside_runs_without_a_network(tmp_path, monkeypatch) -> None:
    for name in ("JAXPAINT_CACHE", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TQDM_DISABLE", "1")
    notebook = nbformat.read(LOOKING, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    stored = nbformat.read(LOOKING, as_version=4)
    assert len(outputs_of(notebook, "image/png")) == len(outputs_of(stored, "image/png")) == 4
    assert words_of(notebook) == words_of(stored)
    assert [text for text in outputs_of(stored, "text/html") if "does not hold" in text]
