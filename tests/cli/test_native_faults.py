"""Each change of a file fails once in a command: a line tells it, and the same command comes to the same end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from convert import convert
from tests.helpers.native_faults import Outcome, compiled, outcomes
from tests.helpers.tiny_folder import make_folder
from tests.helpers.tiny_results import make_store
from tests.helpers.tiny_tasks import make_task

REMOVES = ("unlink", "unlinkat", "rmdir")
ALL = 1000


@pytest.fixture(scope="module")
def failing(tmp_path_factory) -> Callable[[str, int], list[Outcome]]:
    """Runs a command with each, or so many, of its calls failing."""
    folder = tmp_path_factory.mktemp("faults")
    try:
        library = compiled(folder)
    except OSError as error:
        pytest.skip(f"no C compiler here: {error}")

    def run(command: str, most: int) -> list[Outcome]:
        place = folder / f"{command}-{most}"
        place.mkdir()
        arguments, before = commands(place)[command]
        return outcomes(library, place, arguments, most, before)

    return run


def commands(folder: Path) -> dict[str, tuple[list[str], list[str] | None]]:
    """Each with what makes the destination that it replaces."""
    source = make_folder(folder / "model")
    store = str(convert(source, folder / "store"))
    task = make_task(folder, "tiny_choice", documents=3, training_split="train")
    study = ["--model", store, "--tasks", task, "--dtype", "float32", "--strategies", "skip", "--starts", "1"]
    study += ["--store", "{out}"]
    converts = ["convert", str(source), "{out}", "--overwrite"]
    exports = ["export", store, "{out}", "--overwrite", "--plan"]
    reports = ["report", str(make_store(folder / "results.sqlite")), "-o", "{out}"]
    return {
        "study": (["study", *study, "--analyses", "similarity", "--analysis-task", task], None),
        "finetune": (["finetune", *study, "--limit-train", "4", "--batch-size", "2"], None),
        "convert": (converts, converts),
        "export": ([*exports, "1-0"], [*exports, "0"]),
        "report": (reports, reports),
    }


@pytest.mark.parametrize(
    ("command", "most"),
    [
        ("study", 4),
        pytest.param("study", ALL, marks=[pytest.mark.slow, pytest.mark.long]),
        pytest.param("finetune", 100, marks=[pytest.mark.slow, pytest.mark.long]),
        pytest.param("finetune", 20, marks=pytest.mark.slow),
        pytest.param("convert", 40, marks=pytest.mark.slow),
        pytest.param("export", ALL, marks=pytest.mark.slow),
        pytest.param("report", ALL, marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_every_call(failing, command, most) -> None:
    for outcome in failing(command, most):
        assert outcome.status in (0, 2), outcome  # 0 where what failed could be done without
        assert len(outcome.said.splitlines()) == outcome.status // 2, outcome
        assert outcome.is_whole, outcome
        partial = [name for name in outcome.left if ".partial-" in name or name.endswith(".jaxpaint-lock")]
        assert not partial or outcome.call.startswith(REMOVES), outcome
        assert outcome.again == 0, outcome
        assert outcome.is_equal, outcome
