"""The model card of an exported plan: README.md, with the metadata that the hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxpaint.base import __version__
from jaxpaint.plans.plan import Plan
from jaxpaint.results.plan_scores import PlanScore


def model_card(
    name: str, plan: Plan, manifest: Mapping[str, Any], scores: Sequence[PlanScore], command: str | None
) -> str:
    """The text of README.md.

    `manifest` is the store's, `scores` are of the plan and of the full model (`jaxpaint.results.plan_scores`), and
    `command` is what made the model, as it can be typed again.
    """
    from huggingface_hub import EvalResult, ModelCardData

    source, is_on_hub = _source(manifest)
    data = ModelCardData(
        base_model=source if is_on_hub else None,
        license=_license(manifest),
        library_name="transformers",
        tags=["jaxpaint", "layer-plan"],
        model_name=name,
        eval_results=[
            EvalResult("text-generation", each.task, each.task, each.metric, each.value, verified=False)
            for each in scores
        ]
        or None,
    )
    origin = f"[{source}](https://huggingface.co/{source})" if is_on_hub else f"`{source}`"
    revision = f" at revision `{manifest['revision']}`" if manifest.get("revision") else ""
    parts = [
        f"---\n{data.to_yaml()}\n---\n\n# {name}",
        f"The layers of {origin}{revision} under the layer plan `{plan}`: {plan.cost} layer applications"
        + (", sublayers half of one each" if plan.has_sublayers else "")
        + f". {_layers(manifest)}{_weights(manifest)} Written by jaxpaint {__version__}"
        + (f" with\n\n```\n{command}\n```" if command else "."),
    ]
    if scores:
        parts.append(_table(scores))
    if not data.license:
        parts.append("The licence is the source's.")
    return "\n\n".join(parts) + "\n"


def _layers(manifest: Mapping[str, Any]) -> str:
    """Of which models they are, where they were composed."""
    if not (composed := manifest.get("composed")):
        return ""
    models = ", ".join(f"{name} (`{_source(each)[0]}`)" for name, each in composed["models"].items())
    return f"Its layers are `{composed['layers']}` of {models}. "


def _weights(manifest: Mapping[str, Any]) -> str:
    """Whose they are, and what they were trained for since."""
    healed = manifest.get("healed") or []
    adapter = manifest.get("adapter")
    of_source = "the source's" + (f" with the LoRA adapter `{adapter['name']}` merged into them" if adapter else "")
    if not healed:
        return f"Weights are {of_source}, not trained further."
    plans = " and then ".join(f"`{each['plan']}`" for each in healed)
    return (
        f"Weights are {of_source}, healed for the plan {plans}: trained to give the distributions of the full model, "
        "by distillation."
    )


def _table(scores: Sequence[PlanScore]) -> str:
    rows = [
        "| task | metric | this model | the full model | documents |",
        "|---|---|---|---|---|",
        *(
            f"| {each.task} | {each.metric} | {_with_error(each.value, each.stderr)} | "
            f"{'' if each.full is None else _with_error(each.full, each.full_stderr)} | {each.documents} |"
            for each in scores
        ),
    ]
    return "## Scores\n\nOf lm-evaluation-harness's tasks, ± one standard error.\n\n" + "\n".join(rows)


def _with_error(value: float, stderr: float | None) -> str:
    return f"{value:.4f}" if stderr is None else f"{value:.4f} ± {stderr:.4f}"


def _source(manifest: Mapping[str, Any]) -> tuple[str, bool]:
    """The source's name, of a folder its last part alone, and whether it is a hub's."""
    source = str(manifest["source"])
    is_on_hub = manifest.get("revision") is not None and source.count("/") == 1
    return (source, True) if is_on_hub else (Path(source).name, False)


def _license(manifest: Mapping[str, Any]) -> str | None:
    """What the card of the source's folder says, where it is still there and can be read."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    card = Path(str(manifest["source"])) / "README.md"
    try:
        return ModelCard.load(card, ignore_metadata_errors=True).data.license if card.is_file() else None
    except (OSError, ValueError, YAMLError):
        return None
