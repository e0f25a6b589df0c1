"""How rotary frequencies are rescaled for contexts longer than a model was first trained on, as a config keeps it.

The arithmetic is in `jaxpaint.models.rotary`; both follow transformers' `modeling_rope_utils`. `dynamic` scaling is not
among them: up to `max_position_embeddings`, and none reads further here, it is no scaling.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are rescaled (transformers `modeling_rope_utils`): `linear` or `llama3`.

    `linear` divides every frequency by `factor`; `llama3` divides the low ones, keeps the high ones and blends
    between, by wavelength relative to `original_max_position_embeddings` (in tokens).
    """

    rope_type: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


@dataclass(frozen=True)
class YarnScaling:
    """YaRN (arXiv 2309.00071): frequencies that turn fewer than `beta_slow` times over the original context are divided
    by `factor`, those that turn more than `beta_fast` times stay, and between them is a ramp over their index, whose
    ends are whole numbers where `truncate`. Cosines and sines are multiplied by `attention_factor`.
    """

    factor: float
    attention_factor: float
    beta_fast: float
    beta_slow: float
    original_max_position_embeddings: int
    truncate: bool = True
    rope_type: Literal["yarn"] = "yarn"


@dataclass(frozen=True)
class LongropeScaling:
    """LongRoPE (arXiv 2402.13753): each frequency is divided by its own `short_factor`, in texts of more tokens than
    `original_max_position_embeddings` by its `long_factor`, from the first token on.

    Cosines and sines are multiplied by `attention_factor`.
    """

    short_factor: tuple[float, ...]
    attention_factor: float
    long_factor: tuple[float, ...] | None = None
    original_max_position_embeddings: int | None = None
    rope_type: Literal["longrope"] = "longrope"

    def of(self, *, long: bool) -> LongropeScaling:
        """The scaling of texts that are all beyond the original context, or all within it."""
        factor = self.long_factor if long else self.short_factor
        assert factor is not None
        return LongropeScaling(factor, self.attention_factor)


Scaling: TypeAlias = RopeScaling | YarnScaling | LongropeScaling


def border(config: Any) -> float:
    """Of a config the most tokens of a text that LongRoPE turns by short factors; infinite where all turn alike.

    The first token of a longer text stands at this position, and not at 0, wherever rows are laid out. So layers tell
    such a text apart, and distances within it are as they were.
    """
    scaling = getattr(config, "rope_scaling", None)
    found = scaling.original_max_position_embeddings if isinstance(scaling, LongropeScaling) else None
    return math.inf if found is None else float(found)


def scaling_from_dict(values: Mapping[str, Any]) -> Scaling:
    """A scaling from what `dataclasses.asdict` gave of it."""
    kind = {"yarn": YarnScaling, "longrope": LongropeScaling}.get(values["rope_type"], RopeScaling)
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
