"""The families that convert, by the `model_type` of their Hugging Face config."""

from __future__ import annotations

from jaxpaint.models import convert_bert as bert
from jaxpaint.models import convert_llama as llama
from jaxpaint.models import convert_neox as neox
from jaxpaint.models.family import Names

FAMILIES: dict[str, Names] = {
    "bert": bert.NAMES,
    "gpt_neox": neox.NAMES,
    "llama": llama.NAMES,
    "mistral": llama.NAMES,
}
# Endings of names that hold no weights in any family: their dtypes do not matter.
BUFFERS = tuple({ending for names in FAMILIES.values() for ending in names.buffers})
