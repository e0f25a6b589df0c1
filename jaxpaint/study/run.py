"""A study from its settings to its results store: hundreds of plans on many tasks, each score computed once."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace

from jaxpaint.study.session import StudySummary, open_session
from jaxpaint.study.spec import StudySpec

__all__ = ["StudySummary", "run_study"]


def run_study(
    spec: StudySpec,
    *,
    progress: Callable[[int], Callable[[int, str], None]] | None = None,
    tell: Callable[[str], None] | None = None,
    command: str | None = None,
) -> StudySummary:
    """Runs what the study's store lacks, and returns when nothing of the spec's shard is missing.

    It may be ended at any moment, and called again. Several processes may run it on one store at once: they divide
    the work, and each returns when all of it is done.

    Args:
        spec: What to run.
        progress: Told the number of tokens to score, counted under each plan; gives what is called with the number of
            tokens done and a note, such as `jaxpaint.base.progress.bar` gives.
        tell: Called with lines that the user should read; by default they go to stderr.
        command: What the user typed, for the record.

    Raises:
        UserError: a model, task or plan that cannot be used; a store that cannot be written, or that knows other
            texts; a device whose memory does not hold a single request. What was written before stands.
    """
    clock = time.perf_counter()
    progress = progress or (lambda total: lambda tokens, note: None)
    tell = tell or (lambda line: print(line, file=sys.stderr))
    with open_session(spec, progress=progress, tell=tell, command=command) as session:
        summary = session.score(spec.shard_variants(session.model.num_layers))
    return replace(summary, seconds=time.perf_counter() - clock)
