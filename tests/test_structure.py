"""The house's shape: which way imports point, and which rooms stay free of heavy packages."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"jax", "jaxlib", "flax", "optax", "orbax", "torch", "transformers", "lm_eval", "datasets", "matplotlib"}
WITHOUT_NUMPY = (
    "jaxpaint",
    "jaxpaint.caches",
    "jaxpaint.cli",
    "jaxpaint.compilation",
    "jaxpaint.completion",
    "jaxpaint.doctor",
    "jaxpaint.errors",
    "jaxpaint.evaluation",
    "jaxpaint.files",
    "jaxpaint.interrupts",
    "jaxpaint.finetuning.spec",
    "jaxpaint.machine",
    "jaxpaint.models.config",
    "jaxpaint.plan",
    "jaxpaint.plan_drawing",
    "jaxpaint.plan_nodes",
    "jaxpaint.number_ranges",
    "jaxpaint.painter.items",
    "jaxpaint.painter.tokenizer",
    "jaxpaint.plan_text",
    "jaxpaint.plan_tree",
    "jaxpaint.program",
    "jaxpaint.progress",
    "jaxpaint.results_claims",
    "jaxpaint.results_filter",
    "jaxpaint.results_grid",
    "jaxpaint.results_keys",
    "jaxpaint.results_merge",
    "jaxpaint.results_schema",
    "jaxpaint.results_tables",
    "jaxpaint.strategies",
    "jaxpaint.study_settings",
    "jaxpaint.study_shards",
    "jaxpaint.study_spec",
    "jaxpaint.task_data",
    "jaxpaint.task_files",
    "jaxpaint.tokenizer",
)
WITH_NUMPY = (
    "convert",
    "jaxpaint.bootstrap",
    "jaxpaint.checkpoint",
    "jaxpaint.results",
    "jaxpaint.results_scores",
    "jaxpaint.study_work",
    "jaxpaint.tasks",
    "jaxpaint.text_rows",
)

# What a room may import of ours. Rooms that are not listed are bound only by the rules below.
ALLOWED = {
    "jaxpaint.errors": set(),
    "jaxpaint.plan_nodes": {"errors"},
    "jaxpaint.plan_text": {"errors", "plan_nodes"},
    "jaxpaint.plan_drawing": {"errors", "plan_nodes", "plan_text"},
    "jaxpaint.plan": {"errors", "plan_nodes", "plan_text", "plan_drawing"},
    "jaxpaint.strategies": {"errors", "plan"},
    "jaxpaint.program": {"plan"},
    "jaxpaint.stack": {"plan", "program"},
    "jaxpaint.painter.world": set(),
    "jaxpaint.painter.language": {"painter.world"},
    "jaxpaint.painter.tokenizer": {"painter.world"},
    "jaxpaint.painter.items": {"painter", "painter.language", "painter.world"},
    "jaxpaint.training": {"compilation", "training_checkpoints"},
    "jaxpaint.training_checkpoints": {"errors"},
    "jaxpaint.training_order": set(),
    "jaxpaint.finetuning": set(),
    "jaxpaint.finetuning.spec": {"errors", "strategies", "study_spec"},
    "jaxpaint.finetuning.batches": {"packing"},
    "jaxpaint.finetuning.examples": {"errors", "harness", "packing", "tasks"},
    "jaxpaint.finetuning.loss": {"finetuning.batches", "inputs", "model", "models", "models.config", "plan", "stack"},
    "jaxpaint.finetuning.memory": {"models.config", "plan"},
    "jaxpaint.finetuning.parameters": {"checkpoint", "model", "plan"},
    "jaxpaint.packing": {"errors"},
    "jaxpaint.models": {"models.bert", "models.config", "models.llama", "models.neox", "models.ops"},
    "jaxpaint.models.config_fields": {"errors"},
    "jaxpaint.models.llama_config": {"models.config_fields"},
    "jaxpaint.models.neox_config": {"models.config_fields"},
    "jaxpaint.models.bert_config": {"models.config_fields"},
    "jaxpaint.models.config": {
        "models",
        "models.bert_config",
        "models.config_fields",
        "models.llama_config",
        "models.neox_config",
    },
    "jaxpaint.models.blocks": set(),
    "jaxpaint.models.bert": {"models", "models.bert_config", "models.blocks", "models.dropout", "models.ops"},
    "jaxpaint.models.dropout": set(),
    "jaxpaint.models.ops": {"models.config_fields", "models.dropout"},
    "jaxpaint.models.decoder": {"models", "models.ops"},
    "jaxpaint.models.llama": {"models", "models.blocks", "models.decoder", "models.llama_config", "models.ops"},
    "jaxpaint.models.neox": {"models", "models.blocks", "models.decoder", "models.neox_config", "models.ops"},
    "jaxpaint.plan_tree": {"plan"},
    "jaxpaint.encoder_sweep": {
        "compilation",
        "inputs",
        "model",
        "plan",
        "plan_tree",
        "program",
        "sharding",
        "stack",
        "sweep",
    },
    "jaxpaint.inputs": {"errors", "models.bert_config", "models.config"},
    "jaxpaint.text_rows": {"errors", "models.config"},
    "jaxpaint.analysis": {
        "compilation",
        "errors",
        "model",
        "plan",
        "plan_tree",
        "program",
        "sharding",
        "stack",
        "text_rows",
    },
    "jaxpaint.generation.sampling": {"errors"},
    "jaxpaint.generation.layout": {"errors", "packing"},
    "jaxpaint.generation.text": set(),
    "jaxpaint.number_ranges": {"errors"},
    "jaxpaint.study_shards": {"plan", "plan_tree"},
    "jaxpaint.study_spec": {"errors", "plan", "strategies", "study_shards"},
    "jaxpaint.study_settings": {"errors", "number_ranges", "painter", "plan", "strategies", "study_spec"},
    "jaxpaint.study_work": {"packing", "plan", "plan_tree", "study_shards"},
    "jaxpaint.caches": set(),
    "jaxpaint.compilation": {"caches"},
    "jaxpaint.completion": {"glue.tasks", "strategies", "study_settings", "study_spec"},
    "jaxpaint.doctor": {"caches", "compilation", "errors", "machine"},
    "jaxpaint.machine": set(),
    "jaxpaint.files": {"errors"},
    "jaxpaint.interrupts": set(),
    "jaxpaint.painter": set(),
    "jaxpaint.progress": set(),
    "jaxpaint.results_schema": {"errors"},
    "jaxpaint.results_claims": {"errors"},
    "jaxpaint.results_keys": {"errors", "results_schema"},
    "jaxpaint.results_scores": {"results_keys"},
    "jaxpaint.results_merge": {"errors", "results_keys", "results_schema"},
    "jaxpaint.results": {
        "errors",
        "results_claims",
        "results_keys",
        "results_merge",
        "results_schema",
        "results_scores",
    },
    "jaxpaint.results_filter": set(),
    "jaxpaint.results_grid": {"results_filter"},
    "jaxpaint.results_tables": {"errors", "results_grid", "results_schema"},
}
MAY_IMPORT_CONVERT = ("jaxpaint.model.", "jaxpaint.commands.", "jaxpaint.painter.card.", "jaxpaint.painter.train.")
CONVERT_MAY_IMPORT = (
    "jaxpaint.models",
    "jaxpaint.caches",
    "jaxpaint.checkpoint",
    "jaxpaint.errors",
    "jaxpaint.painter",
    "jaxpaint.plan",
)


def _modules() -> dict[str, Path]:
    """Every module of the two packages by its dotted name."""
    files = [file for package in ("jaxpaint", "convert") for file in sorted((ROOT / package).rglob("*.py"))]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


MODULES = _modules()


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
    assert {"jaxpaint.plan", "jaxpaint.stack", "jaxpaint.checkpoint", "convert"} <= imports("jaxpaint.model")
    assert "convert.hub" in imports("convert.sources")


@pytest.mark.parametrize("module", ALLOWED)
def test_rooms_import_only_what_they_may(module: str) -> None:
    assert imports(module) <= {f"jaxpaint.{name}" for name in ALLOWED[module]}


def test_no_arrow_runs_back() -> None:
    TopologicalSorter({module: imports(module) for module in MODULES}).prepare()  # raises on a cycle


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("jaxpaint")])
def test_only_the_top_imports_convert(module: str) -> None:
    from_convert = {name for name in imports(module) if name.split(".")[0] == "convert"}
    assert not from_convert or f"{module}.".startswith(MAY_IMPORT_CONVERT)


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("convert")])
def test_convert_knows_models_and_store_alone(module: str) -> None:
    ours = {name for name in imports(module) if name.startswith("jaxpaint")}
    assert all(name.startswith(CONVERT_MAY_IMPORT) for name in ours), ours


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("jaxpaint.models")])
def test_models_and_stack_do_not_know_each_other(module: str) -> None:
    assert all(name.startswith(("jaxpaint.models", "jaxpaint.errors")) for name in imports(module))


def _loaded(modules: tuple[str, ...]) -> set[str]:
    """Top-level packages in memory after importing `modules` in a fresh interpreter."""
    code = f"import sys, {', '.join(modules)}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_rooms_without_heavy_packages() -> None:
    assert not _loaded(WITHOUT_NUMPY) & (HEAVY | {"numpy"})
    assert not _loaded(WITH_NUMPY) & HEAVY


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
