"""Scripts of benchmarks/ that people run where nobody watches: they run, and say what they are to say."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def scaling() -> ModuleType:
    found = importlib.util.spec_from_file_location("scaling", BENCHMARKS / "scaling.py")
    assert found
    assert found.loader
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # where dataclasses look
    found.loader.exec_module(module)
    return module


def test_exponents_are_those_of_powers(scaling) -> None:
    sizes = [1, 2, 4, 8, 16, 32]
    assert scaling.exponent(sizes, [3 * size**1.7 for size in sizes]) == pytest.approx(1.7)
    assert scaling.exponent(sizes, [5] * 6) == pytest.approx(0)
    assert scaling.exponent([1], [1]) != scaling.exponent([1], [1])
    # A cost of 8 for the call bends the line where sizes are small, and the last three say what comes.
    law = [8 + size**2 for size in sizes]
    assert scaling.exponent(sizes[-3:], law[-3:]) == pytest.approx(2, abs=0.1)
    assert [pair[:2] for pair in scaling.breaks(sizes, law)] == [(1, 2), (2, 4), (4, 8)]
    assert scaling.breaks(sizes, [size**2 for size in sizes]) == []


@pytest.mark.slow
def test_growth_is_measured_tabled_and_drawn(tmp_path: Path) -> None:
    files = ["--figure", tmp_path / "f.png", "--json", tmp_path / "f.json"]
    command = [sys.executable, BENCHMARKS / "scaling.py", "--rounds", 1, "--largest", 8, *files]
    command += [word for part in ("plans", "documents", "branches", "layers") for word in ("--part", part)]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "branches: seconds grow with exponent" in done.stdout
    parts = json.loads((tmp_path / "f.json").read_text())["parts"]
    assert {part: [each["size"] for each in rows] for part, rows in parts.items()} == {
        "plans": [1, 3],
        "documents": [1, 4],
        "branches": [1, 2, 4, 8],
        "layers": [8],
    }
    # Work that is counted grows as it must, whatever the clock says.
    assert len({each["work"] / each["size"] for each in parts["branches"]}) == 1
    assert (tmp_path / "f.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_run_for_a_device_runs_at_tiny_shapes(tmp_path: Path) -> None:
    command = [str(BENCHMARKS / "on_device.sh"), "--tiny"]
    environment = {**ENVIRONMENT, "OUT": str(tmp_path), "PYTHON": sys.executable}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    figures = json.loads((tmp_path / "on_device.json").read_text())
    assert not [name for name, found in figures.items() if "failed" in found]
    assert set(figures["goals"]) == {
        "scoring, share of the measured matrix products",
        "scoring, times transformers",
        "decoding one row, share of the measured copies",
    }
    (parity,) = [found for name, found in figures.items() if name.startswith("parity")]
    errors = parity["mean"]
    assert 0 < errors["jaxpaint, plan as data"] <= 1.5 * errors["transformers, bfloat16"]
    tables = (tmp_path / "on_device.md").read_text()
    for name in ("rates of the device", "scoring:", "decoding:", "plans, one row", "memory", "goals"):
        assert f"## {name}" in tables
    assert "failed" not in tables


def test_a_folder_without_wheels_is_told(tmp_path: Path) -> None:
    command = [str(BENCHMARKS / "on_device.sh"), "--wheels", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path)
    assert done.returncode == 2
    assert "holds no wheels" in done.stderr
