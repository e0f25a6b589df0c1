"""Whether a study fits a device that is not here, by figures that a compiler might give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.bench import ahead
from jaxpaint.bench.ahead import Figures
from jaxpaint.bench.kinds import Target
from jaxpaint.bench.shapes import config_of
from jaxpaint.studies.absent import fits
from jaxpaint.studies.settings import spec_from

GIB = 1 << 30


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was compiled, all of it with 13.5 GiB."""
    asked: list[Any] = []

    def figures(config: Any, work: Any, target: Any, *split: Any) -> Figures:
        asked.append((work, *split))
        return Figures(1.0, arguments=13 * GIB, temporaries=GIB // 2, peak=13 * GIB + GIB // 2)

    monkeypatch.setattr(ahead, "compiled_figures", figures)
    return asked


def spec(**more: Any) -> Any:
    settings = {"model": "m", "tasks": "t", "store": "s.sqlite", "strategies": "skip,looped-parallel"}
    return spec_from({**settings, **{name.replace("_", "-"): value for name, value in more.items()}})


def test_states_that_are_held_and_logits_count(compiled: list[Any]) -> None:
    """A batch of 64 rows is 0.25 GiB of hidden states at width 4096."""
    said = fits(spec(), config_of("llama2-7b"), Target.parse("v5e"))
    assert said.startswith("yes, batches of 64 rows of 512 tokens take 14.")
    assert "0.50 of logits" in said
    ((work, *split),) = compiled
    assert [str(each) for each in split] == ["1", "bfloat16", "1"]
    assert not work.plan.is_series, "a plan with groups takes the most room"
    assert fits(spec(), config_of("llama2-7b"), Target.parse("v5e:2x2")).startswith("yes, batches of 256 rows")
    assert fits(spec(batch_tokens=600), config_of("llama2-7b"), Target.parse("v5e")).startswith("yes, batches of 1 row")


def test_too_much(compiled: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    many = ",".join(f"{2 * number}" for number in range(8))
    large = spec(strategies="random", seeds="100", starts=many, batch_tokens=131072)
    said = fits(large, config_of("llama2-13b"), Target.parse("v5e"))
    assert said.startswith("no, batches of 256 rows of 512 tokens take 17."), said
    monkeypatch.setattr(ahead, "compiled_figures", lambda *_: Figures(1.0, problem="Used 20G of 15.75G hbm."))
    said = fits(spec(), config_of("llama2-7b"), Target.parse("v5e"))
    assert said == "no, batches of 64 rows of 512 tokens: Used 20G of 15.75G hbm."


def test_devices_that_do_not_divide(compiled: list[Any]) -> None:
    with pytest.raises(UserError, match="4 devices cannot be split into groups of 3"):
        fits(spec(tensor_parallel=3), config_of("llama2-7b"), Target.parse("v5e:2x2"))


def test_it_goes_with_a_dry_run(refused: Any, tmp_path: Path) -> None:
    given = "study", "--model", "painter-16", "--tasks", "painter_facts", "--store", tmp_path / "s.sqlite"
    refused(*given, "--compile-for", "v5e", expected=("goes with --dry-run",))
    refused(*given, "--dry-run", "--compile-for", "abacus", expected=("'abacus' is no kind of device",))
