"""A report made from a results store alone: figures, tables, and the paper's questions answered in plain words.

Nothing here imports JAX or lm-eval.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jaxpaint.base.errors import UserError

MARKER = ".jaxpaint-report.json"
SUMMARY = "summary.txt"
"""What a report says in a few lines; there is none of a store without studies of decoders."""
OF_THE_SYSTEM = {".DS_Store", "Thumbs.db", "desktop.ini"}  # which looking at a folder leaves there


def write_report(store: Path, out: Path) -> Path:
    """Makes the report of the results store `store` in the folder `out`; returns its `report.html`.

    The folder appears whole or not at all. It replaces an empty folder, or a report that nothing was added to; one that
    would come out the same stays as it is.

    Raises:
        UserError: the store cannot be read, holds no results or none of the full model; or `out` is something else
            than an earlier report, or cannot be written.
    """
    from jaxpaint.base.folders import new_folder
    from jaxpaint.report.data import read_store
    from jaxpaint.report.finetuned import split as without_finetuned
    from jaxpaint.report.glue import split
    from jaxpaint.report.unchanged import made_from

    store, out = Path(store), Path(out)
    source = made_from(store)
    if _made_from(out) == source:
        return out / "report.html"
    from jaxpaint.report.page import write_page

    studies = read_store(store)
    if not any(study.has_full_model for study in without_finetuned(studies)[0]):
        tasks = ",".join(dict.fromkeys(result.task.benchmark for study in studies for result in study.results))
        glue = any(study.results for study in studies) and not split(studies)[0]
        name, model = "glue" if glue else "study", studies[0].model.source or "M"
        command = f"jaxpaint {name} --model {model} --tasks {tasks or 'TASKS'} --store {store}"
        raise UserError(
            f"{store} has no finished result of the full model, which every score is compared with; run `{command}` "
            "to the end first"
        )
    if out.resolve() == Path.cwd():
        raise UserError(f"the report takes a folder of its own, not the current one ({out}); name another")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name the folder that the report is to make")
    with new_folder(out, overwrite=True, replaces=_is_report) as folder:
        found = write_page(studies, store.name, folder)
        if found:
            (folder / SUMMARY).write_text("\n".join(found), encoding="utf-8")
        files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
        marker = {"format": "jaxpaint report", "made_from": source, "files": files}
        (folder / MARKER).write_text(json.dumps(marker), encoding="utf-8")
    return out / "report.html"


def is_replaceable(folder: Path) -> bool:
    """Whether `write_report` may take a folder: there is none, it is empty, or an earlier report."""
    return not folder.exists() or (folder.is_dir() and (not any(folder.iterdir()) or _is_report(folder)))


def _made_from(folder: Path) -> str | None:
    """Of which content a report was made (`jaxpaint.report.unchanged`); None of what is no whole report."""
    from jaxpaint.base.documents import read_json

    if not _is_report(folder):
        return None
    marker = read_json(folder / MARKER, dict[str, Any])
    is_whole = all((folder / name).is_file() for name in marker["files"])
    return marker.get("made_from") if is_whole else None


def _is_report(folder: Path) -> bool:
    """Whether a folder is an earlier report and holds nothing else."""
    from jaxpaint.base.documents import checked, read_json
    from jaxpaint.base.names import inside

    try:
        names = read_json(folder / MARKER, dict[str, Any]).get("files")
        files = {inside(folder, name, MARKER) for name in checked(names, list[str], MARKER)}
        found = {file for file in folder.rglob("*") if file.is_symlink() or not file.is_dir()}
    except (OSError, UserError):
        return False
    return all(file in files or file.name in OF_THE_SYSTEM for file in found - {folder / MARKER})
