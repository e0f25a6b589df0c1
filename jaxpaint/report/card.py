"""The card (README.md) of a study that is published as a dataset: its models, its commands, how to read it."""

from __future__ import annotations

from pathlib import Path

from jaxpaint.base import __version__
from jaxpaint.report.data import read_store


def dataset_card(store: Path) -> str:
    """The text of README.md, with the metadata that the hub reads.

    Raises UserError for a store that cannot be read.
    """
    from huggingface_hub import DatasetCardData

    studies = read_store(store)
    names = ", ".join(dict.fromkeys(study.model.name for study in studies))
    data = DatasetCardData(pretty_name=f"Layer plans of {names}", tags=["jaxpaint", "layer-plan"])
    commands = "\n".join(dict.fromkeys(command for study in studies for command in study.provenance.commands))
    parts = [
        f"---\n{data.to_yaml()}\n---\n\n# Layer plans of {names}",
        "Scores of the models under plans that say which of their layers run, in what order, and which side by side. "
        f"Written by jaxpaint {__version__}" + (f" with\n\n```\n{commands}\n```" if commands else "."),
        "`report.html` is one page that opens without a network, its figures and tables lie beside it. "
        f"`{store.name}` holds every score of every document:",
        f"```\njaxpaint results {store.name}\njaxpaint results {store.name} --format csv\n```",
    ]
    return "\n\n".join(parts) + "\n"
