"""The families that convert, by the `model_type` of their Hugging Face config."""

from __future__ import annotations

from convert import bert, llama, neox
from convert.weights import Names

FAMILIES: dict[str, Names] = {
    "bert": bert.NAMES,
    "gpt_neox": neox.NAMES,
    "llama": llama.NAMES,
    "mistral": llama.NAMES,
}
# Endings of names that hold no weights in any family: their dtypes do not matter.
BUFFERS = tuple({ending for names in FAMILIES.values() for ending in names.buffers})
