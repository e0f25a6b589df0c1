"""Each write, rename and sync of a study fails once: a line tells it, and the same command comes to the same end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from convert import convert
from tests.helpers.native_faults import Outcome, compiled, outcomes
from tests.helpers.tiny_folder import make_folder
from tests.helpers.tiny_tasks import make_task


@pytest.fixture(scope="module")
def failing(tmp_path_factory) -> Callable[[str, int], list[Outcome]]:
    """Runs a command with each, or so many, of its calls failing."""
    folder = tmp_path_factory.mktemp("faults")
    try:
        library = compiled(folder)
    except OSError as error:
        pytest.skip(f"no C compiler here: {error}")
    store = convert(make_folder(folder / "model"), folder / "store")
    task = make_task(folder, "tiny_choice", documents=3, training_split="train")
    common = ["--model", str(store), "--tasks", task, "--dtype", "float32", "--strategies", "skip", "--starts", "1"]

    def run(command: str, most: int) -> list[Outcome]:
        place = folder / f"{command}-{most}"
        place.mkdir()
        own = {"study": ["--analyses", "similarity", "--analysis-task", task], "finetune": ["--limit-train", "4"]}
        return outcomes(library, place, [command, *common, *own[command], "--store", "{out}"], most)

    return run


@pytest.mark.parametrize(
    ("command", "most"),
    [
        ("study", 12),
        pytest.param("study", 1000, marks=pytest.mark.slow),
        pytest.param("finetune", 60, marks=pytest.mark.slow),
    ],
)
def test_every_call(failing, command, most) -> None:
    for outcome in failing(command, most):
        assert outcome.status in (0, 2), outcome  # 0 where what failed could be done without
        assert len(outcome.said.splitlines()) == outcome.status // 2, outcome
        assert outcome.again == 0, outcome
        assert outcome.is_equal, outcome
