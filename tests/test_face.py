"""The package's face: what `import jaxpaint` hands out, when it is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import jaxpaint


@pytest.mark.parametrize("name", jaxpaint.__all__)
def test_a_name_is_what_its_home_calls_so(name: str) -> None:
    assert getattr(jaxpaint, name).__name__.rpartition(".")[2] == name  # a room that can be called, too
    assert name in dir(jaxpaint)


def test_completion_offers_them_alone() -> None:
    assert [name for name in dir(jaxpaint) if not name.startswith("_")] == sorted(jaxpaint.__all__)


def test_other_names_are_errors() -> None:
    with pytest.raises(AttributeError, match="'jaxpaint' has no attribute 'nothing'"):
        jaxpaint.nothing  # noqa: B018


def test_plans_come_without_numpy() -> None:
    code = "import sys, jaxpaint; jaxpaint.build, jaxpaint.family, dir(jaxpaint); print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, check=True)
    assert done.stdout.split() == [b"False"]
