"""LongRoPE's border in what is written: prompts within the original context, beyond it, and those whose text crosses.

As transformers' Phi-3 (`prepare_inputs_for_generation`): the text that has become longer than the original context is
read anew by the long factors, and all that follows is written by these.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flax import nnx

from jaxpaint.base.errors import UserError
from jaxpaint.engine.model import Model
from jaxpaint.generation.layout import Layout
from jaxpaint.generation.settings import GenerationSettings
from jaxpaint.models.scalings import border
from jaxpaint.models.transposed import with_transposed_kernels

if TYPE_CHECKING:
    from jaxpaint.generation.serve import Prompt


@dataclass(frozen=True)
class Part:
    """Prompts, by their numbers, that one model writes after; `crossing`, up to the border alone."""

    model: Model
    prompts: Mapping[int, Prompt]
    settings: GenerationSettings
    crossing: bool = False

    def numbered(self, layout: Layout) -> Layout:
        """The layout of these prompts, in order, by their numbers."""
        numbers = tuple(self.prompts)
        waves = (replace(wave, prompts=tuple(numbers[place] for place in wave.prompts)) for wave in layout.waves)
        return replace(layout, waves=tuple(waves))


def parts(model: Model, prompts: Sequence[Prompt], settings: GenerationSettings) -> Iterator[Part]:
    """All of the prompts: one part where texts of all lengths turn alike."""
    most = border(model.config)
    if most == math.inf:
        yield Part(model, dict(enumerate(prompts)), settings)
        return
    sides: dict[tuple[bool, bool], dict[int, Prompt]] = {}
    for number, prompt in enumerate(prompts):
        long, crossing = len(prompt.tokens) > most, crosses(prompt, most)
        own = replace(prompt, max_new_tokens=int(most) + 1 - len(prompt.tokens)) if crossing else prompt
        sides.setdefault((long, crossing), {})[number] = own
    for (long, crossing), members in sides.items():
        # What is forced at a text's end is not at the border.
        own_settings = replace(settings, forced_eos_token_id=()) if crossing else settings
        yield Part(_turned_alike(model, long=long), members, own_settings, crossing)


def crosses(prompt: Prompt, most: float) -> bool:
    """Whether what is written after a prompt is read beyond the border, and the prompt within it."""
    return len(prompt.tokens) <= most < len(prompt.tokens) + prompt.max_new_tokens - 1


def require_one_side(model: Model, prompts: Sequence[Prompt]) -> None:
    """Raises UserError for a text that would cross the border with a mean cache: it cannot be read anew."""
    most = border(model.config)
    for prompt in prompts:
        if crosses(prompt, most):
            length = len(prompt.tokens)
            raise UserError(
                f"a prompt of {length} tokens and {prompt.max_new_tokens} new ones cross the {int(most)} of LongRoPE's "
                "original context, where keys and values are made anew, which a mean cache has no way to; ask for "
                f"{int(most) + 1 - length} new ones at most, or leave kv exact"
            )


def beyond(
    model: Model, prompts: Sequence[Prompt], settings: GenerationSettings, begun: Mapping[int, tuple[int, ...]]
) -> Part:
    """Of prompts that cross, those after which a plan has written up to the border."""
    return Part(_turned_alike(model, long=True), {number: prompts[number] for number in begun}, settings)


def _turned_alike(model: Model, *, long: bool) -> Model:
    module = nnx.merge(model.graphdef, model.state).turned_alike(long=long)
    found = replace(model, graphdef=nnx.split(module)[0])
    # Where cached properties keep it: a tokenizer takes seconds to read again.
    vars(found).update(manifest=model.manifest, layers=model.layers)
    if (transposed := vars(model).get("transposed")) is not None:
        vars(found)["transposed"] = with_transposed_kernels(found.graphdef, found.state), transposed[1]
    if model.manifest.get("tokenizer"):
        vars(found)["tokenizer"] = model.tokenizer
    return found
