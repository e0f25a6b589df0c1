"""From settings to everything that `jaxpaint birth` tells: trained arms, findings, and the written-down head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from jaxpaint.base.errors import UserError
from jaxpaint.base.words import digest
from jaxpaint.birth.findings import Runs, findings
from jaxpaint.birth.settings import Settings
from jaxpaint.birth.train import Trained, train
from jaxpaint.birth.verdicts import Finding
from jaxpaint.birth.written import Written, written_down
from jaxpaint.training.checkpoints import TrainingCheckpoints, claimed, discard


@dataclass(frozen=True, eq=False)
class Outcome:
    """All of a run."""

    runs: Runs
    findings: tuple[Finding, ...]
    written: Written | None  # of the small model

    @property
    def settings(self) -> Settings:
        return self.runs.settings

    @property
    def seconds(self) -> float:
        """Of training."""
        return sum(group.seconds for group in self.runs.groups.values())


def run_birth(
    settings: Settings, unfinished: Path, progress: Callable[[str, int], Callable[[int, str], None]]
) -> Outcome:
    """Trains every group of arms and says what came of it.

    `unfinished` is the folder of checkpoints from which a killed run of the same settings goes on; it is gone in the
    end. `progress` opens a bar for a group of so many steps. Errors as `jaxpaint.birth.train.train`, and UserError
    where another process works on the same.
    """
    with claimed(unfinished) as is_ours:
        if not is_ours:
            raise UserError(f"another process is training into {unfinished}; wait for it, or give another --output")
        written = written_down(settings, settings.seeds[0]) if settings.architecture == "small" else None
        groups: dict[str, Trained] = {}
        for name, arms in settings.groups().items():
            checkpoints = TrainingCheckpoints(unfinished / f"{name}-{digest(repr(asdict(settings)))[:12]}")
            advance = progress(f"{len(arms)} arms", settings.steps)
            groups[name] = train(settings.model, arms, settings.training, checkpoints=checkpoints, progress=advance)
        runs = Runs(settings, groups)
        outcome = Outcome(runs, tuple(findings(runs)), written)
    discard(unfinished)
    return outcome
