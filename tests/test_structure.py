"""The house's shape: which way imports point, and which rooms stay free of heavy packages."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = (
    *("base", "plans", "results", "report", "tiles", "models", "convert", "engine", "analysis", "generation", "tasks"),
    *("training", "bench", "studies", "search", "face", "serve", "painter", "birth", "cli"),
)
HEAVY = {
    *("jax", "jaxlib", "flax", "optax", "orbax", "torch", "transformers", "lm_eval", "datasets", "matplotlib"),
    *("numba", "llvmlite"),
}


def _modules() -> dict[str, Path]:
    """Every module of the two packages by its dotted name."""
    files = [file for package in ("jaxpaint", "convert") for file in sorted((ROOT / package).rglob("*.py"))]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


MODULES = _modules()


def _room(module: str) -> str:
    """`jaxpaint.plans.text` stands in plans, `convert.hub` in convert."""
    return module.removeprefix("jaxpaint.").split(".")[0]


@cache
def imports(module: str) -> frozenset[str]:
    """Our own modules that a module imports anywhere: at the top, within functions, or for annotations."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return frozenset(found & MODULES.keys())


def test_the_walk_sees_imports() -> None:
    assert {"jaxpaint.plans.plan", "jaxpaint.models.checkpoint", "convert"} <= imports("jaxpaint.engine.model")
    assert "convert.hub" in imports("convert.sources")


@pytest.mark.parametrize("module", [name for name in MODULES if name != "jaxpaint"])
def test_a_room_imports_only_rooms_before_it(module: str) -> None:
    others = {_room(name) for name in imports(module)}
    assert others <= set(ORDER[: ORDER.index(_room(module)) + 1])
    if _room(module) == "models":  # families do not know plans
        assert not others & {"plans", "results", "report"}
    if _room(module) != "cli":  # guest houses: the command alone goes there
        assert not others & {"painter", "birth", "serve"} - {_room(module)}


def _loaded(modules: list[str]) -> set[str]:
    """Top-level packages in memory after importing `modules` in a fresh interpreter."""
    code = f"import sys, {', '.join(modules)}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


WITH_NUMPY = [f"jaxpaint.results.{name}" for name in ("flow", "scores", "store", "story")]
# Beside these rooms, what the command line needs before it knows what to run.
LIGHT = [
    *("jaxpaint", "jaxpaint.cli", "jaxpaint.cli.completion", "jaxpaint.engine.program", "jaxpaint.models.tokenizer"),
    *("jaxpaint.models", "jaxpaint.painter.items", "jaxpaint.painter.tokenizer", "jaxpaint.studies.settings"),
    *("jaxpaint.studies.spec", "jaxpaint.tasks.evaluation", "jaxpaint.tasks.files"),
    *("jaxpaint.tasks.local_data", "jaxpaint.bench.kinds", "jaxpaint.bench.shapes"),
    *(name for name in MODULES if _room(name) in ("base", "plans", "results") and name not in WITH_NUMPY),
]


def test_rooms_without_heavy_packages() -> None:
    assert not _loaded(LIGHT) & (HEAVY | {"numpy"})
    # matplotlib is loaded where a figure is drawn, and lm-eval where a task is.
    figures = [name for name in MODULES if name.startswith("jaxpaint.report.figures")]
    paper = [name for name in MODULES if _room(name) == "report" and name not in figures]
    with_numpy = ["convert", "jaxpaint.models.checkpoint", "jaxpaint.engine.rows"]
    tasks = ["jaxpaint.tasks.load", "jaxpaint.tasks.stderrs"]
    assert not _loaded([*WITH_NUMPY, *with_numpy, *tasks, *paper]) & HEAVY
    assert not _loaded(figures) & (HEAVY - {"matplotlib"})


def test_import_is_fast() -> None:
    """The processor's time, because other work may be running on the machine, and the best of a few."""
    code = "import time; start = time.process_time(); import jaxpaint; print(time.process_time() - start)"
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True).stdout)
        for _ in range(3)
    ]
    assert min(seconds) < 0.3


def test_every_package_is_installed() -> None:
    import tomllib

    installed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {file.parent for package in ("jaxpaint", "convert") for file in (ROOT / package).rglob("__init__.py")}
    assert sorted(installed) == sorted(".".join(folder.relative_to(ROOT).parts) for folder in folders)


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda file: file.stem)
def test_what_benchmarks_import_is_there(file: Path) -> None:
    """They import where they use, so that nothing else would tell."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in {"jaxpaint", "convert"}:
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name) or importlib.util.find_spec(f"{node.module}.{name.name}"), name.name
