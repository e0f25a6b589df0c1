"""A study from Python shows how far it is where a person looks, and nothing elsewhere."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jaxpaint.base import progress as bars
from jaxpaint.studies import run
from jaxpaint.studies.spec import StudySpec
from tests.helpers.cli_fixtures import Terminal


@pytest.mark.parametrize(
    ("wanted", "on_terminal", "shown"), [(None, True, True), (None, False, False), (False, True, False)]
)
def test_run_study_shows_a_bar_where_a_person_looks(
    wanted: bool | None, on_terminal: bool, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def session(spec: StudySpec, *, progress: bars.Start, **_: Any) -> Iterator[None]:
        progress(10)(5)
        yield

    screen = Terminal() if on_terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(run, "open_session", session)
    with pytest.raises(AttributeError):  # no session to score with
        run.run_study(StudySpec(model="m", store=Path("s"), tasks=("t",)), progress=wanted)
    assert ("study" in screen.getvalue()) == shown
