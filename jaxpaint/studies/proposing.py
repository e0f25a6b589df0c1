"""A study's measurements of its model on calibration texts, from which strategies propose plans."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jaxpaint.analysis.measurements import measure
from jaxpaint.base.bundled import CALIBRATION
from jaxpaint.base.errors import UserError
from jaxpaint.base.texts import read_text
from jaxpaint.base.words import count, text_digest
from jaxpaint.engine.model import Model
from jaxpaint.engine.source import Source
from jaxpaint.plans.proposals import stand_ins
from jaxpaint.plans.strategies import Variant, build
from jaxpaint.results.damage import reading
from jaxpaint.results.kinds import MEASURED
from jaxpaint.results.reading import stored_analysis
from jaxpaint.results.store import Store
from jaxpaint.studies.analyses import as_tokens
from jaxpaint.studies.cells import register
from jaxpaint.studies.spec import NOT_MEASURED, StudySpec

Job = Callable[[Model], Any]


def calibration_texts(file: Path | None) -> tuple[str, ...]:
    """The texts of a file: JSON lines, each a string or an object with "text", or one text a line; None: painter-16's.

    Raises UserError for a file that cannot be read, has no text, or a line that is neither, which it names.
    """
    file = CALIBRATION if file is None else file
    lines = [(number, line) for number, line in enumerate(read_text(file).split("\n"), 1) if line.strip()]
    if file.suffix in (".jsonl", ".json"):
        found = tuple(_of_json(f"{file}, line {number}", line) for number, line in lines)
    else:
        found = tuple(line.strip() for _, line in lines)
    if not found:
        raise UserError(f"{file} has no text to measure the model on; give one a line")
    return found


def measured(
    spec: StudySpec,
    model: Model | Source,
    store: Store,
    run: Callable[[Sequence[Job]], Iterable[tuple[int, Any]]],
    tell: Callable[[str], None],
) -> Mapping[str, Any]:
    """What the spec's strategies need measured, by name, made once: the store keeps it, so plans stay what they are.

    `run` is as in `jaxpaint.studies.analyses.run_analyses`. Raises UserError as `measure`.
    """
    if not spec.measurements:
        return NOT_MEASURED
    texts = calibration_texts(spec.calibration)
    study = register(store, model, [_full(model)], [])
    model_id, (plan_id,) = study.model_id, study.plan_ids
    settings = _settings(spec, texts)
    found = {name: store.analysis(model_id, plan_id, MEASURED, settings[name]) for name in spec.measurements}
    if lacking := [name for name, value in found.items() if value is None]:
        tokens = [each for each in as_tokens(model, spec.bos, texts) if each]  # type: ignore[arg-type]
        read = f"{count(len(tokens), 'text')}, {count(sum(map(len, tokens)), 'token')}"
        tell(f"measuring {' and '.join(lacking)} of the model on {read}, to propose plans")
        ((_, new),) = run([partial(_measure, lacking, tokens, spec.batch_tokens)])
        for name in lacking:
            store.add_analysis(model_id, plan_id, MEASURED, settings[name], new[name])
            found[name] = new[name]
    return found


def foreseen(spec: StudySpec, model: Source) -> tuple[Mapping[str, Any], bool]:
    """What is known before anything is computed: the store's measurements, and what stands in for those it lacks.

    Second, whether all are the store's.
    """
    if not spec.measurements:
        return NOT_MEASURED, True
    settings, known = _settings(spec, calibration_texts(spec.calibration)), {}
    if spec.store.exists():
        with reading(spec.store) as connection:
            key = model.manifest["fingerprint"], model.computed_in, str(_full(model).plan), MEASURED
            known = {name: stored_analysis(connection, *key, settings[name]) for name in spec.measurements}
    known = {name: value for name, value in known.items() if value is not None}
    return {**stand_ins(model.num_layers), **known}, len(known) == len(spec.measurements)


def _full(model: Model | Source) -> Variant:
    return build("full", model.num_layers)


def _settings(spec: StudySpec, texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Of each measurement, what it is and on what it was made."""
    same = {"samples": len(texts), "bos": spec.bos, "texts": text_digest("\0".join(texts))}
    return {name: {"measurement": name, **same} for name in spec.measurements}


def _measure(
    names: Sequence[str], texts: Sequence[Sequence[int]], batch_tokens: int | None, model: Model
) -> dict[str, list[Any]]:
    return measure(model, names, texts, batch_tokens=batch_tokens)


def _of_json(where: str, line: str) -> str:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is not JSON: {error}") from None
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str) or not text.strip():
        raise UserError(f'{where} has no text; give a string, or an object with "text"')
    return text
